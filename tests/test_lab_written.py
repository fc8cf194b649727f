"""What is checked of a guest's writes notices every way in which they can be lost."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.guests.written import AREAS, BLOCK, BLOCKS, check_blocks, numbered

AREA = BLOCKS * BLOCK
SAID = "guest is up\nwrote area 0 1 times\nwrote area 1 1 times\nwrote area 0 2 times\n"
WRITTEN = [600, 300, 5, 0]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A disk as "write" leaves it: so many blocks were written to each area."""
    path = tmp_path / "disk"
    data = bytearray(AREAS * AREA)
    for area, count in enumerate(WRITTEN):
        for number in range(count):
            place = area * AREA + number % BLOCKS * BLOCK
            data[place : place + BLOCK] = numbered(number)
    path.write_bytes(data)
    return path


def put(disk: Path, place: int, data: bytes) -> None:
    with disk.open("r+b") as file:
        file.seek(place)
        file.write(data)


def test_what_was_written_is_counted(disk: Path) -> None:
    assert check_blocks(disk, SAID) == WRITTEN


@pytest.mark.parametrize(
    ("place", "data"),
    [
        pytest.param(20 * BLOCK, numbered(256 + 20), id="one write of the last pass is lost"),
        pytest.param(20 * BLOCK, bytes(BLOCK), id="zeroes"),
        pytest.param(20 * BLOCK + 512, bytes(512), id="a torn block"),
        pytest.param(100 * BLOCK, numbered(100), id="one write of the pass before is lost"),
        pytest.param(AREA + 200 * BLOCK, numbered(256 + 200), id="a write that comes too early"),
        pytest.param(2 * AREA, bytes(BLOCK), id="the first block is lost"),
        pytest.param(3 * AREA + BLOCK, numbered(1), id="a block before the first"),
        pytest.param(0, numbered(513), id="another block's"),
    ],
)
def test_a_block_that_is_not_as_it_was_written_is_named(disk: Path, place: int, data: bytes) -> None:
    put(disk, place, data)
    with pytest.raises(AssertionError, match="area"):
        check_blocks(disk, SAID)


def test_an_acknowledged_write_that_is_not_there_is_noticed(disk: Path) -> None:
    with pytest.raises(AssertionError, match="area 1 has 300 blocks, but 512 were written"):
        check_blocks(disk, SAID + "wrote area 1 2 times\n")
