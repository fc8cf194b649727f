"""Who has a volume open, as /proc tells it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Optional

from lab.controller.volumes import Opening


def on_host(first: int, pids: Iterable[int]) -> dict[int, Opening]:
    """Tell which block devices are held open on one host, and how: by their numbers, as st_rdev gives them.

    Arguments:
        first: the host's process 1, whose mounts are the host's; 0 when the host does not run.
        pids: the host's processes.
    """
    if not first:
        return {}
    found: dict[int, Opening] = {}
    for opened, opening in _open_files(pids, lambda status: status.st_rdev if stat.S_ISBLK(status.st_mode) else None):
        if found.get(opened) is not Opening.WRITE:
            found[opened] = opening
    return {**found, **dict.fromkeys(_mounted(first), Opening.WRITE)}


def of_file(path: Path) -> Opening:
    """Tell how a file is held open by any process whose files we may see."""
    wanted = path.stat()

    def is_it(status: os.stat_result) -> Optional[bool]:
        return (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino) or None

    found = {opening for _, opening in _open_files(map(int, filter(str.isdigit, os.listdir("/proc"))), is_it)}
    return Opening.WRITE if Opening.WRITE in found else Opening.READ if found else Opening.NO


def _open_files(
    pids: Iterable[int], which: Callable[[os.stat_result], Optional[int]]
) -> Iterator[tuple[int, Opening]]:
    """Yield what `which` makes of each open file, and how that is open, where `which` does not return None."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    what = which(os.stat(f"/proc/{pid}/fd/{number}"))
                    if what is not None:
                        yield what, Opening.WRITE if _writes(pid, number) else Opening.READ


def _writes(pid: int, number: str) -> bool:
    for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False


def _mounted(first: int) -> Iterator[int]:
    """Yield the devices of the file systems that a host has mounted."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{first}/mountinfo").read_text().splitlines():
            major, minor = line.split()[2].split(":")
            yield os.makedev(int(major), int(minor))
