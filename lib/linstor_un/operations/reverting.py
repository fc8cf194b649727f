"""A volume goes back to a snapshot and keeps all else: younger snapshots, marks, attachments, replicas, layers."""

from __future__ import annotations

from collections.abc import Sequence

from .. import placement
from ..errors import NotFound, Refused
from ..inventory import DRBD, STORAGE, Definition, Snapshot
from ..naming import REVERTING, STATE, WRITTEN_ON, disk_snapshot
from ..world import Controller, World
from . import overwriting, removal, rollbacks, volumes
from .rollbacks import Subject
from .volumes import Volume


def revert(world: World, controller: Controller, subject: Subject, number: int) -> None:
    """Bring the bytes of a snapshot back into its volume, which nobody may have open; done again it is the same.

    Arguments: number, the snapshot's. Raises NotFound without that snapshot, InUse naming who has the device open,
    Refused for a volume that is incomplete or whose replicas differ; nothing has happened then.
    """
    disk = subject.disk
    interrupted = disk.props.get(STATE) == REVERTING
    if not interrupted:
        volumes.require_whole(disk)
    known = controller.snapshots(disk.name)
    target = _target(disk, known, number)
    size = disk.size or target.size
    if size is None:
        raise Refused(f"{disk.name} has no volume on LINSTOR, so there is nothing to revert")
    volume = removal.reporting(world, controller, volumes.look(controller, disk.name, subject.settings, size))
    placement.require_together(disk.name, volume.replicas)
    wrote_on = subject.host or disk.props.get(WRITTEN_ON, "")
    if not volume.replicated and wrote_on and wrote_on not in target.nodes:
        raise Refused(
            f"{target.name} of {disk.name} was not taken on {wrote_on}, and without DRBD no other node has what the VM "
            f"wrote; go back to another one"
        )
    hosts = {host.name for host in world.cloud.hosts() if host.usable}
    removal.require_closed(world, volume, readers_on={*hosts, subject.host})
    if not _rolls_back(controller, disk, volume, known, target):
        overwriting.overwrite(world, controller, subject, volume, known, target)
        return
    rollbacks.roll_back(world, controller, subject, volume, known, target.name)
    if interrupted:
        overwriting.tidy(world, overwriting.Over(controller, subject, volume, known))


def _target(disk: Definition, known: Sequence[Snapshot], number: int) -> Snapshot:
    name = disk_snapshot(number)
    found = next((one for one in known if one.name == name), None)
    if found is None:
        raise NotFound(f"{disk.name} has no snapshot {name} on LINSTOR; look at `linstor snapshot list`")
    if not found.usable:
        raise Refused(f"snapshot {name} of {disk.name} failed when it was taken, so it holds nothing to go back to")
    return found


def _rolls_back(
    controller: Controller, disk: Definition, volume: Volume, known: Sequence[Snapshot], target: Snapshot
) -> bool:
    """Decide whether LINSTOR's own rollback does it.

    It deletes and restores all replicas: one on a node without the snapshot would be lost, one that has left the
    snapshot's pool would be there again, and of the layers it remembers DRBD over storage only. Before 1.31 it works
    in place, on the newest snapshot of all, and leaves the size alone. A definition without any replica is what an
    interrupted rollback leaves.
    """
    holders = {replica.node for replica in volume.replicas if replica.diskful}
    if not all(replica.usable for replica in volume.replicas) or (holders and holders != set(target.nodes)):
        return False
    moved = [one.node for one in volume.replicas if one.diskful and target.pools.get(one.node, one.pool) != one.pool]
    if moved or not controller.rolls_back_safely():
        return False
    if controller.rolls_back_to_any():
        return not holders or volume.layers == (DRBD, STORAGE)
    return known[-1].name == target.name and disk.size == target.size
