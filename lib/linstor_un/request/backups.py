"""What oned asks about a VM's backups."""

from __future__ import annotations

from typing import NamedTuple, Optional

from ..naming import VmDirectory
from ..onexml import BackupOrder, Vm


class BackupRequest(NamedTuple):
    """Lay out a VM's disks for a backup datastore, or remove what was laid out.

    `directory` is the VM's on its host, `disk_ids` the disks that belong to the backup, of whatever drivers.
    `document` is the VM's as it came, which is a part of the backup.
    """

    directory: VmDirectory
    disk_ids: tuple[int, ...]
    vm: Vm
    order: BackupOrder
    document: bytes


class InPlaceRequest(NamedTuple):
    """Write a backup over the disks of a VM, which is off.

    `image_id` is the backup, `increment` the point in its chain (None for the last), `disk_id` the only disk that is
    wanted (None for all that it has).
    """

    directory: VmDirectory
    image_id: int
    increment: Optional[int]
    disk_id: Optional[int]
