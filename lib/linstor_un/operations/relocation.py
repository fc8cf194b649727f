"""A disk's data brought to where another datastore places disks, while its VM does not run.

FACTS     where it is and where it may go, its snapshots: a refusal comes before anything is touched
ADD       new replicas beside the old ones; DRBD copies, and all of them have to be up to date
REMOVE    an old one, each after a look that enough others have everything at that moment
FAILED    while all old ones are there, what was added goes; later it stays, and the sentence says so
KILLED    all stays as it is; a rerun goes on from what it finds

The volume is the same one all the time, with its name, its device and its snapshots, which LINSTOR keeps where they
were taken. LINSTOR's own balancing leaves a volume alone for an hour after each new replica, and while DRBD copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import NamedTuple, Optional

from .. import placement
from ..errors import DriverError, Failed, InUse, NotEnoughSpace, NotFound, TimedOut
from ..inventory import Definition, Replica
from ..retry import until
from ..world import Controller, World
from . import host_files, relocation_goal, removal, volumes
from .relocation_goal import Goal
from .volumes import Volume

# KiB a second: DRBD copies faster over any network that is in use.
_SLOWEST = 10 * 1024
# Asking for the state of replicas makes LINSTOR ask the nodes.
_LONGEST_PAUSE = 15.0


def bring(
    world: World, controller: Controller, definition: Definition, volume: Volume, origin: str, host: str
) -> Volume:
    """Bring a volume to where its settings place new ones; returns it as it is then.

    Arguments: volume, with the settings of the datastore that it goes to; origin, the host where the VM's link leads
    to its device, which stays there, and host, where the VM will be, "" for none.
    Raises Unsupported for a volume without DRBD or without the encryption that the datastore asks for, or with
    snapshots that its pools cannot go back to, Refused when there is no node to go to, NotEnoughSpace; nothing has
    happened then. Raises TimedOut when DRBD does not get on.
    """
    settings = volume.settings
    relocation_goal.require_encryption(volume)
    group = controller.group(settings.resource_group) if settings.resource_group else None
    goal = relocation_goal.goal_of(controller, volume, group, host)
    if not relocation_goal.arrived(volume, goal):
        volume = removal.reporting(world, controller, volume)
        placement.require_joined(volume.name, volume.replicas)
        relocation_goal.require_way(volume, goal)
        snapshots = controller.snapshots(volume.name)
        if snapshots:
            relocation_goal.require_snapshots(controller, volume, goal)
        rest = "; its snapshots stay where they are" if snapshots else ""
        world.trail.info(f"bringing {volume.name} to {goal.where}{rest}")
        volume = _exchange(world, controller, volume, goal, origin)
    holders = relocation_goal.holders(volume)
    if group and group.name.lower() != definition.group.lower() and group.replicas <= len(holders):
        label = f"resource group {group.name} of {volume.name}"
        with world.undo.by(label, controller.regroup, volume.name, definition.group):
            controller.regroup(volume.name, group.name)
    return volume


class Run(NamedTuple):
    """What a run found: the nodes and pools of the replicas, and the host where the VM's link leads to the device."""

    before: frozenset[tuple[str, str]]
    origin: str


def _exchange(world: World, controller: Controller, volume: Volume, goal: Goal, origin: str) -> Volume:
    """Add new replicas and remove old ones until the volume is where it is to be."""
    run = Run(_held(volume.replicas), origin)
    for _ in range(2 * (len(goal.nodes) + len(run.before))):
        more = relocation_goal.addable(volume, goal)
        if more > 0:
            with _take_backs(world, controller, volume, goal, run):
                _place(controller, volume, goal, more)
        else:
            _remove(world, controller, volume, goal, run)
        volume = volumes.look(controller, volume.name, volume.settings, volume.size)
        if relocation_goal.arrived(volume, goal):
            _await_sync(world, controller, volume)
            return volume
    raise Failed(f"{volume.name} does not come to {goal.where}: something else places its replicas as well")


def _held(replicas: Sequence[Replica]) -> frozenset[tuple[str, str]]:
    return frozenset((replica.node, replica.pool) for replica in replicas if replica.diskful)


