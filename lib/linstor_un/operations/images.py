"""Images in a datastore: their size before they exist, their making, their end."""

from __future__ import annotations

from ..errors import BadRequest, NotFound
from ..naming import IMAGE_ID, ORIGIN, by_res, image_definition
from ..onexml import Image
from ..request import CpRequest, ImageCloneRequest, MkfsRequest, RmRequest, StatRequest
from ..settings import Settings, require_placement
from ..units import Kib, bytes_from_kib, kib_from_mib
from ..world import World
from . import attachments, contents, copies, importing, sources, volumes
from .volumes import Volume, Wanted

# KERNEL, RAMDISK and CONTEXT are files that oned wants in the VM's directory; a block device is none.
_FILE_KINDS = {"3", "4", "5"}


def _marks(image_id: int, image: Image) -> dict[str, str]:
    return {IMAGE_ID: str(image_id), **({ORIGIN: image.registered} if image.registered else {})}


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
        wanted = Wanted(name, kib_from_mib(size), settings, _marks(request.image_id, request.image))
        volume = volumes.create(world, controller, wanted)
        if volume is not None:
            for node in attachments.to_fill(world, controller, volume):
                with attachments.borrowed(world, controller, volume, node) as device:
                    _fill(world, request, settings, node, device, volume)
            volumes.complete(world, controller, name)
    return f"{by_res(name)} raw"


def _fill(world: World, request: CpRequest, settings: Settings, node: str, device: str, volume: Volume) -> None:
    target = contents.Device(node, device, bytes_from_kib(volume.size), volume.zero)
    importing.import_image(world, request.image, settings, target, request.document)


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
        wanted = Wanted(name, kib_from_mib(request.size), settings, _marks(request.image_id, request.image))
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
        wanted = Wanted(name, size, settings, _marks(request.image_id, request.image))
        if copies.duplicate(world, controller, source, wanted, found.get(name)) is not None:
            volumes.complete(world, controller, name)
    return f"{by_res(name)} raw"


def rm(world: World, request: RmRequest) -> str:
    """Remove an image whatever snapshots or leftovers it has; absent is success.

    oned before 6.6 forgets the image even when this fails. Raises InUse naming the node that has it open.
    """
    settings = world.settings(request.datastore)
    with world.locks.hold(request.source):
        controller = world.connect(settings)
        volumes.remove(world, controller, request.source, {IMAGE_ID: str(request.image_id)}, settings)
    return ""
