"""Which calls must fail, and how the failure that was recorded is made to happen here, too."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.hosts import account
from lab.oned.recordings import Call
from lab.replaying import facts
from lab.replaying.snapshot import Snapshot
from lab.replaying.world import World

_Break = Callable[[World, Call, Snapshot], "contextlib.AbstractContextManager[str]"]
# The definition itself may be created, so that the driver has something to take back.
_SNAPSHOT_ACTIONS = [("tm", "snap_create"), ("tm", "snap_create_live"), ("tm", "snap_revert"), ("tm", "cpds"),
                     ("ds", "snap_revert"), ("ds", "snap_flatten")]
_PLACING = r"/(autoplace|make-available|spawn|clone)$|/resources(/[^/]+)?$|/snapshot-restore"


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
        definition = _disk_definition(call)
        number = {"snap_revert": 1, "cpds": 2}.get(call.action, 0)
        number = int(call.argv[number]) if number else -1
    known = before.definitions.get(definition)
    if known is None or number is None or number < 0:
        return _missing(definition, before)
    return "" if f"snapshot-{number}" in known.snapshots else f"snapshot {number} of {definition} does not exist"


def _no_checkpoint(call: Call, before: Snapshot) -> str:
    saved = facts.checkpoint_of(call)
    return _missing(saved.definition, before) if saved.ours else ""


def _no_growth(call: Call, before: Snapshot) -> str:
    known, wanted = before.definitions.get(_disk_definition(call)), int(call.argv[1])
    if known is None:
        return _missing(_disk_definition(call), before)
    return f"the volume has {known.size} KiB, more than {wanted} MiB" if known.size > wanted << 10 else ""


def _disk_definition(call: Call) -> str:
    spot, vm = facts.places(call)[0], facts.vm_of(call.vm_document)
    disk = vm.disks.get(spot.disk) if vm and spot.disk is not None else None
    return disk.definition if disk else ""


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


@contextlib.contextmanager
def injected(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    """Break this world for the length of a call that the recorder had answered with a failure.

    Yields what was broken, "" when the recorded call succeeded or when it takes nothing that could be broken.
    """
    saves_as = call.kind == "ds" and call.action == "mkfs" and facts.image_of(call).save_as
    if not call.failure_injected or saves_as:
        yield ""
        return
    with _BREAKS.get(call.action, _held_open)(world, call, before) as sentence:
        yield sentence


@contextlib.contextmanager
def _no_source(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    with world.sources.withdrawn(facts.image_of(call).path):
        yield "the source is not there"


@contextlib.contextmanager
def _no_placement(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    with world.linstor.refusing("POST|PUT", _PLACING):
        yield "the controller places nothing"


def _refused(methods: str, path: str) -> _Break:
    """Let the controller refuse one kind of request."""

    @contextlib.contextmanager
    def breaking(world: World, call: Call, before: Snapshot) -> Iterator[str]:
        with world.linstor.refusing(methods, path):
            yield f"the controller refuses {methods} of {path}"

    return breaking


@contextlib.contextmanager
def _no_hypervisor(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    """Let the host's virsh, or the stock script for VMs that are not ours, fail to save or restore."""
    saved = facts.checkpoint_of(call)
    word = call.action.partition("_")[0] if saved.ours else "stock"
    flag = world.guests.place(saved.host) / f".no-{word}"
    flag.touch()
    try:
        yield f"the {word} on {saved.host} fails"
    finally:
        flag.unlink()


