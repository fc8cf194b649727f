"""Snapshots of a disk or image, `snapshot-NUMBER` on its definition: taken, and deleted.

TAKE     what is left of an earlier order with this number goes -> marks with size and time of the order -> snapshot
KILLED   a rerun finds its order's time in the marks, and a snapshot that was taken after them: it is done
DELETE   the snapshot, then its marks
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Callable, NamedTuple, Optional

from .. import placement
from ..errors import DriverError, Exists, Failed, Refused, Unsupported
from ..inventory import DRBD, Definition, Replica, Snapshot
from ..naming import FLATTENED, disk_snapshot, marked_snapshot, snapshot_date, snapshot_size
from ..retry import until
from ..world import Controller, World
from . import volumes

# LINSTOR gives up a snapshot after two minutes.
_TAKING_SECONDS = 150.0


class Order(NamedTuple):
    """A snapshot that oned orders: its number, and when that was, "" where oned does not say."""

    number: int
    date: str

    @property
    def name(self) -> str:
        """Its name on LINSTOR."""
        return disk_snapshot(self.number)


def find(controller: Controller, name: str, marks: Mapping[str, str]) -> Optional[Definition]:
    """Return the definition of a disk or image, None when there is none.

    Arguments: marks, which it must not contradict. Raises Exists when it is somebody else's.
    """
    found = controller.definitions([name]).get(name)
    other = placement.contradiction(found, marks) if found else ""
    if other:
        raise Exists(f"{name} is marked {other}, so it belongs to something else and is left alone")
    return found


def require(controller: Controller, name: str, marks: Mapping[str, str]) -> Definition:
    """Return the definition of a disk or image. Raises NotFound, and Exists when it is somebody else's."""
    return find(controller, name, marks) or volumes.defined(controller, name)


def take(
    world: World,
    controller: Controller,
    disk: Definition,
    order: Order,
    host: str,
    quiet: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    """Take the snapshot that oned orders; one that an interrupted run of the same order took is the one.

    Arguments: disk, the definition as it was read; host, the VM's; quiet, holds the guest still for the length of
    LINSTOR's call. Raises Refused for a disk that is incomplete, or where LINSTOR does not reach a replica with what
    the VM wrote, Unsupported for one whose pool cannot take snapshots.
    """
    volumes.require_whole(disk)
    if disk.size is None:
        raise Unsupported(f"{disk.name} has no volume on LINSTOR, so there is nothing to take a snapshot of")
    replicas = controller.replicas(disk.name)
    placement.require_together(disk.name, replicas)
    require_takeable(controller, disk.name, replicas)
    alone = "" if any(DRBD in replica.layers for replica in replicas) else host
    require_current(controller, disk.name, replicas, alone)
    if _is_done(world, controller, disk, order):
        world.trail.info(f"snapshot {order.name} of {disk.name} was taken by an interrupted run")
        return
    marks = {snapshot_size(order.number): str(disk.size), snapshot_date(order.number): order.date}
    with world.undo.by(f"marks of {disk.name}", controller.mark, disk.name, {}, list(marks)):
        controller.mark(disk.name, marks, clear=[FLATTENED] if FLATTENED in disk.props else [])
    label = f"snapshot {order.name} of {disk.name}"
    with world.undo.by(label, controller.delete_snapshot, disk.name, order.name), quiet():
        controller.snapshot(disk.name, order.name)
    if alone:
        taken = named(controller, disk.name, order.name)
        if taken is None or alone not in taken.nodes:
            raise Failed(
                f"{order.name} of {disk.name} was not taken on {alone}, and without DRBD no other node has what its VM "
                f"wrote; retry when {alone} is online in `linstor node list`"
            )


def require_current(controller: Controller, name: str, replicas: Sequence[Replica], alone: str) -> None:
    """Raise Refused where a snapshot would not have what was written.

    LINSTOR leaves out nodes that are offline, and calls what the others have a success.

    Arguments: alone, the only host that has what the VM wrote, "" where DRBD keeps the replicas equal.
    """
    holders = placement.holding(replicas)
    if alone and alone not in holders:
        raise Refused(
            f"{name} has no DRBD in its layers, and {alone}, where its VM writes, is offline or has no replica; "
            f"a snapshot would not have what was written: retry when it is in `linstor node list`"
        )
    offline = sorted(replica.node for replica in replicas if replica.diskful and replica.node not in holders)
    if not alone and offline and not controller.up_to_date(name) & set(holders):
        raise Refused(f"no replica of {name} on an online node is up to date; retry when {', '.join(offline)} is back")


def require_takeable(controller: Controller, name: str, replicas: Sequence[Replica]) -> None:
    """Raise Refused or Unsupported where no snapshot can be taken.

    LINSTOR would say so as well, but when the guest is held still already.
    """
    holders = {(replica.node, replica.pool) for replica in replicas if replica.diskful}
    if not placement.holding(replicas):
        raise Refused(f"{name} has no replica on an online node, so no snapshot of it can be taken")
    for pool in controller.pools(sorted({pool for _, pool in holders if pool})):
        if (pool.node, pool.name) in holders and not pool.snapshots:
            raise Unsupported(
                f"{name} is in pool {pool.name} of kind {pool.provider} on {pool.node}, which cannot take snapshots; "
                f"move it to a thin pool"
            )


def _is_done(world: World, controller: Controller, disk: Definition, order: Order) -> bool:
    """Make the number free, or find that this very order was carried out.

    Marks come before their snapshot and after the deletion of an older one, so that a snapshot beside this order's
    marks was taken for it. Any other of this name is left of an order that failed, or of a deletion that did: what
    it holds is not the disk of now.
    """
    found = _settled(world, controller, disk.name, order.name)
    if found is None:
        return False
    marked = disk.props.get(snapshot_date(order.number))
    if found.usable and order.date and marked == order.date:
        return True
    world.trail.info(f"replacing snapshot {order.name} of {disk.name}, which an earlier order left")
    controller.delete_snapshot(disk.name, order.name)
    return False


def _settled(world: World, controller: Controller, name: str, snapshot: str) -> Optional[Snapshot]:
    """Return a snapshot, None when there is none; one that LINSTOR still takes for a killed run is waited for."""

    def look() -> Optional[list[Optional[Snapshot]]]:
        found = named(controller, name, snapshot)
        return None if found and found.pending else [found]

    settled = until(world.clock, _TAKING_SECONDS, look)
    return settled[0] if settled else named(controller, name, snapshot)


def named(controller: Controller, name: str, snapshot: str) -> Optional[Snapshot]:
    """Return a snapshot of a definition, or None."""
    return next((one for one in controller.snapshots(name) if one.name == snapshot), None)


def drop(world: World, controller: Controller, disk: Definition, number: int) -> None:
    """Delete a snapshot, and its marks when it is surely gone; absent is success. A running VM does not mind.

    Raises Refused when the replicas differ: any change makes DRBD connect them, and the older data would win.
    """
    placement.require_together(disk.name, controller.replicas(disk.name))
    controller.delete_snapshot(disk.name, disk_snapshot(number))
    marks = [mark for mark in disk.props if marked_snapshot(mark) == number]
    if marks:
        try:
            controller.mark(disk.name, {}, clear=marks)
        except DriverError as error:
            # What was to go is gone, and the marks only tell sizes; a later order with this number replaces them.
            world.trail.warn(f"marks of {disk.name} for {disk_snapshot(number)} stay: {error}")
