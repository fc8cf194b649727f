"""Call scripts exactly as the driver processes of one OpenNebula release do: one_datastore, one_tm, one_vmm_exec."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, Union

from lab.oned.answers import Outcome, outcome
from lab.oned.process import Running
from lab.oned.release import DatastoreForm, Release, release


def escape(word: str) -> str:
    """Quote a word as Ruby's Shellwords.escape: a backslash before all but a few characters."""
    if not word:
        return "''"
    return re.sub(r"([^A-Za-z0-9_\-.,:+/@\n])", r"\\\1", word).replace("\n", "'\n'")


@dataclass(frozen=True)
class Transfer:
    """The end of a transfer file: the outcomes of the lines that ran; `failure` is what VM/ERROR would say."""

    outcomes: list[Outcome]
    failure: str = ""


@dataclass
class Oned:
    """The driver processes of one release over an installed front-end.

    `remotes` is the directory with datastore/, tm/ and vmm/; `env` is oned's own environment (HOME, PATH, ...);
    `user` runs the scripts as somebody else (root only); `timeout` is the -w of one_datastore, in seconds.
    """

    version: Union[str, Release]
    remotes: Path
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cwd: str = "/"
    user: Optional[str] = None
    timeout: Optional[float] = None
    nice: bool = False
    _requests: int = 0

    @property
    def release(self) -> Release:
        return self.version if isinstance(self.version, Release) else release(self.version)

    def ds(
        self, action: str, image: str = "", datastore: str = "", *, extra: str = "", number: Optional[int] = None,
        mad: str = "linstor_un",
    ) -> Outcome:
        """Run datastore/<mad>/<action> with the documents given (IMAGE and DATASTORE elements as text)."""
        return self.finish(self.start_ds(action, image, datastore, extra=extra, number=number, mad=mad))

    def start_ds(
        self, action: str, image: str = "", datastore: str = "", *, extra: str = "", number: Optional[int] = None,
        mad: str = "linstor_un", env: Optional[Mapping[str, str]] = None,
    ) -> Running:
        """As `ds`, without waiting for the end."""
        message = f"<DS_DRIVER_ACTION_DATA>{image}{datastore}{extra}</DS_DRIVER_ACTION_DATA>"
        if number is None:
            number = self._identify(action, image, datastore)
        return self._datastore(self.remotes / "datastore" / mad / action, message, number, env)

    def monitor(self, datastore: str, *, vm_disks: bool = False, mad: str = "linstor_un") -> Outcome:
        """Monitor a datastore; a system datastore (TYPE 1) goes to tm/<mad>/monitor with two more elements."""
        return self.finish(self.start_monitor(datastore, vm_disks=vm_disks, mad=mad))

    def start_monitor(self, datastore: str, *, vm_disks: bool = False, mad: str = "linstor_un") -> Running:
        """As `monitor`, without waiting for the end."""
        if _text(datastore, "TYPE") != "1":
            return self.start_ds("monitor", datastore=datastore, mad=mad)
        extra = (
            "<DATASTORE_LOCATION>/var/lib/one//datastores</DATASTORE_LOCATION>"
            f"<MONITOR_VM_DISKS>{int(vm_disks)}</MONITOR_VM_DISKS>"
        )
        message = f"<DS_DRIVER_ACTION_DATA>{datastore}{extra}</DS_DRIVER_ACTION_DATA>"
        number = int(_text(datastore, "ID"))
        return self._datastore(self.remotes / "tm" / mad / "monitor", message, number, None)

    def tm(self, action: str, *arguments: Union[str, int], mad: str = "linstor_un", stdin: str = "") -> Outcome:
        """Run tm/<mad>/<action>, or the name without its last suffix when that does not exist, as one_tm does."""
        return self.finish(self.start_tm(action, *arguments, mad=mad, stdin=stdin))

    def start_tm(
        self, action: str, *arguments: Union[str, int], mad: str = "linstor_un", stdin: str = "",
        env: Optional[Mapping[str, str]] = None,
    ) -> Running:
        """As `tm`, without waiting for the end; FileNotFoundError with oned's sentence when there is no script."""
        path = self.remotes / "tm" / mad / action.lower()
        if not path.exists():
            short = path.with_name(path.name.rpartition(".")[0] or path.name)
            if not short.exists():
                raise FileNotFoundError(f"Driver path '{path}' does not exists")
            path = short
        words = " ".join(escape(str(word)) for word in arguments)
        return self._start(f"{path} {words}", stdin.encode(), None, env)

    def transfer(self, lines: str) -> Transfer:
        """Run the lines of a transfer file ("CLONE linstor_un ..."); the first that fails ends it."""
        outcomes: list[Outcome] = []
        for line in lines.splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            try:
                outcomes.append(self.tm(words[0].lower(), *words[2:], mad=words[1]))
            except FileNotFoundError as missing:
                return Transfer(outcomes, f"Error executing image transfer script: {missing}")
            if not outcomes[-1].success:
                return Transfer(outcomes, f"Error executing image transfer script: {outcomes[-1].user_message or '-'}")
        return Transfer(outcomes)

    def vmm(self, action: str, *arguments: str, message: str, hypervisor: str = "kvm") -> Outcome:
        """Run a local VMM override: three arguments in bare single quotes, then id and host, base64 on stdin."""
        return self.finish(self.start_vmm(action, *arguments, message=message, hypervisor=hypervisor))

    def start_vmm(self, action: str, *arguments: str, message: str, hypervisor: str = "kvm") -> Running:
        """As `vmm`, without waiting for the end."""
        quoted = " ".join(f"'{word}'" for word in arguments[:3])
        rest = " ".join(arguments[3:])
        command = f"{self.remotes / 'vmm' / hypervisor / action} {quoted} {rest}".rstrip()
        return self._start(command, base64.b64encode(message.encode()), None)

    def recorded(self, script: str, arguments: list[str], stdin: str) -> Running:
        """Start a recorded call: the words after the script and the exact stdin text, whatever the form."""
        words = " ".join(escape(word) for word in arguments)
        timeout = self.timeout if script.startswith("datastore/") else None
        return self._start(f"{self.remotes / script} {words}", stdin.encode(), timeout)

    def finish(self, running: Running, seconds: Optional[float] = 600) -> Outcome:
        """Wait for a started call and read it as this release does."""
        return outcome(self.release, running.wait(seconds))

    def _datastore(self, path: Path, message: str, number: int, env: Optional[Mapping[str, str]]) -> Running:
        encoded = base64.b64encode(message.encode())
        form = self.release.datastore_form
        # Only from 7.0.2 on one_datastore hands its -w on to the scripts.
        timeout = self.timeout if self.release.number >= (7, 0, 2) else None
        if form is DatastoreForm.ARGUMENT:
            return self._start(f"{path} {encoded.decode()} {number}", b"", timeout, env)
        dash = "- " if form is DatastoreForm.DASH else ""
        return self._start(f"{path} {dash}{number}", encoded, timeout, env)

    def _start(
        self, command: str, stdin: bytes, timeout: Optional[float], env: Optional[Mapping[str, str]] = None
    ) -> Running:
        environment = {**self.env, "PRIORITY": "19", "ONE_MAD_DEBUG": "", **(env or {})}
        prefix = "nice -n 19 " if self.nice else ""
        return Running(prefix + command, stdin, env=environment, cwd=self.cwd, timeout=timeout, user=self.user)

    def _identify(self, action: str, image: str, datastore: str) -> int:
        """Return the id oned appends: of the image, of the datastore for monitor, a request counter for stat."""
        if action == "stat":
            self._requests += 1
            return self._requests
        return int(_text(datastore if action == "monitor" else image, "ID"))


def _text(document: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(?:<!\[CDATA\[)?(.*?)(?:\]\]>)?</{tag}>", document, re.DOTALL)
    return found[1] if found else ""
