"""Run one command string the way the Ruby drivers' popen3 does: a shell, three pipes, an own process group."""

from __future__ import annotations

import os
import pwd
import re
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

SIGNALLED = 255
_GRACE = 0.1


def _words(command: str) -> list[str]:
    """Ruby gives a string to /bin/sh only when it has a character that means something to a shell."""
    return ["/bin/sh", "-c", command] if re.search(r"[*?{}\[\]<>()~&|\\$;'`\"\n#]", command) else command.split()


def _identity(user: Optional[str]) -> dict[str, Any]:
    """Return the arguments that make a child run as `user` with the groups of that account."""
    if user is None:
        return {}
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(user, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


@dataclass(frozen=True)
class Ended:
    """What the driver process saw of a command; `code` is 255 for a death by signal or a timeout, as Ruby has it."""

    command: str
    code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    signal: Optional[int] = None


class Running:
    """A started command. `wait` returns what ended it; `cancel` is oned's DRIVER_CANCEL."""

    def __init__(
        self,
        command: str,
        stdin: bytes,
        *,
        env: Mapping[str, str],
        cwd: str,
        timeout: Optional[float] = None,
        user: Optional[str] = None,
    ) -> None:
        self.command = command
        self._timeout = timeout
        self._started = time.monotonic()
        self._stdin = stdin
        self._output = {"stdout": b"", "stderr": b""}
        # A new session is also the new process group of :pgroup, and needs no code between fork and exec.
        self.process = subprocess.Popen(
            _words(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=dict(env), cwd=cwd, start_new_session=True, bufsize=0, **_identity(user),
        )
        self._wake = os.pipe()
        self._cancelled = threading.Event()
        self._timed_out = False
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process, which leads its process group."""
        return self.process.pid

    @property
    def script(self) -> int:
        """The script's own process, also where a shell had to start it and waits for it."""
        process = Path(f"/proc/{self.pid}")
        if (process / "comm").read_text().strip() in ("sh", "dash", "bash"):
            children = (process / f"task/{self.pid}/children").read_text().split()
            return int(children[0]) if children else self.pid
        return self.pid

    def cancel(self) -> None:
        """Close our ends of the pipes and send no signal: the killed thread's popen3 does only that."""
        self._cancelled.set()
        os.write(self._wake[1], b"x")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process group, as an operator or the machine would; one that has ended gets none."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, seconds: Optional[float] = None) -> Ended:
        """Wait for the end of the process; TimeoutError after `seconds`, the process then goes on."""
        self._thread.join(seconds)
        if self._thread.is_alive():
            raise TimeoutError(f"still running after {seconds} s: {self.command}")
        code = self.process.returncode
        if self._timed_out:
            return self._ended(SIGNALLED, f"Timeout executing {self.command}".encode(), -code if code < 0 else None)
        return self._ended(code if code >= 0 else SIGNALLED, self._output["stderr"], -code if code < 0 else None)

    def _ended(self, code: int, stderr: bytes, number: Optional[int]) -> Ended:
        return Ended(self.command, code, self._output["stdout"], stderr, self._seconds, number)

    def _pump(self) -> None:
        """Feed and read the pipes until the process has ended; output of children that live on is not awaited."""
        exited = os.pidfd_open(self.pid)
        with selectors.DefaultSelector() as selector:
            selector.register(exited, selectors.EVENT_READ, "exit")
            selector.register(self._wake[0], selectors.EVENT_READ, "wake")
            for name in ("stdout", "stderr"):
                selector.register(getattr(self.process, name), selectors.EVENT_READ, name)
            self._open_stdin(selector)
            deadline = None if self._timeout is None else self._started + self._timeout
            self._loop(selector, deadline)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
        self.process.wait()
        self._seconds = time.monotonic() - self._started
        for descriptor in (exited, *self._wake):
            os.close(descriptor)

    def _open_stdin(self, selector: selectors.BaseSelector) -> None:
        assert self.process.stdin
        if self._stdin:
            os.set_blocking(self.process.stdin.fileno(), False)
            selector.register(self.process.stdin, selectors.EVENT_WRITE, "stdin")
        else:
            self.process.stdin.close()

    def _loop(self, selector: selectors.BaseSelector, deadline: Optional[float]) -> None:
        finish: Optional[float] = None
        while True:
            limit = finish if finish is not None else deadline
            events = selector.select(None if limit is None else max(0.0, limit - time.monotonic()))
            if not events and finish is not None:
                return
            if not events and deadline is not None and time.monotonic() >= deadline:
                self._timed_out, deadline = True, None
                self.kill(signal.SIGTERM)
            for key, _ in events:
                if key.data == "exit":
                    selector.unregister(key.fileobj)
                    finish = time.monotonic() + _GRACE
                else:
                    self._serve(selector, key)
            pipes = {key.data for key in selector.get_map().values()} & {"stdout", "stderr"}
            if finish is not None and not pipes:
                return

    def _serve(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        if key.data == "wake":
            for other in list(selector.get_map().values()):
                if other.data != "exit":
                    selector.unregister(other.fileobj)
                    if other.data != "wake":
                        other.fileobj.close()  # type: ignore[union-attr]
        elif key.fileobj not in {other.fileobj for other in selector.get_map().values()}:
            return
        elif key.data == "stdin":
            self._feed(selector, key)
        else:
            data = os.read(key.fd, 65536)
            self._output[key.data] += data
            if not data:
                selector.unregister(key.fileobj)

    def _feed(self, selector: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
        try:
            self._stdin = self._stdin[os.write(key.fd, self._stdin[:65536]):]
        except BrokenPipeError:
            self._stdin = b""
        if not self._stdin:
            selector.unregister(key.fileobj)
            key.fileobj.close()  # type: ignore[union-attr]
