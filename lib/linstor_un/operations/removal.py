"""The end of a volume: only when it is ours, and when nobody has it open; what LINSTOR can end later only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Optional

from .. import placement
from ..errors import DriverError, Exists, Failed, InUse, Pending
from ..inventory import Definition
from ..naming import DELETING, STATE, marked_snapshot
from ..retry import until
from ..settings import Settings
from ..units import Kib
from ..world import Controller, World
from . import host_files, volumes
from .volumes import Volume

# A satellite, or the controller's connections to all of them, may have been restarted a moment ago.
_BACK_SECONDS = 10.0


def remove(
    world: World,
    controller: Controller,
    name: str,
    marks: Mapping[str, str],
    settings: Settings,
    *,
    unattended: bool = False,
    beside: Sequence[str] = (),
) -> Optional[Definition]:
    """Delete a definition with its replicas and all its snapshots; absent is success. Returns what it was.

    Arguments: unattended, LINSTOR may end it later, when a machine that is off is back: nobody repeats this call,
    and nobody wants the content; beside, copies of its snapshots that a killed action may have left.
    Raises Exists when its marks say it is somebody else's, InUse when it is open or may be, naming the node, Failed
    when a node keeps LINSTOR from finishing.
    """
    known = controller.definitions([name, *beside])
    for left in (known[one] for one in beside if one in known):
        _drop_copy(world, controller, left)
    found = known.get(name)
    if found is None:
        return None
    other = "" if placement.half_made(found) else placement.contradiction(found, marks)
    if other:
        raise Exists(f"{name} is marked {other}, so it belongs to something else and is left alone")
    try:
        end(world, controller, found, settings, unattended)
    except (InUse, Failed):
        if not found.deleting and found.props.get(STATE) != DELETING:
            # What stood in the way is the news. Somebody may have the volume open: one whose replicas differ stays so.
            with suppress(DriverError):
                placement.require_together(name, controller.replicas(name))
                controller.mark(name, {STATE: DELETING})
        raise
    return found


def _drop_copy(world: World, controller: Controller, left: Definition) -> None:
    """Delete what no action has completed. Nobody looks for it again, but it is not what is to be removed."""
    if placement.half_made(left):
        try:
            volumes.discard_half_made(world, controller, left)
        except DriverError as error:
            world.trail.warn(f"left behind: {left.name} ({error})")


def end(
    world: World, controller: Controller, found: Definition, settings: Settings, unattended: bool = False
) -> None:  # fmt: skip
    """Delete what was found to be ours. Raises what `remove` does, of its marks nothing."""
    volume = volumes.look(controller, found.name, settings, found.size or Kib(0))
    # Told once, LINSTOR goes on whenever it can: waiting for silent nodes protects nothing any more.
    if found.deleting:
        off = placement.unknown(volume.replicas)
    else:
        volume = reporting(world, controller, volume)
        off = placement.away(volume.replicas) if unattended else []
    require_closed(world, volume, off)
    if not unattended:
        _require_unread(world, volume)
    volumes.clear_beside(world, controller, found)
    try:
        snapshots = any(marked_snapshot(key) is not None for key in found.props)
        volumes.delete_when_closed(world, controller, found.name, snapshots)
    except Pending as pending:
        if not unattended:
            raise
        world.trail.warn(str(pending))


def reporting(world: World, controller: Controller, volume: Volume) -> Volume:
    """Return the volume when all its nodes report, or as it is after a short while; for what needs all of them.

    A machine that is off is not waited for: DRBD knows.
    """

    def look() -> Optional[Volume]:
        now = volumes.look(controller, volume.name, volume.settings, volume.size)
        return None if placement.unknown(now.replicas) else now

    silent = set(placement.unknown(volume.replicas))
    if not silent - set(placement.away(volume.replicas)):
        return volume
    reported = until(world.clock, _BACK_SECONDS, look)
    return reported or volumes.look(controller, volume.name, volume.settings, volume.size)


def require_closed(world: World, volume: Volume, off: Collection[str] = (), readers_on: Collection[str] = ()) -> None:
    """Raise InUse unless it is certain that no node has the device open for writing.

    LINSTOR forgets about openers when a satellite disconnects and then deletes under a running VM,
    so a node that does not report counts as open. Without DRBD it deletes what is mounted, so the
    hosts are asked. Arguments: off, silent nodes that do not matter; readers_on, hosts that are asked under DRBD as
    well, which does not tell of readers.
    """
    silent = [node for node in placement.unknown(volume.replicas) if node not in off]
    if silent:
        raise InUse(f"{volume.name} may be open on {', '.join(silent)}, {_why(volume, silent)}")
    for replica in volume.replicas:
        unguarded = replica.online and replica.device and (not volume.replicated or replica.node in readers_on)
        if replica.in_use or (unguarded and host_files.opened(world, replica.node, volume.device(replica.node))):
            raise InUse(f"{volume.name} is open on {replica.node}; stop what uses it there and retry")


def _why(volume: Volume, silent: Sequence[str]) -> str:
    """Return why nobody knows about nodes, and what to do."""
    if set(silent) <= set(placement.untold(volume.replicas)):
        return f"where LINSTOR has no device of it now; look at `linstor resource list -r {volume.name}` and retry"
    return "whose LINSTOR satellite does not answer; retry when it is back, or after `linstor node lost`"


def _require_unread(world: World, volume: Volume) -> None:
    """Raise InUse when a host to which the volume is lent has it open for reading.

    LINSTOR does not see readers: the deletion would fail half-way, and cut the reader off.
    """
    for replica in volume.replicas:
        lent = volume.replicated and replica.online and replica.diskless and not replica.tiebreaker
        if lent and host_files.opened(world, replica.node, volume.device(replica.node)):
            raise InUse(f"{volume.name} is open on {replica.node}; stop what uses it there and retry")
