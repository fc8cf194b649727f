"""A VM's disks laid out for a backup datastore, which copies them away and has them removed again.

    the VM runs      snapshots of all its disks, of one moment, are restored beside them for the time of the copy
    it does not run  the disks are copied as they are

What is on LINSTOR for that goes before the action ends; what a killed run left goes with the next run, or `postbackup`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from .. import placement
from ..errors import DriverError, Refused, Unsupported
from ..naming import VM_ID, backup_definition, backup_snapshot
from ..request.backups import BackupRequest
from ..units import bytes_from_kib
from ..world import Controller, World
from . import attachments, backup_disks, backup_files, copies, guest, restored, snapshots
from .backup_disks import Subject
from .backup_files import Place
from .contents import Device
from .volumes import Volume

# FS_FREEZE; anything else is NONE, as for OpenNebula's own drivers.
_WAYS = {"AGENT": guest.Way.FREEZE, "SUSPEND": guest.Way.SUSPEND, "TRY": guest.Way.EITHER}


def prebackup(world: World, request: BackupRequest) -> str:
    """Lay out the disks of a VM that is off."""
    return _lay_out(world, request, live=False)


def prebackup_live(world: World, request: BackupRequest) -> str:
    """Lay out the disks of a running VM as they were at one moment; FS_FREEZE says how its guest waits for that."""
    return _lay_out(world, request, live=True)


def postbackup(world: World, request: BackupRequest) -> str:
    """Remove what was laid out, and what an interrupted `prebackup` left; nothing there is success.

    It never fails: oned would call a backup failed that the datastore has. What stays is told in oned's log, and goes
    with the next backup.
    """
    vm = request.vm
    with world.locks.hold(backup_snapshot(vm.id)):
        with _told(world, vm.id):
            backup_files.remove(world, backup_files.place(world, request))
        for disk in vm.disks:
            if disk.id in request.disk_ids and backup_disks.ours(disk):
                _clear(world, request, disk.id)
    return ""


def _clear(world: World, request: BackupRequest, disk_id: int) -> None:
    vm, steps = request.vm, []
    with _told(world, vm.id):
        steps = backup_disks.leftovers(world, vm, request.directory, disk_id, backup_snapshot(vm.id))
    for step in steps:
        with _told(world, vm.id):
            step()


@contextmanager
def _told(world: World, vm_id: int) -> Iterator[None]:
    try:
        yield
    except DriverError as error:
        world.trail.warn(f"what was laid out for the backup of VM {vm_id} stays, the next one removes it: {error}")


def _lay_out(world: World, request: BackupRequest, live: bool) -> str:
    vm = request.vm
    spot = backup_files.place(world, request)
    _require_supported(world, request, spot)
    with world.locks.hold(backup_snapshot(vm.id)):
        found = backup_disks.subjects(world, vm, request.directory, request.disk_ids)
        for one in found:
            _require_readable(one, request, spot, live)
        with world.undo.by(f"{spot.path} on {spot.host}", backup_files.remove, world, spot):
            backup_files.make(world, spot, request.document)
        if live:
            _take(world, request, found)
        for one in found:
            volume = _restored(world, request, one) if live else one.volume
            with attachments.borrowed(world, one.controller, volume, spot.host) as device:
                source = Device(spot.host, device, bytes_from_kib(volume.size))
                backup_files.pack(world, spot, source, one.name, one.disk.id)
        if request.order.tpm:
            backup_files.pack_tpm(world, spot, request)
    return ""


def _require_supported(world: World, request: BackupRequest, spot: Place) -> None:
    """Raise Unsupported for what oned orders of this driver as well, and would take for done."""
    order, vm_id = request.order, request.vm.id
    if order.interactive:
        raise Unsupported(f"VM {vm_id} cannot be backed up interactively; set INTERACTIVE=NO in its BACKUP_CONFIG")
    if order.since is not None:
        raise Unsupported(
            f"VM {vm_id} cannot have an incremental backup; set MODE=FULL in its BACKUP_CONFIG (`onevm updateconf`), "
            f"or begin anew with `onevm backup --reset {vm_id}`"
        )
    if order.chain:
        world.trail.warn(f"VM {vm_id} has MODE=INCREMENT: this backup is whole, and there will be none of changes only")
    if order.tpm and spot.host != request.directory.host:
        raise Unsupported(f"VM {vm_id} has a TPM, whose state {spot.host} does not have; back it up without a bridge")


def _require_readable(one: Subject, request: BackupRequest, spot: Place, live: bool) -> None:
    if live:
        one.require_snapshots(request.directory.host)
    else:
        copies.readable(one.volume)
    placement.require_joined(one.name, one.volume.replicas)
    if not one.volume.replicated and spot.host != request.directory.host:
        raise Refused(
            f"{one.name} has no DRBD layer, and {spot.host} has not what VM {request.vm.id} wrote on "
            f"{request.directory.host}; back it up without a bridge"
        )


def _take(world: World, request: BackupRequest, found: Sequence[Subject]) -> None:
    """Take the snapshots of all disks as of one moment; they go again when all is copied."""
    name = backup_snapshot(request.vm.id)
    for one in found:
        if one.left is not None:
            backup_disks.discard(world, one.controller, one.left)
        if snapshots.named(one.controller, one.name, name) is not None:
            one.controller.delete_snapshot(one.name, name)
    names: dict[Controller, list[str]] = {}
    for one in found:
        names.setdefault(one.controller, []).append(one.name)
    with world.locks.hold(*(one.name for one in found)), _quiet(world, request, names):
        for controller, group in names.items():
            _take_on(world, controller, group, name)


def _take_on(world: World, controller: Controller, names: Sequence[str], snapshot: str) -> None:
    def given_back(name: str) -> AbstractContextManager[None]:
        label = f"snapshot {snapshot} of {name}"
        return world.undo.borrow(label, controller.delete_snapshot, name, snapshot)

    if len(names) > 1 and controller.snapshots_at_once():
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(given_back(name))
            controller.snapshot_all(names, snapshot)
        return
    for name in names:
        with given_back(name):
            controller.snapshot(name, snapshot)


def _quiet(
    world: World, request: BackupRequest, names: Mapping[Controller, Sequence[str]]
) -> AbstractContextManager[object]:
    """Hold the guest as FS_FREEZE says. Without that it still has to wait where LINSTOR is asked more than once: what
    the guest writes in between would be on one disk and not on the other."""
    way = _WAYS.get(request.order.freeze)
    once = len(names) == 1 and all(len(group) == 1 or one.snapshots_at_once() for one, group in names.items())
    if way is None and once:
        return nullcontext()
    way = way or guest.Way.SUSPEND
    return guest.quiet(world, request.directory.host, request.vm.deploy_id, way=way)


def _restored(world: World, request: BackupRequest, one: Subject) -> Volume:
    name = backup_definition(request.vm.id, one.disk.id)
    marks = {VM_ID: str(request.vm.id)}
    snapshot = backup_snapshot(request.vm.id)
    return restored.lend_as(world, one.controller, one.definition, one.volume, snapshot, name, marks)
