"""The guests that run while a recording goes on: each holds its disks open on its host, as QEMU does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field

from lab.controller.cluster import Cluster
from lab.controller.volumes import Content
from lab.hosts import Hosts, LabUnavailable, LoopVolumes

_HOLD = {True: 'exec 9<>"$1" && echo && read -r x', False: 'exec 9<"$1" && echo && read -r x'}


@dataclass(frozen=True)
class Drive:
    """A disk as its guest has it: the path in the VM's directory, the definition behind it."""

    path: str
    definition: str
    written: bool


@dataclass
class Guest:
    """A running guest: the host, and the process that holds each drive open there."""

    host: str
    drives: dict[Drive, subprocess.Popen[bytes]] = field(default_factory=dict)


class Guests:
    """All running guests by VM number. Where the kernel can, DRBD's refusals of second openers are real, too."""

    def __init__(self, hosts: Hosts, cluster: Cluster, volumes: LoopVolumes) -> None:
        self._hosts = hosts
        self._cluster = cluster
        self._volumes = volumes
        self._guests: dict[int, Guest] = {}
        self._guarded: set[str] = set()
        self._can_refuse = True

    def host_of(self, vm: int) -> str:
        """Return where a VM runs, "" when it does not."""
        guest = self._guests.get(vm)
        return guest.host if guest else ""

    def start(self, vm: int, host: str, drives: Iterable[Drive]) -> list[str]:
        """Let a guest run, in place of one of the same VM; returns a sentence for each disk it cannot open."""
        self.stop(vm)
        self._guests[vm] = Guest(host)
        return self.plug(vm, drives)

    def plug(self, vm: int, drives: Iterable[Drive]) -> list[str]:
        """Give a running guest further disks; returns a sentence for each it cannot open."""
        guest = self._guests.get(vm)
        found = [self._open(guest, drive) for drive in drives] if guest else []
        self.guard()
        return [sentence for sentence in found if sentence]

    def _open(self, guest: Guest, drive: Drive) -> str:
        script = ["sh", "-c", _HOLD[drive.written], "sh", drive.path]
        process = subprocess.Popen(
            self._hosts.entering(guest.host, script), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout and process.stderr
        if process.stdout.readline():
            guest.drives[drive] = process
            return ""
        reason = process.stderr.read().decode("utf-8", "replace").strip()
        _end(process)
        return f"the guest on {guest.host} cannot open {drive.path} ({drive.definition}): {reason}"

    def unplug(self, vm: int, path: str) -> None:
        """Take the disk at a path from a running guest."""
        guest = self._guests.get(vm)
        for drive in list(guest.drives) if guest else ():
            if guest and drive.path == path:
                _end(guest.drives.pop(drive))
        self.guard()

    def move(self, vm: int, host: str, directory: str) -> list[str]:
        """Migrate a guest: its disks are open on both hosts for a moment; returns what cannot be opened there."""
        old = self._guests.pop(vm, None)
        if old is None:
            return []
        self._guests[vm] = new = Guest(host)
        self.guard()
        drives = [Drive(f"{directory}/{one.path.rpartition('/')[2]}", one.definition, one.written)
                  for one in old.drives]
        found = [self._open(new, drive) for drive in drives]
        for process in old.drives.values():
            _end(process)
        self.guard()
        return [sentence for sentence in found if sentence]

    def stop(self, vm: int) -> None:
        """End a guest, if it runs."""
        guest = self._guests.pop(vm, None)
        if guest:
            for process in guest.drives.values():
                _end(process)
            self.guard()

    def stop_on(self, host: str) -> None:
        """End all guests of a host."""
        for vm in [vm for vm, guest in self._guests.items() if guest.host == host]:
            self.stop(vm)

    def close(self) -> None:
        """End all guests."""
        for vm in list(self._guests):
            self.stop(vm)

    def guard(self) -> None:
        """Let DRBD refuse what guests write to, everywhere but on their hosts and where two primaries are allowed."""
        writing = {drive.definition: guest.host for guest in self._guests.values() for drive in guest.drives
                   if drive.written}
        for name in self._guarded - set(writing):
            if self._cluster.definition(name):
                self._only(name)
        self._guarded = set(writing)
        for name, host in writing.items():
            definition = self._cluster.definition(name)
            resource = definition.resources.get(host.upper()) if definition else None
            if definition and resource:
                peers = [other.node for key, other in definition.resources.items() if key in resource.two_primaries]
                self._only(name, host, *peers)

    def _only(self, name: str, *nodes: str) -> None:
        if self._can_refuse:
            try:
                self._volumes.only_open_on(Content(name, 0), *nodes)
            except LabUnavailable:
                self._can_refuse = False
            except KeyError:
                return  # its device is shown nowhere


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream
        stream.close()
    process.wait()
