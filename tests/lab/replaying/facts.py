"""What a recorded call says, read without any code of the driver: the judge must not share its mistakes."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Optional

from lxml import etree

from lab.oned.recordings import Call

LINSTOR_UN = "linstor_un"
_MIGRATION = ("premigrate", "postmigrate", "failmigrate")
_DEAD_SOURCE = (60, 61)
"""LCM_STATE PROLOG_MIGRATE_UNKNOWN and its failure: the host that the VM is moved from is dead."""
_SOURCE = re.compile(r"/dev/drbd/by-res/([^/]+)/0$")
_PLACE = re.compile(r"(?P<host>[^:]+):(?P<path>/.*/datastores/+(?P<ds>\d+)/+(?P<vm>\d+)(?:/+(?P<file>[^/]+))?)$")
FILE_TYPES = ("3", "4", "5")
"""IMAGE/TYPE of kernels, ramdisks and context files: no block devices."""


def definition_of(source: str) -> str:
    """Return the resource definition in an image's SOURCE, "" when it has another form."""
    found = _SOURCE.search(re.sub("/+", "/", source))
    return found[1] if found else ""


@dataclass(frozen=True)
class Place:
    """HOST:.../datastores/DS/VM[/FILE]; `disk` is None for the directory and for files that are no disk."""

    host: str
    path: str
    datastore: int
    vm: int
    file: str

    @property
    def disk(self) -> Optional[int]:
        found = re.fullmatch(r"disk\.(\d+)", self.file)
        return int(found[1]) if found else None

    @property
    def directory(self) -> str:
        return self.path.rsplit("/", 1)[0] if self.file else self.path


def place(word: str) -> Optional[Place]:
    """Read an argument of a transfer action, None when it names no VM directory."""
    found = _PLACE.match(word)
    if not found:
        return None
    path = re.sub("/+", "/", found["path"])
    return Place(found["host"], path, int(found["ds"]), int(found["vm"]), found["file"] or "")


def places(call: Call) -> list[Place]:
    """Return the VM directories and disks among the arguments, in order; premigrate has hosts and directory apart."""
    found = [spot for spot in map(place, call.argv) if spot]
    if call.action in _MIGRATION:
        found = [spot for host in call.argv[:2] for spot in [place(f"{host}:{call.argv[2]}")] if spot]
    return found


def caller(call: Call) -> str:
    """Return the transfer driver that calls ours for its VM, "" when oned does; before 5.10 the VM is an argument."""
    return "".join(call.argv[5:6] if call.stdin.strip() else call.argv[6:7])


def dead_host(call: Call) -> str:
    """Return the host that a move leaves because it is dead, "" when none is."""
    moves = call.kind == "tm" and call.action.partition(".")[0] == "mv" and call.vm_lcm_state in _DEAD_SOURCE
    return places(call)[0].host if moves else ""


@dataclass(frozen=True)
class Disk:
    """A disk of a VM document. `definition` is the image's for CLONE=NO, else the VM's own; sizes in MiB.

    `persistent`: what the VM writes stays in the image, which no other VM has at that time.
    """

    number: int
    definition: str
    own: bool
    persistent: bool
    size: int
    source: str
    image: Optional[int]
    image_size: int
    kind: str
    fs: str
    tm_mad: str
    written: bool = True
    """Whether the guest opens it for writing: not a CDROM, not READONLY."""


@dataclass(frozen=True)
class Vm:
    """What a VM document says at the moment of a call; its history has the present host and datastore last."""

    number: int
    hosts: list[str]
    datastores: list[int]
    disks: dict[int, Disk]
    domain: str = ""
    """DEPLOY_ID: what the hypervisor calls it."""

    @property
    def datastore(self) -> int:
        """The system datastore of its directory now."""
        return self.datastores[-1] if self.datastores else 0

    def on_linstor(self) -> list[Disk]:
        """Return the disks that our driver is responsible for."""
        return [disk for disk in self.disks.values() if disk.tm_mad == LINSTOR_UN and disk.definition]


def vm_of(document: Optional[str]) -> Optional[Vm]:
    """Read a VM document."""
    if not document:
        return None
    root = etree.fromstring(document.encode())
    number = int(root.findtext("ID", "0"))
    disks = {}
    for item in root.findall("TEMPLATE/DISK"):
        disk = _disk(number, item)
        disks[disk.number] = disk
    records = root.findall("HISTORY_RECORDS/HISTORY")
    hosts = [record.findtext("HOSTNAME", "") for record in records]
    datastores = [int(record.findtext("DS_ID", "0")) for record in records]
    return Vm(number, hosts, datastores, disks, root.findtext("DEPLOY_ID") or f"one-{number}")


def disk_definition(call: Call) -> str:
    """Return the definition of the first disk that a transfer action names, "" when it names none."""
    spot, vm = places(call)[0], vm_of(call.vm_document)
    disk = vm.disks.get(spot.disk) if vm and spot.disk is not None else None
    return disk.definition if disk else ""


