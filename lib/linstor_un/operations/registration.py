"""An image from outside becomes one of the datastore: its size before it exists, then its bytes."""

from __future__ import annotations

from ..errors import BadRequest
from ..naming import by_res, image_definition
from ..request.datastore import CpRequest, StatRequest
from ..settings import Settings, require_placement
from ..units import bytes_from_kib, kib_from_mib
from ..world import World
from . import attachments, contents, importing, sources, volumes
from .images import marks
from .volumes import Volume, Wanted

# KERNEL, RAMDISK and CONTEXT are files that oned wants in the VM's directory; a block device is none.
_FILE_KINDS = {"3", "4", "5"}


def stat(world: World, request: StatRequest) -> str:
    """Return the size in MiB that the image at PATH will need, rounded up.

    oned waits 90 s for it with the user. Raises BadRequest for a path that the datastore forbids.
    """
    return str(importing.size_of(world, request.image.path, world.settings(request.datastore), request.document))


def cp(world: World, request: CpRequest) -> str:
    """Bring an image in: returns SOURCE and FORMAT, which oned >= 6.0 demands.

    After a failure oned forgets the image and never calls `rm`, so nothing may be left.
    """
    if request.image.kind in _FILE_KINDS:
        raise BadRequest(
            f"image {request.image_id} is a kernel, ramdisk or context file, which cannot live on LINSTOR; "
            f"put it into a datastore of files"
        )
    settings = world.settings(request.datastore)
    require_placement(settings)
    sources.require_allowed(world, request.image.path, settings)
    name = image_definition(request.image_id)
    with world.locks.hold(name):
        size = request.image.size or importing.size_of(world, request.image.path, settings, request.document)
        controller = world.connect(settings)
        wanted = Wanted(name, kib_from_mib(size), settings, marks(request.image_id, request.image))
        volume = volumes.create(world, controller, wanted)
        if volume is not None:
            for node in attachments.to_fill(world, controller, volume):
                with attachments.borrowed(world, controller, volume, node) as device:
                    _fill(world, request, settings, node, device, volume)
            volumes.complete(world, controller, name)
    return f"{by_res(name)} raw"


def _fill(world: World, request: CpRequest, settings: Settings, node: str, device: str, volume: Volume) -> None:
    target = contents.Device(node, device, bytes_from_kib(volume.size), volume.zero, volume.name)
    importing.import_image(world, request.image, settings, target, request.document)
