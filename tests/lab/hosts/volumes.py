"""The bytes of a simulated cluster: sparse files in memory, shown to the hosts as block devices.

What is behind DRBD is one file for all nodes; what is not is a file for each node. Every node's pool, and the
one of DRBD, is a tmpfs of its own, so that a pool can be full: then writes really fail, in the middle of a copy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Optional

from lab.controller.volumes import Content, Opening
from lab.hosts import account, facts, isolation, kernel, openers
from lab.hosts.isolation import BASE, MARK
from lab.hosts.loop import LoopDevice
from lab.hosts.nodes import Hosts

SHARED = "drbd"
_DIRT = b"left over from somebody else. "


class FileVolumes:
    """Volumes as plain files, for a user who has neither loop devices nor hosts.

    Arguments:
        directory: where the files go; one directory for each pool is made below it.
        grain, extra: a volume is made larger than asked for, as thin pools and DRBD do: rounded up to `grain`
            bytes, and `extra` bytes more.
        dirty: new volumes hold somebody's old bytes instead of zeroes, as on a thick LVM pool.
    """

    def __init__(self, directory: Path, grain: int = 4 << 20, extra: int = 64 << 10, dirty: bool = False) -> None:
        self.directory = directory
        self.dirty = dirty
        self._grain = grain
        self._extra = extra
        self._attached: dict[tuple[Content, str], str] = {}

    def create(self, content: Content, size: int) -> None:
        path = self._new_file(content)
        with open(path, "xb") as file:
            file.truncate(self._real(size))
            if self.dirty:
                _spoil(file.fileno(), self._real(size))

    def resize(self, content: Content, size: int) -> None:
        os.truncate(self.file(content), self._real(size))

    def delete(self, content: Content) -> None:
        for held, node in list(self._attached):
            if held == content:
                self.detach(held, node)
        self.file(content).unlink(missing_ok=True)

    def snapshot(self, content: Content, name: str) -> None:
        _copy_sparse(self.file(content), self._snapshot_file(content, name))

    def delete_snapshot(self, content: Content, name: str) -> None:
        self._snapshot_file(content, name).unlink()

    def restore(self, source: Content, name: str, target: Content) -> None:
        _copy_sparse(self._snapshot_file(source, name), self._new_file(target))

    def rollback(self, content: Content, name: str) -> None:
        _copy_sparse(self._snapshot_file(content, name), self._new_file(content), replace=True)

    def clone(self, source: Content, target: Content) -> None:
        _copy_sparse(self.file(source), self._new_file(target))

    def attach(self, content: Content, node: str, device: Optional[str]) -> str:
        self.file(content).stat()
        return self._attached.setdefault((content, node), device or f"/dev/lab/{content.resource}_{content.number}")

    def detach(self, content: Content, node: str) -> None:
        self._attached.pop((content, node), None)

    def opening(self, content: Content, node: str) -> Opening:
        """Tell who of this machine has the file open; there are no hosts to tell apart, so `node` only must see it."""
        if (content, node) not in self._attached:
            return Opening.NO
        with contextlib.suppress(FileNotFoundError):
            return openers.of_file(self.file(content))
        return Opening.NO

    def file(self, content: Content) -> Path:
        """Return the file behind a content. Read it through `settled`: a device may hold newer bytes."""
        return self._folder(content.node) / f"{content.resource}_{content.number:05d}"

    def settled(self, content: Content) -> Path:
        """Return the file behind a content with every byte in it that was written to its devices."""
        return self.file(content)

    def devices(self) -> dict[tuple[Content, str], str]:
        """Return what is attached where: (content, node) -> path of the device on that node."""
        return dict(self._attached)

    def fill(self, content: Content, seed: str, size: int) -> None:
        """Write `size` bytes of the pattern of `seed` at the start of a content, as a guest would."""
        facts.fill(self.settled(content), seed, size)

    def _folder(self, node: str) -> Path:
        return self.directory / (node or SHARED)

    def _new_file(self, content: Content) -> Path:
        self._folder(content.node).mkdir(parents=True, exist_ok=True)
        return self.file(content)

    def _snapshot_file(self, content: Content, name: str) -> Path:
        path = self.file(content)
        return path.with_name(f"{path.name}@{name}")

    def _real(self, size: int) -> int:
        return -(-size // self._grain) * self._grain + self._extra


class LoopVolumes(FileVolumes):
    """Volumes as loop devices, each visible on the hosts it is attached to and nowhere else.

    A DRBD device is /dev/drbdN with its link below /dev/drbd/by-res; both belong to root:disk with mode 0660.

    Arguments:
        directory: where the pools are mounted; None for a place that vanishes with the lab.
        hosts: the hosts that show the devices; a node of another name has none.
        grain, extra, dirty: as for FileVolumes.
    """

    def __init__(
        self, directory: Optional[Path], hosts: Hosts, grain: int = 4 << 20, extra: int = 64 << 10, dirty: bool = False
    ) -> None:
        isolation.enter()
        super().__init__(directory or BASE / "volumes", grain, extra, dirty)
        self._hosts = hosts
        self._loops: dict[Content, LoopDevice] = {}
        self._limits: dict[str, int] = {}
        self._refused: set[Content] = set()
        self._seen: Optional[dict[str, dict[int, Opening]]] = None
        self._nodes = BASE / "loops"
        self._nodes.mkdir(exist_ok=True)

    def resize(self, content: Content, size: int) -> None:
        # what a device holds beyond the new end must not come back from its memory later
        self.settled(content)
        super().resize(content, size)
        if content in self._loops:
            self._loops[content].take_size()

    def delete(self, content: Content) -> None:
        if content in self._refused:
            # the loop device's number will be another volume's
            self.only_open_on(content)
        super().delete(content)
        loop = self._loops.pop(content, None)
        if loop is not None:
            loop.close()

    def snapshot(self, content: Content, name: str) -> None:
        self.settled(content)
        super().snapshot(content, name)

    def rollback(self, content: Content, name: str) -> None:
        self.settled(content)
        super().rollback(content, name)
        if content in self._loops:
            self._loops[content].take_size()

    def clone(self, source: Content, target: Content) -> None:
        self.settled(source)
        super().clone(source, target)

    def attach(self, content: Content, node: str, device: Optional[str]) -> str:
        if (content, node) in self._attached:
            return self._attached[content, node]
        directory = self._hosts.device_directory(node)
        loop = self._loops.get(content) or LoopDevice(self.file(content), self._nodes)
        self._loops[content] = loop
        path = device or f"/dev/loop{loop.number}"
        shown = directory / Path(path).relative_to("/dev")
        shown.parent.mkdir(parents=True, exist_ok=True)
        shown.unlink(missing_ok=True)
        os.mknod(shown, stat.S_IFBLK, loop.device)
        os.chmod(shown, 0o660)
        os.chown(shown, 0, account.disk_group())
        if device:
            link = _by_res(directory, content)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(Path("../../..", shown.relative_to(directory)))
        self._attached[content, node] = path
        return path

    def detach(self, content: Content, node: str) -> None:
        path = self._attached.pop((content, node), None)
        if path is None:
            return
        directory = self._hosts.device_directory(node)
        (directory / Path(path).relative_to("/dev")).unlink(missing_ok=True)
        link = _by_res(directory, content)
        if not content.node:
            link.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                link.parent.rmdir()

    def opening(self, content: Content, node: str) -> Opening:
        if (content, node) not in self._attached or content not in self._loops:
            return Opening.NO
        seen = {} if self._seen is None else self._seen
        if node not in seen:
            seen[node] = openers.on_host(self._hosts.first_process(node), self._hosts.pids(node))
        return seen[node].get(self._loops[content].device, Opening.NO)

    @contextlib.contextmanager
    def one_look(self) -> Iterator[None]:
        """For the length of the block, look at each host's processes only once."""
        self._seen = {}
        try:
            yield
        finally:
            self._seen = None

    def settled(self, content: Content) -> Path:
        if content in self._loops:
            self._loops[content].flush()
        return self.file(content)

    def fill(self, content: Content, seed: str, size: int) -> None:
        super().fill(content, seed, size)
        if content in self._loops:
            self._loops[content].flush()

    def only_open_on(self, content: Content, *primaries: str) -> None:
        """Let DRBD refuse the volume everywhere but on its primaries; without any, it may be opened everywhere.

        Arguments:
            primaries: the nodes that may. A host that boots later refuses nothing until this is called again.

        Raises:
            LabUnavailable: this kernel cannot refuse as DRBD does.
        """
        self.refuse_on(content, [name for name in self._hosts.names if primaries and name not in primaries])

    def refuse_on(self, content: Content, nodes: Collection[str]) -> None:
        """As only_open_on, with the nodes that refuse."""
        device = self._loops[content].device
        self._refused.discard(content)
        if nodes:
            self._refused.add(content)
        for node in self._hosts.names:
            if self._hosts.first_process(node):
                refusals = self._hosts.refusals(node)
                if node in nodes:
                    refusals.refuse(device)
                else:
                    refusals.admit(device)

    def contents(self) -> set[Content]:
        """Return what is shown as a device on any node, or was."""
        return set(self._loops)

    def leave_room(self, node: str, room: int) -> None:
        """Let only `room` bytes more be written to a node's pool ("" for the pool under DRBD); then it is full."""
        pool = self._pool(node)
        used = shutil.disk_usage(pool).used if pool.is_dir() else 0
        page = os.sysconf("SC_PAGESIZE")
        self._limits[node] = max(-(-(used + room) // page) * page, page)
        if pool.is_dir():
            kernel.mount("", str(pool), "tmpfs", kernel.MS_REMOUNT, f"size={self._limits[node]}")

    def leave_all_room(self, node: str) -> None:
        """Take the limit of `leave_room` away."""
        self._limits.pop(node, None)
        if self._pool(node).is_dir():
            kernel.mount("", str(self._pool(node)), "tmpfs", kernel.MS_REMOUNT, "size=50%")

    def close(self) -> None:
        """Take all devices, files and pools away."""
        for content in list(self._loops):
            self.delete(content)
        for pool in self.directory.iterdir() if self.directory.is_dir() else ():
            kernel.unmount(str(pool))
            pool.rmdir()

    def _pool(self, node: str) -> Path:
        return self.directory / (node or SHARED)

    def _folder(self, node: str) -> Path:
        # sysfs shows outsiders only the path inside the pool: a loop device of a lab is known by this folder
        return self._pool(node) / (MARK + isolation.token())

    def _new_file(self, content: Content) -> Path:
        pool = self._pool(content.node)
        if not pool.is_dir():
            pool.mkdir(parents=True)
            size = self._limits.get(content.node)
            options = f"mode=700,size={size}" if size else "mode=700"
            kernel.mount(MARK + isolation.token(), str(pool), "tmpfs", 0, options)
            self._folder(content.node).mkdir()
        return self.file(content)


def _by_res(directory: Path, content: Content) -> Path:
    return directory / "drbd" / "by-res" / content.resource / str(content.number)


def _copy_sparse(source: Path, target: Path, replace: bool = False) -> None:
    """Copy a file with its holes. `replace` fills the target's own file anew, for devices keep hold of that."""
    mode = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if replace else os.O_EXCL)
    reading = os.open(source, os.O_RDONLY)
    try:
        writing = os.open(target, mode, 0o600)
        try:
            size = os.fstat(reading).st_size
            os.ftruncate(writing, size)
            for start, end in facts.data_extents(reading, size):
                _copy_range(reading, writing, start, end)
        except OSError:
            if not replace:
                target.unlink()
            raise
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_range(reading: int, writing: int, start: int, end: int) -> None:
    os.lseek(writing, start, os.SEEK_SET)
    while start < end:
        sent = os.sendfile(writing, reading, start, min(end - start, 1 << 24))
        if not sent:
            raise OSError(errno.EIO, "a volume's file became shorter while it was copied")
        start += sent


def _spoil(file: int, size: int) -> None:
    chunk = _DIRT * ((1 << 20) // len(_DIRT))
    for start in range(0, size, len(chunk)):
        os.pwrite(file, chunk[: size - start], start)
