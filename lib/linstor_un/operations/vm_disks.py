"""A VM's disk as oned has it, and which volume is behind it."""

from __future__ import annotations

from typing import Optional

from ..errors import Exists, NotFound
from ..inventory import Definition
from ..naming import DISK_ID, DS_ID, IMAGE_ID, VM_ID, DefinitionName, DiskPlace, definition_of_source, disk_definition
from ..onexml import Disk, Vm
from ..placement import contradiction
from ..settings import Settings
from ..world import World

TM_MAD = "linstor_un"
CDROM = "CDROM"
_DONE = 6
_DELETE_RECREATE = "14"
# EPILOG, CLEANUP_RESUBMIT, CLEANUP_DELETE, EPILOG_FAILURE: the VM is going, and DELETE came or comes for its disks.
_GOING = {11, 15, 23, 40}


def going(vm: Vm) -> bool:
    """Return whether a VM is being removed, or was."""
    return vm.state == _DONE or vm.lcm_state in _GOING


def started_over(vm: Vm) -> bool:
    """Return whether `recover --recreate` ended the VM's life before this one, in oned 5.12 to 7.4."""
    return len(vm.history) > 1 and vm.history[-2].action == _DELETE_RECREATE


def host_before(vm: Vm) -> str:
    """Return the host that a VM was on before the one it goes to, "" when there was none."""
    return vm.history[-2].host if len(vm.history) > 1 else ""


def disk_of(vm: Vm, disk_id: int) -> Disk:
    """Return a VM's disk. Raises NotFound."""
    disk = vm.disk(disk_id)
    if disk is None:
        raise NotFound(f"VM {vm.id} has no disk {disk_id}; look at `onevm show {vm.id}`")
    return disk


def shared(disk: Disk) -> bool:
    """Return whether many VMs may have a disk's image: a CDROM, or one that is only read. It carries no VM's marks."""
    return disk.clone is False and (disk.kind == CDROM or not disk.persistent)


def written(disk: Disk) -> bool:
    """Return whether QEMU opens a disk for writing: readers may be on many hosts, as long as nobody writes."""
    return disk.kind != CDROM and not disk.read_only


def definition_of(disk: Disk, place: DiskPlace) -> DefinitionName:
    """Return the definition behind a disk: the image itself where the VM has it linked, else the VM's own.

    CLONE=NO is a persistent image, or a CDROM; volatile disks have no CLONE. Raises BadRequest for a SOURCE
    that is no volume of this driver.
    """
    linked = disk.clone is False
    return definition_of_source(disk.source) if linked else disk_definition(place.vm_id, place.disk_id)


def owner(disk: Disk, place: DiskPlace) -> dict[str, str]:
    """Return the marks that the definition behind a disk must not contradict."""
    if disk.clone is False:
        return {} if disk.image_id is None else {IMAGE_ID: str(disk.image_id)}
    return {VM_ID: str(place.vm_id), DISK_ID: str(place.disk_id)}


def require_owned(definition: Definition, disk: Disk, place: DiskPlace) -> None:
    """Raise Exists when the marks of a disk's definition say that it is something else's."""
    other = contradiction(definition, owner(disk, place))
    if other:
        raise Exists(
            f"{definition.name} is marked {other}, so it is not disk {disk.id} of VM {place.vm_id} and is left alone"
        )


def marks(place: DiskPlace) -> dict[str, str]:
    """Return the marks of a VM's disk, also of a persistent image while the VM has it."""
    return {VM_ID: str(place.vm_id), DISK_ID: str(place.disk_id), DS_ID: str(place.datastore_id)}


def settings_of(world: World, place: DiskPlace, image_datastore: int, disk: Optional[Disk] = None) -> Settings:
    """Return a disk's settings: the system datastore's, or the image's where that one is another driver's.

    Arguments: disk, one that exists: an image that is linked is where its own datastore placed it.
    """
    if disk is None or disk.clone is not False:
        system = world.cloud.datastore(place.datastore_id)
        if system.tm_mad == TM_MAD or place.datastore_id == image_datastore:
            return world.settings(system)
    return world.settings(world.cloud.datastore(image_datastore))
