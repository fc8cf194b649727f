"""What oned asks for: one frozen type an action, read by `calling` from arguments and standard input."""

from __future__ import annotations

from typing import NamedTuple, Optional

from .naming import DefinitionName, DiskPlace, VmDirectory
from .onexml import Datastore, Image
from .units import Mib


class StatRequest(NamedTuple):
    """Tell the size of an image that is about to be registered; it has no id yet, only `image.path`.

    `document` is the whole XML as it came, in base64: downloader.sh reads the credentials of a
    marketplace from it (environment DRV_ACTION).
    """

    image: Image
    datastore: Datastore
    document: str


class CpRequest(NamedTuple):
    """Bring the content of `image.path` in.

    `document` (also in StatRequest) is the whole XML as it came, in base64: downloader.sh reads the
    credentials of a marketplace from it (environment DRV_ACTION).
    """

    image_id: int
    image: Image
    datastore: Datastore
    document: str


class MkfsRequest(NamedTuple):
    """Make an empty image of `size` MiB; with `save_as` only its name is asked for, and the copy follows."""

    image_id: int
    image: Image
    datastore: Datastore
    size: Mib
    save_as: bool


class ImageCloneRequest(NamedTuple):
    """Make image `image_id` a copy of the image that `source` holds, which may be in another datastore."""

    image_id: int
    image: Image
    datastore: Datastore
    source: DefinitionName
    size: Mib


class RmRequest(NamedTuple):
    """Remove the image that `source` holds."""

    image_id: int
    image: Image
    datastore: Datastore
    source: DefinitionName


class MonitorRequest(NamedTuple):
    """Tell a datastore's capacity; `vm_disks` asks for the usage of the VMs' disks as well.

    `location` is DATASTORE_LOCATION, the directory on hosts that holds all system datastores.
    """

    datastore: Datastore
    location: str
    vm_disks: bool


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
