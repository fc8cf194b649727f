"""What oned asks of a datastore."""

from __future__ import annotations

from typing import NamedTuple

from ..naming import DefinitionName
from ..onexml import Datastore, Image
from ..units import Mib


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


class ImageSnapshotRequest(NamedTuple):
    """Delete, revert to, or flatten to snapshot `snapshot_id` of the image that `source` holds."""

    image_id: int
    image: Image
    datastore: Datastore
    source: DefinitionName
    snapshot_id: int


class ExportRequest(NamedTuple):
    """Tell a marketplace where the content of an image can be fetched for its app `app_id`."""

    app_id: int
    image: Image
    datastore: Datastore
    source: DefinitionName


class ExportDoneRequest(NamedTuple):
    """Let go of an image on a host that it was lent to for the marketplace's app `app_id`."""

    app_id: int
    source: DefinitionName
    host: str
    datastore_id: int