def _disk(vm: int, item: etree._Element) -> Disk:
    number = int(item.findtext("DISK_ID", "0"))
    source, image = item.findtext("SOURCE", ""), item.findtext("IMAGE_ID", "")
    own = item.findtext("CLONE", "YES") != "NO"
    size = _number(item.findtext("SIZE"))
    return Disk(
        number, f"one-vm-{vm}-disk-{number}" if own else definition_of(source), own,
        item.findtext("SAVE", "") == "YES" and item.findtext("TYPE", "") != "CDROM", size, source,
        int(image) if image else None, _number(item.findtext("ORIGINAL_SIZE")) or size, item.findtext("TYPE", ""),
        item.findtext("FS", ""), item.findtext("TM_MAD", ""),
        item.findtext("TYPE", "") != "CDROM" and item.findtext("READONLY", "").upper() != "YES",
    )


@dataclass(frozen=True)
class Image:
    """The IMAGE of a datastore action; `size` in MiB, `snapshots` their numbers."""

    number: Optional[int]
    path: str
    source: str
    size: int
    format: str
    fs: str
    kind: str
    hashes: dict[str, str]
    snapshots: list[int]
    target: Optional[int] = None
    """TARGET_SNAPSHOT of the snapshot actions."""

    @property
    def save_as(self) -> bool:
        """The target of a disk-saveas: mkfs only names it, cpds fills it."""
        return "save_as" in (self.format, self.fs)


@dataclass(frozen=True)
class Datastore:
    """A datastore document: TYPE 0 images, 1 system, 2 files; `template` are the attributes as they stand."""

    number: int
    kind: str
    tm_mad: str
    template: dict[str, str]


def payload(call: Call) -> etree._Element:
    """Return DS_DRIVER_ACTION_DATA of a datastore action or a monitor, from whichever form the call has."""
    text = call.stdin if call.stdin.strip() else call.argv[0]
    return etree.fromstring(base64.b64decode(text))


def image_of(call: Call) -> Image:
    """Read IMAGE of a datastore action."""
    item = payload(call).find("IMAGE")
    assert item is not None
    number, target = item.findtext("ID", ""), item.findtext("TARGET_SNAPSHOT", "")
    fs = item.findtext("FS") or item.findtext("FSTYPE") or ""
    names = {"MD5", "SHA1"}
    hashes = {name: value for name in names for value in [item.findtext(f"TEMPLATE/{name}", "")] if value}
    return Image(
        int(number) if number else None, item.findtext("PATH", ""), item.findtext("SOURCE", ""),
        _number(item.findtext("SIZE")), item.findtext("FORMAT", ""), fs, item.findtext("TYPE", ""), hashes,
        [int(snapshot.findtext("ID", "0")) for snapshot in item.findall("SNAPSHOTS/SNAPSHOT")],
        int(target) if target else None,
    )


def datastore_of(call: Call) -> Datastore:
    """Read DATASTORE of a datastore action or a monitor."""
    item = payload(call).find("DATASTORE")
    assert item is not None
    return read_datastore(etree.tostring(item, encoding="unicode"))


def read_datastore(document: str) -> Datastore:
    """Read a datastore document."""
    item = etree.fromstring(document.encode())
    template = item.find("TEMPLATE")
    values = {child.tag: child.text or "" for child in template} if template is not None else {}
    return Datastore(int(item.findtext("ID", "0")), item.findtext("TYPE", ""), item.findtext("TM_MAD", ""), values)


def hosts_of(pools: list[str]) -> list[str]:
    """Return the names of all hosts in pool documents."""
    return [host.text or "" for pool in pools for host in etree.fromstring(pool.encode()).findall("HOST/NAME")]


@dataclass(frozen=True)
class Checkpoint:
    """What a save or restore is about: the VM on its host, its system datastore, the path that oned names.

    `memory` in MiB.
    """

    vm: int
    host: str
    path: str
    datastore: Datastore
    memory: int

    @property
    def ours(self) -> bool:
        """Whether the VM's directory is in a datastore of our driver; otherwise the stock script is to do it."""
        return self.datastore.tm_mad == LINSTOR_UN

    @property
    def definition(self) -> str:
        """The volume that the memory goes to."""
        return f"one-vm-{self.vm}-checkpoint"


def checkpoint_of(call: Call) -> Checkpoint:
    """Read VMM_DRIVER_ACTION_DATA of a save or restore; their words are in different orders."""
    root = etree.fromstring(base64.b64decode(call.stdin))
    path, host = (call.argv[1], call.argv[2]) if call.action.startswith("save") else (call.argv[0], call.argv[1])
    item = root.find("DATASTORE")
    assert item is not None
    datastore = read_datastore(etree.tostring(item, encoding="unicode"))
    memory = max(_number(root.findtext(f"VM/TEMPLATE/{name}")) for name in ("MEMORY", "MEMORY_MAX"))
    return Checkpoint(int(root.findtext("VM/ID", "0")), host, re.sub("/+", "/", path), datastore, memory)


def _number(text: Optional[str]) -> int:
    return int(text) if text and text.strip().isdigit() else 0
