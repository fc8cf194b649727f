"""A VM's disks on its host: given, made, let go, removed."""

from __future__ import annotations

from contextlib import suppress
from typing import Optional

from .. import placement
from ..errors import HostUnreachable, NotFound, Refused
from ..naming import (
    DISK_ID,
    DS_ID,
    ORIGIN,
    VM_ID,
    WRITTEN_ON,
    DiskPlace,
    VmDirectory,
    backup_definition,
    checkpoint_definition,
    definition_of_source,
    disk_definition,
)
from ..onexml import Disk, Vm
from ..request.disks import (
    CloneRequest,
    ContextRequest,
    DeleteRequest,
    LnRequest,
    MkimageRequest,
    MkswapRequest,
    MvdsRequest,
)
from ..settings import require_placement
from ..units import Kib, Mib, kib_from_mib
from ..world import Command, Controller, World
from . import attachments, copies, host_files, lost_hosts, removal, snapshots, two_primaries, vm_disks, volumes
from .volumes import Volume, Wanted

_CONTEXT_SECONDS = 600.0
_PROLOG = 1
# oned asks once for a disk to be deleted, however that ends, and stops no move, copy or restore to do so.
_UNREPEATED_SECONDS = 24 * 3600.0


def clone(world: World, request: CloneRequest) -> str:
    """Give a VM's disk its own copy of an image, as large as DISK/SIZE, attached and linked on the VM's host.

    oned sends no `resize` when DISK/SIZE is larger than the image. `recover --retry` calls this again
    for disks that are done.
    """
    target = request.target
    name = disk_definition(target.vm_id, target.disk_id)
    with world.locks.hold(name):
        disk = _disk_to_make(world, target)
        settings = vm_disks.settings_of(world, target, request.datastore_id)
        require_placement(settings)
        controller = world.connect(settings)
        found = controller.definitions([request.source, name])
        source = found.get(request.source)
        if source is None:
            raise NotFound(f"{request.source}, the image of disk {disk.id}, does not exist on LINSTOR; check the image")
        size = Kib(max(kib_from_mib(disk.size or Mib(0)), source.size or 0))
        marks = {**vm_disks.marks(target), ORIGIN: request.source}
        wanted = Wanted(name, size, settings, marks, target.host)
        volume = copies.duplicate(world, controller, source, wanted, found.get(name))
        if volume is None and _ended(world, controller, wanted, target):
            volume = copies.duplicate(world, controller, source, wanted, None)
        _hand_over(world, controller, wanted, volume, target)
    return ""


def mkimage(world: World, request: MkimageRequest) -> str:
    """Give a VM an empty volatile disk, with a file system if its FS asks for one.

    FORMAT=qcow2 is made raw: a qcow2 header on a block device would be the guest's data.
    """
    disk_kind = "" if request.format in ("raw", "") else request.format
    if disk_kind:
        world.trail.warn(f"disk {request.target.disk_id} asks for FORMAT={disk_kind}; it is made raw on a block device")
    return _volatile(world, request.target, request.size, swap=False)


def mkswap(world: World, request: MkswapRequest) -> str:
    """Give a VM a volatile disk with swap space on it."""
    return _volatile(world, request.target, request.size, swap=True)


def _volatile(world: World, target: DiskPlace, size: Mib, swap: bool) -> str:
    name = disk_definition(target.vm_id, target.disk_id)
    with world.locks.hold(name):
        disk = _disk_to_make(world, target)
        settings = vm_disks.settings_of(world, target, target.datastore_id)
        require_placement(settings)
        filesystem = "swap" if swap else attachments.filesystem(world, disk.filesystem)
        controller = world.connect(settings)
        wanted = Wanted(name, kib_from_mib(size), settings, {**vm_disks.marks(target), ORIGIN: "volatile"}, target.host)
        volume = volumes.create(world, controller, wanted)
        if volume is None and _ended(world, controller, wanted, target):
            volume = volumes.create(world, controller, wanted)
        if volume is not None:
            attachments.format_volume(world, controller, volume, filesystem)
        _hand_over(world, controller, wanted, volume, target)
    return ""


