"""Commands on the front-end and, through the real `ssh`, on hosts."""

from __future__ import annotations

import os
import re
import select
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import ceil
from typing import IO, Optional

from ..errors import BadRequest, Failed, HostUnreachable, TimedOut, Unreachable
from ..units import Bytes
from ..world import Command, Outcome, Piped
from .channel import SCRIPT, Channel
from .directories import private

_CHUNK = 1 << 20
_STDOUT_LIMIT = 4 << 20
# TCP and key exchange have ConnectTimeout; this is for a login that hangs (PAM, a dead NFS home).
_START_SECONDS = 60.0
# The other end ends the command itself and takes up to 10 s for it; after that the connection is what hangs.
_SLACK_SECONDS = 25.0
_TIMEOUT_CODES = (124, 137)

# dd says why it failed first and its numbers last; tar ends by saying that it ends. OpenNebula's scripts up to 6.0.0
# put markers around what the user is to read. What begins with our name is a word of a script of ours to the driver.
_NO_REASON = re.compile(
    r"[0-9]+(\+[0-9]+ records (in|out)$| bytes? .*copied)|tar: Exiting with failure status|linstor_un-"
    r"|ERROR MESSAGE (--8<-+|-+>8--)\s*$"
)
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.:%-]*[A-Za-z0-9_])?\Z")

_SSH_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=4",
)


class SshHosts:
    """Runs commands on hosts over multiplexed connections, one master a host that stays for a minute.

    Everything else of ssh is the administrator's: keys, known hosts, users, jump hosts.
    """

    def __init__(self, environ: Optional[Mapping[str, str]] = None, start_seconds: float = _START_SECONDS) -> None:
        """Arguments: environ, of the commands on the front-end, os.environ if None; start_seconds, how long a
        connection may take until the other end says that it is ready."""
        self._environ = dict(os.environ if environ is None else environ)
        self._start_seconds = start_seconds
        self._sockets = private(self._environ)

    def run(
        self, command: Command, *, seconds: float, stdin: bytes = b"", accept: Sequence[int] = (0,), doing: str
    ) -> Outcome:
        """Run one command and return how it ended; the Protocol `Hosts` tells the rest.

        Arguments: seconds, for the command itself; stdin, in bytes, the end of which is the end of the command's
        stdin; accept, codes that are not failures. stdout may have up to 4 MiB.
        """
        job = _Job(command, seconds, doing)
        with self._open(job, reads=bool(stdin)) as channel:
            output = _talk(channel, job, memoryview(b"go\n" + stdin), close=bool(stdin))
        return job.judge(channel, output, accept)

    def pipe(self, source: Command, target: Command, *, seconds: float, doing: str) -> Piped:
        """Run both, source's stdout into target's stdin; the Protocol `Hosts` tells the rest."""
        reader, writer = _Job(source, seconds, doing), _Job(target, seconds, doing)
        with self._open(writer, reads=True) as sink, self._open(reader) as spring:
            output = bytearray()
            sent = _relay(spring, sink, reader, output)
            if not sink.over():
                reader.judge(spring, b"", (0,))
                sink.close_stdin()
            output += _talk(sink, writer, memoryview(b""), close=False)
            outcome = writer.judge(sink, bytes(output), (0,))
            # A target may have enough before the source has said how it ended: tar, at the end of its archive.
            _talk(spring, reader, memoryview(b""), close=False)
            reader.judge(spring, b"", (0,))
        return Piped(Bytes(sent), outcome)

    @contextmanager
    def beside(self, command: Command, *, seconds: float, doing: str) -> Iterator[str]:
        """Run one command while a block runs; the Protocol `Hosts` tells the rest."""
        job = _Job(command, seconds, doing)
        with self._open(job, reads=True) as channel:
            first = _first_line(channel, job)
            if not first:
                job.judge(channel, b"", (0,))
                raise Failed(f"cannot {doing}: it ended and said nothing")
            try:
                yield first
            except BaseException as failure:
                channel.end()
                job.judge(channel, b"", (0,), before=f"; before that: {failure}")
                raise
            channel.close_stdin()
            _talk(channel, job, memoryview(b""), close=False)
        job.judge(channel, b"", (0,))

    @contextmanager
    def _open(self, job: _Job, reads: bool = False) -> Iterator[Channel]:
        """Start the other end and wait until it is ready; whatever happens in the block, it is ended after it."""
        argv, env = self._argv(job.command, job.seconds, reads)
        try:
            channel = Channel(argv, env)
        except OSError as error:
            raise Unreachable(f"cannot {job.doing}: {argv[0]} cannot be started: {error.strerror}") from error
        try:
            self._await_start(channel, job)
            yield channel
        finally:
            channel.end()

    def _argv(self, command: Command, seconds: float, reads: bool) -> tuple[list[str], dict[str, str]]:
        words = ["sh", "-c", SCRIPT, "sh", str(max(1, ceil(seconds))), "data" if reads else "nothing"]
        if command.host is None:
            return [*words, *_clean(command.argv)], {**self._environ, **command.env}
        if not _HOST.match(command.host):
            raise BadRequest(f"{command.host!r} is not a host name")
        if command.env:
            words += ["env", *(f"{name}={value}" for name, value in command.env.items())]
        remote = shlex.join(_clean([*words, *command.argv]))
        return [*self._ssh(command.forward_agent), "--", command.host, remote], self._environ

    def _ssh(self, forward_agent: bool) -> list[str]:
        """Return ssh with its options. Over a shared connection the master's forwarding decides, so that a command
        with the agent has a connection of its own, and the master never forwards."""
        options = [*_SSH_OPTIONS, f"ForwardAgent={'yes' if forward_agent else 'no'}"]
        if forward_agent or self._sockets is None:
            options += ["ControlMaster=no", "ControlPath=none"]
        else:
            path = os.path.join(self._sockets.replace("%", "%%"), "%C")
            options += ["ControlMaster=auto", "ControlPersist=60", f"ControlPath={path}"]
        return ["ssh", "-T", "-x", *(word for option in options for word in ("-o", option))]

    def _await_start(self, channel: Channel, job: _Job) -> None:
        end = time.monotonic() + self._start_seconds
        while not channel.started and channel.stderr_open and time.monotonic() < end:
            poller = select.poll()
            poller.register(channel.stderr_stream.fileno(), select.POLLIN)
            poller.poll(100)
            ended = channel.over()
            channel.hear()
            if ended:
                break
        if not channel.started:
            where = job.command.host or "the front-end"
            reason = _last_line(channel.stderr()) or f"no answer within {self._start_seconds:g} s"
            kind = HostUnreachable if job.command.host else Unreachable
            raise kind(
                f"cannot {job.doing}: host {where} cannot be reached: {reason}; "
                "check that oneadmin can log in there by ssh without a password"
            )


