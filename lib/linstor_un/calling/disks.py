"""How oned asks about a VM's disks: words of a transfer file, standard input empty, the same in every release."""

from __future__ import annotations

import re

from ..errors import BadRequest
from ..naming import DefinitionName, definition_of_source, disk_place, place, vm_directory
from ..request.disks import (
    CloneRequest,
    ContextRequest,
    CpdsRequest,
    DeleteRequest,
    DiskSnapshotRequest,
    LnRequest,
    MkimageRequest,
    MkswapRequest,
    MvdsRequest,
    MvRequest,
    ResizeRequest,
)
from . import forms
from .forms import Call

# What `cpds` has for "as the disk is now".
_NO_SNAPSHOT = "-1"


def clone(call: Call) -> CloneRequest:
    """Read `tm/clone`. Raises BadRequest, also for the KERNEL and INITRD files that oned clones alike."""
    source, target, vm_id, datastore_id = forms.arguments(call, "SOURCE DESTINATION VM_ID DATASTORE_ID")
    return CloneRequest(_image_source(source), forms.disk(target, vm_id), forms.datastore(datastore_id))


def ln(call: Call) -> LnRequest:
    """Read `tm/ln`. Raises BadRequest."""
    source, target, vm_id, datastore_id = forms.arguments(call, "SOURCE DESTINATION VM_ID DATASTORE_ID")
    return LnRequest(_image_source(source), forms.disk(target, vm_id), forms.datastore(datastore_id))


def mkimage(call: Call) -> MkimageRequest:
    """Read `tm/mkimage`. Raises BadRequest."""
    size, format, target, vm_id, datastore_id = forms.arguments(call, "SIZE FORMAT DESTINATION VM_ID DATASTORE_ID")
    if not re.match(r"[A-Za-z0-9_.-]{1,32}\Z", format):
        raise BadRequest(f"FORMAT is {format[:100]!r}, which is not the name of a format")
    return MkimageRequest(forms.size(size), format, forms.disk(target, vm_id), forms.datastore(datastore_id))


def mkswap(call: Call) -> MkswapRequest:
    """Read `tm/mkswap`. Raises BadRequest."""
    size, target, vm_id, datastore_id = forms.arguments(call, "SIZE DESTINATION VM_ID DATASTORE_ID")
    return MkswapRequest(forms.size(size), forms.disk(target, vm_id), forms.datastore(datastore_id))


def context(call: Call) -> ContextRequest:
    """Read `tm/context`; the files before the destination are any number. Raises BadRequest."""
    if len(call.argv) < 4:
        raise BadRequest(f"context takes FILE... DESTINATION VM_ID DATASTORE_ID, not {len(call.argv)} arguments")
    target, vm_id, datastore_id = call.argv[-3:]
    return ContextRequest(tuple(call.argv), forms.disk(target, vm_id), forms.datastore(datastore_id))


def delete(call: Call) -> DeleteRequest:
    """Read `tm/delete`, of a disk or of the VM's directory. Raises BadRequest."""
    target, vm_id, datastore_id = forms.arguments(call, "DESTINATION VM_ID DATASTORE_ID")
    disk = disk_place(target)
    directory = vm_directory(f"{disk.host}:{disk.directory}" if disk else target)
    forms.same_vm(target, directory.vm_id, vm_id)
    return DeleteRequest(directory, disk, forms.datastore(datastore_id))


def mvds(call: Call) -> MvdsRequest:
    """Read `tm/mvds`; the image's SOURCE has no host. Raises BadRequest."""
    disk, source, vm_id, datastore_id = forms.arguments(call, "DISK SOURCE VM_ID DATASTORE_ID")
    return MvdsRequest(forms.disk(disk, vm_id), definition_of_source(source), forms.datastore(datastore_id))


def mv(call: Call) -> MvRequest:
    """Read `tm/mv`, of a disk or of the VM's directory. Raises BadRequest, also for a disk that changes its number."""
    source, target, vm_id, datastore_id = forms.arguments(call, "SOURCE DESTINATION VM_ID DATASTORE_ID")
    old, new = disk_place(source), disk_place(target)
    if (old and old.disk_id) != (new and new.disk_id):
        raise BadRequest(f"{source!r} cannot become {target!r}: a disk keeps its number, and a directory stays one")
    directories = [
        vm_directory(f"{disk.host}:{disk.directory}" if disk else word) for disk, word in ((old, source), (new, target))
    ]
    for directory, word in zip(directories, (source, target)):
        forms.same_vm(word, directory.vm_id, vm_id)
    return MvRequest(directories[0], directories[1], old, new, forms.datastore(datastore_id))


def cpds(call: Call) -> CpdsRequest:
    """Read `tm/cpds`; the new image's SOURCE has no host, and snapshot -1 is the disk as it is. Raises BadRequest."""
    disk, target, snapshot, vm_id, datastore_id = forms.arguments(
        call, "DISK IMAGE_SOURCE SNAPSHOT_ID VM_ID DATASTORE_ID"
    )
    return CpdsRequest(
        forms.disk(disk, vm_id),
        definition_of_source(target),
        None if snapshot == _NO_SNAPSHOT else forms.natural("SNAPSHOT_ID", snapshot),
        forms.datastore(datastore_id),
    )


def resize(call: Call) -> ResizeRequest:
    """Read `tm/resize`. Raises BadRequest."""
    disk, size, vm_id, datastore_id = forms.arguments(call, "DISK SIZE VM_ID DATASTORE_ID")
    return ResizeRequest(forms.disk(disk, vm_id), forms.size(size), forms.datastore(datastore_id))


def disk_snapshot(call: Call) -> DiskSnapshotRequest:
    """Read `tm/snap_create`, `snap_create_live`, `snap_delete` and `snap_revert`. Raises BadRequest."""
    disk, snapshot, vm_id, datastore_id = forms.arguments(call, "DISK SNAPSHOT_ID VM_ID DATASTORE_ID")
    return DiskSnapshotRequest(
        forms.disk(disk, vm_id),
        forms.natural("SNAPSHOT_ID", snapshot),
        forms.datastore(datastore_id),
    )


def _image_source(argument: str) -> DefinitionName:
    return definition_of_source(place(argument).path)
