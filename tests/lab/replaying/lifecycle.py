"""What recorded calls of the hypervisor driver do to guests, and when a guest cannot be running any more."""

from __future__ import annotations

import re
from collections.abc import Callable

from lab.oned.recordings import Call
from lab.replaying import effects, facts
from lab.replaying.facts import Vm
from lab.replaying.guests import Drive
from lab.replaying.world import DATASTORES, World

RUNNING = {3, 4, 5, 6, 7, 12, 16, 17, 24, 25, 26, 29, 57, 59, 62, 66, 69}
"""LCM_STATEs in which a guest may run: RUNNING, MIGRATE, SAVE_*, SHUTDOWN*, UNKNOWN, HOTPLUG*, DISK_SNAPSHOT*, ..."""
_MIGRATE = 4


def follow(world: World, call: Call) -> list[str]:
    """Let a guest start, move or end as the recorded call made it; returns why it could not."""
    action = call.action.partition("_linstor_un")[0]
    if call.kind != "vmm" or call.failure_injected or action not in _ACTIONS or call.vm_id is None:
        return []
    return _ACTIONS[action](world, call, call.vm_id)


def settle(world: World, call: Call) -> None:
    """End the guest of a VM whose disks oned treats as nobody's: its host died, or it was never said to have ended."""
    if call.kind == "tm" and call.vm_id is not None and call.vm_lcm_state not in RUNNING:
        world.guests.stop(call.vm_id)


def already_running(world: World, call: Call, vm: Vm) -> None:
    """Start the guest of a VM that had been deployed before the recording began."""
    if call.vm_lcm_state in RUNNING and vm.hosts:
        host = vm.hosts[-2] if call.vm_lcm_state == _MIGRATE and len(vm.hosts) > 1 else vm.hosts[-1]
        world.guests.start(vm.number, host, drives(world, vm, f"{DATASTORES}/{vm.datastore}/{vm.number}"))


def drives(world: World, vm: Vm, directory: str) -> list[Drive]:
    """Return the disks of a VM that are volumes of LINSTOR, as its guest opens them below a directory."""
    there = world.linstor.definitions()
    return [Drive(f"{directory}/disk.{disk.number}", disk.definition, disk.written)
            for disk in vm.on_linstor() if disk.definition in there]


def _known(world: World, number: int) -> Vm:
    return facts.vm_of(world.documents.get("VM", number)) or Vm(number, [], 0, {})


def _directory(path: str) -> str:
    return re.sub("/+", "/", path).rpartition("/")[0]


def _deploy(world: World, call: Call, number: int) -> list[str]:
    directory = _directory(call.argv[0])
    return world.guests.start(number, call.argv[1], drives(world, _known(world, number), directory))


def _end(world: World, call: Call, number: int) -> list[str]:
    world.guests.stop(number)
    return []


def _migrate(world: World, call: Call, number: int) -> list[str]:
    """A guest goes over with its disks open on both hosts; where no premigrate worked, as if one had."""
    host, running, migration = call.argv[1], world.guests.host_of(number), world.migrations.get(number)
    owed = world.owed_premigrate.pop(number, None)
    if running and running != host and owed is not None:
        world.guests.stop(number)
        effects.go_on(world, owed)
        directory = facts.places(owed)[1].path
        return world.guests.start(number, host, drives(world, _known(world, number), directory))
    directory = migration.directory if migration else f"{DATASTORES}/{_known(world, number).datastore}/{number}"
    return world.guests.move(number, host, directory)


def _attach(world: World, call: Call, number: int) -> list[str]:
    path = re.sub("/+", "/", call.argv[1])
    wanted = [drive for drive in drives(world, _known(world, number), _directory(path)) if drive.path == path]
    return world.guests.plug(number, wanted)


def _detach(world: World, call: Call, number: int) -> list[str]:
    world.guests.unplug(number, re.sub("/+", "/", call.argv[1]))
    return []


_ACTIONS: dict[str, Callable[[World, Call, int], list[str]]] = {
    "deploy": _deploy, "restore": _deploy, "migrate": _migrate, "attach_disk": _attach, "detach_disk": _detach,
    "save": _end, "shutdown": _end, "cancel": _end,
}
