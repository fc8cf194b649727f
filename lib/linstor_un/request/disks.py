"""What oned asks about a VM's disks and its directory."""

from __future__ import annotations

from typing import NamedTuple, Optional

from ..naming import DefinitionName, DiskPlace, VmDirectory
from ..units import Mib


class CloneRequest(NamedTuple):
    """Give a VM's disk its own copy of an image. `datastore_id` is the image's datastore."""

    source: DefinitionName
    target: DiskPlace
    datastore_id: int


class LnRequest(NamedTuple):
    """Give a VM an image itself: persistent, or a CDROM that several VMs share."""

    source: DefinitionName
    target: DiskPlace
    datastore_id: int


class MkimageRequest(NamedTuple):
    """Give a VM a volatile disk of `size` MiB."""

    size: Mib
    format: str
    target: DiskPlace
    datastore_id: int


class MkswapRequest(NamedTuple):
    """Give a VM a swap disk of `size` MiB."""

    size: Mib
    target: DiskPlace
    datastore_id: int


class ContextRequest(NamedTuple):
    """Make a VM's context image; `argv` is for OpenNebula's own script, as it came."""

    argv: tuple[str, ...]
    target: DiskPlace
    datastore_id: int


class DeleteRequest(NamedTuple):
    """Remove a VM's disk from its directory, or, without `disk`, the whole directory."""

    directory: VmDirectory
    disk: Optional[DiskPlace]
    datastore_id: int


class MvdsRequest(NamedTuple):
    """Let go of a persistent image that a VM had on its host."""

    disk: DiskPlace
    source: DefinitionName
    datastore_id: int


class MvRequest(NamedTuple):
    """Move a VM's disk from one host and directory to another, or, without disks, the whole directory.

    The front-end is the target of `stop` and `undeploy` and the source of what resumes from them. Both hosts
    are the same when only the system datastore changes.
    """

    source: VmDirectory
    target: VmDirectory
    source_disk: Optional[DiskPlace]
    target_disk: Optional[DiskPlace]
    datastore_id: int


class CpdsRequest(NamedTuple):
    """Copy a VM's disk, or its snapshot `snapshot_id`, into the new image that `target` names.

    `disk.host` is the front-end when the VM is stopped or undeployed: it holds no data then.
    """

    disk: DiskPlace
    target: DefinitionName
    snapshot_id: Optional[int]
    datastore_id: int


class ResizeRequest(NamedTuple):
    """Grow a VM's disk to `size` MiB."""

    disk: DiskPlace
    size: Mib
    datastore_id: int


class DiskSnapshotRequest(NamedTuple):
    """Take, delete or revert to snapshot `snapshot_id` of a VM's disk."""

    disk: DiskPlace
    snapshot_id: int
    datastore_id: int
