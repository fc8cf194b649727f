"""Mutual exclusion between the driver's processes on this front-end, by flock."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple, Optional
from urllib.parse import quote

from ..errors import Failed, TimedOut
from ..world import Clock
from .directories import NAME, private, trusted

# OpenNebula's packages make it for oneadmin; its own drivers lock there too.
OPENNEBULA_LOCKS = "/var/lock/one"
_LONGEST_PAUSE = 0.5


def lock_directory(environ: Mapping[str, str], preferred: str = OPENNEBULA_LOCKS) -> str:
    """Return where this front-end's locks live.

    Arguments: environ, for TMPDIR; preferred, taken where it exists, can be written to and is not open to everybody.
    Raises Failed when there is no place for locks at all.
    """
    if trusted(preferred) and os.access(preferred, os.W_OK | os.X_OK):
        return preferred
    directory = private(environ, longest=4096)
    if directory is None:
        raise Failed(f"no directory for locks: {preferred} cannot be used and a private one cannot be made in TMPDIR")
    return directory


class _Wait(NamedTuple):
    seconds: float
    end: float


class SharedLock:
    """A lock held together with others."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def alone(self) -> bool:
        """Try, without waiting, to be its only holder until the block ends; return whether it worked.

        The kernel may drop a shared lock while it fails to make it exclusive; it is then taken again.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            return False
        return True


class FileLocks:
    """Locks as files of one directory.

    The files stay for ever: whoever removed one while another process waits for it would let two
    in at a time. The kernel lets go of a lock when its holder dies, however it dies.
    """

    def __init__(self, directory: str, clock: Clock, seconds: float = 600) -> None:
        """Arguments: directory, which exists; seconds, how long to wait for all locks of one `hold`."""
        self._directory = directory
        self._clock = clock
        self._seconds = seconds

    @contextmanager
    def hold(self, *names: str, seconds: Optional[float] = None) -> Iterator[None]:
        """Hold locks, taken in sorted order so that two actions cannot wait for each other.

        Arguments: names, any text; seconds, how long to wait for all of them if not as ever. Raises TimedOut naming
        the lock and its holder, Failed when a lock file cannot be opened.
        """
        wait = self._wait(seconds)
        with ExitStack() as held:
            for name in sorted(set(names)):
                descriptor = self._open(name)
                held.callback(os.close, descriptor)
                self._take(descriptor, fcntl.LOCK_EX, name, wait)
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield

    @contextmanager
    def share(self, name: str) -> Iterator[SharedLock]:
        """Hold a lock that others may share at the same time.

        Arguments: name, any text. Raises TimedOut when somebody holds it alone for too long, Failed when the
        lock file cannot be opened.
        """
        descriptor = self._open(name)
        try:
            self._take(descriptor, fcntl.LOCK_SH, name, self._wait())
            yield SharedLock(descriptor)
        finally:
            os.close(descriptor)

    def _open(self, name: str) -> int:
        path = os.path.join(self._directory, f"{NAME}-{quote(name, safe='')[:200]}")
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Failed(f"cannot open the lock file {path}: {error.strerror}") from error

    def _wait(self, seconds: Optional[float] = None) -> _Wait:
        long = self._seconds if seconds is None else seconds
        return _Wait(long, self._clock.now() + long)

    def _take(self, descriptor: int, how: int, name: str, wait: _Wait) -> None:
        pause = 0.02
        while True:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                left = wait.end - self._clock.now()
                if left <= 0:
                    raise TimedOut(
                        f"{name} is in use by another action (process {_holder(descriptor)}) "
                        f"for more than {wait.seconds:g} s; try again when it is done"
                    ) from None
                self._clock.sleep(min(pause, left))
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                return


def _holder(descriptor: int) -> str:
    return os.pread(descriptor, 20, 0).decode("ascii", "replace") or "unknown"
