"""What differs between storage providers: allocation, rounding, labels. Sizes are KiB."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from .cluster import Volume

BLOCK = 4
CHUNK = 64  # of a thin LVM pool
WIPED = 4  # the satellite writes zeroes over the first and the last 4 KiB of a new volume


@dataclass(frozen=True)
class Provider:
    """`extent` is the unit volumes are rounded up to; `label` is how satellites name the provider in messages."""

    label: str
    extent: int
    granularity: str = "1"


PROVIDERS = {
    "FILE": Provider("FILE", 1),
    "FILE_THIN": Provider("FILE THIN", 1),
    "LVM": Provider("LVM", 4096, "4096"),
    "LVM_THIN": Provider("LVM-Thin", 4096, "4096"),
    "ZFS": Provider("ZFS", 8, "8"),
    "ZFS_THIN": Provider("ZFS-Thin", 8, "8"),
    "DISKLESS": Provider("Diskless", 1),
}


_contents = itertools.count(1)


def rounded(kind: str, size: int) -> int:
    """Return the size a volume of `size` KiB really gets on a provider."""
    extent = PROVIDERS[kind].extent
    return (size + extent - 1) // extent * extent


def write_chunks(volume: Volume, first: int, last: int) -> None:
    """Mark what a thin LV has allocated after KiB `first` to `last` of it were written."""
    for place in range(first // CHUNK, last // CHUNK + 1):
        volume.chunks[place] = next(_contents)


def chunks_reported(volume: Volume) -> int:
    """Return the KiB a satellite computes from the percentage with two digits that lvs shows of a thin LV."""
    if not volume.usable:
        return 0
    return int(float(f"{100 * CHUNK * len(volume.chunks) / volume.usable:.2f}") * volume.usable / 100)


def wipe(volume: Volume, size: int) -> None:
    """Mark what a new thin file of `size` KiB has allocated after the satellite's quick wipe."""
    last = max(size - 1, 0) // BLOCK
    first_of_last = max(size - WIPED, 0) // BLOCK
    volume.blocks = {0, first_of_last, last}


def cut(volume: Volume, size: int) -> None:
    """Forget allocated blocks beyond `size` KiB, as truncating the file does."""
    volume.blocks = {block for block in volume.blocks if block * BLOCK < size}


def measure(volume: Volume, kind: str, size: int, stored: int = 0) -> None:
    """Store what the satellite reports for a deployed volume of `size` net KiB.

    `stored` is what layers above ask the storage for, when that is more.
    """
    volume.size = size
    if kind == "FILE_THIN":
        # The provider takes the allocated for the usable size, unless the loop device was made anew.
        volume.allocated = size if volume.lost else BLOCK * len(volume.blocks)
        volume.usable = volume.allocated
    else:
        volume.usable = rounded(kind, stored or size)
        thin = chunks_reported(volume) if kind == "LVM_THIN" else 0
        volume.allocated = thin if kind.endswith("_THIN") else volume.usable
