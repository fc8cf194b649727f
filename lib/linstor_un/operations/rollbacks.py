"""LINSTOR's rollback of a volume, and everything but the bytes put in order again after it.

LINSTOR >= 1.31 brings the snapshot's properties back as well, makes the tiebreaker an ordinary attachment, and gives
the volume the snapshot's size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import NamedTuple, Optional

from .. import placement
from ..errors import DriverError, Failed, Uncertain
from ..inventory import Definition, Snapshot
from ..naming import AUX, RUN, STATE, DiskPlace, marked_snapshot, snapshot_number
from ..retry import until
from ..settings import Settings
from ..units import Kib
from ..world import Controller, World
from . import attachments, host_files, volumes
from .volumes import Volume


class Subject(NamedTuple):
    """A volume that goes back to a snapshot, and what has to be true of it afterwards.

    `disk` is its definition as it was read. `marks` are its owner's of today, `foreign` those it must not have: of
    a VM that had it earlier. `size` is the least that oned will take it for, in KiB. `place` is where the VM has it.
    `reached` are marks that say that it holds the snapshot: a take-back neither sets nor removes them.
    """

    disk: Definition
    settings: Settings
    marks: dict[str, str]
    foreign: tuple[str, ...]
    size: Kib
    place: Optional[DiskPlace] = None
    reached: Mapping[str, str] = MappingProxyType({})

    @property
    def name(self) -> str:
        """The definition's name."""
        return self.disk.name

    @property
    def host(self) -> str:
        """The VM's host, "" for an image that no VM has."""
        return self.place.host if self.place else ""


def roll_back(
    world: World, controller: Controller, subject: Subject, volume: Volume, known: Sequence[Snapshot], snapshot: str
) -> None:
    """Roll a closed volume back, and put the rest in order.

    Arguments: volume, as it was before; known, the snapshots that there are; snapshot, the name of the one to go to.
    """
    with world.undo.by(
        f"content and marks of {subject.name}", _tell, world, controller, subject, volume, known, snapshot
    ):
        exchange(world, controller, volume, snapshot)
    settle(world, controller, subject, volume, known, subject.reached)


def exchange(world: World, controller: Controller, volume: Volume, snapshot: str) -> None:
    """Let LINSTOR roll back, once more when nothing tells whether it did: it is the same then."""
    try:
        volumes.when_closed(world, lambda: controller.rollback(volume.name, snapshot, volume.replicas))
    except Uncertain as doubt:
        world.trail.info(f"{doubt}; rolling back once more")
        controller.rollback(volume.name, snapshot, volume.replicas)


def _tell(
    world: World, controller: Controller, subject: Subject, volume: Volume, known: Sequence[Snapshot], snapshot: str
) -> None:
    """Nothing takes a rollback back: let LINSTOR end, put the rest in order, and say what the volume may hold."""
    rest = ""
    try:
        until(world.clock, volumes.ROLLBACK_SECONDS, lambda: None if controller.rolling_back(subject.name) else True)
        settle(world, controller, subject, volume, known)
    except DriverError as error:
        rest = f"; {error}"
    raise Failed(f"they may be those of {snapshot} already; revert again{rest}")


def settle(
    world: World,
    controller: Controller,
    subject: Subject,
    before: Volume,
    known: Sequence[Snapshot],
    reached: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Put everything but the bytes as it was before a rollback. Raises Failed when a replica did not come back.

    Arguments: reached, marks to be set with that, of a volume that surely holds the snapshot.
    """
    after = volumes.look(controller, subject.name, subject.settings, before.size)
    lost = sorted(set(placement.holding(before.replicas)) - set(placement.holding(after.replicas)))
    if lost:
        raise Failed(
            f"{subject.name} is back at the snapshot, but its replica on {', '.join(lost)} did not come back; "
            f"place it again with `linstor resource create`"
        )
    _attach_again(world, controller, subject, before, after)
    now = volumes.defined(controller, subject.name)
    _mark_again(controller, subject, now, {**marks_of_today(subject, known), **reached})
    if now.size is not None and now.size < subject.size:
        controller.resize(now, after.replicas, subject.size)


def _attach_again(world: World, controller: Controller, subject: Subject, before: Volume, after: Volume) -> None:
    """Attach what was attached, the VM's host above all, and give LINSTOR its tiebreaker back.

    A rollback makes every former tiebreaker an ordinary attachment, and so does one that was interrupted.
    """
    attached = {replica.node for replica in before.replicas if replica.diskless and not replica.tiebreaker}
    for node in sorted({*attached, subject.host} - {""}):
        attachments.attach(world, controller, after, node)
    for replica in after.replicas:
        if not replica.diskless or replica.tiebreaker or replica.node == subject.host:
            continue
        former = before.on(replica.node)
        if (former is not None and former.tiebreaker) or _unused(world, after, replica.node):
            controller.release(after.name, replica.node)


def _unused(world: World, volume: Volume, node: str) -> bool:
    """Return whether certainly no VM on a node has a link to the volume, and no copy has it borrowed there."""
    with suppress(DriverError), world.locks.share(attachments.attachment_lock(volume.name, node)) as lock:
        return lock.alone() and not host_files.linked(world, node, volume.device(node))
    return False


def _mark_again(controller: Controller, subject: Subject, now: Definition, wanted: Mapping[str, str]) -> None:
    """Write today's marks over those that a rollback brought back, in one request where there is a difference."""
    found = {key: value for key, value in now.props.items() if key.startswith(AUX) and key != STATE}
    changed = {key: value for key, value in wanted.items() if found.get(key) != value}
    gone = [key for key in found if key not in wanted and key not in subject.reached]
    if changed or gone:
        controller.mark(now.name, changed, clear=gone)


def marks_of_today(subject: Subject, known: Sequence[Snapshot]) -> dict[str, str]:
    """Return the marks that a volume has to have: as they were read, without those of snapshots that are gone.

    After an interrupted rollback they were read too late, and those of an earlier VM are among them. The state is not:
    who sets it ends it.
    """
    numbers = {None, *(snapshot_number(one.name) for one in known)}
    kept = {
        key: value
        for key, value in subject.disk.props.items()
        if key.startswith(AUX)
        and key not in (STATE, RUN, *subject.foreign, *subject.reached)
        and marked_snapshot(key) in numbers
    }
    return {**kept, **subject.marks}
