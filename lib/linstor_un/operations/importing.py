"""Images come in: their size for `stat`, their bytes for `cp`."""

from __future__ import annotations

import json
import os
import re
from contextlib import ExitStack
from typing import Optional

from .. import copying, image_formats
from ..copying import End
from ..errors import BadRequest, Failed, Refused, TimedOut
from ..onexml import Image
from ..settings import Settings
from ..units import Bytes, Mib, mib_from_bytes
from ..world import Command, World
from .contents import Device, apply_plan, applying, measure, require_written
from .sources import Source, download, hashes, source

# oned waits 90 s for `stat`: the beginning takes up to 30 s.
_ASK_SECONDS = 15.0
_COUNT_SECONDS = 40.0
_SHORT_SECONDS = 60.0
# vhdx keeps its size in a region that qemu-img puts at 3 MiB and Hyper-V at 2 MiB.
_MORE_HEAD = 4 * 1024 * 1024
# qemu refuses an image whose data is behind the end of the file; a hole this large costs nothing.
_PADDED = 1 << 40
_LENGTH = re.compile(r"^content-length:\s*([0-9]+)\s*$", re.IGNORECASE | re.MULTILINE)

# A rerun removes what a killed run left, if it is this user's; nobody else can prepare the new name.
_STAGE = """for old in "$1/linstor_un-$2".*; do
  [ -O "$old" ] && [ ! -L "$old" ] && rm -rf -- "$old"
done
mkdir -m 700 -- "$3"
"""


def import_image(world: World, image: Image, settings: Settings, target: Device, document: str) -> None:
    """Fill a device with an image's PATH through OpenNebula's downloader, as raw bytes.

    Raw images go straight to the device; others are staged on the target's host and converted there.
    A wrong checksum shows when all is delivered: after a failure the device has bytes that are not the image.

    Arguments: document, the driver action's XML in base64 (the downloader reads S3 credentials from it).
    Raises BadRequest for a path that must not or cannot be read, Refused, Unreachable, Failed, TimedOut.
    """
    checks = hashes(image.md5, image.sha1)
    with source(world, image.path, settings, document) as found:
        fetch = download(world, found.word, settings, document, options=checks)
        if found.form == image_formats.RAW:
            _pour(world, found, fetch, target)
        else:
            image_formats.require_self_contained(found.form, found.head, image.path)
            _stage_and_convert(world, found, fetch, target, settings)


def _pour(world: World, found: Source, fetch: Command, target: Device) -> None:
    doing = f"write {found.path} to {target.path}"
    end = measure(world, target).ends[0]
    if found.exact is not None:
        _require_room(found.exact, end)
    writing = applying(target, copying.Plan(copying.reception(target.path, target.zero)))
    sent = _deliver(world, found, fetch, Command(world.front_end.host(target.host), writing), target.size)
    # What came after the asked size would be cut off when the device moves to another pool.
    _require_room(sent, end)
    tail = copying.rest_of(sent, end, target.zero)
    if tail.zero_length:
        apply_plan(world, target, tail, doing)


def _deliver(world: World, found: Source, fetch: Command, receive: Command, size: Bytes) -> Bytes:
    """Run the downloader into a receiving command; returns how many bytes that were, all of them written."""
    doing = f"fetch {found.path}"
    piped = world.hosts.pipe(fetch, receive, seconds=copying.seconds_for(size), doing=doing)
    if found.exact is not None and piped.sent != found.exact:
        raise Failed(f"cannot {doing}: it has {found.exact} bytes and only {piped.sent} were read")
    if not piped.sent:
        raise Failed(f"cannot {doing}: it is empty")
    require_written(piped.target, piped.sent, doing)
    return piped.sent


def _require_room(size: Bytes, end: End) -> None:
    if size > end.asked:
        raise Refused(f"the image has {size} bytes, more than the {end.asked} of its volume; give a greater SIZE")


