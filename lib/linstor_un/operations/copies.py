"""A volume made from another one, in the three ways of CLONE_MODE.

copy       a new volume, filled on a bridge host; works everywhere
snapshot   a snapshot of the source restored as a new definition, on the source's nodes
clone      LINSTOR's own clone, on the source's nodes

The latter two have their source's layers, and so its encryption. Where others are asked for, it is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from .. import placement
from ..errors import DriverError, Exists, InUse, Refused, Unsupported
from ..inventory import Definition
from ..naming import WRITTEN_ON
from ..units import Kib, bytes_from_kib
from ..world import Controller, World
from . import attachments, contents, volumes
from .contents import Device
from .volumes import Volume, Wanted


def duplicate(
    world: World, controller: Controller, source: Definition, wanted: Wanted, found: Optional[Definition]
) -> Optional[Volume]:
    """Make the wanted volume a copy of the source; it stays half-made until `volumes.complete`.

    Arguments: found, the definition of the wanted name as it was read, None when there is none.
    Returns None when the complete volume is there already.
    Raises Unsupported when the mode does not work there, with the reason.
    """
    if found is not None:
        cloned = None if controller.clones_marked() else source
        if volumes.settle_name(world, controller, wanted, found, cloned):
            return None
    # Replicas that differ are made equal by a copy alone.
    mode = "copy" if WRITTEN_ON in source.props else wanted.settings.clone_mode
    if mode != "copy":
        volume = volumes.existing(source, controller, wanted.settings)
        _require_intact(volume)
        if _joined(world, volume, wanted) and _stacked_as_asked(world, controller, volume, wanted):
            make = _from_snapshot if mode == "snapshot" else _by_linstor
            return make(world, controller, source, wanted)
    return _by_copying(world, controller, source, wanted)


def _stacked_as_asked(world: World, controller: Controller, source: Volume, wanted: Wanted) -> bool:
    """Return whether LINSTOR's copy of the source has the layers that are asked for: it gets those of the source."""
    settings = wanted.settings
    group = controller.group(settings.resource_group) if settings.resource_group and not settings.layer_list else None
    if placement.stacked_as_asked(settings, group, source.replicas):
        return True
    world.trail.warn(
        f"{wanted.name} is copied: CLONE_MODE={settings.clone_mode} would give it the layers of {source.name}, "
        f"which are not those that its datastore asks for"
    )
    return False


def _joined(world: World, source: Volume, wanted: Wanted) -> bool:
    """Return whether DRBD keeps all replicas of the source equal: LINSTOR makes each of the copy's from another one."""
    cut = placement.cut_off(source.replicas)
    if cut:
        nodes = " and ".join(cut[0])
        world.trail.warn(f"{wanted.name} is copied: the replicas of {source.name} on {nodes} have no connection")
    return not cut


def _by_copying(world: World, controller: Controller, definition: Definition, wanted: Wanted) -> Optional[Volume]:
    source = current(definition, volumes.existing(definition, controller, wanted.settings))
    readable(source)
    target = volumes.create(world, controller, wanted)
    if target is not None:
        fill(world, controller, source, target, wanted.host)
    return target


def fill(world: World, controller: Controller, source: Volume, target: Volume, prefer: str) -> None:
    """Copy a volume that nobody writes to into a fresh one.

    Arguments: prefer, the host to copy on among equals. Every replica that DRBD does not keep equal is filled.
    """
    if source.replicated and target.replicated:
        behind = placement.behind(source.replicas)
        bridge = attachments.choose_bridge(world, controller, target.settings, [target, source], prefer, behind).name
        with attachments.borrowed(world, controller, source, bridge) as origin:
            with attachments.borrowed(world, controller, target, bridge) as device:
                size = bytes_from_kib(source.size)
                end = Device(bridge, device, size, target.zero, target.name)
                contents.copy_device(world, Device(bridge, origin, size), end)
        return
    _copy_each(world, source, target)


def _copy_each(world: World, source: Volume, target: Volume) -> None:
    """Fill every replica of a target that DRBD does not keep equal, or from a source that cannot be lent."""
    holders = placement.holding(target.replicas)
    origins = placement.holding(source.replicas)
    for node in holders if not target.replicated else holders[:1]:
        origin = node if node in origins else origins[0]
        size = bytes_from_kib(source.size)
        end = Device(node, target.device(node), size, target.zero, target.name)
        contents.copy_device(world, Device(origin, source.device(origin), size), end)


