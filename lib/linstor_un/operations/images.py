"""Images in a datastore: made empty, cloned, removed. Those that come from outside are in `registration`."""

from __future__ import annotations

from ..errors import NotFound
from ..naming import IMAGE_ID, ORIGIN, by_res, image_definition
from ..onexml import Image
from ..request.datastore import ImageCloneRequest, MkfsRequest, RmRequest
from ..settings import require_placement
from ..units import Kib, kib_from_mib
from ..world import World
from . import attachments, copies, removal, volumes
from .volumes import Wanted


def marks(image_id: int, image: Image) -> dict[str, str]:
    """Return the marks of an image's definition."""
    return {IMAGE_ID: str(image_id), **({ORIGIN: image.registered} if image.registered else {})}


def mkfs(world: World, request: MkfsRequest) -> str:
    """Make an empty image, with a file system if one is asked for; returns SOURCE and nothing else.

    oned >= 6.0 takes the whole line as the source. For a disk that is to be saved as an image only the
    name is wanted: `cpds` makes the volume.
    """
    name = image_definition(request.image_id)
    if request.save_as:
        return by_res(name)
    settings = world.settings(request.datastore)
    require_placement(settings)
    kind = attachments.filesystem(world, request.image.filesystem)
    with world.locks.hold(name):
        controller = world.connect(settings)
        wanted = Wanted(name, kib_from_mib(request.size), settings, marks(request.image_id, request.image))
        volume = volumes.create(world, controller, wanted)
        if volume is not None:
            attachments.format_volume(world, controller, volume, kind)
            volumes.complete(world, controller, name)
    return by_res(name)


def clone(world: World, request: ImageCloneRequest) -> str:
    """Make an image a copy of another, possibly of another datastore; returns SOURCE and FORMAT."""
    settings = world.settings(request.datastore)
    require_placement(settings)
    name = image_definition(request.image_id)
    with world.locks.hold(name):
        controller = world.connect(settings)
        found = controller.definitions([request.source, name])
        source = found.get(request.source)
        if source is None:
            raise NotFound(f"{request.source}, the image to clone, does not exist on LINSTOR; check IMAGE/PATH")
        size = Kib(max(source.size or 0, kib_from_mib(request.size)))
        wanted = Wanted(name, size, settings, marks(request.image_id, request.image))
        volume = copies.duplicate(world, controller, source, wanted, found.get(name))
        if volume is not None:
            volumes.complete(world, controller, name, volume)
    return f"{by_res(name)} raw"


def rm(world: World, request: RmRequest) -> str:
    """Remove an image whatever snapshots or leftovers it has; absent is success.

    oned before 6.6 forgets the image even when this fails. Raises InUse naming the node that has it open.
    """
    settings = world.settings(request.datastore)
    with world.locks.hold(request.source):
        controller = world.connect(settings)
        removal.remove(world, controller, request.source, {IMAGE_ID: str(request.image_id)}, settings)
    return ""
