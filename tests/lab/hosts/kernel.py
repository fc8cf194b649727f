"""The few Linux calls that Python 3.9 does not offer, through ctypes; each raises OSError as os functions do."""

from __future__ import annotations

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)} ({what})")
    return result


def unshare(flags: int) -> None:
    """Move the calling thread into new namespaces (CLONE_NEWPID: its next child)."""
    _checked(_libc.unshare(ctypes.c_int(flags)), f"unshare {flags:#x}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2); `kind` is the file system's type, `options` its own options as after `mount -o`."""
    _checked(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()),
        f"mount {kind or 'bind'} on {target}",
    )


def unmount(target: str) -> None:
    """Take a mount away at once, even when it is in use (umount -l)."""
    _checked(_libc.umount2(target.encode(), ctypes.c_int(2)), f"umount {target}")


def set_host_name(name: str) -> None:
    """Name the host of the present UTS namespace."""
    data = name.encode()
    _checked(_libc.sethostname(data, ctypes.c_size_t(len(data))), f"sethostname {name}")


def die_with_parent(signal_number: int) -> None:
    """Let the kernel send `signal_number` to this process when the thread that made it ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal_number), 0, 0, 0), "prctl")


def bpf(command: int, attributes: bytes) -> int:
    """bpf(2) on the machines that have a number for it here; the result is mostly a file descriptor."""
    numbers = {"x86_64": 321, "aarch64": 280}
    machine = os.uname().machine
    if machine not in numbers:
        raise OSError(f"the number of bpf(2) on {machine} is not known here")
    block = ctypes.create_string_buffer(attributes, len(attributes))
    result = _libc.syscall(numbers[machine], command, block, len(attributes))
    return _checked(result, f"bpf {command}")
