"""How oned calls a script: its arguments and standard input, and what each kind of word must look like."""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Sequence
from typing import Callable, NamedTuple

from ..errors import BadRequest
from ..naming import DiskPlace, disk_place
from ..onexml import LARGEST_SIZE
from ..units import Mib

# oned's largest documents are some hundred KiB (an image with many snapshots, a marketplace with credentials).
_LONGEST_INPUT = 16 * 1024 * 1024


class Call(NamedTuple):
    """How a script was called: its arguments, and its standard input, read only when asked for."""

    argv: Sequence[str]
    stdin: Callable[[], bytes]


def standard_input() -> bytes:
    """Return what is on standard input up to its end; nothing when it is closed or a terminal.

    Raises BadRequest for more than 16 MiB.
    """
    if sys.stdin is None or sys.stdin.closed or os.isatty(0):
        return b""
    text = sys.stdin.buffer.read(_LONGEST_INPUT + 1)
    if len(text) > _LONGEST_INPUT:
        raise BadRequest(f"standard input is longer than {_LONGEST_INPUT // 1024 // 1024} MiB; oned sends one document")
    return text


def decode(text: bytes) -> bytes:
    """Decode base64 as Ruby does for oned's drivers: line breaks and padding do not matter."""
    letters = re.sub(rb"[^A-Za-z0-9+/]+", b"", text)
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    return base64.b64decode(letters + b"=" * (-len(letters) % 4))


def arguments(call: Call, names: str) -> Sequence[str]:
    """Return the arguments, which are as many as these names: "DISK SIZE". Raises BadRequest."""
    if len(call.argv) != len(names.split()):
        raise BadRequest(f"the arguments are {names}, not {len(call.argv)} of them")
    return call.argv


def natural(name: str, argument: str) -> int:
    """Return a whole number from 0 on. Arguments: name, of the argument, for the sentence. Raises BadRequest."""
    if not re.match(r"[0-9]{1,18}\Z", argument):
        raise BadRequest(f"{name} is {argument[:100]!r}, which is not a whole number")
    return int(argument)


def datastore(argument: str) -> int:
    """Return the number of a datastore. Raises BadRequest."""
    return natural("DATASTORE_ID", argument)


def size(argument: str) -> Mib:
    """Return a size, which oned gives in MiB. Raises BadRequest for 0 and for what no volume can have."""
    number = natural("SIZE", argument)
    if not 1 <= number <= LARGEST_SIZE:
        raise BadRequest(f"SIZE is {number} MiB; it must be between 1 and {LARGEST_SIZE} MiB")
    return Mib(number)


def disk(argument: str, vm_id: str) -> DiskPlace:
    """Return the disk HOST:/.../disk.N of this VM. Raises BadRequest, also for KERNEL and INITRD files."""
    found = disk_place(argument)
    if found is None:
        raise BadRequest(
            f"{argument!r} is not a VM's disk HOST:/.../DATASTORE/VM/disk.N; kernel, ramdisk and other files"
            " belong into a datastore of type FILE, not into one of linstor_un"
        )
    same_vm(argument, found.vm_id, vm_id)
    return found


def same_vm(argument: str, found: int, vm_id: str) -> None:
    """Raise BadRequest unless a path is of the VM that the request is for."""
    if found != natural("VM_ID", vm_id):
        raise BadRequest(f"{argument!r} belongs to VM {found}, but the request is for VM {vm_id}")
