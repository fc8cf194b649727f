"""The content of a snapshot is written over its volume, where LINSTOR's rollback would not do.

BEFORE    a snapshot of now, `before-revert`; `STATE=reverting`; the VM's link goes: nobody may use a half of each
COPY      the snapshot, restored as a volume of its own, is copied over this one, zeroes and all
AFTER     what was restored goes, the link is back, the snapshot of before goes, then STATE
FAILED    back to the snapshot of before
KILLED    the state stays, so that a rerun begins again, with the first run's snapshot of before to fall back to
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from .. import placement
from ..errors import Failed
from ..inventory import DRBD, STORAGE, Snapshot
from ..naming import BEFORE_REVERT, REVERTING, STATE
from ..units import bytes_from_kib
from ..world import Controller, World
from . import attachments, contents, host_files, restored, rollbacks, volumes
from .contents import Device
from .rollbacks import Subject
from .volumes import Volume, Wanted


def overwrite(
    world: World, controller: Controller, subject: Subject, volume: Volume, known: Sequence[Snapshot], target: Snapshot
) -> None:
    """Write a snapshot over its closed volume. Arguments: known, the snapshots that there are."""
    begin(world, controller, subject, volume, known)
    _write_over(world, controller, subject, volume, target)
    world.undo.give_back()
    end(world, controller, subject, volume, {**subject.marks, **subject.reached})


def begin(
    world: World, controller: Controller, subject: Subject, volume: Volume, known: Sequence[Snapshot]
) -> None:
    """Keep what a closed volume holds, to fall back to, and take it from its VM: something is written over it now."""
    interrupted = subject.disk.props.get(STATE) == REVERTING
    _keep_what_is(world, controller, subject.name, known, interrupted)
    with world.undo.by(f"content and marks of {subject.name}", _put_back, world, controller, subject, volume):
        controller.mark(subject.name, {STATE: REVERTING})
    if subject.place:
        host_files.unlink(world, subject.place.host, subject.place.path)


def end(world: World, controller: Controller, subject: Subject, volume: Volume, marks: Mapping[str, str]) -> None:
    """The volume is whole: let the VM have it again, and the state go last. Arguments: marks, to be set with that."""
    if subject.place:
        place = subject.place
        host_files.link(world, place.host, place.directory, volume.device(place.host), place.path)
    controller.delete_snapshot(subject.name, BEFORE_REVERT)
    old = [key for key in subject.foreign if key in subject.disk.props]
    controller.mark(subject.name, marks, clear=[STATE, *old])


def _keep_what_is(
    world: World, controller: Controller, name: str, known: Sequence[Snapshot], interrupted: bool
) -> None:
    """Have a snapshot of before to fall back to. An interrupted run's is of before; the volume is not any more."""
    left = any(one.name == BEFORE_REVERT for one in known)
    if left and not interrupted:
        controller.delete_snapshot(name, BEFORE_REVERT)
    with world.undo.by(f"snapshot {BEFORE_REVERT} of {name}", _forget, controller, name):
        if not (left and interrupted):
            controller.snapshot(name, BEFORE_REVERT)


def _forget(controller: Controller, name: str) -> None:
    """Delete the snapshot of before, but not where it is needed still."""
    found = controller.definitions([name]).get(name)
    if found is not None and found.props.get(STATE) == REVERTING:
        raise Failed("kept to fall back to; repeat what failed")
    controller.delete_snapshot(name, BEFORE_REVERT)


def _put_back(world: World, controller: Controller, subject: Subject, volume: Volume) -> None:
    """Bring what was before back. A rollback that would forget layers is not used for it either."""
    known = controller.snapshots(subject.name)
    before = next((one for one in known if one.name == BEFORE_REVERT), None)
    if before is None:
        raise Failed("its new content is complete, but not all was tidied up; repeat what failed")
    if not controller.rolls_back_to_any() or volume.layers == (DRBD, STORAGE):
        rollbacks.exchange(world, controller, volume, BEFORE_REVERT)
        rollbacks.settle(world, controller, subject, volume, known)
    else:
        _write_over(world, controller, subject, volume, before)
    end(world, controller, subject, volume, {})


def _write_over(world: World, controller: Controller, subject: Subject, volume: Volume, snapshot: Snapshot) -> None:
    then = volume._replace(size=snapshot.size or volume.size)
    wanted = Wanted(subject.name, then.size, subject.settings, {})
    source = restored.lend(world, controller, subject.disk, then, snapshot.name, wanted)
    length = bytes_from_kib(source.size)
    target = bytes_from_kib(volume.size)
    if not volume.replicated:
        for node in placement.holding(volume.replicas):
            origin = node if source.on(node) else placement.holding(source.replicas)[0]
            contents.copy_device(
                world, Device(origin, source.device(origin), length), Device(node, volume.device(node), target)
            )
        return
    bridge = attachments.choose_bridge(world, controller, subject.settings, [source, volume], subject.host).name
    with attachments.borrowed(world, controller, source, bridge) as origin:
        with reached(world, controller, volume, bridge, subject.host) as device:
            contents.copy_device(world, Device(bridge, origin, length), Device(bridge, device, target))


@contextmanager
def reached(world: World, controller: Controller, volume: Volume, node: str, host: str) -> Iterator[str]:
    """Reach the volume from a node; its attachment on the VM's own host is not given back, though its link is gone."""
    here = volume.on(node)
    if node == host and here is not None and here.usable:
        yield volume.device(node)
        return
    with attachments.borrowed(world, controller, volume, node) as device:
        yield device


def tidy(world: World, controller: Controller, subject: Subject, volume: Volume) -> None:
    """End what an interrupted `overwrite` began, when the volume is whole again."""
    volumes.clear_restored(world, controller, subject.name)
    end(world, controller, subject, volume, {})
