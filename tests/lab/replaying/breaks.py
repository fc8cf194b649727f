"""How a failure that was recorded is made to happen here, too, for the length of one call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lab.hosts import account
from lab.oned.recordings import Call
from lab.replaying import backup_rules, facts
from lab.replaying.snapshot import Snapshot
from lab.replaying.world import World

_Break = Callable[[World, Call, Snapshot], "contextlib.AbstractContextManager[str]"]
# The definition itself may be created, so that the driver has something to take back.
_PLACING = r"/(autoplace|make-available|spawn|clone)$|/resources(/[^/]+)?$|/snapshot-restore"


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
    """Let nothing be placed; what a call finds in its place already it does not ask for, so nothing is answered."""
    if _in_place(call, before):
        with _no_controller(world, call, before) as sentence:
            yield sentence
        return
    with world.linstor.refusing("POST|PUT", _PLACING):
        yield "the controller places nothing"


def _in_place(call: Call, before: Snapshot) -> bool:
    if call.kind == "ds":
        return f"one-image-{facts.image_of(call).number}" in before.definitions
    if call.action == "ln":
        image = before.definitions.get(facts.definition_of(call.argv[0]))
        return image is not None and facts.places(call)[-1].host in image.nodes
    return call.action != "cpds" and facts.disk_definition(call) in before.definitions


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
def _one_disk_kept(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    """Let the controller change nothing of the last disk that a backup is written over, so that others are undone."""
    name = backup_rules.restored_disks(call)[-1].definition
    with world.linstor.refusing("POST|PUT", f"/{name}(/|$)"):
        yield f"the controller changes nothing of {name}"


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
    dead = facts.dead_host(call)
    if source.disk is None:
        moves = not dead and (source.host, source.path) in before.files
        breaking = _no_room(world, target) if moves else contextlib.nullcontext("")
    elif not dead and source.host != target.host and _lent_to(call, source, before):
        breaking = _held_open(world, call, before)
    else:
        breaking = _no_controller(world, call, before)
    with breaking as sentence:
        yield sentence


def _lent_to(call: Call, spot: facts.Place, before: Snapshot) -> bool:
    """Say whether a host has a disk without a replica, so that it can be refused to give it back."""
    known = before.definitions.get(facts.disk_definition(call))
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
    """Hold the device of the call's volume open where it is to be taken away; where there is none, refuse all."""
    if call.kind == "ds":
        definition, host = facts.definition_of(facts.image_of(call).source), ""
    else:
        definition, host = facts.disk_definition(call), facts.places(call)[0].host
    known = before.definitions.get(definition)
    nodes = sorted(known.nodes) if known else []
    if call.kind == "tm" and (facts.places(call)[0].disk is None or known and host not in nodes):
        with _no_controller(world, call, before) as sentence:
            yield sentence
    elif not nodes:
        yield ""
    else:
        node = host or nodes[0]
        with world.open(definition, node):
            yield f"{definition} is open on {node}"


@contextlib.contextmanager
def _nothing(world: World, call: Call, before: Snapshot) -> Iterator[str]:
    """Break nothing: what only tidies up does not fail."""
    yield ""


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
    "prebackup": _no_controller, "prebackup_live": _refused("POST", r"/snapshots$|/snapshot/multi$"),
    "restore": _one_disk_kept,
    **dict.fromkeys(("postbackup", "postbackup_live"), _nothing),
    "snap_delete": _refused("DELETE", "/snapshots/"), "resize": _refused("PUT", "/volume-definitions/"),
    "save_linstor_un": _no_hypervisor, "restore_linstor_un": _no_hypervisor,
    "cpds": _no_placement, "export": _no_controller,
    "mv": _stuck, "premigrate": _one_disk_refused, "postmigrate": _open_at_loser, "failmigrate": _open_at_loser,
}
