"""What oned shows of datastores: how much fits, how much is left, and what the VMs' disks take."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .. import naming
from ..errors import DriverError, Failed, Unreachable
from ..inventory import Capacity, Definition
from ..request.datastore import MonitorRequest
from ..units import Mib, mib_from_kib
from ..world import Controller, SnapshotUsage, VmUsage, World
from . import two_primaries

_SNAPSHOT_SIZE = re.compile(re.escape(naming.AUX) + r"SNAPSHOT_([0-9]{1,9})/DISK_SIZE\Z")
_TOLD = 5
_NUMBER = re.compile(r"[0-9]{1,18}\Z")


def datastore(world: World, request: MonitorRequest) -> str:
    """Return USED_MB, TOTAL_MB and FREE_MB, as oned's template syntax has them.

    They tell what images can be asked for: with two replicas, half of the pools; without nodes that are
    offline. None of the two or three requests makes LINSTOR wait for satellites; the first one is for live migrations
    that were lost, of VMs in whatever system datastore: nobody else finds one of a VM that nothing happens to.
    Raises Failed when no volume could be placed at all: oned then keeps the numbers that it has, and its
    log says why. Zeroes would say that the datastore is full of data.
    """
    controller = _controller(world, request)
    # First: the lease of a lost migration ends whatever is known of the capacity.
    _expire(world, controller)
    return _capacity(world, request, controller)


def system_datastore(world: World, request: MonitorRequest) -> str:
    """Return the same of a system datastore, and tell monitord what the VMs' disks take when oned wants it.

    oned (>= 5.12) wants it in every tenth cycle (DS_MONITOR_VM_DISK) and reads it from monitord only.
    A failure there is a line in oned's log: the capacity is worth having without it.
    """
    controller = _controller(world, request)
    answer = _capacity(world, request, controller)
    if request.vm_disks:
        try:
            marked = controller.marked({naming.DS_ID: str(request.datastore.id), naming.VM_ID: ""})
            _tell_of_unwanted(world, marked)
            world.monitord.report(_usages(marked))
        except DriverError as error:
            world.trail.warn(f"the usage of the VMs' disks is not reported: {error}")
    return answer


def _controller(world: World, request: MonitorRequest) -> Controller:
    return world.connect(world.settings(request.datastore))


def _expire(world: World, controller: Controller) -> None:
    try:
        two_primaries.expire(world, controller, controller.marked({naming.MIGRATION: ""}))
    except Unreachable:
        # The capacity cannot be asked for either, and that is the answer.
        return
    except DriverError as error:
        world.trail.warn(f"lost live migrations are not looked for: {error}")


def _capacity(world: World, request: MonitorRequest, controller: Controller) -> str:
    capacity = controller.capacity(world.settings(request.datastore))
    if not capacity.total:
        raise Failed(
            f"the capacity of datastore {request.datastore.id} is unknown: too few of its LINSTOR nodes are online to"
            " hold all replicas of a volume, or their pools do not suit its attributes; look at `linstor node list`"
        )
    return _template(capacity)


def _template(capacity: Capacity) -> str:
    # Rounded down: what is not a whole MiB cannot be used by an image, which has whole ones.
    total, free = capacity.total // 1024, min(capacity.available, capacity.total) // 1024
    return f"USED_MB={total - free}\nTOTAL_MB={total}\nFREE_MB={free}"


def _tell_of_unwanted(world: World, marked: Sequence[Definition]) -> None:
    """Tell what takes space although its deletion was asked for: oned does not come back to a VM that is gone."""
    names = sorted(one.name for one in marked if one.deleting or one.props.get(naming.STATE) == naming.DELETING)
    if names:
        more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
        world.trail.warn(
            f"still on LINSTOR although they were to be removed: {len(names)} volumes, "
            f"{', '.join(names[:_TOLD])}{more}; bring offline nodes back, or use `linstor resource-definition delete`"
        )


def _usages(marked: Sequence[Definition]) -> list[VmUsage]:
    disks: dict[int, dict[int, Mib]] = {}
    snapshots: dict[int, list[SnapshotUsage]] = {}
    for definition in marked:
        owner = _owner(definition)
        if owner and definition.size is not None and definition.complete and not definition.deleting:
            vm_id, disk_id = owner
            disks.setdefault(vm_id, {})[disk_id] = mib_from_kib(definition.size)
            snapshots.setdefault(vm_id, []).extend(_snapshots(definition, disk_id))
    return [VmUsage(vm_id, disks[vm_id], tuple(snapshots[vm_id])) for vm_id in sorted(disks)]


def _owner(definition: Definition) -> tuple[int, ...]:
    """Return the numbers of VM and disk; nothing for marks that an operator made or broke."""
    texts = [definition.props.get(key, "") for key in (naming.VM_ID, naming.DISK_ID)]
    return tuple(map(int, texts)) if all(map(_NUMBER.match, texts)) else ()


def _snapshots(definition: Definition, disk_id: int) -> Iterable[SnapshotUsage]:
    """Yield the disk snapshots: SNAPSHOT_<id>/DISK_SIZE says how large, in KiB, the disk was then."""
    for key, value in definition.props.items():
        found = _SNAPSHOT_SIZE.match(key)
        if found and _NUMBER.match(value):
            yield SnapshotUsage(disk_id, int(found[1]), Mib(-(-int(value) // 1024)))