def stage(world: World, target: Device, settings: Settings) -> str:
    """Make a directory beside a device for what is to be written to it; returns its path. It goes when all is done."""
    # The device's whole path: nothing else may be written to it now, so nobody else stages under this name.
    name = re.sub(r"[^A-Za-z0-9_-]", "_", target.path)[-100:]
    directory = os.path.join(settings.staging_dir, f"linstor_un-{name}.{os.urandom(8).hex()}")
    with world.undo.borrow(f"{target.host}:{directory}", _remove, world, target.host, directory):
        argv = ["sh", "-c", _STAGE, "sh", settings.staging_dir, name, directory]
        make = Command(world.front_end.host(target.host), argv)
        world.hosts.run(make, seconds=_SHORT_SECONDS, doing=f"make {directory} for staging")
    return directory


def _stage_and_convert(world: World, found: Source, fetch: Command, target: Device, settings: Settings) -> None:
    host = world.front_end.host(target.host)
    directory = stage(world, target, settings)
    staged = os.path.join(directory, "image")
    sent = _deliver(world, found, fetch, Command(host, [*copying.reception(staged, zero=True)]), target.size)
    # A server may give another image the second time: what is judged is what will be converted.
    read_head = Command(host, ["head", "-c", str(image_formats.HEAD_BYTES), "--", staged])
    head = world.hosts.run(read_head, seconds=_SHORT_SECONDS, doing=f"read {staged}").stdout
    again = found._replace(head=head.encode("utf-8", "surrogateescape"))
    if again.form != found.form:
        raise Failed(f"cannot fetch {found.path}: it was a {found.form} image at first and then a {again.form} one")
    image_formats.require_self_contained(again.form, again.head, found.path)
    _require_whole(world, host, staged, again, sent)
    virtual = _inside(world, Command(host, _info(again.form, staged)), found.path)
    measured = measure(world, target)
    plan = copying.conversion(staged, again.form, virtual, measured.ends[0], target.zero, measured.tools)
    apply_plan(world, target, plan, f"convert {found.path} to {target.path}")
    _remove(world, target.host, directory)


def staged_backup(world: World, url: str, target: Device, settings: Settings) -> tuple[str, Bytes]:
    """Fetch a disk's backup to the host of the device that it is for; returns the file and the size of what is in it.

    Arguments: url, for OpenNebula's downloader, which puts the increments of a chain together.
    Raises BadRequest, Unreachable, TimedOut, and Failed for one that is cut off, or is no whole qcow2 file.
    """
    host = world.front_end.host(target.host)
    staged = os.path.join(stage(world, target, settings), "image")
    fetch = download(world, url, settings, "", options=("--nodecomp",))
    found = Source(url, url, b"", packed=False, exact=None)
    sent = _deliver(world, found, fetch, Command(host, [*copying.reception(staged, zero=True)]), target.size)
    read_head = Command(host, ["head", "-c", str(image_formats.HEAD_BYTES), "--", staged])
    head = world.hosts.run(read_head, seconds=_SHORT_SECONDS, doing=f"read {staged}").stdout
    found = found._replace(head=head.encode("utf-8", "surrogateescape"))
    if found.form != "qcow2":
        raise Failed(f"{url} is a {found.form} image, and backups of disks are qcow2 files")
    image_formats.require_self_contained(found.form, found.head, url)
    _require_whole(world, host, staged, found, sent)
    return staged, _inside(world, Command(host, _info(found.form, staged)), url)


def _require_whole(world: World, host: Optional[str], staged: str, found: Source, size: Bytes) -> None:
    """Raise Failed for an image that is cut off: qemu would read zeroes for what is missing and call it success.

    Leaks (3) do no harm to what is read; vpc cannot be checked (63), but is looked at when it is opened.
    """
    least = image_formats.least_file_size(found.form, found.head)
    if size < least:
        raise Failed(f"{found.path} is cut off: it has {size} bytes instead of {least}")
    check = Command(host, ["qemu-img", "check", "-U", "-q", "-f", found.form, staged])
    seconds = copying.seconds_for(size)
    world.hosts.run(check, seconds=seconds, accept=(0, 3, 63), doing=f"check that {found.path} is whole")


