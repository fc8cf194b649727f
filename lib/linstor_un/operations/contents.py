"""What is on a volume: copies of devices, imported images, file systems, zeroes.

Nothing here creates or removes volumes; a failure leaves bytes that must not be called good.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..onexml import Image
from ..settings import Settings
from ..units import Bytes, Mib
from ..world import World


@dataclass(frozen=True)
class Device:
    """A volume where it can be opened: on a host (LINSTOR's or OpenNebula's name), as a path there.

    `size` is what was asked for, in bytes; the device may be larger. `zero` is whether it is known to read
    as zeroes everywhere, which only a fresh volume of a thin pool that nobody wrote to is.
    """

    host: str
    path: str
    size: Bytes
    zero: bool = False


def copy_device(world: World, source: Device, target: Device) -> None:
    """Copy a device to another one, on the same host or over the network; what is beyond the source ends in zeroes.

    The devices are waited for a little while. Raises Refused when one is missing or the target is smaller
    than the source (nothing was written then), Unreachable, Failed, TimedOut.
    """
    raise NotImplementedError


def import_image(world: World, image: Image, settings: Settings, target: Device, document: str) -> None:
    """Fill a device with an image's PATH through OpenNebula's downloader, as raw bytes.

    Arguments: document, the driver action's XML in base64 (the downloader reads S3 credentials from it).
    Raises BadRequest for a path that must not or cannot be read, Refused, Unreachable, Failed, TimedOut.
    """
    raise NotImplementedError


def size_of(world: World, path: str, settings: Settings, document: str) -> Mib:
    """Return the virtual size of what `import_image` would write, in MiB rounded up.

    Arguments: path, IMAGE/PATH. Takes less than the 90 s that oned waits for `stat`.
    Raises BadRequest when the path must not be read or its size cannot be known without fetching it all.
    """
    raise NotImplementedError


def require_allowed(path: str, settings: Settings) -> None:
    """Raise BadRequest for an IMAGE/PATH that RESTRICTED_DIRS forbids or that is no file: before anything is made."""
    raise NotImplementedError


def require_filesystem(world: World, filesystem: str) -> None:
    """Raise BadRequest for a file system that is not in SUPPORTED_FS of OpenNebula's datastore.conf."""
    raise NotImplementedError


def make_filesystem(world: World, target: Device, filesystem: str) -> None:
    """Make a file system on a device and look that it is there.

    Arguments: filesystem, one of SUPPORTED_FS of OpenNebula's datastore.conf. Raises BadRequest, Failed.
    """
    raise NotImplementedError


def make_swap(world: World, target: Device) -> None:
    """Make a device a swap area labelled `swap`, as OpenNebula's own drivers do."""
    raise NotImplementedError


def fill_zero(world: World, target: Device) -> None:
    """Make a device read as zeroes everywhere; thin storage gives the space back where it can."""
    raise NotImplementedError
