"""One finished call between two moments, and what the rules of several actions look at."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Optional

from lab.oned.answers import CLOSE, OPEN, Misread, Outcome
from lab.oned.recordings import Call
from lab.replaying.facts import Datastore
from lab.replaying.snapshot import Definition, Snapshot, differences
from lab.replaying.world import World

FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "swap"}
_LOG = re.compile(r"(ERROR|INFO|WARN|DEBUG): ")


@dataclass
class Case:
    """One finished call between two moments; complaints gather in `wrong`."""

    world: World
    call: Call
    before: Snapshot
    after: Snapshot
    outcome: Outcome
    wrong: list[str]

    def unless(self, condition: object, complaint: str) -> bool:
        """Note the complaint unless the condition holds; returns whether it does."""
        if not condition:
            self.wrong.append(complaint)
        return bool(condition)

    def nothing_else_changed(
        self, definitions: Collection[str] = (), files: Collection[tuple[str, str]] = (), guests: Collection[str] = (),
    ) -> None:
        """Note everything that changed beside the definitions, files and guests named."""
        seen = [place for host, path in files for place in self.world.everywhere(host, path)]
        seen += [place for place in self.world.left_behind if place not in self.after.files]
        self.wrong += differences(self.before, self.after, definitions, seen, guests)

    def read(self, reader: Callable[[Outcome], object]) -> object:
        """Return stdout as oned parses it, None (and a complaint) when it cannot."""
        try:
            return reader(self.outcome)
        except Misread as misread:
            self.wrong.append(f"stdout: {misread}")
            return None


def plain_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if not _LOG.match(line) and line not in (OPEN, CLOSE)]


def complete(case: Case, name: str, size: int, datastore: Datastore, count: int = 0) -> Optional[Definition]:
    """Check existence, size in MiB, replicas (`count`, or the datastore's), and that it is not marked as half-made."""
    made = case.after.definitions.get(name)
    if not case.unless(made, f"{name} does not exist") or made is None:
        return None
    case.unless(made.size >= size << 10, f"{name} has {made.size} KiB, asked for {size} MiB")
    case.unless("Aux/one/STATE" not in made.props, f"{name} is left in state {made.props.get('Aux/one/STATE')}")
    case.unless(not made.flags, f"{name} has flags {sorted(made.flags)}")
    count = count or case.world.replica_count(datastore)
    case.unless(len(made.replicas) == count, f"{name} has replicas on {sorted(made.replicas)}, wanted {count}")
    return made


def holds_content(case: Case, name: str, content: Optional[str]) -> None:
    """Compare the bytes with what is wanted (None: anything), and remember them."""
    found = case.world.linstor.fingerprint(name)
    case.unless(content in (None, found), f"{name} has not the right bytes")
    case.world.known[name] = found


AS_THEY_WERE = ("size", "replicas", "snapshots", "flags", "dual")


def kept(case: Case, name: str, fields: Collection[str] = AS_THEY_WERE) -> Optional[Definition]:
    """Check that a definition is there and that some of its fields are as they were; returns it as it is now.

    What a lost migration left may be taken back by any action: two primaries allowed, and marks that tell of it.
    """
    before, after = case.before.definitions[name], case.after.definitions.get(name)
    if not case.unless(after, f"{name} is gone") or after is None:
        return None
    for field in fields:
        was, now = getattr(before, field), getattr(after, field)
        taken_back = field == "dual" and name in case.world.lost and now < was
        case.unless(was == now or taken_back, f"{field} of {name} changed from {_words(was)} to {_words(now)}")
    return after


def _words(value: object) -> str:
    return str(sorted(value)) if isinstance(value, frozenset) else str(value)


def attached_to(case: Case, name: str, expected: Collection[str], free: Collection[str] = ()) -> None:
    """Check the nodes without data where a volume is attached, except those that are `free` to have it or not.

    A lost migration's attachments may have been given back.
    """
    after, wanted = case.after.definitions.get(name), frozenset(expected) - frozenset(free)
    spare = case.world.lost.get(name, frozenset())
    right = after is None or wanted - spare <= after.attached - frozenset(free) <= wanted
    case.unless(right, f"{name} is attached on {after and sorted(after.attached)}, not {sorted(wanted)}")


def let_go_of(case: Case, name: str, host: str, own: Collection[str], free: Collection[str] = ()) -> None:
    """Check that a host has a volume no more, unless another VM there uses it; attachments elsewhere stay.

    `free` are hosts that may have it or not.
    `own` are the paths of the VM's own links. A link in a directory that all hosts see does not tell where it is used.
    """
    before = case.before.definitions[name].attached
    others = [path for path in case.before.links_to(host, name) if path not in own]
    if any(len(case.world.everywhere(host, path)) == 1 for path in others):
        attached_to(case, name, before, free)
    else:
        attached_to(case, name, before - {host}, [*free, host] if others else free)


def still(case: Case, name: str) -> None:
    """A volume that was only read has the bytes it had."""
    case.unless(case.world.linstor.fingerprint(name) == case.world.known.get(name), f"the bytes of {name} changed")


def holds(case: Case, name: str, kind: str) -> None:
    found = case.world.signature(name)
    case.unless(found == kind, f"{name} holds {found or 'no file system'}, wanted {kind}")


def only_snapshot_of(case: Case, source: str, name: str, datastore: Datastore) -> None:
    """The image is as before; CLONE_MODE=snapshot may have left one snapshot named as the clone."""
    before, after = case.before.definitions[source], case.after.definitions.get(source)
    expected = before
    if datastore.template.get("CLONE_MODE") == "snapshot":
        expected = replace(before, snapshots=before.snapshots | {name})
    case.unless(after in (before, expected), f"image {source} changed from {before} to {after}")


def gone(case: Case, *names: str, files: Collection[tuple[str, str]] = ()) -> None:
    for name in names:
        case.unless(name not in case.after.definitions, f"{name} is still there")
        case.world.known.pop(name, None)
    case.nothing_else_changed(names, files)
