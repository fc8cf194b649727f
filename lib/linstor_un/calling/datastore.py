"""How oned asks for datastore actions, and for both monitors.

Three forms hand over the document; they are told apart by their form, because the releases that use them overlap:

    ACTION XML64 ID     up to 6.4 and 6.6; standard input is empty
    ACTION - ID         6.4.4 to 6.6.3 with `one_datastore -i`; XML64 on standard input
    ACTION ID           6.8 and later; XML64 on standard input
"""

from __future__ import annotations

import base64

from ..errors import BadRequest
from ..naming import definition_of_source, place
from ..onexml import SAVE_AS, DriverAction, Image, parse_driver_action
from ..request.datastore import (
    CpRequest,
    ExportDoneRequest,
    ExportRequest,
    ImageCloneRequest,
    ImageSnapshotRequest,
    MkfsRequest,
    MonitorRequest,
    RmRequest,
    StatRequest,
)
from ..units import Mib
from . import forms
from .forms import Call


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


def image_snapshot(call: Call) -> ImageSnapshotRequest:
    """Read `datastore/snap_delete`, `snap_revert` and `snap_flatten`. Raises BadRequest."""
    action = _driver_action(call)[0]
    image_id, image = _numbered_image(action, call)
    if image.target_snapshot is None:
        raise BadRequest(f"IMAGE/TARGET_SNAPSHOT of image {image_id} is missing; there is no snapshot to work on")
    source = definition_of_source(image.source)
    return ImageSnapshotRequest(image_id, image, action.datastore, source, image.target_snapshot)


def export(call: Call) -> ExportRequest:
    """Read `datastore/export`, which one_market calls with the id of the marketplace's app. Raises BadRequest."""
    action = _driver_action(call)[0]
    image = _image(action)
    return ExportRequest(int(call.argv[-1]), image, action.datastore, definition_of_source(image.source))


def export_done(call: Call) -> ExportDoneRequest:
    """Read `datastore/export_done`, which the marketplace's import runs as DISPOSE_CMD. Raises BadRequest."""
    source, app, datastore = forms.arguments(call, "HOST:SOURCE APP_ID DATASTORE_ID")
    spot = place(source)
    name = definition_of_source(spot.path)
    return ExportDoneRequest(forms.natural("APP_ID", app), name, spot.host, forms.datastore(datastore))


def _driver_action(call: Call) -> tuple[DriverAction, bytes]:
    """Return the document of a datastore action, read and as it came."""
    argv = call.argv
    if not 1 <= len(argv) <= 2:
        raise BadRequest(f"a datastore action takes XML64 ID, - ID or ID as arguments, not {len(argv)} of them")
    forms.natural("ID", argv[-1])
    given = len(argv) == 2 and argv[0] != "-"
    document = forms.decode(argv[0].encode("utf-8", "surrogateescape") if given else call.stdin())
    return parse_driver_action(document), document


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
