"""Where images come from: files of the front-end and everything that OpenNebula's downloader.sh fetches."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Optional

from .. import image_formats
from ..errors import BadRequest
from ..settings import Settings
from ..units import Bytes
from ..world import Command, World
from .local_files import opened

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")
# downloader.sh hands a URL to `eval`: quoted for http and https, half quoted or bare for the others.
_HARMLESS = re.compile(r"[A-Za-z0-9._~:/?@%+,=&-]*\Z")
_BARE = {"ssh"}
_RATE = re.compile(r"[0-9]+[kKmMgG]?\Z")
_HASH = {"md5": re.compile(r"[0-9a-fA-F]{32}\Z"), "sha1": re.compile(r"[0-9a-fA-F]{40}\Z")}
_HEAD_SECONDS = 30.0


class Source(NamedTuple):
    """An image to fetch: `word` is what the downloader gets for its place, `head` its first bytes, unpacked.

    `exact` is how many bytes the downloader has to deliver, where that is known.
    """

    path: str
    word: str
    head: bytes
    packed: bool
    exact: Optional[Bytes]

    @property
    def form(self) -> str:
        """The format inside, as qemu names it."""
        return image_formats.detect(self.head)


def require_allowed(world: World, path: str, settings: Settings) -> None:
    """Raise BadRequest for an IMAGE/PATH that must not or cannot be read: before anything is made."""
    local = _local(path)
    if local is not None:
        with opened(local, settings, world.front_end.var):
            pass


@contextmanager
def source(world: World, path: str, settings: Settings, document: str) -> Iterator[Source]:
    """Look at an image's first bytes, and keep it open when it is a local file.

    Arguments: path, IMAGE/PATH; document, the driver action in base64.
    Raises BadRequest for a path that must not or cannot be read, Failed when it cannot be fetched.
    """
    local = _local(path)
    if local is None:
        unknown = Source(path, path, b"", packed=False, exact=None)
        head = _begin(world, unknown, settings, document, options=("--nodecomp",))
        yield _unpacked(world, unknown._replace(head=head), settings, document)
        return
    with opened(local, settings, world.front_end.var) as file:
        head = os.pread(file.descriptor, image_formats.HEAD_BYTES, 0)
        yield _unpacked(world, Source(path, file.word, head, packed=False, exact=file.size), settings, document)


def download(world: World, word: str, settings: Settings, document: str, *, options: tuple[str, ...] = ()) -> Command:
    """Return the command that writes an image to stdout, with the datastore's NO_DECOMPRESS and LIMIT_TRANSFER_BW.

    Arguments: word, `Source.word` or a URL; options, more of the downloader's. Raises BadRequest.
    """
    argv = [os.path.join(world.front_end.remotes, "datastore/downloader.sh"), *options]
    if not _unpacks(settings):
        argv.append("--nodecomp")
    if settings.limit_transfer_bw:
        if not _RATE.match(settings.limit_transfer_bw):
            raise BadRequest(f"LIMIT_TRANSFER_BW {settings.limit_transfer_bw!r} is not a number with k, m or g")
        argv += ["--limit", settings.limit_transfer_bw]
    # The document may be larger than an environment takes, and only S3 has credentials in it.
    env = {"DRV_ACTION": document} if word.startswith("s3://") else {}
    return Command(None, [*argv, word, "-"], env)


def require_remote(url: str) -> None:
    """Raise BadRequest for what is no URL that can be handed to the downloader."""
    if _local(url) is not None:
        raise BadRequest(f"{url!r} is a file of the front-end, and backups are fetched from their datastore")


def hashes(md5: str, sha1: str) -> tuple[str, ...]:
    """Return the downloader's options for checksums. Raises BadRequest for what cannot be one."""
    options: list[str] = []
    for name, value in (("md5", md5), ("sha1", sha1)):
        if value and not _HASH[name].match(value):
            raise BadRequest(f"{name.upper()} {value!r} is not a checksum of that kind")
        if value:
            # The downloader compares with what openssl prints.
            options += [f"--{name}", value.lower()]
    return tuple(options)


def _unpacked(world: World, found: Source, settings: Settings, document: str) -> Source:
    """Return the source as the downloader will deliver it: with the head of what is inside, if it unpacks."""
    if not _unpacks(settings) or not image_formats.compressed(found.head):
        return found
    head = _begin(world, found, settings, document)
    return found._replace(head=head, packed=True, exact=None)


def _begin(world: World, found: Source, settings: Settings, document: str, *, options: tuple[str, ...] = ()) -> bytes:
    only = (*options, "-c", str(image_formats.HEAD_BYTES))
    command = download(world, found.word, settings, document, options=only)
    outcome = world.hosts.run(command, seconds=_HEAD_SECONDS, doing=f"fetch the beginning of {found.path}")
    return outcome.stdout.encode("utf-8", "surrogateescape")


def _unpacks(settings: Settings) -> bool:
    return settings.no_decompress.lower() != "yes"


def _local(path: str) -> Optional[str]:
    """Return the path of a file of the front-end, None for a URL. Raises BadRequest for what is neither."""
    if not path or not path.isprintable():
        raise BadRequest(f"image path {path!r} is empty or has control characters")
    url = _URL.match(path)
    if url is None:
        if not path.startswith("/"):
            raise BadRequest(f"image path {path!r} is neither an absolute path nor a URL")
        return path
    scheme = url["scheme"].lower()
    if scheme == "file":
        return path[len("file://") :]
    if scheme not in {"http", "https"}:
        if not _HARMLESS.match(path) or (scheme in _BARE and "&" in path):
            raise BadRequest(f"image path {path!r} has characters that a {scheme} URL must not have here")
    elif not path.startswith(f"{scheme}://"):
        raise BadRequest(f"image path {path!r}: write {scheme}:// in small letters")
    return None
