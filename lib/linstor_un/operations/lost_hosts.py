"""What a VM's disk left on a host that died, its link and its attachment: cleared when the host is back.

A dead host is asked for nothing. It is marked on the disk's definition, so that whoever is about the disk later finds
it: a link that stayed would keep the attachments of other disks there, and an attachment its share in the quorum.
"""

from __future__ import annotations

from typing import Optional

from .. import placement
from ..errors import DriverError, HostUnreachable
from ..inventory import Definition
from ..naming import LOST_HOSTS, DiskPlace, VmDirectory, by_res, lost_place, lost_places
from ..retry import until
from ..world import Controller, World
from . import attachments, host_files, vm_directories

# LINSTOR and DRBD notice within some ten seconds that a node is dead; ssh has tried for a while already.
_DYING_SECONDS = 15.0


def marks(definition: Definition, place: DiskPlace) -> dict[str, str]:
    """Return the mark that tells of one more host that died with the disk. Arguments: place, where the disk was."""
    known = definition.props.get(LOST_HOSTS, "").split()
    return {LOST_HOSTS: " ".join(sorted({*known, lost_place(place)}))}


def left(
    world: World, controller: Controller, definition: Definition, place: DiskPlace, unreachable: HostUnreachable
) -> dict[str, str]:
    """Return the mark with which a VM's image is let go of without a host that is dead.

    Arguments: unreachable, what ssh said of the host. Raises that when LINSTOR or DRBD reaches the host: the guest may
    run on there; Refused when the image's replicas differ, which a mark would bring together.
    """
    name, host = definition.name, place.host

    def dead() -> Optional[bool]:
        replicas = controller.replicas(name)
        placement.require_together(name, replicas)
        seen = any(replica.sees.get(host) for replica in replicas if replica.usable)
        return None if seen or any(node.name == host and node.online for node in controller.nodes()) else True

    if not until(world.clock, _DYING_SECONDS, dead):
        raise unreachable
    world.trail.warn(
        f"{name} is let go of without {host}, which neither ssh nor LINSTOR reaches; what it has of it goes when it is "
        f"back, with the next VM that gets or gives back {name}"
    )
    return marks(definition, place)


def clear(
    world: World, controller: Controller, definition: Definition, here: DiskPlace, source: Optional[DiskPlace] = None
) -> None:
    """Take a disk off the hosts that died with it and are back; the others stay marked.

    Arguments: here, where the disk is now; source, where it comes from, which its move has seen to: another driver may
    still need the link there. What cannot be cleared is told in oned's log and stops nothing.
    """
    if LOST_HOSTS not in definition.props:
        return
    places = [place for place in _places(definition, here) if source is None or lost_place(place) != lost_place(source)]
    away = [place for place in places if not _cleared(world, controller, definition.name, place, here)]
    rest = " ".join(map(lost_place, away))
    try:
        controller.mark(definition.name, {LOST_HOSTS: rest} if rest else {}, clear=[] if rest else [LOST_HOSTS])
    except DriverError as error:
        world.trail.warn(f"mark {LOST_HOSTS} of {definition.name} stays: {error}")


def unlink(world: World, definition: Definition, here: DiskPlace) -> None:
    """Remove the links of a disk that is gone; its attachments went with it. Arguments: here, where it was last."""
    for place in _places(definition, here):
        try:
            _unlink(world, definition.name, place, here, "")
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
            others = _unlink(world, name, place, here, (there and there.device) or "")
            if place.host != here.host and not others and held.alone():
                controller.release(name, place.host)
    except DriverError as error:
        world.trail.warn(f"left behind: {name} on {place.host}, which died with it ({error})")
        return False
    return True


def _unlink(world: World, name: str, place: DiskPlace, here: DiskPlace, device: str) -> bool:
    """Remove a link unless hosts share the directory; returns whether another VM there has one to the same device.

    Arguments: device, what LINSTOR has there, to which links lead without DRBD; "" if it has none.
    """
    directories = [VmDirectory(one.host, one.directory, one.datastore_id, one.vm_id) for one in (place, here)]
    if vm_directories.same(world, *directories):
        return host_files.linked(world, place.host, by_res(name), place.path)
    return host_files.unlink_led(world, place.host, place.path, [by_res(name), *filter(None, [device])])
