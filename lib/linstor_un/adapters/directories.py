"""Directories that only this user can write to, for sockets and locks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from typing import Optional

NAME = "linstor_un"
# sun_path holds 108 bytes with its final NUL; ssh fills in 40 for %C and binds to a name 17 longer first.
_LONGEST_FOR_SOCKETS = 108 - 1 - len("/") - 40 - 17


def trusted(directory: str) -> bool:
    """Return whether nobody but this user and root can put something else in the directory's place or into it.

    Arguments: directory, an absolute path. A link in the place of the directory is not trusted.
    """
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid in (0, os.geteuid()) and not found.st_mode & stat.S_IWOTH


def private(environ: Mapping[str, str], longest: int = _LONGEST_FOR_SOCKETS) -> Optional[str]:
    """Return a directory of mode 0700 that belongs to this user, made where there is none yet.

    Arguments: environ, where XDG_RUNTIME_DIR and TMPDIR are looked up; longest, in characters.
    Returns None where every candidate is too long, cannot be made or is somebody else's.
    """
    for candidate in _candidates(environ):
        if len(candidate) <= longest and _made_private(candidate):
            return candidate
    return None


def _candidates(environ: Mapping[str, str]) -> Iterator[str]:
    user = os.geteuid()
    for base in (environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{user}"):
        if os.path.isabs(base) and os.path.isdir(base):
            yield os.path.join(base, NAME)
    for base in (environ.get("TMPDIR", ""), "/tmp"):
        if os.path.isabs(base):
            yield os.path.join(base, f"{NAME}-{user}")


def _made_private(directory: str) -> bool:
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        pass
    except OSError:
        return False
    try:
        found = os.lstat(directory)
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) & 0o077 == 0
