"""What is said, and to whom: a trail in syslog, a few log lines and the one sentence on stderr.

oned reads stderr in three ways. Up to 6.0.0 the user sees what stands between two markers; from 6.0.3 to
6.10 all of stderr, lines joined by blanks; from 7.0 the lines that do not look like log lines, joined by
nothing. Log lines are `INFO: clone: text`: 7.0 and later take a number at the start of the text for the
object that the line belongs to, which is why the action's name stands there.
"""

from __future__ import annotations

import contextlib
import os
import select
import syslog
from typing import NamedTuple

from .errors import one_line

_BEGIN = "ERROR MESSAGE --8<------"
_END = "ERROR MESSAGE ------>8--"
_MARKER = "8<------"
_MOST_LINES = 5
_PATIENCE = 10.0


class Relayed(NamedTuple):
    """How a program ended that does an action instead of this driver: oned reads all of it as if it were ours."""

    code: int
    stdout: str
    stderr: str


class Log:
    """The trail of one run of one action. Nothing here ever raises: saying must not end what is being done."""

    def __init__(self, action: str) -> None:
        """Arguments: action, the name that all lines carry: "clone"."""
        self._action = action
        self._lines: list[str] = []
        with contextlib.suppress(Exception):
            syslog.openlog("linstor_un", syslog.LOG_PID, syslog.LOG_DAEMON)

    def debug(self, text: str) -> None:
        """Write into syslog only."""
        self._syslog(syslog.LOG_DEBUG, text)

    def info(self, text: str) -> None:
        """Write into syslog, and at the end into oned's log."""
        self._syslog(syslog.LOG_INFO, text)
        self._keep("INFO", text)

    def warn(self, text: str) -> None:
        """Write into syslog, and at the end into oned's log."""
        self._syslog(syslog.LOG_WARNING, text)
        self._keep("WARN", text)

    def error(self, text: str) -> None:
        """Write a failure into syslog only, line by line: a traceback, or the user's sentence."""
        for line in text.splitlines():
            self._syslog(syslog.LOG_ERR, line)

    def finish(self, sentence: str, scripts_common: str) -> None:
        """Write to stderr what oned is to know; nothing when there is nothing.

        Arguments: sentence, for the user, or "" after success; scripts_common, the path of the installed
        OpenNebula's scripts_common.sh, which tells whether it looks for markers.
        """
        lines = list(self._lines)
        if sentence:
            text = one_line(f"{self._action}: {sentence}")
            self.error(text)
            lines += [_BEGIN, text, _END] if _wants_markers(scripts_common) else [text]
        write(2, "".join(f"{line}\n" for line in lines))

    def _keep(self, level: str, text: str) -> None:
        if len(self._lines) < _MOST_LINES:
            self._lines.append(one_line(f"{level}: {self._action}: {text}"))

    def _syslog(self, priority: int, text: str) -> None:
        # A terminated process must still write; a text that syslog cannot encode must not stop it.
        with contextlib.suppress(Exception):
            syslog.syslog(priority, one_line(f"{self._action}: {text}").encode("utf-8", "replace").decode())


def write(descriptor: int, text: str) -> None:
    """Write all of a text to a descriptor; a closed one, or one whose reader is gone, takes nothing.

    oned cancels an action by closing its pipes and sends no signal: the action goes on to its end.
    """
    try:
        # What another program said is kept as it is, whatever its encoding.
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode("utf-8", "replace")
    with contextlib.suppress(OSError, ValueError):
        while data:
            try:
                data = data[os.write(descriptor, data) :]
            except BlockingIOError:
                # ssh makes the descriptors that it shares with us non-blocking.
                if not select.select([], [descriptor], [], _PATIENCE)[1]:
                    return


def _wants_markers(scripts_common: str) -> bool:
    try:
        with open(scripts_common, encoding="utf-8", errors="replace") as file:
            return _MARKER in file.read()
    except OSError:
        return False