def _remove(world: World, host: str, directory: str) -> None:
    command = Command(world.front_end.host(host), ["rm", "-rf", "--", directory])
    world.hosts.run(command, seconds=_SHORT_SECONDS, doing=f"remove {directory}")


def _info(form: str, path: str) -> list[str]:
    return ["qemu-img", "info", "-U", "--output=json", "-f", form, path]


def _inside(world: World, command: Command, what: str) -> Bytes:
    """Return the virtual size that qemu finds, after looking once more that the image reads nothing but itself."""
    doing = f"look into {what}"
    said = world.hosts.run(command, seconds=_SHORT_SECONDS, doing=doing).stdout
    try:
        info = json.loads(said)
        details = info.get("format-specific", {}).get("data", {})
        extents = [extent["filename"] for extent in details.get("extents", [])]
        size = Bytes(int(info["virtual-size"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failed(f"cannot {doing}: qemu-img said something unexpected: {said[:100]}") from error
    if "backing-filename" in info or "data-file" in details or any(extent != command.argv[-1] for extent in extents):
        raise BadRequest(f"{what} reads other files; make it one whole image first (qemu-img convert)")
    return size


def size_of(world: World, path: str, settings: Settings, document: str) -> Mib:
    """Return the virtual size of what `import_image` would write, in MiB rounded up.

    Arguments: path, IMAGE/PATH; document as in `import_image`. Takes less than the 90 s that oned waits for `stat`.
    Raises BadRequest when the path must not be read or its size cannot be known without fetching it all.
    """
    with source(world, path, settings, document) as found:
        form = found.form
        if form != image_formats.RAW:
            image_formats.require_self_contained(form, found.head, path)
            size = image_formats.virtual_size(form, found.head)
            return mib_from_bytes(_opened_size(world, found, settings, document) if size is None else size)
        if found.exact is not None:
            return mib_from_bytes(found.exact)
        length = None if found.packed else _announced(world, found)
        return mib_from_bytes(_counted(world, found, settings, document) if length is None else length)


def _opened_size(world: World, found: Source, settings: Settings, document: str) -> Bytes:
    """Let qemu look at the image, or at its beginning as a file of its own where it is not a plain local file."""
    with ExitStack() as stack:
        word = found.word
        if found.exact is None:
            import tempfile

            command = download(world, found.word, settings, document, options=("-c", str(_MORE_HEAD)))
            head = world.hosts.run(command, seconds=_COUNT_SECONDS, doing=f"fetch the beginning of {found.path}").stdout
            file = stack.enter_context(tempfile.NamedTemporaryFile(buffering=0))
            file.write(head.encode("utf-8", "surrogateescape"))
            file.truncate(_PADDED)
            word = file.name
        return _inside(world, Command(None, _info(found.form, word)), found.path)


def _announced(world: World, found: Source) -> Optional[Bytes]:
    """Return the Content-Length that a web server announces, None where there is none."""
    if not found.path.startswith(("http://", "https://")):
        return None
    # As downloader.sh: redirects are followed, certificates are not checked.
    argv = ["curl", "-sSLIk", "-g", "--fail", "--max-time", str(int(_ASK_SECONDS)), "--url", found.path]
    try:
        said = world.hosts.run(Command(None, argv), seconds=_ASK_SECONDS + 5, doing=f"ask for the size of {found.path}")
    except Failed:
        return None
    answers = said.stdout.replace("\r", "").strip().split("\n\n")
    length = _LENGTH.search(answers[-1])
    return Bytes(int(length[1])) if length else None


def _counted(world: World, found: Source, settings: Settings, document: str) -> Bytes:
    """Fetch it all and count: the one way that is right for packed images and for sources that announce nothing."""
    command, count = download(world, found.word, settings, document), Command(None, ["wc", "-c"])
    doing = f"find out the size of {found.path}"
    try:
        return world.hosts.pipe(command, count, seconds=_COUNT_SECONDS, doing=doing).sent
    except TimedOut as error:
        raise BadRequest(f"{found.path} does not tell its size and takes too long to be counted; give SIZE") from error