@contextlib.contextmanager
def _no_controller(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    with world.linstor.refusing(".*", "."):
        yield "the controller answers every request with an error"


@contextlib.contextmanager
def _no_context(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    with _hidden(Path(call.argv[0])):
        yield f"{call.argv[0]} is not there"


@contextlib.contextmanager
def _one_disk_refused(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    """Let the controller change nothing of the last disk that a guest writes to, so that others are to be undone."""
    vm = facts.vm_of(call.vm_document)
    disks = [disk for disk in vm.on_linstor() if disk.written and disk.definition in before.definitions] if vm else []
    spots = facts.places(call)
    if not disks or spots[0].host == spots[1].host:
        yield ""
        return
    with world.linstor.refusing("POST|PUT", f"/{disks[-1].definition}(/|$)"):
        yield f"the controller changes nothing of {disks[-1].definition}"


@contextlib.contextmanager
def _open_at_loser(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    """Hold a disk open on the host that the guest is not on when its migration has ended."""
    vm, spots = facts.vm_of(call.vm_document), facts.places(call)
    loser = spots[0 if call.action == "postmigrate" else 1].host
    disks = [disk.definition for disk in vm.on_linstor() if disk.written] if vm else []
    held = [name for name in disks if name in before.definitions and loser in before.definitions[name].nodes]
    if not held or spots[0].host == spots[1].host:
        yield ""
        return
    with world.open(held[-1], loser):
        yield f"{held[-1]} is open on {loser}"


@contextlib.contextmanager
def _stuck(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    """Let a move fail: the source's device is open; from the front-end no change is possible; a directory cannot go."""
    source, target = facts.places(call)[:2]
    if source.disk is None:
        breaking = _no_room(world, target) if (source.host, source.path) in before.files else contextlib.nullcontext("")
    elif source.host != target.host and _lent_to(call, source, before):
        breaking = _held_open(world, call, before)
    else:
        breaking = _no_controller(world, call, before)
    with breaking as sentence:
        yield sentence


def _lent_to(call: Call, spot: facts.Place, before: Snapshot) -> bool:
    """Say whether a host has a disk without a replica, so that it can be refused to give it back."""
    vm = facts.vm_of(call.vm_document)
    disk = vm.disks.get(spot.disk or 0) if vm else None
    known = before.definitions.get(disk.definition) if disk else None
    return known is not None and spot.host in known.attached


@contextlib.contextmanager
def _no_room(world: World, target: facts.Place) -> Iterator[str]:
    """Let nobody write to the directory that the VM's is to go to, nor make it."""
    parent = target.path.rpartition("/")[0]
    world.make_directory(target.host, parent)
    paths = [world.host_path(target.host, path) for path in (target.path, parent)]
    there = [path for path in paths if path.is_dir()]
    for path in there:
        os.chown(path, 0, 0)
    try:
        yield f"{target.path} on {target.host} belongs to root"
    finally:
        for path in there:
            os.chown(path, account.UID, account.GID)


@contextlib.contextmanager
def _held_open(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    """Hold the device of the call's volume open where it is reachable: it must not be taken away."""
    if call.kind == "ds":
        definition, host = facts.definition_of(facts.image_of(call).source), ""
    else:
        spot = facts.places(call)[0]
        vm = facts.vm_of(call.vm_document)
        disk = vm.disks.get(spot.disk or 0) if vm else None
        definition, host = disk.definition if disk else "", spot.host
    known = before.definitions.get(definition)
    if known is None:
        yield ""
        return
    node = host if host in known.nodes else min(known.nodes)
    with world.open(definition, node):
        yield f"{definition} is open on {node}"


@contextlib.contextmanager
def _hidden(path: Path) -> Iterator[None]:
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


_BREAKS: dict[str, _Break] = {
    "stat": _no_source, "monitor": _no_controller, "context": _no_context,
    **dict.fromkeys(("cp", "mkfs", "clone", "ln", "mkimage", "mkswap"), _no_placement),
    "snap_create": _refused("POST", r"/snapshots$|/snapshot/multi$"),
    "snap_create_live": _refused("POST", r"/snapshots$|/snapshot/multi$"),
    "snap_delete": _refused("DELETE", "/snapshots/"), "resize": _refused("PUT", "/volume-definitions/"),
    "save_linstor_un": _no_hypervisor, "restore_linstor_un": _no_hypervisor,
    "cpds": _no_placement, "export": _no_controller,
    "mv": _stuck, "premigrate": _one_disk_refused, "postmigrate": _open_at_loser, "failmigrate": _open_at_loser,
}
