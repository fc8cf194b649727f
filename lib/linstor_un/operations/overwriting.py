"""The content of a snapshot is written over its volume, where LINSTOR's rollback would not do.

BEFORE    a snapshot of now, `before-revert`; `STATE=reverting`; the VM's link goes: nobody may use a half of each
COPY      the snapshot, restored as a volume of its own, is copied over this one, zeroes and all
AFTER     what was restored goes, the link is back, the snapshot of before goes, then STATE
FAILED    back to the snapshot of before
KILLED    the state stays, so that a rerun begins again, with the first run's snapshot of before to fall back to

Volumes that are written over together go back together: once the first snapshot of before is gone, none goes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from .. import placement
from ..errors import Failed
from ..inventory import DRBD, STORAGE, Snapshot
from ..naming import BEFORE_REVERT, REVERTING, STATE
from ..units import bytes_from_kib
from ..world import Controller, World
from . import attachments, contents, host_files, restored, rollbacks, snapshots, volumes
from .contents import Device
from .rollbacks import Subject
from .volumes import Volume, Wanted


class Over(NamedTuple):
    """A volume that is written over. Arguments: known, the snapshots that it had."""

    controller: Controller
    subject: Subject
    volume: Volume
    known: Sequence[Snapshot]

    @property
    def interrupted(self) -> bool:
        """An earlier run began to write over it, and did not come to its end."""
        return self.subject.disk.props.get(STATE) == REVERTING

    @property
    def ended(self) -> bool:
        """That run had written all, and lost its way back."""
        return self.interrupted and not any(snapshot.name == BEFORE_REVERT for snapshot in self.known)


def overwrite(
    world: World, controller: Controller, subject: Subject, volume: Volume, known: Sequence[Snapshot], target: Snapshot
) -> None:
    """Write a snapshot over its closed volume. Arguments: known, the snapshots that there are."""
    one = Over(controller, subject, volume, known)
    begin(world, [one], 0)
    _write_over(world, controller, subject, volume, target)
    world.undo.give_back()
    end(world, [one])


def begin(world: World, together: Sequence[Over], number: int) -> None:
    """Keep what a closed volume holds, to fall back to, and take it from its VM: something is written over it now.

    Arguments: together, what is written over for one purpose; number, which of them begins. They begin in this order.
    """
    one = together[number]
    subject, begun = one.subject, together[: number + 1]
    _keep_what_is(world, one, of_before=one.interrupted and not any(each.ended for each in together))
    with world.undo.by(f"content and marks of {subject.name}", _put_back, world, one, begun):
        one.controller.mark(subject.name, {STATE: REVERTING})
    if subject.place:
        host_files.unlink(world, subject.place.host, subject.place.path)


def end(world: World, together: Sequence[Over]) -> None:
    """The volumes are whole: let the VM have them again, and the state go last."""
    for one in together:
        _link(world, one)
    for one in together:
        one.controller.delete_snapshot(one.subject.name, BEFORE_REVERT)
    for one in together:
        _mark(one, {**one.subject.marks, **one.subject.reached})


def require_return(together: Sequence[Over]) -> None:
    """Raise Failed when what is written over together must not go back to what it was any more."""
    for one in together:
        if snapshots.named(one.controller, one.subject.name, BEFORE_REVERT) is None:
            raise Failed("its new content is complete, but not all was tidied up; repeat what failed")


def _keep_what_is(world: World, one: Over, of_before: bool) -> None:
    """Have a snapshot of before to fall back to. Arguments: of_before, whether one that is there is of that time."""
    controller, name = one.controller, one.subject.name
    left = any(snapshot.name == BEFORE_REVERT for snapshot in one.known)
    if left and not of_before:
        controller.delete_snapshot(name, BEFORE_REVERT)
    with world.undo.by(f"snapshot {BEFORE_REVERT} of {name}", _forget, controller, name):
        if not (left and of_before):
            controller.snapshot(name, BEFORE_REVERT)


def _forget(controller: Controller, name: str) -> None:
    """Delete the snapshot of before, but not where it is needed still."""
    found = controller.definitions([name]).get(name)
    needed = found is not None and found.props.get(STATE) == REVERTING
    if needed and snapshots.named(controller, name, BEFORE_REVERT) is not None:
        raise Failed("kept to fall back to; repeat what failed")
    controller.delete_snapshot(name, BEFORE_REVERT)


def _put_back(world: World, one: Over, begun: Sequence[Over]) -> None:
    """Bring what was before back. A rollback that may lose it, or would forget layers, is not used for it either."""
    require_return(begun)
    controller, subject, volume = one.controller, one.subject, one.volume
    known = controller.snapshots(subject.name)
    whole = not controller.rolls_back_to_any() or volume.layers == (DRBD, STORAGE)
    if whole and controller.rolls_back_safely():
        rollbacks.exchange(world, controller, volume, BEFORE_REVERT)
        rollbacks.settle(world, controller, subject, volume, known)
    else:
        before = next(snapshot for snapshot in known if snapshot.name == BEFORE_REVERT)
        _write_over(world, controller, subject, volume, before)
    tidy(world, one)


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


def tidy(world: World, one: Over) -> None:
    """End what an interrupted `overwrite` began, when the volume is what it was again."""
    volumes.clear_restored(world, one.controller, one.subject.name)
    _link(world, one)
    one.controller.delete_snapshot(one.subject.name, BEFORE_REVERT)
    _mark(one, {})


def _link(world: World, one: Over) -> None:
    place = one.subject.place
    if place:
        host_files.link(world, place.host, place.directory, one.volume.device(place.host), place.path)


def _mark(one: Over, marks: Mapping[str, str]) -> None:
    old = [key for key in one.subject.foreign if key in one.subject.disk.props]
    one.controller.mark(one.subject.name, marks, clear=[STATE, *old])
