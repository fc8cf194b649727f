"""Who has a volume open, as /proc tells it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from lab.controller.volumes import Opening


def of_device(device: int, first: int, pids: Iterable[int]) -> Opening:
    """Tell how a block device is held open on one host.

    Arguments:
        device: its number, as st_rdev gives it.
        first: the host's process 1, whose mounts are the host's; 0 when the host does not run.
        pids: the host's processes.
    """
    if not first:
        return Opening.NO
    if _mounted(device, first):
        return Opening.WRITE

    def is_it(status: os.stat_result) -> bool:
        return stat.S_ISBLK(status.st_mode) and status.st_rdev == device

    return _strongest(pids, is_it)


def of_file(path: Path) -> Opening:
    """Tell how a file is held open by any process whose files we may see."""
    wanted = path.stat()

    def is_it(status: os.stat_result) -> bool:
        return (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino)

    return _strongest((int(name) for name in os.listdir("/proc") if name.isdigit()), is_it)


def _strongest(pids: Iterable[int], is_it: object) -> Opening:
    assert callable(is_it)
    found = Opening.NO
    for pid in pids:
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    if is_it(os.stat(f"/proc/{pid}/fd/{number}")):
                        if _writes(pid, number):
                            return Opening.WRITE
                        found = Opening.READ
    return found


def _writes(pid: int, number: str) -> bool:
    for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8) & os.O_ACCMODE != os.O_RDONLY
    return False


def _mounted(device: int, first: int) -> bool:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{first}/mountinfo").read_text().splitlines()
        return any(line.split()[2] == wanted for line in lines)
    return False
