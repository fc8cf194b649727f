"""The traces that calls of other drivers, and of actions not judged, leave for later calls: as little as these need."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import replace

from lab.oned.recordings import Call
from lab.replaying import facts
from lab.replaying.facts import Disk, Place, definition_of
from lab.replaying.world import World


def emulate(world: World, call: Call) -> None:
    """Do what the recorded call did to links, files, attachments and volumes; a failed one did nothing."""
    if call.failure_injected:
        return
    action = call.action.partition(".")[0]
    if call.kind == "tm" and call.driver == "linstor_un" and action in _OURS:
        _OURS[action](world, call)
    elif call.kind == "tm" and action in _OTHERS:
        _OTHERS[action](world, call)


def go_on(world: World, call: Call) -> None:
    """Do the work of a premigrate that did not, although the recorded migration went on."""
    _premigrate(world, call)


def _disk(call: Call, spot: Place) -> Disk:
    vm = facts.vm_of(call.vm_document)
    known = vm.disks.get(spot.disk or 0) if vm else None
    if known:
        return known
    number = spot.disk or 0
    return Disk(number, f"one-vm-{spot.vm}-disk-{number}", True, False, 0, "", None, 0, "", "", "linstor_un")


def _mv(world: World, call: Call) -> None:
    source, target = facts.places(call)[:2]
    if source.disk is None:
        _move_directory(world, source, target)
        return
    definition = _disk(call, source).definition
    if definition not in world.linstor.definitions():
        return
    if source.host != target.host:
        world.detach(definition, source.host)
    # The directory of an ssh system datastore is carried by its own driver after this, links and all.
    if world.tm_mad(target.datastore) != "ssh":
        world.unlink(source.host, source.path)
        if target.host != "frontend":
            world.link(target.host, target.path, definition)
    if target.host != "frontend":
        world.attach(definition, target.host)


def _move_directory(world: World, source: Place, target: Place) -> None:
    if (source.host, source.path) == (target.host, target.path) or world.same_directory(source, target):
        return
    here, there = world.host_path(source.host, source.path), world.host_path(target.host, target.path)
    if here.is_dir():
        world.make_directory(target.host, target.path)
        for entry in here.iterdir():
            if not (there / entry.name).is_symlink() and not (there / entry.name).exists():
                world.copy(entry, there / entry.name)
        shutil.rmtree(here)


def _replace_directory(world: World, source: Place, target: Place) -> None:
    if (source.host, source.path) == (target.host, target.path) or world.same_directory(source, target):
        return
    here, there = world.host_path(source.host, source.path), world.host_path(target.host, target.path)
    shutil.rmtree(there, ignore_errors=True)
    if here.is_dir():
        world.make_directory(target.host, target.path)
        for entry in here.iterdir():
            world.copy(entry, there / entry.name)
        shutil.rmtree(here)


def _premigrate(world: World, call: Call) -> None:
    vm, spots = facts.vm_of(call.vm_document), facts.places(call)
    if not vm or len(spots) < 2:
        return
    source, target = spots[:2]
    for disk in vm.on_linstor():
        if disk.definition in world.linstor.definitions():
            world.attach(disk.definition, target.host)
            world.link(target.host, f"{target.path}/disk.{disk.number}", disk.definition)
    if not facts.caller(call):
        _copy_files(world, source, target)


def _copy_files(world: World, source: Place, target: Place) -> None:
    here, there = world.host_path(source.host, source.path), world.host_path(target.host, target.path)
    if here.is_dir() and not world.same_directory(source, target):
        world.make_directory(target.host, target.path)
        for entry in here.iterdir():
            of_ours = entry.is_symlink() and os.readlink(entry).startswith("/dev/")
            if not of_ours and not (there / entry.name).exists():
                world.copy(entry, there / entry.name)


def _release(world: World, call: Call, loser: int, keeper: int) -> None:
    vm, spots = facts.vm_of(call.vm_document), facts.places(call)
    if not vm or len(spots) < 2 or spots[0].host == spots[1].host:
        return
    for disk in vm.on_linstor():
        world.detach(disk.definition, spots[loser].host)
    if not world.same_directory(spots[loser], spots[keeper]):
        shutil.rmtree(world.host_path(spots[loser].host, spots[loser].path), ignore_errors=True)


def _cpds(world: World, call: Call) -> None:
    spot, target = facts.places(call)[0], definition_of(call.argv[1])
    disk = _disk(call, spot)
    world.make_volume(target, disk.size or 64, copy_of=disk.definition)


def _resize(world: World, call: Call) -> None:
    world.linstor.resize(_disk(call, facts.places(call)[0]).definition, int(call.argv[1]))


def _snap_create(world: World, call: Call) -> None:
    definition = _disk(call, facts.places(call)[0]).definition
    world.linstor.rest("POST", f"/v1/resource-definitions/{definition}/snapshots", {"name": f"snapshot-{call.argv[1]}"})
    world.remember_snapshot(definition, int(call.argv[1]))


def _snap_delete(world: World, call: Call) -> None:
    definition = _disk(call, facts.places(call)[0]).definition
    world.linstor.rest("DELETE", f"/v1/resource-definitions/{definition}/snapshots/snapshot-{call.argv[1]}")


def _other_making(world: World, call: Call) -> None:
    for spot in facts.places(call):
        if spot.file:
            world.write_file(spot.host, spot.path, b"x" * 4096)


def _other_delete(world: World, call: Call) -> None:
    for spot in facts.places(call)[:1]:
        path = world.host_path(spot.host, spot.path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _other_mv(world: World, call: Call) -> None:
    source, target = facts.places(call)[:2]
    # Stock drivers carry the whole directory with its last call and skip the disks before it.
    if not source.file:
        _replace_directory(world, source, target)


def _other_premigrate(world: World, call: Call) -> None:
    source, target = facts.places(call)[:2]
    if world.tm_mad(target.datastore) == "ssh" and source.host != target.host:
        shutil.rmtree(world.host_path(target.host, target.path), ignore_errors=True)
        world.make_directory(target.host, target.path)


def _other_postmigrate(world: World, call: Call) -> None:
    source, target = facts.places(call)[:2]
    vm = facts.vm_of(call.vm_document)
    if vm and source.host == target.host and len(vm.datastores) > 1 and vm.datastores[-2] != target.datastore:
        # The stock migration took the files along; the directory in the former datastore goes.
        former = replace(source, path=source.path.replace(f"/{target.datastore}/", f"/{vm.datastores[-2]}/"))
        _move_directory(world, former, target)
    elif world.tm_mad(target.datastore) == "ssh" and source.host != target.host:
        shutil.rmtree(world.host_path(source.host, source.path), ignore_errors=True)


_OURS: dict[str, Callable[[World, Call], None]] = {
    "mv": _mv,
    "premigrate": lambda world, call: world.owed_premigrate.update({call.vm_id or 0: call}),
    "postmigrate": lambda world, call: _release(world, call, 0, 1),
    "failmigrate": lambda world, call: _release(world, call, 1, 0),
    "cpds": _cpds,
    "resize": _resize,
    "snap_create": _snap_create,
    "snap_create_live": _snap_create,
    "snap_delete": _snap_delete,
}
_OTHERS: dict[str, Callable[[World, Call], None]] = {
    "mkimage": _other_making,
    "mkswap": _other_making,
    "context": _other_making,
    "clone": _other_making,
    "ln": _other_making,
    "delete": _other_delete,
    "mv": _other_mv,
    "premigrate": _other_premigrate,
    "postmigrate": _other_postmigrate,
}
