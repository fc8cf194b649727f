"""Snapshots of a VM's disk."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

from .. import places
from ..inventory import Definition
from ..naming import DefinitionName
from ..onexml import Disk, Vm
from ..request.disks import DiskSnapshotRequest
from ..settings import Settings
from ..units import Kib, Mib, kib_from_mib
from ..world import Controller, World
from . import guest, reverting, snapshots, two_primaries, vm_disks
from .rollbacks import Subject
from .snapshots import Order

_SIZE_FOLLOWS_SINCE = (6, 8, 3)


class _Ordered(NamedTuple):
    """The disk that an action is about, as oned has it, and the definition behind it."""

    vm: Vm
    disk: Disk
    name: DefinitionName


def create(world: World, request: DiskSnapshotRequest) -> str:
    """Take a snapshot of a disk that nobody writes to: its VM is off, or suspended to a file."""
    subject = _subject(world, request)
    with world.locks.hold(subject.name):
        controller = _connect(world, request, subject.disk)
        disk = _require(world, controller, request, subject)
        snapshots.take(world, controller, disk, _order(request, subject.vm), request.disk.host)
    return ""


def create_live(world: World, request: DiskSnapshotRequest) -> str:
    """Take a snapshot of a running VM's disk; its guest is kept quiet for the length of LINSTOR's call.

    Raises Failed, and there is no snapshot, when the guest can neither be frozen nor suspended: whoever asks for a
    snapshot of a running VM is promised one that its file systems can be mounted from, and nobody reads a warning.
    """
    subject = _subject(world, request)

    def quiet() -> AbstractContextManager[object]:
        return guest.quiet(world, request.disk.host, subject.vm.deploy_id)

    with world.locks.hold(subject.name):
        controller = _connect(world, request, subject.disk)
        disk = _require(world, controller, request, subject)
        snapshots.take(world, controller, disk, _order(request, subject.vm), request.disk.host, quiet)
    return ""


def delete(world: World, request: DiskSnapshotRequest) -> str:
    """Delete a snapshot of a disk, whose VM may run; absent is success."""
    subject = _subject(world, request)
    with world.locks.hold(subject.name):
        controller = _connect(world, request, subject.disk)
        disk = snapshots.find(controller, subject.name, vm_disks.owner(subject.disk, request.disk))
        if disk is not None:
            disk = two_primaries.end_lost_of(world, controller, disk, subject.vm)
            snapshots.drop(world, controller, disk, request.snapshot_id)
    return ""


def revert(world: World, request: DiskSnapshotRequest) -> str:
    """Bring the bytes of a snapshot back into a disk, whose VM is off; all snapshots stay.

    oned from 6.8.3 on takes the disk for as large as the snapshot then, older ones for as large as before.
    Raises InUse naming the node that has the disk open.
    """
    subject = _subject(world, request)
    with world.locks.hold(subject.name):
        settings = _settings(world, request, subject.disk)
        controller = world.connect(settings)
        disk = _require(world, controller, request, subject)
        own = subject.disk.clone is not False or subject.disk.persistent
        marks = vm_disks.marks(request.disk) if own else {}
        size = _size_after(world, request, subject)
        going = Subject(disk, settings, marks, (), size, request.disk)
        reverting.revert(world, controller, going, request.snapshot_id)
    return ""


def _require(world: World, controller: Controller, request: DiskSnapshotRequest, subject: _Ordered) -> Definition:
    disk = snapshots.require(controller, subject.name, vm_disks.owner(subject.disk, request.disk))
    return two_primaries.end_lost_of(world, controller, disk, subject.vm)


def _size_after(world: World, request: DiskSnapshotRequest, subject: _Ordered) -> Kib:
    """Return the size that oned will take the disk for, in KiB."""
    follows = not () < places.release(world.front_end.remotes) < _SIZE_FOLLOWS_SINCE
    ordered = subject.vm.snapshot(request.disk.disk_id, request.snapshot_id)
    size = ordered.size if follows and ordered else subject.disk.size
    return kib_from_mib(size or Mib(0))


def _subject(world: World, request: DiskSnapshotRequest) -> _Ordered:
    vm = world.cloud.vm(request.disk.vm_id)
    disk = vm_disks.disk_of(vm, request.disk.disk_id)
    return _Ordered(vm, disk, vm_disks.definition_of(disk, request.disk))


def _connect(world: World, request: DiskSnapshotRequest, disk: Disk) -> Controller:
    return world.connect(_settings(world, request, disk))


def _settings(world: World, request: DiskSnapshotRequest, disk: Disk) -> Settings:
    return vm_disks.settings_of(world, request.disk, request.datastore_id, disk)


def _order(request: DiskSnapshotRequest, vm: Vm) -> Order:
    ordered = vm.snapshot(request.disk.disk_id, request.snapshot_id)
    return Order(request.snapshot_id, ordered.date if ordered else "")
