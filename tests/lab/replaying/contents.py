"""The bytes of volumes and files, compared without reading holes: what matters is every block that is not zero."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

BLOCK = 4096
_CHUNK = 1 << 20
_ZERO = bytes(_CHUNK)
EMPTY = hashlib.sha256().hexdigest()
"""The fingerprint of anything that is all zeroes, of whatever size."""


def fingerprint(path: Path) -> str:
    """Return a digest of all blocks that are not zero, with their places; the size does not matter."""
    digest = hashlib.sha256()
    for offset, data in _data(path):
        for start in range(0, len(data), BLOCK):
            block = data[start:start + BLOCK]
            if block != _ZERO[:len(block)]:
                digest.update((offset + start).to_bytes(8, "big") + block.ljust(BLOCK, b"\0"))
    return digest.hexdigest()


def _data(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of the chunks that hold data, aligned to chunks."""
    with open(path, "rb", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        offset = 0
        while offset < end:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA) // _CHUNK * _CHUNK
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                # A device does not know of holes: all of it is read.
            data = os.pread(file.fileno(), _CHUNK, offset)
            if data != _ZERO[:len(data)]:
                yield offset, data
            offset += _CHUNK


def write_pattern(path: Path, size: int, seed: str) -> None:
    """Write random bytes drawn from `seed` at the start, in the middle and at the end of `size` bytes, else holes.

    An existing file or device keeps its size.
    """
    source = random.Random(seed)
    with open(path, "r+b" if path.exists() else "w+b") as file:
        if file.seek(0, os.SEEK_END) < size:
            file.truncate(size)
        for offset in sorted({0, size // 2 // BLOCK * BLOCK, max(0, size - 65536)}):
            file.seek(offset)
            file.write(source.randbytes(min(65536, size - offset)))


def write_once(path: Path, number: int) -> None:
    """Write a block that no other write of another number makes, at a place that the number chooses."""
    with open(path, "r+b") as file:
        blocks = file.seek(0, os.SEEK_END) // BLOCK
        file.seek(number * 7919 % blocks * BLOCK)
        file.write(random.Random(number).randbytes(BLOCK))


def copy(source: Path, target: Path) -> None:
    """Write the blocks of `source` that are not zero to the same places of `target`, which reads as zeroes."""
    with open(target, "r+b") as file:
        for offset, data in _data(source):
            file.seek(offset)
            file.write(data)


@contextlib.contextmanager
def standing(command: list[str]) -> Iterator[None]:
    """Run a command that prints a line when it is ready and ends with its standard input."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        if not process.stdout.readline():
            raise RuntimeError(f"{command[-3:]} ended before it was ready")
        yield
        process.stdin.close()


def signature(path: Path) -> str:
    """Return the file system or swap that blkid finds by probing, "" for none."""
    found = subprocess.run(["blkid", "-p", "-o", "value", "-s", "TYPE", str(path)], capture_output=True, text=True,
                           check=False)
    return found.stdout.strip()
