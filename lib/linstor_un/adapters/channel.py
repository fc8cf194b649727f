"""One process that runs a command here or at the other end of ssh, and ends with it.

The other end is a fixed script that takes everything as arguments:

    it says that it started, and waits for a line      so a connection that fails before is known to have run nothing
    it runs the command below `timeout`                so a command ends although nobody waits any more
    it ends the command when its stdin closes          so a driver that was killed leaves nothing running
    it waits for all that an ended command started     so a volume is not deleted under a copy that still has it open
    it says how the command ended                      so that a code 255 is known to be the command's, not ssh's

A command that reads stdin is not ended by the end of its stdin, it has to end itself.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO, Optional, cast

_STARTED = b"linstor_un: started\n"
_ENDED = re.compile(rb"\n?linstor_un: ended ([0-9]+)\n")

# Debian's sshd gives a PATH without sbin, where blkdiscard, blockdev and mkfs are.
SCRIPT = """printf 'linstor_un: started\\n' >&2
read -r go || exit 1
limit=$1 input=$2
shift 2
PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL
if [ "$input" = data ]; then
  timeout -k 10 "$limit" "$@"
  code=$?
else
  exec 3<&0
  timeout -k 10 "$limit" "$@" </dev/null 3<&- &
  job=$!
  ( read -r gone <&3; kill "$job" ) >/dev/null 2>&1 &
  watcher=$!
  wait "$job"
  code=$?
  kill "$watcher"
  case $code in 124 | 137 | 143)
    # What it had started may have a device open still, while it ends: `timeout` leads their process group.
    tries=100
    while [ "$tries" -gt 0 ] && kill -0 -"$job" 2>/dev/null; do
      tries=$((tries - 1))
      sleep 0.1
    done
  esac
fi
printf '\\nlinstor_un: ended %s\\n' "$code" >&2
exit "$code"
"""

_KEPT_OF_STDERR = 64 * 1024
# The script gives the command 10 s between TERM and KILL.
_ENDING_SECONDS = 15.0


class Channel:
    """A started process. All its pipes are non-blocking; whoever drives it polls them."""

    def __init__(self, argv: Sequence[str], env: Optional[Mapping[str, str]] = None) -> None:
        """Start argv, which ends in SCRIPT and its arguments. Raises OSError when there is no such program."""
        self.process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=None if env is None else dict(env),
            start_new_session=True,
        )
        self.stdin = cast("IO[bytes]", self.process.stdin)
        self.stdout = cast("IO[bytes]", self.process.stdout)
        self._stderr = cast("IO[bytes]", self.process.stderr)
        for stream in (self.stdin, self.stdout, self._stderr):
            os.set_blocking(stream.fileno(), False)
        self.started = False
        self.said = b""

    @property
    def stderr_open(self) -> bool:
        """Whether there may be more on stderr."""
        return not self._stderr.closed

    @property
    def stderr_stream(self) -> IO[bytes]:
        """What to poll while `stderr_open`; it is read by `hear` only."""
        return self._stderr

    def hear(self) -> None:
        """Read what is there on stderr; the last 64 KiB are kept, what ssh said before the start is dropped then."""
        while not self._stderr.closed:
            try:
                piece = os.read(self._stderr.fileno(), 65536)
            except BlockingIOError:
                return
            if not piece:
                self._stderr.close()
            self.said += piece
            if not self.started and _STARTED in self.said:
                self.started = True
                self.said = self.said.partition(_STARTED)[2]
            self.said = self.said[-_KEPT_OF_STDERR:]

    def over(self) -> bool:
        """Return whether the process has ended.

        Not `Popen.poll`: its lock stays taken for ever when a signal's exception comes right after it was acquired,
        and `end` would then wait for that.
        """
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def code(self) -> Optional[int]:
        """Return the command's own code, None when the process ended without saying it. Only after the end."""
        ended = _ENDED.findall(self.said)
        return int(ended[-1]) if ended else None

    def stderr(self) -> str:
        """Return the command's stderr without the script's own lines."""
        return _ENDED.sub(b"", self.said).decode("utf-8", "surrogateescape")

    def close_stdin(self) -> None:
        """Let the other end see the end of its stdin."""
        if not self.stdin.closed:
            self.stdin.close()

    def end(self) -> None:
        """Leave nothing running: close stdin, wait until the other end has ended the command, kill what is left."""
        self.close_stdin()
        until = time.monotonic() + _ENDING_SECONDS
        while not self.over() and time.monotonic() < until:
            self._drain()
            time.sleep(0.02)
        if not self.over():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._drain()
        for stream in (self.stdout, self._stderr):
            stream.close()

    def _drain(self) -> None:
        self.hear()
        try:
            while os.read(self.stdout.fileno(), 1 << 20):
                pass
        except (BlockingIOError, ValueError):
            pass
