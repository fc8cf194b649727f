"""Loop devices that vanish with the process that made them."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from pathlib import Path

_MAJOR = 7
_CTL_GET_FREE = 0x4C82
_CONFIGURE = 0x4C0A
_SET_CAPACITY = 0x4C07
_FLUSH = 0x1261
_AUTOCLEAR = 4
# struct loop_config: fd, block_size, then loop_info64 with its flags at 52 and its file name at 56
_CONFIG_SIZE = 304
_INFO = 8
_TRIES = 100


class LoopDevice:
    """A block device over a file.

    The device is set to detach itself at its last close, and this object keeps it open: it goes with `close`, or
    with this process however that ends, and only then when nobody else has it open any more.

    Arguments:
        path: the file; its length becomes the device's.
        nodes: a private directory that may hold device nodes for a moment.

    Raises:
        OSError: no loop device can be had.
    """

    def __init__(self, path: Path, nodes: Path) -> None:
        backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._file, self.number = _configured(backing, nodes)
        finally:
            os.close(backing)

    @property
    def device(self) -> int:
        """The device's number, as st_rdev gives it."""
        return os.makedev(_MAJOR, self.number)

    def flush(self) -> None:
        """Bring everything written so far into the file, and forget what was read from it."""
        fcntl.ioctl(self._file, _FLUSH, 0)

    def take_size(self) -> None:
        """Show the file's present length as the size of the device, to those too who have it open."""
        fcntl.ioctl(self._file, _SET_CAPACITY, 0)

    def close(self) -> None:
        """Detach the device, or let it detach when the last process closes it."""
        os.close(self._file)


def _configured(backing: int, nodes: Path) -> tuple[int, int]:
    """Return an open loop device over a file and its number; numbers are the whole machine's, so it may be a race."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            number = fcntl.ioctl(control, _CTL_GET_FREE)
            device = _opened(number, nodes)
            config = bytearray(_CONFIG_SIZE)
            struct.pack_into("<I", config, 0, backing)
            struct.pack_into("<I", config, _INFO + 52, _AUTOCLEAR)
            try:
                fcntl.ioctl(device, _CONFIGURE, bytes(config))
                return device, number
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, f"no loop device was free in {_TRIES} tries")


def _opened(number: int, nodes: Path) -> int:
    node = nodes / f"loop{number}-{os.getpid()}"
    os.mknod(node, stat.S_IFBLK | 0o600, os.makedev(_MAJOR, number))
    try:
        return os.open(node, os.O_RDWR | os.O_CLOEXEC)
    finally:
        with contextlib.suppress(OSError):
            node.unlink()