def _ended(world: World, controller: Controller, wanted: Wanted, target: DiskPlace) -> bool:
    """Delete a complete disk that no guest of this VM has, so that it is made anew; returns whether there was one.

    oned enters PROLOG for a new VM, for one whose PROLOG failed, and for one that `recover --recreate` starts over,
    which (5.12 to 7.4) deletes no disk of a VM that was stopped or undeployed. What an earlier run of the same PROLOG
    completed has its link. The driver before this one set its marks before it copied, so nothing tells whether it came
    to the end.
    Raises Refused where a guest may have written to that driver's, InUse when it is open or may be.
    """
    found = volumes.defined(controller, wanted.name)
    vm = _require_expected(world, target)
    in_prolog = vm.lcm_state == _PROLOG
    if ORIGIN in found.props:
        fresh = not in_prolog or not vm_disks.started_over(vm)
        if fresh or host_files.is_link(world, target.host, target.path):
            return False
        why = f"VM {vm.id} had before it was started over"
    elif not in_prolog or controller.snapshots(wanted.name):
        raise Refused(
            f"{wanted.name} is of the driver before this one, which may not have completed it, and a guest may have "
            f"written to it; delete it on LINSTOR if nobody needs it, then retry"
        )
    else:
        why = "the driver before this one may have left half-made"
    world.trail.info(f"replacing {wanted.name}, which {why}")
    removal.end(world, controller, found, wanted.settings)
    return True


def _hand_over(
    world: World, controller: Controller, wanted: Wanted, fresh: Optional[Volume], target: DiskPlace
) -> None:
    """Attach and link a disk on the VM's host, then call it complete. Arguments: fresh, None on a rerun."""
    volume = fresh or volumes.look(controller, wanted.name, wanted.settings, wanted.size)
    _attach_and_link(world, controller, volume, target, shared=False)
    if fresh is not None:
        volumes.complete(world, controller, wanted.name, fresh)


def _attach_and_link(
    world: World, controller: Controller, volume: Volume, target: DiskPlace, shared: bool
) -> None:
    with world.locks.share(attachments.attachment_lock(volume.name, target.host)):
        attachments.attach(world, controller, volume, target.host, shared)
        device = volume.device(target.host)
        # `recover --failure` of an attachment takes the disk off the VM while this runs; libvirt would still get it.
        _disk_to_make(world, target)
        made = (world, target.host, target.directory, [host_files.Link(device, target.path)])
        with world.undo.by(f"link {target.path} on {target.host}", host_files.unlink_all, *made):
            host_files.link(world, target.host, target.directory, device, target.path)


def ln(world: World, request: LnRequest) -> str:
    """Give a VM an image itself, attached and linked on its host.

    A persistent image is marked as this VM's disk, for the monitoring; a CDROM is shared by many VMs
    and is marked with nothing. Without DRBD the host is marked as well: from then on its replica alone has what was
    written. Raises InUse for an image that LINSTOR is deleting: it would still be attached.
    """
    disk = vm_disks.disk_of(world.cloud.vm(request.target.vm_id), request.target.disk_id)
    with world.locks.hold(_lock(request.source, disk, request.target)):
        _link_image(world, request)
    return ""


