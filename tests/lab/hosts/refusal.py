"""DRBD's answer to a second opener, on devices that are not DRBD's.

While one node is primary, DRBD lets no other node open the volume: for reading "Wrong medium type", for writing
"Read-only file system". Only the kernel can answer an open() of a block device so, and it does when a program on
a control group of version 2 tells it to: each host gets such a group, and the program a list of refused devices.

What differs from DRBD: DRBD takes 2 s to refuse a writer, and lets access(2), as in `test -w`, pass.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from lab.hosts import keeper, kernel
from lab.hosts.isolation import GROUPS, MARK, LabUnavailable, token

_MAP_CREATE, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD, _LINK_CREATE = 0, 2, 3, 5, 28
_MAP_HASH, _PROG_DEVICE, _ATTACH_DEVICE = 1, 15, 6
_LOOKUP, _SET_RESULT = 1, 187
_BLOCK, _WRITE = 1, 4
_LOOP_MAJOR = 7
_ABANDONED = 60.0


class Refusals:
    """The devices that one host may not open.

    Arguments:
        host: its name.

    Raises:
        LabUnavailable: this kernel cannot answer for DRBD.
    """

    def __init__(self, host: str) -> None:
        self.group = f"{MARK}{token()}/{host}"
        try:
            _mount_groups()
            directory = GROUPS / self.group
            directory.mkdir(parents=True, exist_ok=True)
            self._table = kernel.bpf(_MAP_CREATE, struct.pack("<IIII", _MAP_HASH, 4, 4, 4096))
            self._link = _attach(directory, self._table)
        except OSError as error:
            raise LabUnavailable(f"DRBD's refusals need cgroup2 and BPF programs for devices: {error}")

    def take(self, pid: int) -> None:
        """Let the refusals hold for a process and for what it starts from now on."""
        with contextlib.suppress(ProcessLookupError):
            (GROUPS / self.group / "cgroup.procs").write_text(str(pid))

    def refuse(self, device: int) -> None:
        """Refuse every further open of a loop device; `device` is as st_rdev gives it."""
        key, value = _minor(device), ctypes.create_string_buffer(4)
        kernel.bpf(
            _MAP_UPDATE, struct.pack("<IIQQQ", self._table, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
        )

    def admit(self, device: int) -> None:
        """Let a device be opened again."""
        try:
            key = _minor(device)
            kernel.bpf(_MAP_DELETE, struct.pack("<IIQQQ", self._table, 0, ctypes.addressof(key), 0, 0))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def close(self) -> None:
        """Refuse nothing any more; the group goes too when no process is left in it."""
        os.close(self._link)
        os.close(self._table)
        with contextlib.suppress(OSError):
            (GROUPS / self.group).rmdir()
            (GROUPS / self.group).parent.rmdir()


def _minor(device: int) -> ctypes.Array[ctypes.c_char]:
    """Return the table's key of a device."""
    return ctypes.create_string_buffer(struct.pack("<I", os.minor(device)), 4)


def _mount_groups() -> None:
    """Show the control groups here, and take away those of labs that were killed together with their keeper."""
    if GROUPS.is_dir():
        return
    GROUPS.mkdir()
    kernel.mount(MARK + token(), str(GROUPS), "cgroup2")
    for lab in GROUPS.glob(f"{MARK}*"):
        with contextlib.suppress(OSError):  # another lab may be faster
            if time.time() - lab.stat().st_mtime > _ABANDONED:
                keeper.remove_groups(lab)


def _attach(directory: Path, table: int) -> int:
    """Load the program for one table and put it on a group; return what keeps it there while it is open."""
    code = b"".join(_program(table))
    instructions = ctypes.create_string_buffer(code, len(code))
    terms = ctypes.create_string_buffer(b"Apache-2.0")
    program = kernel.bpf(
        _PROG_LOAD,
        struct.pack(
            "<IIQQIIQII16sII", _PROG_DEVICE, len(code) // 8, ctypes.addressof(instructions),
            ctypes.addressof(terms), 0, 0, 0, 0, 0, b"lab_refusals", 0, _ATTACH_DEVICE,
        ),
    )
    group = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return kernel.bpf(_LINK_CREATE, struct.pack("<IIII", program, group, _ATTACH_DEVICE, 0))
    finally:
        os.close(group)
        os.close(program)


def _program(table: int) -> Iterator[bytes]:
    """Yield the instructions: allow (1) all but block devices 7:N with N in the table; refuse (0) with an errno."""

    def one(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
        return struct.pack("<BBhi", code, source << 4 | to, offset, value)

    load, store, move, move_value = 0x61, 0x63, 0xBF, 0xB7
    add, both, shift, wide = 0x07, 0x57, 0x77, 0x18
    call, leave, jump, if_equal, if_not = 0x85, 0x95, 0x05, 0x15, 0x55
    access, major, minor = 0, 4, 8
    refuse = [
        one(load, 1, 6, access), one(shift, 1, value=16), one(both, 1, value=_WRITE), one(if_not, 1, offset=2),
        one(move_value, 1, value=-errno.EMEDIUMTYPE), one(jump, offset=1),
        one(move_value, 1, value=-errno.EROFS),
        one(call, value=_SET_RESULT), one(move_value, 0, value=0), one(leave),
    ]
    look = [
        one(load, 2, 6, minor), one(store, 10, 2, -4), one(move, 2, 10), one(add, 2, value=-4),
        one(wide, 1, 1, value=table), one(0), one(call, value=_LOOKUP), one(if_equal, 0, offset=len(refuse)),
    ]
    rest = len(look) + len(refuse)
    yield one(move, 6, 1)
    yield from (one(load, 2, 6, access), one(both, 2, value=0xFFFF), one(if_not, 2, offset=rest + 2, value=_BLOCK))
    yield from (one(load, 2, 6, major), one(if_not, 2, offset=rest, value=_LOOP_MAJOR))
    yield from look
    yield from refuse
    yield from (one(move_value, 0, value=1), one(leave))
