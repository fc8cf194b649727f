"""What a VM's disk left on a host that died, its link and its attachment: cleared when the host is back.

A dead host is asked for nothing. It is marked on the disk's definition, so that whoever is about the disk later finds
it: a link that stayed would keep the attachments of other disks there, and an attachment its share in the quorum.
"""

from __future__ import annotations

from ..errors import DriverError
from ..inventory import Definition
from ..naming import LOST_HOSTS, DiskPlace, VmDirectory, by_res, lost_place, lost_places
from ..world import Controller, World
from . import attachments, host_files, vm_directories


def marks(definition: Definition, place: DiskPlace) -> dict[str, str]:
    """Return the mark that tells of one more host that died with the disk. Arguments: place, where the disk was."""
    known = definition.props.get(LOST_HOSTS, "").split()
    return {LOST_HOSTS: " ".join(sorted({*known, lost_place(place)}))}


def clear(world: World, controller: Controller, definition: Definition, here: DiskPlace) -> None:
    """Take a disk off the hosts that died with it and are back; the others stay marked.

    Arguments: here, where the disk is now. What cannot be cleared is told in oned's log and stops nothing.
    """
    if LOST_HOSTS not in definition.props:
        return
    places = _places(definition, here)
    left = [place for place in places if not _cleared(world, controller, definition.name, place, here)]
    rest = " ".join(map(lost_place, left))
    try:
        controller.mark(definition.name, {LOST_HOSTS: rest} if rest else {}, clear=[] if rest else [LOST_HOSTS])
    except DriverError as error:
        world.trail.warn(f"mark {LOST_HOSTS} of {definition.name} stays: {error}")


def unlink(world: World, definition: Definition, here: DiskPlace) -> None:
    """Remove the links of a disk that is gone; its attachments went with it. Arguments: here, where it was last."""
    for place in _places(definition, here):
        try:
            _unlink(world, definition.name, place, here)
        except DriverError as error:
            world.trail.warn(f"left behind: link {place.path} on {place.host} ({error})")


def _places(definition: Definition, here: DiskPlace) -> list[DiskPlace]:
    """Return where the disk was on hosts that died; where it is now it is not left behind."""
    marked = lost_places(definition.props.get(LOST_HOSTS, ""), here.directory.rsplit("/", 2)[0])
    return [place for place in marked if lost_place(place) != lost_place(here)]


def _cleared(world: World, controller: Controller, name: str, place: DiskPlace, here: DiskPlace) -> bool:
    try:
        there = next((replica for replica in controller.replicas(name) if replica.node == place.host), None)
        if there is not None and not there.usable:
            return False
        with world.locks.share(attachments.attachment_lock(name, place.host)) as held:
            others = _unlink(world, name, place, here)
            if place.host != here.host and not others and held.alone():
                controller.release(name, place.host)
    except DriverError as error:
        world.trail.warn(f"left behind: {name} on {place.host}, which died with it ({error})")
        return False
    return True


def _unlink(world: World, name: str, place: DiskPlace, here: DiskPlace) -> bool:
    """Remove a link unless hosts share the directory; returns whether another VM there has one to the same device."""
    directories = [VmDirectory(one.host, one.directory, one.datastore_id, one.vm_id) for one in (place, here)]
    if vm_directories.same(world, *directories):
        return host_files.linked(world, place.host, by_res(name), place.path)
    return host_files.unlink(world, place.host, place.path, by_res(name), "link")
