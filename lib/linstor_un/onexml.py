"""OpenNebula's XML as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from .units import Mib


@dataclass(frozen=True)
class Datastore:
    """A datastore. `kind` is TYPE: 0 image, 1 system, 2 file, 3 backup."""

    id: int
    name: str
    kind: int
    ds_mad: str
    tm_mad: str
    base_path: str
    template: Mapping[str, str]


@dataclass(frozen=True)
class Image:
    """An image. Absent elements are empty strings; id is None in `stat`, which has none.

    `registered` is REGTIME, seconds: an id that is used again after a lost database has another.
    `filesystem` is FS (oned >= 6.0) or FSTYPE (<= 5.12).
    """

    id: Optional[int]
    registered: str
    kind: str
    path: str
    source: str
    size: Optional[Mib]
    format: str
    filesystem: str
    persistent: bool
    md5: str
    sha1: str
    cloning_id: Optional[int]
    target_snapshot: Optional[int]
    snapshots: tuple[int, ...]


@dataclass(frozen=True)
class Disk:
    """A VM's disk. `clone` is None for volatile disks, which have no CLONE."""

    id: int
    source: str
    image_id: Optional[int]
    clone: Optional[bool]
    persistent: bool
    size: Optional[Mib]
    original_size: Optional[Mib]
    kind: str
    format: str
    filesystem: str
    tm_mad: str
    datastore_id: Optional[int]


@dataclass(frozen=True)
class History:
    """One record of where a VM is or was."""

    host: str
    datastore_id: int
    tm_mad: str


@dataclass(frozen=True)
class Vm:
    """A VM. `history` is oldest first."""

    id: int
    state: int
    lcm_state: int
    deploy_id: str
    disks: tuple[Disk, ...]
    history: tuple[History, ...]

    def disk(self, disk_id: int) -> Optional[Disk]:
        """Return the disk of this id, or None."""
        return next((disk for disk in self.disks if disk.id == disk_id), None)