def _link_image(world: World, request: LnRequest) -> None:
    target = request.target
    disk = _disk_to_make(world, target)
    settings = world.settings(world.cloud.datastore(request.datastore_id))
    controller = world.connect(settings)
    source = controller.definitions([request.source]).get(request.source)
    if source is None:
        raise NotFound(f"{request.source}, the image of disk {disk.id}, does not exist on LINSTOR; check the image")
    volume = volumes.existing(source, controller, settings)
    placement.require_together(volume.name, volume.replicas)
    placement.require_reachable(volume.name, volume.replicas)
    written_on = "" if volume.replicated else source.props.get(WRITTEN_ON, "")
    if written_on not in ("", target.host):
        raise Refused(
            f"{request.source} has no DRBD in its layers, and what a VM wrote to it is on {written_on} alone; choose "
            f"{written_on} for the VM, or a copy of the image (`oneimage clone`), which is the same everywhere"
        )
    if vm_disks.written(disk):
        placement.require_connected(volume.name, volume.replicas, target.host)
    two_primaries.end_lost(world, controller, source, {target.host})
    _attach_and_link(world, controller, volume, target, vm_disks.shared(disk))
    if not vm_disks.shared(disk):
        marks = vm_disks.marks(target)
        if not volume.replicated and not written_on:
            marks[WRITTEN_ON] = target.host
        with world.undo.by(f"marks of {request.source}", controller.mark, request.source, {}, list(marks)):
            controller.mark(request.source, marks)
        lost_hosts.clear(world, controller, source, target)


def _lock(image: str, disk: Disk, place: DiskPlace) -> str:
    """Return what `ln` and the end of it lock: a persistent image is one VM's, of a shared one only its link is."""
    return disk_definition(place.vm_id, place.disk_id) if vm_disks.shared(disk) else image


def mvds(world: World, request: MvdsRequest) -> str:
    """Let go of a persistent image: unlink it, give the host's attachment back, take the VM's marks off."""
    settings = world.settings(world.cloud.datastore(request.datastore_id))
    with world.locks.hold(request.source):
        _take_back(world, world.connect(settings), request.source, request.disk)
    return ""


def delete(world: World, request: DeleteRequest) -> str:
    """Remove a VM's disk, or its whole directory; what is gone already is success.

    oned calls it for every disk of a VM that goes, also for those whose clone never ran, for shared
    CDROMs, and, on `recover --delete`, for persistent images: an image is only let go.
    """
    if request.disk is None:
        return _delete_directory(world, request.directory)
    place = request.disk
    vm = world.cloud.vm(place.vm_id)
    disk = vm.disk(place.disk_id)
    if disk is not None and disk.clone is False:
        return _delete_linked(world, place, disk, request.datastore_id)
    name = disk_definition(place.vm_id, place.disk_id)
    with world.locks.hold(name, seconds=_UNREPEATED_SECONDS):
        settings = vm_disks.settings_of(world, place, request.datastore_id)
        controller = world.connect(settings)
        beside = [backup_definition(place.vm_id, place.disk_id)]
        marks = vm_disks.marks(place)
        removed = removal.remove(world, controller, name, marks, settings, unattended=True, beside=beside)
        # The driver before this one marked no ORIGIN, and CLONE_MODE may have been another one then.
        old = removed is not None and ORIGIN not in removed.props
        if (settings.clone_mode == "snapshot" or old) and disk is not None and disk.source:
            _drop_origin(controller, definition_of_source(disk.source), name)
        _unlink_removed(world, place)
        if removed is not None:
            lost_hosts.unlink(world, removed, place)
    return ""


def _unlink_removed(world: World, place: DiskPlace) -> None:
    """Remove the link of a disk that is gone. It keeps nothing, so a host that is dead is left with it.

    oned (5.12 to 7.4) deletes a VM's disks one after the other, and ends with the first that fails.
    """
    try:
        host_files.unlink(world, place.host, place.path)
    except HostUnreachable as error:
        world.trail.warn(f"left behind: link {place.path} on {place.host} ({error})")


def _drop_origin(controller: Controller, image: str, snapshot: str) -> None:
    """Delete the snapshot of an image that a ZFS clone kept until now; other pools did without it long ago."""
    if snapshots.named(controller, image, snapshot) is not None:
        placement.require_together(image, controller.replicas(image))
        controller.delete_snapshot(image, snapshot)


def _delete_directory(world: World, directory: VmDirectory) -> str:
    """Remove what is left of a VM on its host, and its memory if it is saved: nothing else tells that it is over."""
    name = checkpoint_definition(directory.vm_id)
    with world.locks.hold(name, seconds=_UNREPEATED_SECONDS):
        settings = world.settings(world.cloud.datastore(directory.datastore_id))
        marks = {VM_ID: str(directory.vm_id)}
        removal.remove(world, world.connect(settings), name, marks, settings, unattended=True)
        host_files.remove_directory(world, directory.host, directory.path)
    return ""


