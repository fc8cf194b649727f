"""Whether what a guest wrote is on its disk, and nothing else: what the jobs of init.sh leave, read from outside."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

# as in init.sh
AREAS, BLOCKS, FILES, FILE_BLOCKS = 4, 256, 16, 16
BLOCK = 4096


def numbered(number: int) -> bytes:
    """Return the block that a guest writes as its number N."""
    return (b"%015d\n" % number) * (BLOCK // 16)


def check_blocks(disk: Path, console: str) -> list[int]:
    """Check every block of a disk that "write" writes to.

    A block is whole, it is the one that was written last to its place, and what the guest was told to be written is
    there: in each area, one pass ends somewhere and the pass before it goes on from there.

    Arguments:
        disk: the device or its file, when all that was written has arrived there.
        console: what the guest said, on all its hosts.

    Returns:
        how many blocks were written to each area.

    Raises:
        AssertionError: with the first block that is not as it was written.
    """
    written = []
    with disk.open("rb") as file:
        for area in range(AREAS):
            acknowledged = BLOCKS * len(re.findall(rf"^wrote area {area} \d+ times\s*$", console, re.MULTILINE))
            count = _check_area(area, file.read(BLOCKS * BLOCK))
            assert count >= acknowledged, f"area {area} has {count} blocks, but {acknowledged} were written"
            written.append(count)
    return written


def _check_area(area: int, data: bytes) -> int:
    blocks = [data[at : at + BLOCK] for at in range(0, BLOCKS * BLOCK, BLOCK)]
    if not any(blocks[0]):
        assert not any(data), f"area {area} has other blocks before its first"
        return 0
    first = int(blocks[0][:15])
    newest = next((place for place in range(BLOCKS) if blocks[place] != numbered(first + place)), BLOCKS)
    for place in range(newest, BLOCKS):
        older = first - BLOCKS + place
        expected = numbered(older) if first else bytes(BLOCK)
        assert blocks[place] == expected, f"block {place} of area {area} is not number {older}: {blocks[place][:64]!r}"
    assert first % BLOCKS == 0 and newest, f"area {area} begins with number {first}"
    return first + newest


def check_files(disk: Path, console: str) -> int:
    """Check that the file system of a disk is clean as it stands, and that each file "files" has named is whole.

    Arguments:
        disk: a device or a file with the ext4.
        console: what the guest said until the bytes were taken.

    Returns:
        the number of the newest file.

    Raises:
        AssertionError: with what e2fsck finds, or the first file that is not as it was written.
    """
    check = subprocess.run(["e2fsck", "-fn", str(disk)], capture_output=True, text=True, check=False)
    said = check.stdout + check.stderr
    # a file system that is mounted and not frozen needs its journal
    assert check.returncode == 0 and "journal recovery" not in said, said
    numbers = []
    with tempfile.TemporaryDirectory() as folder:
        read = ["debugfs", "-R", f"rdump / {folder}", str(disk)]
        subprocess.run(read, capture_output=True, check=True)
        for path in Path(folder).glob("file*"):
            number = int(path.name[len("file") :])
            data = path.read_bytes()
            first = int(data[:15])
            assert first % FILES == number, f"{path.name} is file {first}"
            assert data == b"".join(numbered(first + more) for more in range(FILE_BLOCKS)), f"{path.name} is not whole"
            numbers.append(first)
    newest = max(numbers, default=-1)
    acknowledged = max(map(int, re.findall(r"^wrote file (\d+)\s*$", console, re.MULTILINE)), default=-1)
    assert newest >= acknowledged, f"the newest file is {newest}, but {acknowledged} was written"
    return newest
