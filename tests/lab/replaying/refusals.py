"""Which calls must fail, although nothing is broken."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile

from lab.oned.recordings import Call
from lab.replaying import backup_rules, facts
from lab.replaying.snapshot import Snapshot
from lab.replaying.world import World

_SNAPSHOT_ACTIONS = [("tm", "snap_create"), ("tm", "snap_create_live"), ("tm", "snap_revert"), ("tm", "cpds"),
                     ("ds", "snap_revert"), ("ds", "snap_flatten")]


def must_fail(world: World, call: Call, before: Snapshot) -> str:
    """Return why the call has to fail although nothing is broken, "" when it has to succeed."""
    rules = {
        ("ds", "stat"): lambda: _bad_source(world, call),
        ("ds", "cp"): lambda: _bad_source(world, call),
        ("ds", "mkfs"): lambda: _bad_filesystem(call),
        ("ds", "clone"): lambda: _missing(facts.definition_of(facts.image_of(call).path), before),
        ("tm", "mkimage"): lambda: _bad_volatile(call),
        ("tm", "clone"): lambda: _bad_disk(call, before),
        ("tm", "ln"): lambda: _bad_disk(call, before),
        ("tm", "mv"): lambda: _never_made(world, call, before),
        **dict.fromkeys(_SNAPSHOT_ACTIONS, lambda: _no_snapshot(call, before)),
        ("tm", "resize"): lambda: _no_growth(call, before),
        **dict.fromkeys([("tm", "prebackup"), ("tm", "prebackup_live")], lambda: _no_backup(call, before)),
        ("tm", "restore"): lambda: _no_disk(backup_rules.restored_disks(call), before),
        ("vmm", "restore_linstor_un"): lambda: _no_checkpoint(call, before),
        ("ds", "export"): lambda: _missing(facts.definition_of(facts.image_of(call).source), before),
    }
    rule = rules.get((call.kind, call.action))
    return rule() if rule else ""


def _bad_disk(call: Call, before: Snapshot) -> str:
    spot = facts.places(call)[-1]
    if spot.disk is None:
        return f"{spot.path} is no disk.N: a kernel or ramdisk cannot be a block device"
    return _missing(facts.definition_of(call.argv[0]), before)


def _never_made(world: World, call: Call, before: Snapshot) -> str:
    """A disk whose clone had to fail cannot be moved; a plain file of another driver can."""
    spot, vm = facts.places(call)[0], facts.vm_of(call.vm_document)
    disk = vm.disks.get(spot.disk) if vm and spot.disk is not None else None
    if disk is None or disk.tm_mad != facts.LINSTOR_UN or (spot.host, spot.path) in before.files:
        return ""
    return _missing(disk.definition, before)


def _no_snapshot(call: Call, before: Snapshot) -> str:
    """Without its volume, or without the snapshot it names, a snapshot cannot be taken, gone back to or copied."""
    if call.kind == "ds":
        image = facts.image_of(call)
        definition, number = facts.definition_of(image.source), image.target
    else:
        definition = facts.disk_definition(call)
        number = {"snap_revert": 1, "cpds": 2}.get(call.action, 0)
        number = int(call.argv[number]) if number else -1
    known = before.definitions.get(definition)
    if known is None or number is None or number < 0:
        return _missing(definition, before)
    return "" if f"snapshot-{number}" in known.snapshots else f"snapshot {number} of {definition} does not exist"


def _no_backup(call: Call, before: Snapshot) -> str:
    if backup_rules.wants_changes(call):
        return "the driver makes no backups of changes only"
    return _no_disk(backup_rules.disks_of(call), before)


def _no_disk(disks: list[facts.Disk], before: Snapshot) -> str:
    return next(filter(None, (_missing(disk.definition, before) for disk in disks)), "")


def _no_checkpoint(call: Call, before: Snapshot) -> str:
    saved = facts.checkpoint_of(call)
    return _missing(saved.definition, before) if saved.ours else ""


def _no_growth(call: Call, before: Snapshot) -> str:
    known, wanted = before.definitions.get(facts.disk_definition(call)), int(call.argv[1])
    if known is None:
        return _missing(facts.disk_definition(call), before)
    return f"the volume has {known.size} KiB, more than {wanted} MiB" if known.size > wanted << 10 else ""


def _bad_filesystem(call: Call) -> str:
    image = facts.image_of(call)
    return "" if image.save_as else _unmakable(image.fs, image.size)


def _bad_volatile(call: Call) -> str:
    vm, spot = facts.vm_of(call.vm_document), facts.places(call)[-1]
    disk = vm.disks.get(spot.disk) if vm and spot.disk is not None else None
    return _unmakable(disk.fs, int(call.argv[0])) if disk else ""


def _unmakable(filesystem: str, mib: int) -> str:
    """Say so when this machine's own mkfs refuses a file system of that size (new xfs: below 300 MiB)."""
    if not filesystem or not shutil.which(f"mkfs.{filesystem}"):
        return ""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(mib << 20)
        made = subprocess.run([f"mkfs.{filesystem}", file.name], capture_output=True, check=False)
    return "" if made.returncode == 0 else f"mkfs.{filesystem} makes none of {mib} MiB"


def _missing(definition: str, before: Snapshot) -> str:
    return "" if definition in before.definitions else f"{definition} does not exist"


def _bad_source(world: World, call: Call) -> str:
    image = facts.image_of(call)
    if image.kind in facts.FILE_TYPES:
        return "kernels, ramdisks and context files cannot live on a block device"
    published = world.sources.published.get(image.path)
    if published is None:
        return f"{image.path} does not exist"
    for name, wanted in image.hashes.items():
        if hashlib.new(name.lower(), published.read_bytes()).hexdigest() != wanted.lower():
            return f"the source has not the recorded {name}"
    return ""
