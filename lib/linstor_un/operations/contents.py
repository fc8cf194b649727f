"""What is on a volume: copies of devices, imported images, file systems, zeroes.

Nothing here creates or removes volumes; a failure leaves bytes that must not be called good.
"""

from __future__ import annotations

from ..onexml import Image
from ..settings import Settings
from ..units import Bytes, Mib
from ..world import World


def copy_device(world: World, host: str, source: str, target: str, size: Bytes, *, zero: bool) -> None:
    """Copy a device to another one on the same host; what is beyond the source ends in zeroes.

    Arguments: host, a LINSTOR or OpenNebula host name; source and target, device paths there, waited for a little
    while; size, what was asked for of the source, in bytes; zero, whether the target is known to be zero everywhere.
    Raises Refused when a device is missing or too small (nothing was written), Unreachable, Failed, TimedOut.
    """
    raise NotImplementedError


def copy_between(
    world: World, source_host: str, source: str, target_host: str, target: str, size: Bytes, *, zero: bool
) -> None:
    """Copy a device of one host to a device of another; arguments and errors as of `copy_device`."""
    raise NotImplementedError


def import_image(
    world: World, image: Image, settings: Settings, host: str, device: str, size: Bytes, *, zero: bool, document: str
) -> None:
    """Fill a device with an image's PATH through OpenNebula's downloader, as raw bytes.

    Arguments: host and device, where the volume is; size, what was asked for of the volume, in bytes; zero, whether
    it is known to be zero everywhere; document, the driver action's XML in base64 (the downloader reads S3 credentials from it).
    Raises BadRequest for a path that must not or cannot be read, Refused, Unreachable, Failed, TimedOut.
    """
    raise NotImplementedError


def size_of(world: World, path: str, settings: Settings, document: str) -> Mib:
    """Return the virtual size of what `import_image` would write, in MiB rounded up.

    Arguments: path, IMAGE/PATH. Takes less than the 90 s that oned waits for `stat`.
    Raises BadRequest when the path must not be read or its size cannot be known without fetching it all.
    """
    raise NotImplementedError


def make_filesystem(world: World, host: str, device: str, filesystem: str, *, zero: bool) -> None:
    """Make a file system on a device and look that it is there.

    Arguments: filesystem, one of SUPPORTED_FS of OpenNebula's datastore.conf. Raises BadRequest, Failed.
    """
    raise NotImplementedError


def make_swap(world: World, host: str, device: str, *, zero: bool) -> None:
    """Make a device a swap area labelled `swap`, as OpenNebula's own drivers do."""
    raise NotImplementedError


def fill_zero(world: World, host: str, device: str) -> None:
    """Make a device read as zeroes everywhere; thin storage gives the space back where it can."""
    raise NotImplementedError


def require_allowed(path: str, settings: Settings) -> None:
    """Raise BadRequest unless an image may be imported from this path or URL (RESTRICTED_DIRS, SAFE_DIRS).

    The operations ask before they touch storage; `size_of` and `import_image` ask again.
    """
    raise NotImplementedError


def require_filesystem(world: World, filesystem: str) -> None:
    """Raise BadRequest unless `make_filesystem` makes file systems of this kind here."""
    raise NotImplementedError
