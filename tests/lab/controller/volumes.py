"""The bytes behind the simulated controller: what a satellite does to disks, as one small Protocol.

The controller model decides what exists where; an implementation of `Volumes` makes it exist. A `Content`
names one sequence of bytes. Replicas under DRBD share one content, so its `node` is empty; replicas of a
stack without DRBD are unrelated volumes, so each node has its own content.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Optional, Protocol


@dataclass(frozen=True)
class Content:
    """One sequence of bytes. `resource` keeps the spelling of its creation; `node` is "" when DRBD shares it."""

    resource: str
    number: int
    node: str = ""


class Opening(Enum):
    """How a device is held open on a node, by anything outside the simulator."""

    NO = "no"
    READ = "ro"
    WRITE = "rw"


class Volumes(Protocol):
    """What satellites do to volumes. All sizes are bytes. Calls come under the simulator's lock, one at a time.

    Every method raises OSError when the work cannot be done; the simulator then answers as a failed satellite.
    """

    def create(self, content: Content, size: int) -> None:
        """Make a new content of `size` bytes that reads as zeroes."""

    def resize(self, content: Content, size: int) -> None:
        """Cut or extend the content; new bytes read as zeroes and open devices see the new size."""

    def delete(self, content: Content) -> None:
        """Remove the bytes, even while a device of it is open (FILE providers do so); its snapshots stay."""

    def snapshot(self, content: Content, name: str) -> None:
        """Keep the present bytes under `name`; a content never has two snapshots of one name."""

    def delete_snapshot(self, content: Content, name: str) -> None:
        """Forget a snapshot; contents restored from it are not touched. The content itself may be gone."""

    def restore(self, source: Content, name: str, target: Content) -> None:
        """Make `target` a new independent content with the bytes and the size of snapshot `name` of `source`."""

    def rollback(self, content: Content, name: str) -> None:
        """Put the bytes and the size of the snapshot back in place; the content may be attached, or gone."""

    def clone(self, source: Content, target: Content) -> None:
        """Make `target` a new independent content with the present bytes and size of `source`."""

    def attach(self, content: Content, node: str, device: Optional[str]) -> str:
        """Show the content as a device on `node` and return its path there.

        `device` is the wanted path ("/dev/drbd1000": then also /dev/drbd/by-res/<resource>/<number> is to lead
        to it), or None where the provider chooses (loop devices). Attaching twice returns the same path.
        """
        ...

    def detach(self, content: Content, node: str) -> None:
        """Take the device away from `node`, whoever has it open; the bytes stay. Not attached: nothing to do."""

    def opening(self, content: Content, node: str) -> Opening:
        """Tell how the device on `node` is held open now (WRITE wins over READ)."""
        ...


class NoVolumes:
    """Volumes without bytes: sizes and one short text a content, for tests of the controller alone."""

    def __init__(self) -> None:
        self.sizes: dict[Content, int] = {}
        self.texts: dict[Content, str] = {}
        self.devices: dict[tuple[Content, str], str] = {}
        self._snapshots: dict[tuple[Content, str], tuple[int, str]] = {}
        self._loops: set[int] = set()

    def create(self, content: Content, size: int) -> None:
        self.sizes[content] = size
        self.texts[content] = ""

    def resize(self, content: Content, size: int) -> None:
        self.sizes[content] = size
        self.texts[content] = self.texts[content] if size else ""

    def delete(self, content: Content) -> None:
        for key in [key for key in self.devices if key[0] == content]:
            self.detach(*key)
        self.sizes.pop(content, None)
        self.texts.pop(content, None)

    def snapshot(self, content: Content, name: str) -> None:
        self._snapshots[content, name] = (self.sizes[content], self.texts[content])

    def delete_snapshot(self, content: Content, name: str) -> None:
        self._snapshots.pop((content, name), None)

    def restore(self, source: Content, name: str, target: Content) -> None:
        self.sizes[target], self.texts[target] = self._snapshots[source, name]

    def rollback(self, content: Content, name: str) -> None:
        self.sizes[content], self.texts[content] = self._snapshots[content, name]

    def clone(self, source: Content, target: Content) -> None:
        self.sizes[target], self.texts[target] = self.sizes[source], self.texts[source]

    def attach(self, content: Content, node: str, device: Optional[str]) -> str:
        key = (content, node)
        if key not in self.devices:
            self.devices[key] = device or self._free_loop()
        return self.devices[key]

    def detach(self, content: Content, node: str) -> None:
        path = self.devices.pop((content, node), "")
        if path.startswith("/dev/loop"):
            self._loops.discard(int(path[len("/dev/loop"):]))

    def opening(self, content: Content, node: str) -> Opening:
        return Opening.NO

    def write(self, content: Content, text: str) -> None:
        """Let the first bytes of the content be `text`, as a guest would write them."""
        self.texts[content] = text

    def read(self, content: Content) -> str:
        """Return what `write` put there, "" for a content never written."""
        return self.texts[content]

    def _free_loop(self) -> str:
        number = 0
        while number in self._loops:
            number += 1
        self._loops.add(number)
        return f"/dev/loop{number}"