def current(definition: Definition, source: Volume) -> Volume:
    """Return a volume as it is read: without DRBD, from the replica that a VM wrote to, for no other has that.

    Raises Refused when that replica is gone.
    """
    node = definition.props.get(WRITTEN_ON, "")
    if not node or source.replicated:
        return source
    here = source.on(node)
    if here is None:
        raise Refused(
            f"what a VM wrote to {source.name} was on {node} alone, which has no replica of it any more; to use what "
            f"others have: linstor resource-definition set-property {source.name} {WRITTEN_ON}"
        )
    return source._replace(replicas=(here,))


def readable(source: Volume) -> None:
    """Raise InUse when another node writes to the source: DRBD then refuses readers elsewhere.

    Raises Unsupported when it has no usable replica, Refused when its replicas differ, or may.
    """
    _require_intact(source)
    writers = [replica.node for replica in source.replicas if replica.in_use]
    if writers:
        raise InUse(f"{source.name} is open for writing on {', '.join(writers)}, so a copy would be inconsistent")


def _require_intact(source: Volume) -> None:
    if not placement.holding(source.replicas):
        raise Unsupported(f"{source.name} has no replica on an online node, so it cannot be copied; bring one back")
    placement.require_together(source.name, source.replicas)
    placement.require_current(source.name, source.replicas)


def _from_snapshot(world: World, controller: Controller, source: Definition, wanted: Wanted) -> Volume:
    """As the driver before this one did, but the snapshot goes as soon as the pool can do without it."""
    marks = volumes.birth_marks(world, controller, wanted)
    with world.undo.by(wanted.name, volumes.discard, world, controller, wanted.name):
        controller.define(wanted.name, wanted.settings, marks)
    _take(world, controller, source.name, wanted.name)
    volume = restore(controller, source, wanted.name, wanted, marks)
    # LVM-thin does without; a ZFS clone needs its origin until `delete` of this disk or `rm` of the image.
    try:
        controller.delete_snapshot(source.name, wanted.name)
    except DriverError as error:
        world.trail.warn(f"snapshot {wanted.name} of {source.name} stays until this disk is deleted: {error}")
    return volume


def restore(
    controller: Controller, source: Definition, snapshot: str, wanted: Wanted, marks: Mapping[str, str]
) -> Volume:
    """Fill a defined, empty target from a snapshot of the source; returns it, as large as it is wanted.

    Restoring brings the source's marks; they are set right by the request that calls the volume complete.
    Arguments: source, as large as it was then; marks, those that the target was born with.
    """
    controller.restore(source.name, snapshot, wanted.name)
    return _grown(controller, source, wanted)._replace(marks=marks, inherited=volumes.inherited(source, marks))


def _take(world: World, controller: Controller, name: str, snapshot: str) -> None:
    """Take a snapshot named as the volume that is made from it."""

    def take() -> None:
        with world.undo.by(f"snapshot {snapshot} of {name}", controller.delete_snapshot, name, snapshot):
            controller.snapshot(name, snapshot)

    try:
        take()
    except Exists:
        # The leftover of a killed run: its definition was replaced before.
        controller.delete_snapshot(name, snapshot)
        take()


def _by_linstor(world: World, controller: Controller, source: Definition, wanted: Wanted) -> Volume:
    marks = volumes.birth_marks(world, controller, wanted)
    inherited = volumes.inherited(source, marks)
    with world.undo.by(wanted.name, _discard_clone, world, controller, source, wanted.name):
        controller.clone(source.name, wanted.name, wanted.settings, marks, inherited)
    # Beyond the take-back's block: that these are refused does not mean that there is no clone.
    if not controller.clones_marked():
        controller.mark(wanted.name, marks, clear=inherited)
    controller.await_clone(source.name, wanted.name, source.size or Kib(0))
    return _grown(controller, source, wanted)


def _discard_clone(world: World, controller: Controller, source: Definition, name: str) -> None:
    """Take back a clone of this run, also one that it could not mark; the name was free when the run began."""
    found = controller.definitions([name]).get(name)
    unmarked = found is not None and not controller.clones_marked() and placement.unmarked_clone(found, source)
    if unmarked or placement.made_by(found, world.run):
        volumes.delete_when_closed(world, controller, name)


def _grown(controller: Controller, source: Definition, wanted: Wanted) -> Volume:
    """Return the copy, as large as it is wanted: restored and cloned volumes have their source's size."""
    volume = volumes.look(controller, wanted.name, wanted.settings, wanted.size)
    if source.size is not None and wanted.size > source.size:
        group = wanted.settings.resource_group or source.group
        controller.resize(source._replace(name=wanted.name, group=group), volume.replicas, wanted.size)
    return volume
