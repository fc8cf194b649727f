"""Guests on the lab's hosts, and what tests do with them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab.guests import libvirt
from lab.guests.domain import PLACE, Domain, console
from lab.guests.libvirt import Libvirt
from lab.guests.system import GuestSystem
from lab.hosts import Hosts, LabUnavailable
from lab.hosts.machine import until

# TCG on a loaded machine takes its time
_SECONDS = 120.0
_PAUSE = 0.05
_URI = "qemu:///system"


class Guests:
    """libvirt on the hosts of a lab, and domains there; `close` ends all of it.

    Arguments:
        hosts: running hosts; libvirt runs on those that `start` names.

    Raises:
        LabUnavailable: what is missing here.
    """

    def __init__(self, hosts: Hosts) -> None:
        reason = libvirt.missing()
        if reason:
            raise LabUnavailable(reason)
        libvirt.make_default_account()
        self.hosts = hosts
        self.system = GuestSystem()
        self._daemons = {name: Libvirt(hosts, name, self.system) for name in hosts.names}

    def __enter__(self) -> Guests:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, *names: str) -> None:
        """Start libvirtd on hosts (default: on all), where it does not run; again after a host was booted."""
        for name in names or self.hosts.names:
            self._daemons[name].start()

    def stop(self, *names: str) -> None:
        """End libvirtd on hosts (default: on all); the domains run on, as they do when it is restarted."""
        for name in names or self.hosts.names:
            self._daemons[name].stop()

    def close(self) -> None:
        """End all domains and every libvirtd."""
        self.clear()
        self.stop()

    def clear(self) -> None:
        """End all domains at once, whatever they do, and forget them."""
        for name, daemon in self._daemons.items():
            for domain in self.domains(name) if daemon.running else ():
                self.virsh(name, "destroy", domain, check=False)
                self.virsh(name, "undefine", domain, "--nvram", check=False)
            for pid, argv in self.hosts.processes(name).items():
                if argv[0].endswith("qemu-system-x86_64"):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            for left in self._seen(name, PLACE).glob("*.console"):
                left.unlink()

    def create(self, host: str, domain: Domain) -> None:
        """Start a domain, as the stock deploy script does: with the deployment file in the VM's directory.

        Raises:
            LabUnavailable: it wants an operating system, and there is none for guests here.
            RuntimeError: with what libvirt says.
        """
        if domain.has_system and self.system.missing():
            raise LabUnavailable(self.system.missing())
        script = 'mkdir -p "$1" && cat >"$1/deployment.0" && virsh -q -c "$2" create "$1/deployment.0"'
        self._done(host, ["sh", "-c", script, "sh", domain.directory, _URI], input=domain.xml())
        self._daemons[host].remember()

    def virsh(self, host: str, *words: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run virsh as oneadmin on a host.

        Arguments:
            check: raise RuntimeError with what it says when it fails.
            options: for Hosts.run.
        """
        argv = ["virsh", "-q", "-c", _URI, *words]
        return self._done(host, argv, **options) if check else self.hosts.run(host, argv, check=False, **options)

    def domains(self, host: str) -> list[str]:
        """Return the names of all domains of a host, running or not."""
        return self.virsh(host, "list", "--all", "--name").stdout.split()

    def state(self, host: str, name: str) -> str:
        """Return what libvirt says of a domain, "running", "paused", ..., or "" when the host has none of this name."""
        found = self.virsh(host, "domstate", name, check=False)
        return found.stdout.strip() if found.returncode == 0 else ""

    def reason(self, host: str, name: str) -> str:
        """Return state and reason, e.g. "paused (user)"."""
        return self.virsh(host, "domstate", name, "--reason").stdout.strip()

    def migrate(self, name: str, source: str, target: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Migrate a running domain, as the stock script does: by ssh from the front-end with its agent forwarded.

        Returns what virsh said; a failed migration raises nothing.
        """
        move = ["virsh", "-c", _URI, "migrate", "--live", *words, name, f"qemu+ssh://{target}/system"]
        return self.by_ssh(source, " ".join(move))

    def by_ssh(self, host: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell's words on a host as oned's drivers do, with the agent forwarded; failure raises nothing."""
        return subprocess.run(
            ["ssh", "-A", "-o", "BatchMode=yes", host, command], stdin=subprocess.DEVNULL, capture_output=True,
            text=True, check=False, **self.hosts.as_oneadmin(),
        )

    def console(self, host: str, name: str) -> str:
        """Return what a guest said on a host so far."""
        path = self._seen(host, console(name))
        return path.read_text(errors="replace") if path.exists() else ""

    def await_words(self, host: str, name: str, words: str) -> None:
        """Wait until a guest has said something on this host.

        Raises:
            TimeoutError: it does not say it.
        """
        until(lambda: words in self.console(host, name), f"{name} on {host} to say {words!r}", _SECONDS, _PAUSE)

    def await_more(self, host: str, name: str, pattern: str, more: int = 1) -> None:
        """Wait until a guest has said something on this host `more` times more than by now: its job goes on."""
        wanted = self._count(host, name, pattern) + more
        goes_on = f"{name} on {host} to say {pattern!r}"
        until(lambda: self._count(host, name, pattern) >= wanted, goes_on, _SECONDS, _PAUSE)

    def await_agent(self, host: str, name: str) -> None:
        """Wait until a guest's agent answers.

        Raises:
            TimeoutError: it does not.
        """
        ping = ["qemu-agent-command", name, '{"execute":"guest-ping"}']
        until(lambda: self.virsh(host, *ping, check=False).returncode == 0, f"the agent of {name}", _SECONDS, _PAUSE)

    def _done(self, host: str, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        done = self.hosts.run(host, argv, check=False, **options)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)} on {host}: {done.stderr.strip()}")
        return done

    def _seen(self, host: str, path: str) -> Path:
        """Return where a path below /run of a host is, as seen from here."""
        return self.hosts.device_directory(host).parent / path.lstrip("/")

    def _count(self, host: str, name: str, pattern: str) -> int:
        return len(re.findall(pattern, self.console(host, name)))
