"""The state of a world at one moment, and the differences between two moments in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Definition:
    """A resource definition as an operator sees it: size in KiB of volume 0, nodes with data and nodes without.

    `dual` are the pairs of nodes ("node1 node2") that may both write, as configured or as DRBD still has it.
    Tiebreakers are told but not compared: LINSTOR makes and drops them by itself.
    """

    size: int
    props: Mapping[str, str]
    replicas: frozenset[str]
    attached: frozenset[str]
    snapshots: frozenset[str]
    flags: frozenset[str]
    dual: frozenset[str] = frozenset()
    tiebreakers: frozenset[str] = field(default=frozenset(), compare=False)

    @property
    def nodes(self) -> frozenset[str]:
        """The nodes where the device is there for a VM."""
        return self.replicas | self.attached


@dataclass(frozen=True)
class Snapshot:
    """All definitions by name, and all that lies below the watched directories by (host, path).

    An entry is "directory", "link TARGET" or "file SIZE MODE", with a digest when the file is small.
    """

    definitions: Mapping[str, Definition]
    files: Mapping[tuple[str, str], str]
    guests: Mapping[str, str] = field(default_factory=dict)
    """The domains by name: "running on node1" and the like."""

    def links_to(self, host: str, definition: str) -> list[str]:
        """Return the paths on a host that are links to a definition's device."""
        return [path for (where, path), entry in self.files.items() if where == host and entry == link_to(definition)]

    def below(self, host: str, path: str) -> dict[str, str]:
        """Return the entries below a directory of a host, by their path relative to it."""
        start = path + "/"
        return {place[len(start):]: entry for (where, place), entry in self.files.items()
                if where == host and place.startswith(start)}


def link_to(definition: str) -> str:
    """Return the entry of a link to a definition's device."""
    return f"link /dev/drbd/by-res/{definition}/0"


def differences(
    before: Snapshot, after: Snapshot, definitions: Collection[str] = (), files: Collection[tuple[str, str]] = (),
    guests: Collection[str] = (),
) -> list[str]:
    """Return a sentence for everything that changed, except the definitions, files and guests named."""
    found = []
    for name in sorted({*before.definitions, *after.definitions} - set(definitions)):
        old, new = before.definitions.get(name), after.definitions.get(name)
        if old is None or new is None:
            found.append(f"{name} {'appeared' if old is None else 'is gone'}")
        elif old != new:
            found.append(f"{name} changed: {_changes(old, new)}")
    for place in sorted({*before.files, *after.files} - set(files)):
        was, now = before.files.get(place), after.files.get(place)
        if was != now:
            found.append(f"{place[0]}:{place[1]} was {was or 'not there'}, is {now or 'not there'}")
    for name in sorted({*before.guests, *after.guests} - set(guests)):
        was, now = before.guests.get(name), after.guests.get(name)
        if was != now:
            found.append(f"the guest {name} was {was or 'not there'}, is {now or 'not there'}")
    return found


def _changes(old: Definition, new: Definition) -> str:
    parts = []
    for name in ("size", "props", "replicas", "attached", "snapshots", "flags", "dual"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            parts.append(f"{name} {_text(was)} -> {_text(now)}")
    return ", ".join(parts)


def _text(value: object) -> str:
    return str(sorted(value)) if isinstance(value, frozenset) else str(value)