class _Job:
    """A command with its time limit and its words for a sentence."""

    def __init__(self, command: Command, seconds: float, doing: str) -> None:
        self.command = command
        self.seconds = seconds
        self.doing = doing
        self.began = time.monotonic()
        self.end = self.began + seconds + _SLACK_SECONDS
        self._what = f"cannot {doing}" + (f" on {command.host}" if command.host else "")

    def late(self) -> TimedOut:
        """Return the error of a command that did not end in time."""
        return TimedOut(f"{self._what} within {self.seconds:g} s; it was stopped")

    def judge(self, channel: Channel, output: bytes, accept: Sequence[int], before: str = "") -> Outcome:
        """Return how the command ended. Raises Failed or TimedOut when that was not well.

        Arguments: before, for the sentence, what had gone wrong already.
        """
        code = channel.code()
        reason = _last_line(channel.stderr())
        if code is None:
            said = reason or "nothing was said"
            raise Failed(f"{self._what}: the connection ended before the command did: {said}{before}")
        if code in _TIMEOUT_CODES and code not in accept and time.monotonic() - self.began >= self.seconds:
            raise self.late()
        if code not in accept:
            raise Failed(f"{self._what}: {reason or 'it said nothing'} (exit code {code}){before}")
        return Outcome(code, output.decode("utf-8", "surrogateescape"), channel.stderr())


