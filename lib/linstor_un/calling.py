"""How oned asks: arguments and standard input of each action, read into its request.

The only place that knows OpenNebula's calling forms. Three of them hand over a datastore action;
they are told apart by their form, because the releases that use them overlap:

    ACTION XML64 ID     up to 6.4 and 6.6; standard input is empty
    ACTION - ID         6.4.4 to 6.6.3 with `one_datastore -i`; XML64 on standard input
    ACTION ID           6.8 and later; XML64 on standard input
"""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Sequence
from typing import Callable, NamedTuple

from .errors import BadRequest
from .naming import DefinitionName, DiskPlace, definition_of_source, disk_place, place, vm_directory
from .onexml import LARGEST_SIZE, SAVE_AS, DriverAction, Image, parse_driver_action
from .request import (
    CloneRequest,
    ContextRequest,
    CpRequest,
    DeleteRequest,
    ImageCloneRequest,
    LnRequest,
    MkfsRequest,
    MkimageRequest,
    MkswapRequest,
    MonitorRequest,
    MvdsRequest,
    RmRequest,
    StatRequest,
)
from .units import Mib

# oned's largest documents are some hundred KiB (an image with many snapshots, a marketplace with credentials).
_LONGEST_INPUT = 16 * 1024 * 1024
_NATURAL = re.compile(r"[0-9]{1,18}\Z")
_WORD = re.compile(r"[A-Za-z0-9_.-]{1,32}\Z")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")


class Call(NamedTuple):
    """How a script was called: its arguments, and its standard input, read only when asked for."""

    argv: Sequence[str]
    stdin: Callable[[], bytes]


def standard_input() -> bytes:
    """Return what is on standard input up to its end; nothing when it is closed or a terminal.

    Raises BadRequest for more than 16 MiB.
    """
    if sys.stdin is None or sys.stdin.closed or os.isatty(0):
        return b""
    text = sys.stdin.buffer.read(_LONGEST_INPUT + 1)
    if len(text) > _LONGEST_INPUT:
        raise BadRequest(f"standard input is longer than {_LONGEST_INPUT // 1024 // 1024} MiB; oned sends one document")
    return text


def stat(call: Call) -> StatRequest:
    """Read `datastore/stat`; the id is oned's request counter and means nothing. Raises BadRequest."""
    action, document = _driver_action(call)
    image = _image(action)
    if not image.path:
        raise BadRequest("IMAGE/PATH is empty; there is nothing whose size could be told")
    return StatRequest(image, action.datastore, _again(document))


def cp(call: Call) -> CpRequest:
    """Read `datastore/cp`. Raises BadRequest."""
    action, document = _driver_action(call)
    image_id, image = _numbered_image(action, call)
    if not image.path:
        raise BadRequest(f"IMAGE/PATH of image {image_id} is empty; there is nothing to copy")
    return CpRequest(image_id, image, action.datastore, _again(document))


def mkfs(call: Call) -> MkfsRequest:
    """Read `datastore/mkfs`. Raises BadRequest.

    With save_as oned only asks for the name and sends `cpds` next (FORMAT from 6.0 on, FSTYPE before).
    """
    action = _driver_action(call)[0]
    image_id, image = _numbered_image(action, call)
    return MkfsRequest(image_id, image, action.datastore, _image_size(image), image.format == SAVE_AS)


def image_clone(call: Call) -> ImageCloneRequest:
    """Read `datastore/clone`: the image is the new one, its PATH the SOURCE of the old one. Raises BadRequest."""
    action = _driver_action(call)[0]
    image_id, image = _numbered_image(action, call)
    return ImageCloneRequest(image_id, image, action.datastore, definition_of_source(image.path), _image_size(image))


def rm(call: Call) -> RmRequest:
    """Read `datastore/rm`. Raises BadRequest."""
    action = _driver_action(call)[0]
    image_id, image = _numbered_image(action, call)
    return RmRequest(image_id, image, action.datastore, definition_of_source(image.source))


def monitor(call: Call) -> MonitorRequest:
    """Read `datastore/monitor` and `tm/monitor`. Raises BadRequest."""
    action = _driver_action(call)[0]
    return MonitorRequest(action.datastore, action.location, action.vm_disks)


def clone(call: Call) -> CloneRequest:
    """Read `tm/clone`. Raises BadRequest, also for the KERNEL and INITRD files that oned clones alike."""
    source, target, vm_id, datastore_id = _arguments(call, "SOURCE DESTINATION VM_ID DATASTORE_ID")
    return CloneRequest(_image_source(source), _disk(target, vm_id), _natural("DATASTORE_ID", datastore_id))


def ln(call: Call) -> LnRequest:
    """Read `tm/ln`. Raises BadRequest."""
    source, target, vm_id, datastore_id = _arguments(call, "SOURCE DESTINATION VM_ID DATASTORE_ID")
    return LnRequest(_image_source(source), _disk(target, vm_id), _natural("DATASTORE_ID", datastore_id))


