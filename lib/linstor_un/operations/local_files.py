"""Images that are files of the front-end: which may be read, and reading exactly that one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ..errors import BadRequest
from ..settings import Settings
from ..units import Bytes


class LocalFile(NamedTuple):
    """An open file: `word` names it for other processes of this user as long as it is open here."""

    descriptor: int
    word: str
    size: Bytes


@contextmanager
def opened(path: str, settings: Settings, var: str) -> Iterator[LocalFile]:
    """Open an image file, and judge what was opened, so that exchanging a link afterwards changes nothing.

    Arguments: path, absolute; var, OpenNebula's directory of state. RESTRICTED_DIRS and SAFE_DIRS are compared
    component by component with the path after all links; SAFE_DIRS wins; the directories of OpenNebula and the
    home of this user are always restricted. Raises BadRequest for everything that is not a readable, allowed,
    regular file: directories, devices, FIFOs and sockets are no images.
    """
    try:
        # Opening a FIFO or a device may block or do something: look before.
        _require_regular(os.stat(path).st_mode, path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadRequest(f"image path {path!r} cannot be read: {reason}") from error
    try:
        found = os.fstat(descriptor)
        _require_regular(found.st_mode, path)
        real = os.readlink(f"/proc/self/fd/{descriptor}")
        if not _allowed(real, settings, var):
            raise BadRequest(
                f"image path {path!r} is in a directory that images must not come from; "
                "copy it elsewhere or see RESTRICTED_DIRS and SAFE_DIRS of the datastore"
            )
        yield LocalFile(descriptor, f"/proc/{os.getpid()}/fd/{descriptor}", Bytes(found.st_size))
    finally:
        os.close(descriptor)


def _require_regular(mode: int, path: str) -> None:
    if not stat.S_ISREG(mode):
        raise BadRequest(f"image path {path!r} is not a regular file")


def _allowed(real: str, settings: Settings, var: str) -> bool:
    home = os.path.expanduser("~")
    always = [var, "/var/lib/one", "/etc/one", *([home] if os.path.isabs(home) and home != "/" else [])]
    if _within(real, settings.safe_dirs):
        return True
    return not _within(real, [*always, *settings.restricted_dirs])


def _within(real: str, directories: Sequence[str]) -> bool:
    """Return whether a path is in one of the directories, both after resolving links.

    A directory that is gone has no files, so that what is left of a deleted path (" (deleted)") matches nothing safe.
    """
    return any(os.path.commonpath([real, os.path.realpath(one)]) == os.path.realpath(one) for one in directories if one)
