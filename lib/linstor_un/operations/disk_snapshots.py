"""Snapshots of a VM's disk."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

from ..naming import DefinitionName
from ..onexml import Disk, Vm
from ..request.disks import DiskSnapshotRequest
from ..world import Controller, World
from . import guest, snapshots, vm_disks
from .snapshots import Order


class _Subject(NamedTuple):
    """The disk that an action is about, as oned has it, and the definition behind it."""

    vm: Vm
    disk: Disk
    name: DefinitionName


def create(world: World, request: DiskSnapshotRequest) -> str:
    """Take a snapshot of a disk that nobody writes to: its VM is off, or suspended to a file."""
    subject = _subject(world, request)
    with world.locks.hold(subject.name):
        controller = _connect(world, request, subject.disk)
        disk = snapshots.require(controller, subject.name, vm_disks.owner(subject.disk, request.disk))
        snapshots.take(world, controller, disk, _order(request, subject.vm))
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
        disk = snapshots.require(controller, subject.name, vm_disks.owner(subject.disk, request.disk))
        snapshots.take(world, controller, disk, _order(request, subject.vm), quiet)
    return ""


def delete(world: World, request: DiskSnapshotRequest) -> str:
    """Delete a snapshot of a disk, whose VM may run; absent is success."""
    subject = _subject(world, request)
    with world.locks.hold(subject.name):
        controller = _connect(world, request, subject.disk)
        disk = snapshots.find(controller, subject.name, vm_disks.owner(subject.disk, request.disk))
        if disk is not None:
            snapshots.drop(world, controller, disk, request.snapshot_id)
    return ""


def _subject(world: World, request: DiskSnapshotRequest) -> _Subject:
    vm = world.cloud.vm(request.disk.vm_id)
    disk = vm_disks.disk_of(vm, request.disk.disk_id)
    return _Subject(vm, disk, vm_disks.definition_of(disk, request.disk))


def _connect(world: World, request: DiskSnapshotRequest, disk: Disk) -> Controller:
    if disk.clone is False:
        return world.connect(world.settings(world.cloud.datastore(request.datastore_id)))
    return world.connect(vm_disks.settings_of(world, request.disk, request.datastore_id))


def _order(request: DiskSnapshotRequest, vm: Vm) -> Order:
    ordered = vm.snapshot(request.disk.disk_id, request.snapshot_id)
    return Order(request.snapshot_id, ordered.date if ordered else "")
