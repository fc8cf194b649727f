"""How large the disks below DRBD and LUKS are, and the devices on top of them. Sizes are KiB."""

from __future__ import annotations

from .providers import rounded

BITMAP_UNIT = 4  # KiB of data for one bit
SUPERBLOCK_AND_LOG = 4 + 32
LUKS_HEADER = 16 * 1024


def metadata(disk: int, slots: int) -> int:
    """Return what DRBD keeps at the end of a disk: superblock, activity log, and one bitmap for each peer slot."""
    bits = -(-disk // BITMAP_UNIT)
    each = -(-bits // 64) * 8
    return SUPERBLOCK_AND_LOG + -(-slots * each // 4096) * 4


def with_metadata(size: int, slots: int) -> int:
    """Return the smallest disk that leaves `size` to the device."""
    disk = size
    while disk - metadata(disk, slots) < size:
        disk = size + metadata(disk, slots)
    return disk


def on_storage(layers: list[str], size: int, slots: int) -> int:
    """Return what the storage layer is asked for when the definition says `size`."""
    size = with_metadata(size, slots) if "DRBD" in layers else size
    return size + LUKS_HEADER if "LUKS" in layers else size


def below_drbd(layers: list[str], kind: str, size: int, slots: int) -> int:
    """Return the disk DRBD gets from a provider of `kind` when the definition says `size`."""
    disk = rounded(kind, on_storage(layers, size, slots))
    return disk - LUKS_HEADER if "LUKS" in layers else disk


def device(layers: list[str], kind: str, size: int, slots: int) -> int:
    """Return the size of the DRBD device: all of the disk but the metadata, so more than the definition says."""
    disk = below_drbd(layers, kind, size, slots)
    return disk - metadata(disk, slots)
