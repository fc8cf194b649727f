"""A world whose front-end is this machine, devices on it, and bytes to compare."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Optional

import pytest
from lab.hosts.loop import LoopDevice
from linstor_un.adapters.hosts import SshHosts
from linstor_un.adapters.locks import FileLocks
from linstor_un.onexml import Image
from linstor_un.operations.contents import Device
from linstor_un.undo import Undo
from linstor_un.units import Bytes
from linstor_un.world import FrontEnd, World

MIB = 1 << 20
HERE = "here"


class RealClock:
    """Time as it is."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass
class Notes:
    """A trail that is kept."""

    lines: list[str] = field(default_factory=list)

    def debug(self, text: str) -> None:
        self.lines.append(text)

    info = warn = debug


def nothing(*_: Any) -> NoReturn:
    raise AssertionError("copying needs no controller and no oned")


def make_world(var: Path, environ: Optional[dict[str, str]] = None, names: tuple[str, ...] = (HERE,)) -> World:
    """Return a world with OpenNebula's state at `var`; `names` are this machine's."""
    clock = RealClock()
    return World(
        settings=nothing, connect=nothing, cloud=nothing, monitord=nothing,  # type: ignore[arg-type]
        hosts=SshHosts(environ),
        locks=FileLocks(str(var), clock), clock=clock, undo=Undo(), trail=Notes(),
        front_end=FrontEnd(str(var / "remotes"), str(var), frozenset(names)), run="run-1",
    )


def sparse_bytes(seed: str, size: int, grain: int = MIB) -> bytes:
    """Return bytes of which two thirds are zeroes, in runs; never twice the same for two seeds."""
    pieces = []
    for number in range(-(-size // grain)):
        if number % 3 == 1:
            block = hashlib.sha256(f"{seed}{number}".encode()).digest()
            pieces.append(block * (grain // len(block)))
        else:
            pieces.append(bytes(grain))
    return b"".join(pieces)[:size]


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def image(path: str, md5: str = "", sha1: str = "") -> Image:
    """Return an image as `cp` gets it, with this PATH."""
    return Image(
        id=5, registered="1", kind="0", path=path, source="", size=None, format="", filesystem="",
        persistent=False, md5=md5, sha1=sha1, cloning_id=None, target_snapshot=None, snapshots=(),
    )  # fmt: skip


class Disks:
    """Volumes of this machine as loop devices or plain files, filled with old data or fresh."""

    def __init__(self, directory: Path, loops: bool) -> None:
        self._directory = directory
        self._loops = loops
        self._made: list[LoopDevice] = []

    def make(self, name: str, actual: int, content: Optional[bytes] = None, dirty: bool = False) -> str:
        """Return the path of a volume of so many bytes. Arguments: content, at its beginning; dirty, old data."""
        backing = self.backing(name)
        with open(backing, "wb") as file:
            file.truncate(actual)
            if dirty:
                file.write(b"\xa5OLD" * (actual // 4))
                file.seek(0)
            if content is not None:
                file.write(content)
        if not self._loops:
            return str(backing)
        # With a node of its own: a lab that this process entered before has a /dev without the machine's loops.
        loop, node = LoopDevice(backing, self._directory), self._directory / f"{name}.device"
        os.mknod(node, stat.S_IFBLK | 0o600, loop.device)
        self._made.append(loop)
        return str(node)

    def backing(self, name: str) -> Path:
        return self._directory / f"{name}.volume"

    def allocated(self, name: str) -> int:
        """Return how many bytes the volume takes in its pool."""
        subprocess.run(["sync", str(self.backing(name))], check=True)
        return os.stat(self.backing(name)).st_blocks * 512

    def close(self) -> None:
        for loop in self._made:
            loop.close()


def loops_work() -> bool:
    return os.geteuid() == 0 and os.path.exists("/dev/loop-control")


@contextmanager
def made_disks(directory: Path, loops: bool) -> Iterator[Disks]:
    if loops and not loops_work():
        pytest.skip("loop devices need root and /dev/loop-control")
    disks = Disks(directory, loops)
    try:
        yield disks
    finally:
        disks.close()


def device(path: str, size: int, zero: bool = False, host: str = HERE) -> Device:
    return Device(host, path, Bytes(size), zero)