def _talk(channel: Channel, job: _Job, pending: memoryview, close: bool) -> bytes:
    """Give the command its stdin, closed after it if asked for, and return its stdout when its process has ended."""
    output = bytearray()
    reading = True
    pause = 0.001
    while True:
        over = channel.over()
        channel.hear()
        reading = reading and _read(channel, output)
        if over:
            return bytes(output)
        pending = _write(channel, pending)
        if close and not pending:
            channel.close_stdin()
        # Both outputs may be closed before the process ends, and then there is nothing to poll that tells of the end.
        pause = 0.5 if reading else min(pause * 2, 0.05)
        _wait(job, pause, [(channel.stdout, reading), *_talkative(channel)], [(channel.stdin, bool(pending))])


def _first_line(channel: Channel, job: _Job) -> str:
    """Let the command begin and return its first line without its end, "" when it ends before it has written one."""
    _write(channel, memoryview(b"go\n"))
    output = bytearray()
    reading = True
    while b"\n" not in output:
        over = channel.over()
        channel.hear()
        reading = reading and _read(channel, output)
        if over:
            break
        _wait(job, 0.5 if reading else 0.05, [(channel.stdout, reading), *_talkative(channel)], [])
    line, end, _ = output.partition(b"\n")
    return line.decode("utf-8", "surrogateescape") if end else ""


def _read(channel: Channel, output: bytearray) -> bool:
    """Take what stdout has; return whether there may be more."""
    while True:
        try:
            piece = os.read(channel.stdout.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        if not piece:
            return False
        output += piece
        if len(output) > _STDOUT_LIMIT:
            raise Failed(f"a command wrote more than {_STDOUT_LIMIT >> 20} MiB where a few lines were expected")


def _write(channel: Channel, pending: memoryview) -> memoryview:
    """Give what stdin takes; return the rest. An other end that is gone takes everything; its code tells why."""
    while pending and not channel.stdin.closed:
        try:
            pending = pending[os.write(channel.stdin.fileno(), pending) :]
        except BlockingIOError:
            return pending
        except BrokenPipeError:
            break
    return memoryview(b"")


def _talkative(channel: Channel) -> list[tuple[IO[bytes], bool]]:
    return [(channel.stderr_stream, channel.stderr_open)]


def _wait(job: _Job, pause: float, reads: list[tuple[IO[bytes], bool]], writes: list[tuple[IO[bytes], bool]]) -> None:
    """Sleep until one of the wanted streams is ready, `pause` seconds at most. Raises TimedOut at the job's end."""
    left = job.end - time.monotonic()
    if left <= 0:
        raise job.late()
    poller = select.poll()
    for event, streams in ((select.POLLIN, reads), (select.POLLOUT, writes)):
        for stream, wanted in streams:
            if wanted:
                poller.register(stream.fileno(), event)
    poller.poll(min(left, pause) * 1000)


def _relay(spring: Channel, sink: Channel, job: _Job, output: bytearray) -> int:
    """Let both begin and carry bytes until the source has ended and all are written. Returns their number.

    Stops early when the target ends: then it took less than everything, and its code tells why.
    Arguments: output, to which what the target says meanwhile is added.
    """
    for channel in (sink, spring):
        _write(channel, memoryview(b"go\n"))
    sent = 0
    pending = memoryview(b"")
    reading = listening = True
    while not sink.over() and (reading or pending or not spring.over()):
        spring.hear()
        sink.hear()
        listening = listening and _read(sink, output)
        if reading and not pending:
            with suppress(BlockingIOError):
                pending = memoryview(os.read(spring.stdout.fileno(), _CHUNK))
                reading = bool(pending)
        sent += len(pending)
        pending = _write(sink, pending)
        sent -= len(pending)
        reads = [(spring.stdout, reading and not pending), (sink.stdout, listening)]
        # When the source has closed its stdout there is nothing to poll that tells of its end.
        pause = 0.5 if reading or pending else 0.01
        _wait(job, pause, [*reads, *_talkative(spring), *_talkative(sink)], [(sink.stdin, bool(pending))])
    spring.hear()
    return sent


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _NO_REASON.match(line)]
    return lines[-1] if lines else ""


def _clean(argv: Sequence[str]) -> list[str]:
    for word in argv:
        if "\0" in word:
            raise BadRequest(f"{word!r} contains a NUL byte, which no command takes as an argument")
    return list(argv)