def mkimage(call: Call) -> MkimageRequest:
    """Read `tm/mkimage`. Raises BadRequest."""
    size, format, target, vm_id, datastore_id = _arguments(call, "SIZE FORMAT DESTINATION VM_ID DATASTORE_ID")
    if not _WORD.match(format):
        raise BadRequest(f"FORMAT is {format[:100]!r}, which is not the name of a format")
    return MkimageRequest(_size(size), format, _disk(target, vm_id), _natural("DATASTORE_ID", datastore_id))


def mkswap(call: Call) -> MkswapRequest:
    """Read `tm/mkswap`. Raises BadRequest."""
    size, target, vm_id, datastore_id = _arguments(call, "SIZE DESTINATION VM_ID DATASTORE_ID")
    return MkswapRequest(_size(size), _disk(target, vm_id), _natural("DATASTORE_ID", datastore_id))


def context(call: Call) -> ContextRequest:
    """Read `tm/context`; the files before the destination are any number. Raises BadRequest."""
    if len(call.argv) < 4:
        raise BadRequest(f"context takes FILE... DESTINATION VM_ID DATASTORE_ID, not {len(call.argv)} arguments")
    target, vm_id, datastore_id = call.argv[-3:]
    return ContextRequest(tuple(call.argv), _disk(target, vm_id), _natural("DATASTORE_ID", datastore_id))


def delete(call: Call) -> DeleteRequest:
    """Read `tm/delete`, of a disk or of the VM's directory. Raises BadRequest."""
    target, vm_id, datastore_id = _arguments(call, "DESTINATION VM_ID DATASTORE_ID")
    disk = disk_place(target)
    directory = vm_directory(f"{disk.host}:{disk.directory}" if disk else target)
    _same_vm(target, directory.vm_id, vm_id)
    return DeleteRequest(directory, disk, _natural("DATASTORE_ID", datastore_id))


def mvds(call: Call) -> MvdsRequest:
    """Read `tm/mvds`; the image's SOURCE has no host. Raises BadRequest."""
    disk, source, vm_id, datastore_id = _arguments(call, "DISK SOURCE VM_ID DATASTORE_ID")
    return MvdsRequest(_disk(disk, vm_id), definition_of_source(source), _natural("DATASTORE_ID", datastore_id))


def _driver_action(call: Call) -> tuple[DriverAction, bytes]:
    """Return the document of a datastore action, read and as it came."""
    argv = call.argv
    if not 1 <= len(argv) <= 2:
        raise BadRequest(f"a datastore action takes XML64 ID, - ID or ID as arguments, not {len(argv)} of them")
    _natural("ID", argv[-1])
    given = len(argv) == 2 and argv[0] != "-"
    document = _decode(argv[0].encode("utf-8", "surrogateescape") if given else call.stdin())
    return parse_driver_action(document), document


def _decode(text: bytes) -> bytes:
    """Decode base64 as Ruby does for oned's drivers: line breaks and padding do not matter."""
    letters = _NOT_BASE64.sub(b"", text)
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return base64.b64decode(letters + b"=" * (-len(letters) % 4))


def _again(document: bytes) -> str:
    """Encode the document without line breaks, which an environment variable of a shell script must not have."""
    return base64.b64encode(document).decode("ascii")


def _image(action: DriverAction) -> Image:
    if action.image is None:
        raise BadRequest("the request has no IMAGE element; oned sends one with this action")
    return action.image


def _numbered_image(action: DriverAction, call: Call) -> tuple[int, Image]:
    image = _image(action)
    if image.id is None or image.id != int(call.argv[-1]):
        raise BadRequest(f"IMAGE/ID is {image.id}, but the request is for image {call.argv[-1]}")
    return image.id, image


def _image_size(image: Image) -> Mib:
    if not image.size:
        raise BadRequest(f"IMAGE/SIZE of image {image.id} is missing or 0; give the image a size in MiB")
    return image.size


def _image_source(argument: str) -> DefinitionName:
    return definition_of_source(place(argument).path)


def _disk(argument: str, vm_id: str) -> DiskPlace:
    disk = disk_place(argument)
    if disk is None:
        raise BadRequest(
            f"{argument!r} is not a VM's disk HOST:/.../DATASTORE/VM/disk.N; kernel, ramdisk and other files"
            " belong into a datastore of type FILE, not into one of linstor_un"
        )
    _same_vm(argument, disk.vm_id, vm_id)
    return disk


def _same_vm(argument: str, found: int, vm_id: str) -> None:
    if found != _natural("VM_ID", vm_id):
        raise BadRequest(f"{argument!r} belongs to VM {found}, but the request is for VM {vm_id}")


def _size(argument: str) -> Mib:
    size = _natural("SIZE", argument)
    if not 1 <= size <= LARGEST_SIZE:
        raise BadRequest(f"SIZE is {size} MiB; it must be between 1 and {LARGEST_SIZE} MiB")
    return Mib(size)


def _natural(name: str, argument: str) -> int:
    if not _NATURAL.match(argument):
        raise BadRequest(f"{name} is {argument[:100]!r}, which is not a whole number")
    return int(argument)


def _arguments(call: Call, names: str) -> Sequence[str]:
    if len(call.argv) != len(names.split()):
        raise BadRequest(f"the arguments are {names}, not {len(call.argv)} of them")
    return call.argv
