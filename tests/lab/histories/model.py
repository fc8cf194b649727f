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
    """A VM's disk. `image` is None for a volatile one, which may be swap space; a persistent one is the image itself.

    `lost` are the hosts that died with it, each with the system datastore: what is there stays until the disk is moved
    or taken away the next time.
    """

    number: int
    volume: Volume
    image: Optional[Image] = None
    lost: set[tuple[str, int]] = field(default_factory=set)
    swap: bool = False

    @property
    def linked(self) -> bool:
        """Whether it is the image itself."""
        return self.image is not None and self.image.persistent


RUNNING, POWEROFF, SUSPENDED = "running", "poweroff", "suspended"
STOPPED, UNDEPLOYED = "stopped", "undeployed"
# The front-end has the VM, no host.
STORED = (STOPPED, UNDEPLOYED)
# LINSTOR has its memory.
SAVED = (SUSPENDED, STOPPED)


@dataclass
class Vm:
    """A VM: on a host of a system datastore, or, stored, on none. `memory` is what it knew when it was saved."""

    number: int
    host: str
    datastore: int
    state: str = RUNNING
    disks: dict[int, Disk] = field(default_factory=dict)
    records: list[tuple[str, int]] = field(default_factory=list)
    next_disk: int = 0
    memory: str = ""

    @property
    def name(self) -> str:
        """Its DEPLOY_ID."""
        return f"one-{self.number}"

    @property
    def checkpoint(self) -> str:
        """The definition of its memory."""
        return f"one-vm-{self.number}-checkpoint"


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

    def checkpoints(self) -> set[str]:
        """Return the definitions that have the memory of a VM."""
        return {vm.checkpoint for vm in self.vms.values() if vm.state in SAVED}

    def running(self) -> set[tuple[str, str]]:
        """Return (domain, host) of each VM that runs."""
        return {(vm.name, vm.host) for vm in self.vms.values() if vm.state == RUNNING}

    def homes(self) -> set[tuple[str, str]]:
        """Return (definition, host) for each disk of a VM that is on a host."""
        return {
            (disk.volume.name, vm.host)
            for vm in self.vms.values() if vm.state not in STORED
            for disk in vm.disks.values()
        }

    def lost_homes(self) -> set[tuple[str, str]]:
        """Return (definition, host) for each disk that a host may still have from before it died."""
        return {(disk.volume.name, host) for vm in self.vms.values() for disk in vm.disks.values()
                for host, _ in disk.lost}

    def links(self) -> dict[tuple[str, str], str]:
        """Return where each link, by host and path, has to lead; the front-end keeps those of stored VMs."""
        return {
            (("front-end" if vm.state in STORED else vm.host), _path(vm, vm.datastore, disk)): _device(disk)
            for vm in self.vms.values()
            for disk in vm.disks.values()
        }

    def lost_links(self) -> dict[tuple[str, str], str]:
        """Return where the links lead, by host and path, that a host may still have from before it died."""
        return {
            (host, _path(vm, datastore, disk)): _device(disk)
            for vm in self.vms.values()
            for disk in vm.disks.values()
            for host, datastore in disk.lost
        }


def _path(vm: Vm, datastore: int, disk: Disk) -> str:
    return f"/var/lib/one/datastores/{datastore}/{vm.number}/disk.{disk.number}"


def _device(disk: Disk) -> str:
    return f"/dev/drbd/by-res/{disk.volume.name}/0"
