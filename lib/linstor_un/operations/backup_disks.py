"""The volumes of a VM's disks that are to be backed up, or restored from a backup."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Callable, NamedTuple, Optional

from ..errors import Exists, NotFound, Refused, Unsupported
from ..inventory import Definition
from ..naming import REVERTING, STATE, DefinitionName, VmDirectory, backup_definition, disk_in
from ..onexml import Disk, Vm
from ..placement import half_made, require_together
from ..settings import Settings
from ..world import Controller, World
from . import snapshots, two_primaries, vm_disks, volumes
from .volumes import Volume


class Subject(NamedTuple):
    """A disk with its volume, and the controller that has it.

    `left` is what an interrupted backup of it has left: a copy of its snapshot.
    """

    disk: Disk
    name: DefinitionName
    settings: Settings
    controller: Controller
    definition: Definition
    volume: Volume
    left: Optional[Definition]

    def require_snapshots(self, host: str) -> None:
        """Raise Refused or Unsupported where a snapshot of now cannot be taken. Arguments: host, the VM's."""
        snapshots.require_takeable(self.controller, self.name, self.volume.replicas)
        alone = "" if self.volume.replicated else host
        snapshots.require_current(self.controller, self.name, self.volume.replicas, alone)


class _Asked(NamedTuple):
    disk: Disk
    name: DefinitionName
    settings: Settings
    controller: Controller


def ours(disk: Disk) -> bool:
    """Return whether a disk is of this driver."""
    return disk.tm_mad in ("", vm_disks.TM_MAD)


def subjects(
    world: World, vm: Vm, directory: VmDirectory, disk_ids: Sequence[int], *, halfway: bool = False
) -> list[Subject]:
    """Return the disks with their volumes as they are, when what a lost migration left on them was ended.

    Arguments: halfway, whether one may be between two states, for something else is written over it now.
    Raises NotFound for a disk or volume that is not there, Unsupported for a disk of another driver, Exists for a
    volume that is somebody else's, Refused for one that is incomplete or whose replicas differ.
    """
    found = []
    for one in _asked(world, vm, directory, disk_ids):
        copy = backup_definition(vm.id, one.disk.id)
        known = one.controller.definitions([one.name, copy])
        definition = known.get(one.name)
        if definition is None:
            raise NotFound(f"{one.name}, the volume of disk {one.disk.id} of VM {vm.id}, does not exist on LINSTOR")
        vm_disks.require_owned(definition, one.disk, disk_in(directory, one.disk.id))
        if not (halfway and definition.props.get(STATE) == REVERTING):
            volumes.require_whole(definition)
        definition = two_primaries.end_lost_of(world, one.controller, definition, vm)
        if definition.size is None:
            raise Unsupported(f"{one.name} has no volume on LINSTOR; look at `linstor volume-definition list`")
        volume = volumes.look(one.controller, one.name, one.settings, definition.size)
        require_together(volume.name, volume.replicas)
        found.append(Subject(*one, definition, volume, known.get(copy)))
    return found


def leftovers(
    world: World, vm: Vm, directory: VmDirectory, disk_id: int, snapshot: str
) -> list[Callable[[], None]]:
    """Return what removes what an interrupted backup of a disk left on LINSTOR, to be done in this order.

    A snapshot on ZFS goes after what was restored from it. Where nothing is left nothing changes.
    """
    one = _asked(world, vm, directory, [disk_id])[0]
    copy = backup_definition(vm.id, disk_id)
    found = one.controller.definitions([one.name, copy])
    steps: list[Callable[[], None]] = []
    if copy in found:
        steps.append(partial(discard, world, one.controller, found[copy]))
    if one.name in found:
        steps.append(partial(one.controller.delete_snapshot, one.name, snapshot))
    return steps


def discard(world: World, controller: Controller, left: Definition) -> None:
    """Delete a copy that an interrupted backup left. Raises Exists for a definition that is no such copy."""
    if not half_made(left):
        raise Exists(f"{left.name} exists, and no backup made it; remove or rename it on LINSTOR")
    volumes.discard_half_made(world, controller, left)


def _asked(world: World, vm: Vm, directory: VmDirectory, disk_ids: Sequence[int]) -> list[_Asked]:
    disks = [vm_disks.disk_of(vm, number) for number in disk_ids]
    for disk in disks:
        if not ours(disk):
            raise Unsupported(
                f"disk {disk.id} of VM {vm.id} is of driver {disk.tm_mad}, which this one cannot back up or restore; "
                f"leave it out (BACKUP_CONFIG/DISK_IDS, OpenNebula 7.4), or detach it"
            )
    known: dict[int, Settings] = {}
    asked = []
    for disk in disks:
        # An image that the VM has itself is where its own datastore says.
        store = disk.datastore_id if disk.clone is False else directory.datastore_id
        if store is None:
            raise Refused(f"disk {disk.id} of VM {vm.id} has no DATASTORE_ID; look at `onevm show -x {vm.id}`")
        if store not in known:
            known[store] = world.settings(world.cloud.datastore(store))
        name = vm_disks.definition_of(disk, disk_in(directory, disk.id))
        asked.append(_Asked(disk, name, known[store], world.connect(known[store])))
    return asked
