"""What there should be: images, VMs, disks, snapshots, and every byte of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Optional

MIB = 1 << 20
BLOCK = 4096
BLOCKS_IN_MIB = MIB // BLOCK

# Written blocks by their number; every other block reads as zeroes.
Blocks = dict[int, int]


def block(token: int) -> bytes:
    """Return the bytes that a token stands for."""
    return hashlib.sha256(str(token).encode()).digest() * (BLOCK // 32)


def differing(blocks: Blocks, volume: bytes) -> Optional[int]:
    """Return the first block of a volume that is not what it should be, None when all are."""
    zero = bytes(BLOCK)
    for number in range(len(volume) // BLOCK):
        wanted = block(blocks[number]) if number in blocks else zero
        if volume[number * BLOCK : (number + 1) * BLOCK] != wanted:
            return number
    return None


@dataclass
class Snapshot:
    """A snapshot: what was on the volume, and its size in MiB."""

    blocks: Blocks
    size: int


@dataclass
class Volume:
    """A volume: its definition's name, size in MiB, bytes, and snapshots by their number."""

    name: str
    size: int
    blocks: Blocks = field(default_factory=dict)
    snapshots: dict[int, Snapshot] = field(default_factory=dict)
    next_snapshot: int = 0

    def copy_to(self, name: str, size: int = 0) -> Volume:
        """Return a volume with the same bytes, at least as large, without snapshots."""
        return Volume(name, max(size, self.size), dict(self.blocks))

    def take(self) -> int:
        """Take a snapshot; returns its number, which is never used again."""
        number, self.next_snapshot = self.next_snapshot, self.next_snapshot + 1
        self.snapshots[number] = Snapshot(dict(self.blocks), self.size)
        return number


@dataclass
class Image:
    """An image. `persistent` ones are given to a VM themselves, the others are copied. `vm` has it now."""

    number: int
    volume: Volume
    persistent: bool
    vm: Optional[int] = None


@dataclass
class Disk:
    """A VM's disk. `image` is None for a volatile one; a persistent one has its image's own volume."""

    number: int
    volume: Volume
    image: Optional[Image] = None

    @property
    def linked(self) -> bool:
        """Whether it is the image itself."""
        return self.image is not None and self.image.persistent


RUNNING, POWEROFF, UNDEPLOYED = "running", "poweroff", "undeployed"


@dataclass
class Vm:
    """A VM: on a host of a system datastore, or, undeployed, on none."""

    number: int
    host: str
    datastore: int
    state: str = RUNNING
    disks: dict[int, Disk] = field(default_factory=dict)
    records: list[tuple[str, int]] = field(default_factory=list)
    next_disk: int = 0


@dataclass
class Model:
    """The whole site."""

    images: dict[int, Image] = field(default_factory=dict)
    vms: dict[int, Vm] = field(default_factory=dict)
    next_image: int = 1
    next_vm: int = 1

    def volumes(self) -> dict[str, Volume]:
        """Return all volumes by their definition's name."""
        found = {image.volume.name: image.volume for image in self.images.values()}
        for vm in self.vms.values():
            found.update({disk.volume.name: disk.volume for disk in vm.disks.values()})
        return found

    def homes(self) -> set[tuple[str, str]]:
        """Return (definition, host) for each disk of a VM that is on a host."""
        return {
            (disk.volume.name, vm.host)
            for vm in self.vms.values() if vm.state != UNDEPLOYED
            for disk in vm.disks.values()
        }

    def links(self) -> dict[tuple[str, str], str]:
        """Return where each link, by host and path, has to lead; the front-end keeps those of undeployed VMs."""
        return {
            ("front-end" if vm.state == UNDEPLOYED else vm.host,
             f"/var/lib/one/datastores/{vm.datastore}/{vm.number}/disk.{disk.number}"):
                f"/dev/drbd/by-res/{disk.volume.name}/0"
            for vm in self.vms.values()
            for disk in vm.disks.values()
        }
