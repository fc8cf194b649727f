"""An image is read by a marketplace: from a host that has a replica, or from one that it is lent to until then.

`export` only says where; oned's market driver reads afterwards, through OpenNebula's downloader. A replica stays where
it is. An image that had to be attached has a link on that host, as a VM's disk has one, so that nobody takes it for
unused; `export_done` lets it go when the marketplace has it.
"""

from __future__ import annotations

import os.path

from .. import placement, places
from ..errors import BadRequest, DriverError, Exists, InUse
from ..naming import IMAGE_ID, by_res, definition_of_source
from ..onexml import Image
from ..request.datastore import ExportDoneRequest, ExportRequest
from ..units import bytes_from_kib, mib_from_bytes
from ..world import Controller, World
from . import attachments, contents, copies, host_files, volumes
from .contents import Device
from .volumes import Volume


def export(world: World, request: ExportRequest) -> str:
    """Tell where an image can be read, as the IMPORT_INFO that oned's market driver expects on one line.

    The device is larger than the image where its pool rounds up, and is read to its end: SIZE covers that, or what
    was read could not be imported again. A checksum would cost reading the image twice, and none is asked for.
    Raises InUse while somebody writes to the image.
    """
    settings = world.settings(request.datastore)
    with world.locks.hold(request.source):
        controller = world.connect(settings)
        definition = volumes.defined(controller, request.source)
        other = placement.contradiction(definition, _owner(request.image))
        if other:
            raise Exists(f"{definition.name} is marked {other}, so it is not image {request.image.id}")
        volumes.require_whole(definition)
        volume = copies.current(definition, volumes.existing(definition, controller, settings))
        copies.readable(volume)
        _require_closed(world, volume)
        behind = placement.behind(volume.replicas)
        host = attachments.choose_bridge(world, controller, settings, [volume], but=behind).name
        path, dispose = volume.device(host), ""
        if host not in placement.holding(volume.replicas):
            path, dispose = _lend(world, controller, volume, host, request)
        end = contents.measure(world, Device(host, path, bytes_from_kib(volume.size))).ends[0]
    return _import_info(f"ssh://{host}:{path}", mib_from_bytes(end.actual), dispose)


def _owner(image: Image) -> dict[str, str]:
    return {} if image.id is None else {IMAGE_ID: str(image.id)}


def _require_closed(world: World, volume: Volume) -> None:
    """Raise InUse when a volume without DRBD is open: LINSTOR knows nothing of its openers."""
    for node in () if volume.replicated else placement.holding(volume.replicas):
        if host_files.opened(world, node, volume.device(node)):
            raise InUse(f"{volume.name} is open on {node}, so what is read may change meanwhile; stop what uses it")


def _lend(
    world: World, controller: Controller, volume: Volume, host: str, request: ExportRequest
) -> tuple[str, str]:  # fmt: skip
    """Attach an image on a host that has no replica, until it is read; returns its path and DISPOSE_CMD."""
    _let_go_old(world, controller, host)
    directory = _directory(world, request.datastore.id, request.app_id)
    path = f"{directory}/disk.0"
    with world.locks.share(attachments.attachment_lock(volume.name, host)):
        attachments.attach(world, controller, volume, host)
        with world.undo.by(f"link {path} on {host}", host_files.remove_directory, world, host, directory):
            host_files.link(world, host, directory, volume.device(host), path)
    if not _disposes(world):
        world.trail.info(f"{volume.name} stays attached on {host} until another export there, a day from now or later")
        return path, ""
    script = f"{world.front_end.remotes}/datastore/linstor_un/export_done"
    return path, f"{script} {host}:{by_res(volume.name)} {request.app_id} {request.datastore.id}"


def export_done(world: World, request: ExportDoneRequest) -> str:
    """Let go of an image that a marketplace has read; repeating it changes nothing."""
    settings = world.settings(world.cloud.datastore(request.datastore_id))
    controller = world.connect(settings)
    directory = _directory(world, request.datastore_id, request.app_id)
    with world.locks.share(attachments.attachment_lock(request.source, request.host)) as lock:
        host_files.remove_directory(world, request.host, directory)
        if lock.alone() and not host_files.linked(world, request.host, by_res(request.source)):
            attachments.release(world, controller, request.source, request.host)
    return ""


def _let_go_old(world: World, controller: Controller, host: str) -> None:
    """Let go of what was lent on a host for marketplaces that never said that they were done, and is not read."""
    for device, path in host_files.old_exports(world, host):
        try:
            if host_files.opened(world, host, device):
                continue
            host_files.remove_directory(world, host, os.path.dirname(path))
            name = definition_of_source(device)
            with world.locks.share(attachments.attachment_lock(name, host)) as lock:
                if lock.alone() and not host_files.linked(world, host, device):
                    attachments.release(world, controller, name, host)
        except (BadRequest, DriverError) as error:
            world.trail.debug(f"{device} on {host} is not let go: {error}")


def _directory(world: World, datastore_id: int, app_id: int) -> str:
    return f"{places.datastores(world.front_end.var)}/{datastore_id}/export-{app_id}"


def _disposes(world: World) -> bool:
    """Return whether the installed OpenNebula runs DISPOSE_CMD: up to 5.12 it removes IMPORT_SOURCE instead."""
    path = os.path.join(world.front_end.remotes, "market/http/import")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return "DISPOSE_CMD" in file.read()
    except OSError:
        return False


def _import_info(source: str, size: int, dispose: str) -> str:
    members = {
        "IMPORT_SOURCE": f"<![CDATA[{source}]]>",
        "MD5": "",
        "SIZE": str(size),
        "FORMAT": "raw",
        "DISPOSE": "YES" if dispose else "NO",
        "DISPOSE_CMD": f"<![CDATA[{dispose}]]>",
    }
    return f"<IMPORT_INFO>{''.join(f'<{key}>{value}</{key}>' for key, value in members.items())}</IMPORT_INFO>"
