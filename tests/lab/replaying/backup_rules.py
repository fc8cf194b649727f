"""What a backup datastore finds after `prebackup`, what `postbackup` leaves, and what disks hold after `restore`."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

from lxml import etree

from lab.oned import answers
from lab.oned.recordings import Call
from lab.replaying import facts
from lab.replaying.case import Case, attached_to, holds_content, kept, still
from lab.replaying.contents import fingerprint
from lab.replaying.facts import Disk
from lab.replaying.snapshot_rules import quiet

_QUIET = ("AGENT", "SUSPEND", "TRY")


def disks_of(call: Call) -> list[Disk]:
    """Return the disks that belong to a backup."""
    vm = facts.vm_of(call.vm_document)
    numbers = [int(word) for word in call.argv[1].split(":") if word]
    return [vm.disks[number] for number in numbers if number in vm.disks] if vm else []


def wants_changes(call: Call) -> bool:
    """Say whether oned orders a backup of changes only."""
    config = etree.fromstring(call.stdin.encode()).find("BACKUPS/BACKUP_CONFIG")
    said = {} if config is None else {str(item.tag): item.text or "" for item in config}
    return said.get("MODE") == "INCREMENT" and said.get("LAST_INCREMENT_ID", "-1") != "-1"


def prebackup(case: Case) -> None:
    case.read(answers.read_nothing)
    spot, disks = facts.places(case.call)[0], disks_of(case.call)
    directory = f"{spot.path}/backup"
    wanted = {"vm.xml", *(f"disk.{disk.number}.0" for disk in disks)}
    case.nothing_else_changed(files=[(spot.host, directory), *((spot.host, f"{directory}/{name}") for name in wanted)])
    found = set(case.after.below(spot.host, directory))
    if not case.unless(found == wanted, f"{directory} has {sorted(found)}, not {sorted(wanted)}"):
        return
    place = case.world.host_path(spot.host, directory)
    wanted_text = base64.b64encode(case.call.stdin.encode())
    case.unless(b"".join((place / "vm.xml").read_bytes().split()) == wanted_text, "vm.xml is not the VM's document")
    for disk in disks:
        _holds(case, place / f"disk.{disk.number}.0", disk)
        still(case, disk.definition)
        if etree.fromstring(case.call.stdin.encode()).findtext("BACKUPS/BACKUP_CONFIG/FS_FREEZE") in _QUIET:
            quiet(case, disk.definition)


def _holds(case: Case, path: Path, disk: Disk) -> None:
    """A disk's file is a qcow2 image that needs no other, as large as the disk and with its bytes."""
    info = json.loads(_run("qemu-img", "info", "--output=json", str(path)))
    case.unless(info["format"] == "qcow2" and "backing-filename" not in info, f"{path.name} is {info}")
    size = max(disk.size << 10, case.before.definitions[disk.definition].size) << 10
    case.unless(info["virtual-size"] == size, f"{path.name} has {info['virtual-size']} bytes, the disk {size}")
    raw = case.world.work / "unpacked"
    _run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(path), str(raw))
    wanted = case.world.known.get(disk.definition)
    case.unless(fingerprint(raw) == wanted, f"{path.name} has not the bytes of {disk.definition}")
    raw.unlink()


def postbackup(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[0]
    directory = f"{spot.path}/backup"
    gone = [(spot.host, path) for host, path in case.before.files if path.startswith(directory) and host == spot.host]
    case.nothing_else_changed(files=gone)
    left = [path for host, path in case.after.files if path.startswith(directory) and host == spot.host]
    case.unless(not left, f"{left} are left on {spot.host}")
    for disk in disks_of(case.call):
        still(case, disk.definition)


def restored_disks(call: Call) -> list[Disk]:
    """Return the disks that a backup in place is written over."""
    vm, only = facts.vm_of(call.vm_document), int(call.argv[4])
    kinds = ("swap", "CDROM")
    disks = vm.on_linstor() if vm else []
    return [disk for disk in disks if disk.kind not in kinds and only in (-1, disk.number)]


def restore(case: Case) -> None:
    case.read(answers.read_nothing)
    disks = restored_disks(case.call)
    case.nothing_else_changed([disk.definition for disk in disks])
    for disk in disks:
        name, before = disk.definition, case.before.definitions[disk.definition]
        after = kept(case, name)
        if after is None:
            continue
        attached_to(case, name, before.attached)
        case.unless(after.props == before.props, f"{name} has the properties {dict(after.props)}")
        holds_content(case, name, case.world.backups[tuple(case.call.argv[2:4]), disk.number])


def _run(*words: str) -> bytes:
    return subprocess.run(words, check=True, capture_output=True).stdout
