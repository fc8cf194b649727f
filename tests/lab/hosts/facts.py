"""What assertions look at: the bytes of a volume, its holes, and what a lab left behind."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

_CHUNK = 1 << 20


def sha256(path: Path, size: Optional[int] = None) -> str:
    """Return the checksum of the first `size` bytes of a file or device (default: of all).

    Raises:
        EOFError: it is shorter than that.
    """
    digest, left = hashlib.sha256(), size
    with open(path, "rb") as file:
        while left is None or left > 0:
            data = file.read(_CHUNK if left is None else min(_CHUNK, left))
            if not data:
                if left is not None:
                    raise EOFError(f"{path} ends {left} bytes before byte {size}")
                break
            digest.update(data)
            left = None if left is None else left - len(data)
    return digest.hexdigest()


def is_zero_from(path: Path, start: int) -> bool:
    """Tell whether a regular file reads as zeroes from byte `start` to its end."""
    file = os.open(path, os.O_RDONLY)
    try:
        for begin, end in data_extents(file, os.fstat(file).st_size):
            for at in range(max(begin, start), end, _CHUNK):
                if any(os.pread(file, min(_CHUNK, end - at), at)):
                    return False
    finally:
        os.close(file)
    return True


def allocated(path: Path) -> int:
    """Return how many bytes a file really takes, holes left out."""
    return os.stat(path).st_blocks * 512


def pattern(seed: str, size: int) -> bytes:
    """Return `size` bytes that depend on `seed`, that no compression shortens, and that are never all zero."""
    return hashlib.shake_256(seed.encode()).digest(size)


def fill(path: Path, seed: str, size: int, start: int = 0) -> str:
    """Write the pattern of `seed` into a file or device at byte `start`; return the pattern's sha256."""
    data = pattern(seed, size)
    file = os.open(path, os.O_WRONLY)
    try:
        done = 0
        while done < size:
            done += os.pwrite(file, data[done:], start + done)
        os.fsync(file)
    finally:
        os.close(file)
    return hashlib.sha256(data).hexdigest()


def data_extents(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where an open file has data, as (first byte, byte after the last)."""
    start = 0
    while start < size:
        try:
            start = os.lseek(file, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end
        start = end
