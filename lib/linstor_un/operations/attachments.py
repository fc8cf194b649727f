"""A volume reached from a host: lent to the one that copies, attached where its VM is, made empty or formatted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Optional

from .. import placement
from ..errors import InUse, Unreachable, Unsupported
from ..inventory import Replica
from ..naming import by_res
from ..retry import until
from ..settings import Settings
from ..units import bytes_from_kib
from ..world import CloudHost, Controller, World
from . import contents, host_files
from .volumes import CLOSING_SECONDS, Volume, when_closed


def choose_bridge(
    world: World,
    controller: Controller,
    settings: Settings,
    volumes: Sequence[Volume],
    prefer: str = "",
    but: Collection[str] = (),
) -> CloudHost:
    """Return the host that copies: a holder of the volumes' replicas if one may, else the least busy allowed.

    Arguments: prefer, a host to take among equals; but, hosts that do not reach what is to be copied.
    Raises Unreachable or BadRequest when no host is allowed.
    """
    allowed = placement.bridge_candidates(world.cloud.hosts(), settings.bridge_list)
    candidates = [host for host in allowed if host.name not in but]
    if not candidates:
        names = " ".join(host.name for host in allowed)
        raise Unreachable(
            f"DRBD has cut off each of the hosts {names}, which may copy, from current replicas of "
            f"{', '.join(volume.name for volume in volumes)}; retry when `drbdadm status` there says Connected"
        )
    holders = [placement.steady(volume.replicas) for volume in volumes]
    best = placement.bridge(candidates, holders, prefer)
    if any(best.name in nodes for nodes in holders):
        return best
    online = {node.name for node in controller.nodes() if node.usable}
    reachable = [host for host in candidates if host.name in online]
    if not reachable:
        names = " ".join(host.name for host in candidates)
        raise Unsupported(f"none of the hosts {names} is an online LINSTOR node; name hosts as their LINSTOR nodes")
    return placement.bridge(reachable, holders, prefer)


def to_fill(world: World, controller: Controller, volume: Volume) -> list[str]:
    """Return the nodes on which content has to be written: one bridge host, or every replica without DRBD."""
    if not volume.replicated:
        return placement.holding(volume.replicas)
    return [choose_bridge(world, controller, volume.settings, [volume]).name]


# What FORMAT and FSTYPE say where no file system is wanted; swap is made by mkswap.
_NO_FILESYSTEM = {"", "raw", "qcow2"}


def filesystem(world: World, name: str) -> str:
    """Return the file system to make: "" for none, "swap" for swap space.

    Arguments: name, IMAGE/FS or DISK/FS; up to oned 5.12 FSTYPE, which may also be raw, qcow2 or swap.
    Raises BadRequest for one that is not supported, before anything is touched.
    """
    wanted = name.strip().lower()
    if wanted in _NO_FILESYSTEM:
        return ""
    if wanted != "swap":
        contents.require_filesystem(world, wanted)
    return wanted


def format_volume(world: World, controller: Controller, volume: Volume, filesystem: str) -> None:
    """Make a fresh volume empty, or give it a file system ("swap" for swap space); "" leaves only zeroes."""
    if not filesystem and volume.zero:
        return
    for node in to_fill(world, controller, volume):
        with borrowed(world, controller, volume, node) as device:
            target = contents.Device(node, device, bytes_from_kib(volume.size), volume.zero, volume.name)
            if filesystem == "swap":
                contents.make_swap(world, target)
            elif filesystem:
                contents.make_filesystem(world, target, filesystem)
            else:
                contents.fill_zero(world, target)


@contextmanager
def borrowed(world: World, controller: Controller, volume: Volume, node: str) -> Iterator[str]:
    """Reach a volume from a node for the time of a copy; yields the device path.

    An attachment is given back before the action is complete, unless somebody else uses it by then. One that was
    there already goes the same way: no VM has a link to what a killed run attached.
    """
    here = volume.on(node)
    if not volume.replicated or (here is not None and reaches(here) and (here.diskful or here.in_use)):
        yield volume.device(node)
        return
    with world.locks.share(attachment_lock(volume.name, node)):
        there = _attached(controller, volume, node)
        label = f"attachment of {volume.name} on {node}"
        with world.undo.borrow(label, _give_back, world, controller, volume, node):
            if not there:
                controller.attach(volume.name, node, volume.settings, volume.layers)
        yield volume.device(node)


def reaches(here: Replica) -> bool:
    """Return whether a node reaches a volume by this resource, also after LINSTOR needs no tiebreaker any more."""
    return here.usable and not here.tiebreaker


def _attached(controller: Controller, volume: Volume, node: str) -> bool:
    """Return whether a volume can be reached from a node, for as long as the caller holds the attachment's lock.

    Who had the lock before may have let go of the attachment since the volume was read. Raises Refused when there is
    no usable replica to be reached.
    """
    here = volume.on(node)
    if here is None or not reaches(here):
        placement.require_reachable(volume.name, volume.replicas)
        return False
    return here.diskful or any(one.node == node and reaches(one) for one in controller.replicas(volume.name))


def _give_back(world: World, controller: Controller, volume: Volume, node: str) -> None:
    """Release a borrowed attachment unless another copy, or a VM that got the disk meanwhile, needs it."""
    with world.locks.share(attachment_lock(volume.name, node)) as lock:
        if lock.alone() and not host_files.linked(world, node, volume.device(node)):
            controller.release(volume.name, node)


def attachment_lock(name: str, node: str) -> str:
    """Return the name of the lock that guards a volume's attachment on a node."""
    return f"attached-{name}-{node}"


def attach(world: World, controller: Controller, volume: Volume, node: str, shared: bool = False) -> Volume:
    """Make a volume's device available on a VM's host, to stay; returns the volume as it is then.

    The caller holds the attachment's lock, or that of a volume that nobody shares.
    Arguments: shared, whether other VMs may come to use it there, readers, which LINSTOR does not see: then it is
    only taken back when none does. Raises Unsupported when the stack has no DRBD and the node no replica, Refused
    when no node has a usable one.
    """
    if _attached(controller, volume, node):
        return volume
    if not volume.replicated:
        volume.device(node)
    back = (_give_back, world, controller, volume, node) if shared else (controller.release, volume.name, node)
    with world.undo.by(f"attachment of {volume.name} on {node}", *back):
        controller.attach(volume.name, node, volume.settings, volume.layers)
    return volume


def release(world: World, controller: Controller, name: str, node: str) -> None:
    """Take a volume's diskless attachment off a node; a replica stays, a tiebreaker stays LINSTOR's.

    Raises InUse when the device is still open there after a short while.
    """
    when_closed(world, lambda: controller.release(name, node))


def unused(world: World, name: str, node: str, link: str) -> bool:
    """Return whether no VM on a host but the one with this link uses an image there.

    A reader is invisible to LINSTOR: releasing would fail half-way and cut it off. Raises InUse while something has the
    device open that is no such VM, after a short while.
    """

    def look() -> Optional[bool]:
        use = host_files.used(world, node, by_res(name), link)
        return False if use.linked else None if use.opened else True

    found = until(world.clock, CLOSING_SECONDS, look)
    if found is None:
        raise InUse(f"{name} is open on {node}; stop what uses it there and retry")
    return found
