"""What an image, or the datastore, looks like after each datastore action."""

from __future__ import annotations

from collections.abc import Collection
from typing import Optional

from lab.oned import answers
from lab.replaying import facts
from lab.replaying.case import FILE_SYSTEMS, Case, complete, gone, holds, holds_content, only_snapshot_of, still
from lab.replaying.contents import EMPTY


def stat(case: Case) -> None:
    size = case.read(answers.read_stat)
    wanted = case.world.source_sizes[facts.image_of(case.call).path]
    case.unless(size in (None, wanted), f"says {size} MiB, the source has {wanted}")
    case.nothing_else_changed()


def cp(case: Case) -> None:
    image = facts.image_of(case.call)
    stored = case.read(answers.read_cp)
    name = f"one-image-{image.number}"
    wanted = answers.Stored(f"/dev/drbd/by-res/{name}/0", "raw" if case.outcome.release.has_image_format else "")
    case.unless(stored in (None, wanted), f"oned reads {stored}")
    size = max(image.size, case.world.source_sizes[image.path])
    _new_image(case, name, size, case.world.source_fingerprints[image.path])


def mkfs(case: Case) -> None:
    image = facts.image_of(case.call)
    stored = case.read(answers.read_mkfs)
    name = f"one-image-{image.number}"
    case.unless(stored in (None, answers.Stored(f"/dev/drbd/by-res/{name}/0")), f"oned reads {stored}")
    if image.save_as:
        case.nothing_else_changed()
        return
    kind = image.fs if image.fs in FILE_SYSTEMS else ""
    _new_image(case, name, image.size, None if kind else EMPTY)
    if kind and name in case.after.definitions:
        holds(case, name, kind)


def clone(case: Case) -> None:
    image = facts.image_of(case.call)
    stored = case.read(answers.read_clone)
    name = f"one-image-{image.number}"
    case.unless(stored is None or getattr(stored, "source", "") == f"/dev/drbd/by-res/{name}/0", f"oned reads {stored}")
    source = facts.definition_of(image.path)
    _new_image(case, name, image.size, case.world.known.get(source), also=[source])
    only_snapshot_of(case, source, name, facts.datastore_of(case.call))
    still(case, source)


def _new_image(case: Case, name: str, size: int, content: Optional[str], also: Collection[str] = ()) -> None:
    """An image of at least `size` MiB is complete, attached nowhere, and its bytes are right."""
    case.nothing_else_changed([name, *also])
    datastore = facts.datastore_of(case.call)
    made = complete(case, name, size, datastore)
    if made:
        case.unless(not made.attached, f"{name} is still attached on {sorted(made.attached)}")
        holds_content(case, name, content)
        number = made.props.get("Aux/one/IMAGE_ID")
        case.unless(number == name.rpartition("-")[2], f"{name} is marked with IMAGE_ID {number}")


def rm(case: Case) -> None:
    case.read(answers.read_nothing)
    gone(case, facts.definition_of(facts.image_of(case.call).source))


def monitor(case: Case) -> None:
    values = case.read(answers.read_monitor)
    case.nothing_else_changed()
    if not isinstance(values, dict):
        return
    total, free, used = values["TOTAL_MB"], values["FREE_MB"], values["USED_MB"]
    case.unless(0 <= free <= total and total > 0, f"says total {total}, free {free}")
    case.unless(abs(total - free - used) <= 1, f"says total {total}, free {free}, used {used}")
    limit = case.world.linstor.capacity_mib(facts.datastore_of(case.call))
    case.unless(total <= limit + 1, f"says {total} MiB, after replication there are {limit}")