def _delete_linked(world: World, place: DiskPlace, disk: Disk, datastore_id: int) -> str:
    settings = world.settings(world.cloud.datastore(datastore_id))
    name = definition_of_source(disk.source)
    with world.locks.hold(_lock(name, disk, place), seconds=_UNREPEATED_SECONDS):
        controller = world.connect(settings)
        if vm_disks.shared(disk):
            try:
                _let_go(world, controller, name, place, marked=False)
            except HostUnreachable as gone:
                # oned (5.12 to 7.4) ends with the first disk that fails, and the VM's other disks would stay for ever.
                left = f"attachment of {name} on {place.host} and its link {place.path}"
                world.trail.warn(f"left behind: {left} ({gone})")
        else:
            _take_back(world, controller, name, place)
    return ""


def _take_back(world: World, controller: Controller, name: str, place: DiskPlace) -> None:
    """Take a persistent image from its VM, with all marks of it; an image that is gone has none.

    A host that is dead is marked and left out: oned does not come back to the image of a VM that it deleted.
    """
    found = controller.definitions([name]).get(name)
    if found is not None:
        two_primaries.end_lost(world, controller, found, {place.host})
    left: dict[str, str] = {}
    try:
        _let_go(world, controller, name, place, marked=True)
    except HostUnreachable as unreachable:
        if found is None:
            raise
        left = lost_hosts.left(world, controller, found, place, unreachable)
    else:
        if found is not None:
            lost_hosts.clear(world, controller, found, place)
    marks = [key for key in (VM_ID, DISK_ID, DS_ID) if found is not None and key in found.props]
    if marks or left:
        with suppress(NotFound):
            controller.mark(name, left, clear=marks)


def _let_go(world: World, controller: Controller, name: str, place: DiskPlace, marked: bool) -> None:
    """Release an image's attachment on a VM's host, unless another VM or a copy has it too, and unlink it there.

    In this order nothing has changed when it is still open. Arguments: place, on the front-end for a stopped VM, whose
    disks are attached nowhere; marked, whether the VM's marks go from it next, which makes its nodes look at it again
    as a release does. Raises InUse, and Refused for an image whose replicas differ.
    """
    host = place.host
    with world.locks.share(attachments.attachment_lock(name, host)) as lock:
        if lock.alone() and attachments.unused(world, name, host, place.path):
            attachments.release(world, controller, name, host)
        elif marked:
            with suppress(NotFound):
                placement.require_together(name, controller.replicas(name))
        host_files.unlink(world, place.host, place.path)


def context(world: World, request: ContextRequest) -> str:
    """Make the context image with the installed OpenNebula's own script, which changes with its releases."""
    script = f"{world.front_end.remotes}/tm/common/context"
    doing = f"make the context image {request.target.path} on {request.target.host}"
    world.hosts.run(Command(None, [script, *request.argv]), seconds=_CONTEXT_SECONDS, doing=doing)
    return ""


def _disk_to_make(world: World, target: DiskPlace) -> Disk:
    """Return the VM's disk, as oned has it now. Raises Refused as `_require_expected` does."""
    return vm_disks.disk_of(_require_expected(world, target), target.disk_id)


def _require_expected(world: World, target: DiskPlace) -> Vm:
    """Return the VM, which still waits for a disk there.

    oned starts DELETE while our CLONE still runs, does not stop it, and takes the VM for gone however DELETE ends:
    a clone that gets its lock after that DELETE, or that DELETE has not waited for to the end, would leave a disk of a
    VM that is gone. Raises Refused then.
    """
    vm = world.cloud.vm(target.vm_id)
    if vm_disks.going(vm):
        raise Refused(f"VM {vm.id} is being removed, so its disk {target.disk_id} is not made")
    return vm
