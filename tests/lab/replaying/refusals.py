"""Which calls must fail, and how the failure that was recorded is made to happen here, too."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab.oned.recordings import Call
from lab.replaying import facts
from lab.replaying.snapshot import Snapshot
from lab.replaying.world import World

# The definition itself may be created, so that the driver has something to take back.
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
    }
    rule = rules.get((call.kind, call.action))
    return rule() if rule else ""


def _bad_disk(call: Call, before: Snapshot) -> str:
    spot = facts.places(call)[-1]
    if spot.disk is None:
        return f"{spot.path} is no disk.N: a kernel or ramdisk cannot be a block device"
    return _missing(facts.definition_of(call.argv[0]), before)


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
    if not call.failure_injected:
        yield ""
    elif call.kind == "ds" and call.action == "stat":
        with world.sources.withdrawn(facts.image_of(call).path):
            yield "the source is not there"
    elif call.kind == "ds" and call.action == "mkfs" and facts.image_of(call).save_as:
        yield ""
    elif call.action in ("cp", "mkfs", "clone", "ln", "mkimage", "mkswap"):
        with world.linstor.refusing("POST|PUT", _PLACING):
            yield "the controller places nothing"
    elif call.action == "monitor":
        with world.linstor.refusing("GET|POST", "."):
            yield "the controller answers every request with an error"
    elif call.action == "context":
        with _hidden(Path(call.argv[0])):
            yield f"{call.argv[0]} is not there"
    else:
        with _held_open(world, call, before) as sentence:
            yield sentence


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
    nodes = known.replicas | known.attached
    node = host if host in nodes else min(nodes)
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
