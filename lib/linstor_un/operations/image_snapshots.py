"""Snapshots of an image that no VM has: those that VMs' disks had when they were saved into it."""

from __future__ import annotations

from .. import placement
from ..inventory import Definition
from ..naming import DISK_ID, DS_ID, FLATTENED, IMAGE_ID, VM_ID, disk_snapshot, marked_snapshot, snapshot_number
from ..request.datastore import ImageSnapshotRequest
from ..units import Mib, kib_from_mib
from ..world import Controller, World
from . import reverting, snapshots, volumes
from .rollbacks import Subject

_OF_A_VM = (VM_ID, DISK_ID, DS_ID)


def delete(world: World, request: ImageSnapshotRequest) -> str:
    """Delete a snapshot of an image; absent is success."""
    with world.locks.hold(request.source):
        controller = world.connect(world.settings(request.datastore))
        image = snapshots.find(controller, request.source, _owner(request))
        if image is not None:
            snapshots.drop(world, controller, image, request.snapshot_id)
    return ""


def revert(world: World, request: ImageSnapshotRequest) -> str:
    """Bring the bytes of a snapshot back into an image; all snapshots stay, and it is as large as oned thinks.

    oned calls it for an image that no VM uses. Raises InUse naming the node that has it open all the same.
    """
    with world.locks.hold(request.source):
        controller = world.connect(world.settings(request.datastore))
        image = snapshots.require(controller, request.source, _owner(request))
        _go_back(world, request, controller, image, {})
    return ""


def flatten(world: World, request: ImageSnapshotRequest) -> str:
    """Bring the bytes of a snapshot back, and delete every snapshot that oned knows: it forgets them all after this.

    Nothing is deleted before the image holds what the target holds, and the target goes last. Raises NotFound without
    the target, unless an interrupted run was done with it. Other people's snapshots stay.
    """
    with world.locks.hold(request.source):
        controller = world.connect(world.settings(request.datastore))
        image = snapshots.require(controller, request.source, _owner(request))
        done_with = image.props.get(FLATTENED) == str(request.snapshot_id)
        target = disk_snapshot(request.snapshot_id)
        if not done_with or snapshots.named(controller, image.name, target):
            _go_back(world, request, controller, image, {FLATTENED: str(request.snapshot_id)})
        else:
            placement.require_together(image.name, controller.replicas(image.name))
        _delete_all(controller, image.name, target)
    return ""


def _delete_all(controller: Controller, name: str, last: str) -> None:
    ours = [one.name for one in controller.snapshots(name) if snapshot_number(one.name) is not None]
    # The newest first, as ZFS likes it.
    for snapshot in [*(one for one in reversed(ours) if one != last), *(one for one in ours if one == last)]:
        controller.delete_snapshot(name, snapshot)
    marks = [mark for mark in volumes.defined(controller, name).props if marked_snapshot(mark) is not None]
    if marks:
        controller.mark(name, {}, clear=marks)


def _go_back(
    world: World, request: ImageSnapshotRequest, controller: Controller, image: Definition, reached: dict[str, str]
) -> None:
    settings = world.settings(request.datastore)
    size = kib_from_mib(request.image.size or Mib(0))
    subject = Subject(image, settings, {}, _OF_A_VM, size, reached=reached)
    reverting.revert(world, controller, subject, request.snapshot_id)


def _owner(request: ImageSnapshotRequest) -> dict[str, str]:
    return {IMAGE_ID: str(request.image_id)}