def _take_backs(
    world: World, controller: Controller, volume: Volume, goal: Goal, run: Run
) -> AbstractContextManager[None]:
    """The first effect of a run registers what takes all of them back, or says that nothing does any more."""
    if _held(volume.replicas) != run.before:
        return nullcontext()
    label = f"new replicas of {volume.name} in {goal.where}"
    return world.undo.by(label, _take_back, controller, volume, run)


def _place(controller: Controller, volume: Volume, goal: Goal, more: int) -> None:
    """Let LINSTOR add up to `more` replicas. Raises NotEnoughSpace when not even one can be added."""
    free, present = relocation_goal.free(volume, goal), len(relocation_goal.holders(volume))
    settings = volume.settings._replace(storage_pools=goal.pools, layer_list=volume.layers)
    if goal.host in free:
        with suppress(NotEnoughSpace):
            controller.place(volume.name, settings, nodes=[goal.host], count=present + 1)
            return
    for count in range(more, 0, -1):
        try:
            controller.place(volume.name, settings, nodes=free, count=present + count)
            return
        except NotEnoughSpace as error:
            refusal = error
    raise NotEnoughSpace(f"{refusal}{relocation_goal.hint(controller, volume, goal)}")


def _take_back(controller: Controller, volume: Volume, run: Run) -> None:
    """Remove what was added while all old replicas are there; when one has gone, what was added is needed."""
    try:
        replicas = controller.replicas(volume.name)
    except NotFound:
        return
    old = {node for node, _ in run.before}
    if not run.before <= _held(replicas):
        stay = ", ".join(sorted(node for node, _ in _held(replicas) - run.before))
        raise Failed(f"they stay on {stay}, for old ones have gone; retry the move, which goes on from there")
    left: list[str] = []
    for node in sorted(replica.node for replica in replicas if replica.diskful and replica.node not in old):
        try:
            controller.remove_replica(volume.name, node, len(old))
            if node == run.origin:
                _reach(controller, volume, node)
        except DriverError as error:
            left.append(str(error))
    if left:
        raise Failed("; ".join(left))


def _remove(world: World, controller: Controller, volume: Volume, goal: Goal, run: Run) -> None:
    """Remove the old replica that is needed least. Where the VM's link leads to the device, that stays."""
    found = relocation_goal.removable(volume, goal, run.origin)
    if found is None:
        raise Failed(f"{volume.name} does not come to {goal.where}: something else places its replicas as well")
    node, least = found
    _await_sync(world, controller, volume)
    _require_unread(world, volume, node)
    stays = node == run.origin
    label = f"attachment of {volume.name} on {node}"
    with world.undo.by(label, _reach, controller, volume, node) if stays else nullcontext():
        with _take_backs(world, controller, volume, goal, run):
            controller.remove_replica(volume.name, node, least)
    if stays:
        _reach(controller, volume, node)


def _reach(controller: Controller, volume: Volume, node: str) -> None:
    """Have the device where it was; LINSTOR may have made the place of a replica its tiebreaker's, or nobody's."""
    here = volumes.look(controller, volume.name, volume.settings, volume.size).on(node)
    if here is None or here.tiebreaker or not here.usable:
        controller.attach(volume.name, node, volume.settings, volume.layers)


def _require_unread(world: World, volume: Volume, node: str) -> None:
    """Raise InUse for a device that is open: LINSTOR does not see readers, and would fail half-way."""
    asked = any(host.name == node and host.usable for host in world.cloud.hosts())
    if asked and host_files.opened(world, node, volume.device(node)):
        raise InUse(f"{volume.name} is open on {node}; stop what uses it there and retry")


def _await_sync(world: World, controller: Controller, volume: Volume) -> None:
    """Wait until all replicas are up to date. Raises TimedOut."""
    seconds = volume.settings.timeout + volume.size / _SLOWEST

    def synced() -> Optional[bool]:
        now = volumes.look(controller, volume.name, volume.settings, volume.size)
        return True if relocation_goal.holders(now) <= controller.up_to_date(volume.name) else None

    if not until(world.clock, seconds, synced, longest=_LONGEST_PAUSE):
        raise TimedOut(f"a replica of {volume.name} is not up to date after {seconds:.0f} s; see `drbdadm status`")
