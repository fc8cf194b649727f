"""The guests that run while a recording goes on: domains on their hosts that hold their disks open, as QEMU does."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from lab.controller.cluster import Cluster
from lab.controller.volumes import Content
from lab.hosts import Hosts, LabUnavailable, LoopVolumes, account
from lab.replaying import virsh

PLACE = "/run/domains"
TOOL = "/usr/local/bin/virsh"
_STOCK = "/var/tmp/one/vmm/kvm"
_DEVICE = re.compile(r"/dev/drbd/by-res/([^/]+)/0$")
_STOCK_SCRIPT = """#!/bin/sh
# Stands in for OpenNebula's own script of this name: it notes what it was given, and saves or restores plainly.
cat >{place}/.stdin
for word in "$@"; do printf '%s\\n' "$word"; done >{place}/.argv
[ -e {place}/.no-stock ] && {{ echo "$(basename "$0"): it cannot be done" >&2; exit {failure}; }}
case $0 in */save) {tool} -q save "$1" "$2" ;; *) {tool} -q restore "$1" ;; esac
"""


def equip(hosts: Hosts) -> None:
    """Give each host the replay's virsh and OpenNebula's scripts that use it."""
    for name in hosts.names:
        root = Path(f"/proc/{hosts.first_process(name)}/root")
        account.own_directory(root / PLACE.lstrip("/"))
        for layer in ("upper", "work"):
            (root / "run/lab-bin" / layer).mkdir(parents=True)
        tool = root / "run/lab-bin/upper/virsh"
        # Not this checkout's own: a host sees nothing of the front-end's /tmp.
        tool.write_text(f"#!{os.path.realpath(sys.executable)} -IS\n" + Path(virsh.__file__).read_text())
        for path in (tool, tool.parent):
            path.chmod(0o755)
        options = "lowerdir=/usr/local/bin,upperdir=/run/lab-bin/upper,workdir=/run/lab-bin/work"
        hosts.run(name, ["mount", "-t", "overlay", "-o", options, "virsh", "/usr/local/bin"], "root")
        for script in ("save", "restore"):
            target = root / _STOCK.lstrip("/") / script
            account.own_directory(target.parent)
            account.own_file(target, _STOCK_SCRIPT.format(place=PLACE, tool=TOOL, failure=virsh.STOCK_FAILURE), 0o755)


@dataclass(frozen=True)
class Guest:
    """A domain on a host: its document, "running" or "paused", whether its file systems are frozen."""

    host: str
    name: str
    document: str
    state: str
    frozen: bool

    @property
    def quiet(self) -> bool:
        """Whether it writes nothing now."""
        return self.frozen or self.state != "running"


class Guests:
    """The guests of a recording. Where the kernel can, DRBD's refusals of second openers are real, too."""

    def __init__(self, hosts: Hosts, cluster: Cluster, volumes: LoopVolumes) -> None:
        self._hosts = hosts
        self._cluster = cluster
        self._volumes = volumes
        self.documents: dict[str, str] = {}
        """The document of every domain that ever was, as it is or was last, by its key."""
        self._guarded: set[str] = set()
        self._can_refuse = True

    def all(self) -> list[Guest]:
        """Return all guests that run or are paused."""
        return [self._guest(host, place) for host in self._hosts.names
                for place in sorted(self.place(host).iterdir()) if (place / "state").is_file()]

    def _guest(self, host: str, place: Path) -> Guest:
        return Guest(host, place.name, (place / "xml").read_text(), (place / "state").read_text(),
                     (place / "frozen").exists())

    def place(self, host: str) -> Path:
        """Return the directory with a host's domains, as seen from here."""
        return Path(f"/proc/{self._hosts.first_process(host)}/root{PLACE}")

    def find(self, name: str) -> Optional[Guest]:
        """Return a guest by name or UUID, None when it does not run."""
        tags = (f"<name>{name}</name>", f"<uuid>{name}</uuid>")
        return next((one for one in self.all() if one.name == name or any(tag in one.document for tag in tags)), None)

    def start(self, name: str, host: str, document: str) -> list[str]:
        """Let a guest run, in place of one of the same name; returns why it cannot."""
        self.stop(name)
        self.documents[virsh.key(document)] = document
        path = self.place(host) / ".xml"
        path.write_text(document)
        return self._run(host, "create", f"{PLACE}/.xml")

    def plug(self, name: str, disk: str) -> list[str]:
        """Give a running guest a disk (an element of its document); returns why it cannot have it."""
        guest = self.find(name)
        if guest is None:
            return []
        (self.place(guest.host) / ".xml").write_text(disk)
        stuck = self._run(guest.host, "attach-device", guest.name, f"{PLACE}/.xml")
        self._look_again(guest)
        return stuck

    def unplug(self, name: str, path: str) -> None:
        """Take the disk at a path from a running guest."""
        guest = self.find(name)
        if guest:
            self._run(guest.host, "detach-disk", guest.name, path)
            self._look_again(guest)

    def _look_again(self, guest: Guest) -> None:
        self.documents[guest.name] = (self.place(guest.host) / guest.name / "xml").read_text()

    def move(self, name: str, host: str, directory: str) -> list[str]:
        """Migrate a guest: its disks are open on both hosts for a moment; returns what cannot be opened there."""
        old = self.find(name)
        if old is None or old.host == host:
            return []
        document = _in_directory(old.document, directory)
        self.guard()
        (self.place(host) / ".xml").write_text(document)
        stuck = self._run(host, "create", f"{PLACE}/.xml")
        self._run(old.host, "destroy", old.name)
        self.documents[old.name] = document
        return stuck

    def relocate(self, name: str, directory: str) -> None:
        """Let a running guest open its disks anew, by their paths in another directory of its host."""
        guest = self.find(name)
        if guest:
            self.start(name, guest.host, _in_directory(guest.document, directory))

    def stop(self, name: str) -> None:
        """End a guest, if it runs."""
        guest = self.find(name)
        if guest:
            self._run(guest.host, "destroy", guest.name)

    def stop_on(self, host: str) -> None:
        """End all guests of a host."""
        for guest in self.all():
            if guest.host == host:
                self._run(host, "destroy", guest.name)

    def close(self) -> None:
        """End all guests."""
        for host in self._hosts.names:
            self.stop_on(host)
            for entry in self.place(host).iterdir():
                entry.unlink()

    def _run(self, host: str, *words: str) -> list[str]:
        """Run the host's virsh; returns what it complained of."""
        ended = self._hosts.run(host, [TOOL, "-q", *words], check=False)
        self.guard()
        return [] if ended.returncode == 0 else [f"{words[0]} on {host}: {' '.join(ended.stderr.split())}"]

    def unknown_commands(self) -> list[str]:
        """Return what somebody wanted of the hosts' virsh that it does not know, once."""
        found = [self.place(host) / ".unknown" for host in self._hosts.names]
        said = [f"the replay's virsh does not know: {path.read_text()}" for path in found if path.exists()]
        for path in found:
            path.unlink(missing_ok=True)
        return said

    # DRBD

    def written(self) -> dict[str, Guest]:
        """Return the definitions that guests have open for writing."""
        found = {}
        for guest in self.all():
            for mode, path in virsh.drives(guest.document):
                definition = self._definition(guest.host, path) if mode == "rw" else ""
                if definition:
                    found[definition] = guest
        return found

    def _definition(self, host: str, path: str) -> str:
        """Return the definition that a path of a host leads to, "" when it leads to none."""
        try:
            link = Path(f"/proc/{self._hosts.first_process(host)}/root", path.lstrip("/")).readlink()
        except OSError:
            return ""
        found = _DEVICE.match(str(link))
        return found[1] if found else ""

    def guard(self) -> None:
        """Let DRBD refuse what guests write to, everywhere but on their hosts and where two primaries are allowed."""
        written = self.written()
        for name in self._guarded - set(written):
            if self._cluster.definition(name):
                self._only(name)
        self._guarded = set(written)
        for name, guest in written.items():
            definition = self._cluster.definition(name)
            resource = definition.resources.get(guest.host.upper()) if definition else None
            if definition and resource:
                peers = [other.node for key, other in definition.resources.items() if key in resource.two_primaries]
                self._only(name, guest.host, *peers)

    def _only(self, name: str, *nodes: str) -> None:
        if self._can_refuse:
            try:
                self._volumes.only_open_on(Content(name, 0), *nodes)
            except LabUnavailable:
                self._can_refuse = False
            except KeyError:
                return  # its device is shown nowhere


def _in_directory(document: str, directory: str) -> str:
    return re.sub(r"(<source (?:dev|file)=['\"])[^'\"]*/(disk\.\d+)", rf"\g<1>{directory}/\g<2>", document)
