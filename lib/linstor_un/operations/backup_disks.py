"""The volumes of a VM's disks that are to be backed up, or restored from a backup."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

from ..errors import NotFound, Refused, Unsupported
from ..inventory import Definition
from ..naming import DefinitionName, VmDirectory, backup_definition, disk_in
from ..onexml import Disk, Vm
from ..placement import require_together
from ..settings import Settings
from ..world import Controller, World
from . import vm_disks, volumes
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


class _Asked(NamedTuple):
    disk: Disk
    name: DefinitionName
    settings: Settings
    controller: Controller


def ours(disk: Disk) -> bool:
    """Return whether a disk is of this driver."""
    return disk.tm_mad in ("", vm_disks.TM_MAD)


def subjects(world: World, vm: Vm, directory: VmDirectory, disk_ids: Sequence[int]) -> list[Subject]:
    """Return the disks with their volumes as they are.

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
        volumes.require_whole(definition)
        volume = volumes.existing(definition, one.controller, one.settings)
        require_together(volume.name, volume.replicas)
        found.append(Subject(*one, definition, volume, known.get(copy)))
    return found


def clear(world: World, vm: Vm, directory: VmDirectory, disk_id: int, snapshot: str) -> None:
    """Remove what an interrupted backup left of a disk on LINSTOR; nothing there is success."""
    one = _asked(world, vm, directory, [disk_id])[0]
    copy = backup_definition(vm.id, disk_id)
    found = one.controller.definitions([one.name, copy])
    if copy in found:
        volumes.discard_half_made(world, one.controller, found[copy])
    if one.name in found:
        one.controller.delete_snapshot(one.name, snapshot)


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
