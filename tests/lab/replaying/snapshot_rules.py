"""Snapshots after they were taken, removed, gone back to or merged, of VM disks and of images."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from lab.oned import answers
from lab.replaying import facts
from lab.replaying.case import Case, attached_to, holds_content, kept, still
from lab.replaying.disk_rules import disk_of
from lab.replaying.snapshot import Definition

SIZE_FOLLOWS = (6, 8, 3)
"""From this release on oned takes the snapshot's size for the disk's when the disk is reverted."""
_OURS = re.compile(r"snapshot-\d+")


def snap_create(case: Case) -> None:
    case.read(answers.read_nothing)
    name, number = disk_definition(case), int(case.call.argv[1])
    case.nothing_else_changed([name])
    before = case.before.definitions[name]
    after = kept(case, name, ("size", "replicas", "flags", "dual"))
    if after is None:
        return
    attached_to(case, name, before.attached)
    _has_snapshots(case, name, after, before.snapshots | {f"snapshot-{number}"})
    quiet(case, name)
    missing = case.world.linstor.snapshot_missing(name, f"snapshot-{number}")
    case.unless(not missing, f"snapshot-{number} of {name} {missing}")
    size = after.props.get(f"Aux/one/SNAPSHOT_{number}/DISK_SIZE", "")
    case.unless(size.isdigit(), f"{name} says {size!r} KiB for snapshot {number}")
    _has_props(case, name, {**after_mark(number, after.props), **_without(before.props, [number])})
    still(case, name)
    case.world.remember_snapshot(name, number)


def quiet(case: Case, name: str) -> None:
    """A moment of a running guest's disk is kept only while the guest is frozen or suspended."""
    case.unless(name not in case.world.loud, f"{name} was copied at a moment when its guest could write")


def after_mark(number: int, props: Mapping[str, str]) -> dict[str, str]:
    """Return the properties that tell of one snapshot."""
    return {key: value for key, value in props.items() if key.startswith(f"Aux/one/SNAPSHOT_{number}/")}


def snap_delete(case: Case) -> None:
    case.read(answers.read_nothing)
    name, number = _subject(case)
    case.nothing_else_changed([name])
    before = case.before.definitions[name]
    after = kept(case, name, ("size", "replicas", "flags", "dual"))
    if after is None:
        return
    attached_to(case, name, before.attached)
    _has_snapshots(case, name, after, before.snapshots - {f"snapshot-{number}"})
    _has_props(case, name, _without(before.props, [number]))
    still(case, name)
    case.world.snapped.pop((name, number), None)


def snap_revert(case: Case) -> None:
    case.read(answers.read_nothing)
    name, number = _subject(case)
    before = case.before.definitions[name]
    _went_back(case, name, number)
    after = case.after.definitions.get(name)
    if after:
        _has_snapshots(case, name, after, before.snapshots)
        _has_props(case, name, before.props)


def snap_flatten(case: Case) -> None:
    case.read(answers.read_nothing)
    name, number = _subject(case)
    before = case.before.definitions[name]
    _went_back(case, name, number)
    after = case.after.definitions.get(name)
    if after:
        _has_snapshots(case, name, after, (one for one in before.snapshots if not _OURS.fullmatch(one)))
        numbers = [int(one.rpartition("-")[2]) for one in before.snapshots if _OURS.fullmatch(one)]
        # Until it has snapshots again, an image says to which one it was flattened.
        flat = {"Aux/one/FLATTENED": str(number)}
        _has_props(case, name, {**_without(before.props, numbers), **flat})


def _went_back(case: Case, name: str, number: int) -> None:
    """The volume holds what the snapshot holds, and is reached as before.

    LINSTOR's own rollback turns the tiebreaker into a plain attachment, which harms nobody.
    """
    case.nothing_else_changed([name])
    before = case.before.definitions[name]
    after = kept(case, name, ("replicas", "flags", "dual"))
    if after is None:
        return
    attached_to(case, name, before.attached, before.tiebreakers)
    content, size = case.world.snapped.get((name, number), (None, before.size))
    holds_content(case, name, content)
    least = size if case.outcome.release.number >= SIZE_FOLLOWS or case.call.kind == "ds" else _disk_kib(case, size)
    right = min(least, size) <= after.size <= max(before.size, least) and after.size >= least
    case.unless(right, f"{name} has {after.size} KiB, had {before.size}, the snapshot {size}, the disk {least}")
    stack = case.world.linstor.stack_trouble(name)
    case.unless(not stack, f"{name} {stack}")


def _disk_kib(case: Case, otherwise: int) -> int:
    _, disk = disk_of(case, facts.places(case.call)[0])
    return disk.size << 10 if disk and disk.size else otherwise


def disk_definition(case: Case) -> str:
    """Return the definition of the disk that a transfer action names."""
    _, disk = disk_of(case, facts.places(case.call)[0])
    return disk.definition if disk else ""


def _subject(case: Case) -> tuple[str, int]:
    """Return the definition and the number of the snapshot that the call is about."""
    if case.call.kind == "ds":
        image = facts.image_of(case.call)
        return facts.definition_of(image.source), image.target if image.target is not None else -1
    return disk_definition(case), int(case.call.argv[1])


def _has_snapshots(case: Case, name: str, after: Definition, wanted: Iterable[str]) -> None:
    found, expected = sorted(after.snapshots), sorted(wanted)
    case.unless(found == expected, f"{name} has the snapshots {found}, not {expected}")


def _has_props(case: Case, name: str, wanted: Mapping[str, str]) -> None:
    found = case.after.definitions[name].props
    taken_back = name in case.world.lost and found.items() <= wanted.items()
    case.unless(dict(found) == dict(wanted) or taken_back, f"{name} has the properties {dict(found)}, not {wanted}")


def _without(props: Mapping[str, str], numbers: Iterable[int]) -> dict[str, str]:
    starts = tuple(f"Aux/one/SNAPSHOT_{number}/" for number in numbers)
    return {key: value for key, value in props.items() if not key.startswith(starts)}
