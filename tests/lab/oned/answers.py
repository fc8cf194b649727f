"""What oned makes of a script's exit code, stdout and stderr, per release."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lab.oned.process import Ended
from lab.oned.release import ErrorDialect, Release

OPEN, CLOSE = "ERROR MESSAGE --8<------", "ERROR MESSAGE ------>8--"
_LOG_LINE = re.compile(r"^(ERROR|INFO|WARN|DEBUG):\s+(\d+)?\s*(.*)$")


class Misread(Exception):
    """oned would not understand the answer; the text says why."""


@dataclass(frozen=True)
class Log:
    """A line that release 7 sends to a log: `object_id` is -1 for oned.log."""

    severity: str
    object_id: int
    text: str


@dataclass(frozen=True)
class Outcome:
    """The end of one script call as oned has it."""

    release: Release
    ended: Ended
    logs: list[Log] = field(default_factory=list)
    user_message: str = ""

    @property
    def code(self) -> int:
        return self.ended.code

    @property
    def success(self) -> bool:
        """Only exit code 0 is success; there is no retry code."""
        return self.ended.code == 0

    @property
    def stdout(self) -> str:
        return self.ended.stdout.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        return self.ended.stderr.decode("utf-8", "replace")


def outcome(release: Release, ended: Ended) -> Outcome:
    """Split stderr by the release's dialect; `user_message` is "" when oned would show none ("-")."""
    stderr = ended.stderr.decode("utf-8", "replace")
    if release.error_dialect is ErrorDialect.PLAIN:
        logs, message = _plain(stderr)
        return Outcome(release, ended, logs, "" if ended.code == 0 else message)
    if ended.code == 0:
        return Outcome(release, ended)
    if release.error_dialect is ErrorDialect.WHOLE:
        return Outcome(release, ended, user_message=stderr.replace("\n", " ").strip())
    blocks = re.findall(rf"^{OPEN}\n(.*?){CLOSE}$", stderr, re.MULTILINE | re.DOTALL)
    return Outcome(release, ended, user_message=blocks[0].strip() if blocks else "")


def _plain(stderr: str) -> tuple[list[Log], str]:
    logs, message = [], ""
    for line in stderr.splitlines():
        found = _LOG_LINE.match(line.strip())
        if found:
            logs.append(Log(found[1], int(found[2] or -1), found[3].strip()))
        else:
            message += line.strip()
    return logs, message.strip()


@dataclass(frozen=True)
class Stored:
    """The answer to cp, clone and mkfs; `format` is "" where oned reads none."""

    source: str
    format: str = ""


def read_cp(result: Outcome) -> Stored:
    """"SOURCE FORMAT"; up to 5.12 the second word is not looked at."""
    words = _line(result).split()
    if not words:
        raise Misread("cp printed no SOURCE")
    if result.release.has_image_format and len(words) < 2:
        raise Misread("CP operation succeeded but image FORMAT was not returned.")
    return Stored(words[0], words[1] if result.release.has_image_format else "")


def read_clone(result: Outcome) -> Stored:
    """"SOURCE [FORMAT]"; the format counts from 6.2 on, before that the clone keeps the image's."""
    words = _line(result).split()
    if not words:
        raise Misread("clone printed no SOURCE")
    return Stored(words[0], words[1] if len(words) > 1 and result.release.number >= (6, 2) else "")


def read_mkfs(result: Outcome) -> Stored:
    """From 6.0 the whole line is the SOURCE, so a second word would become part of it; before, the first word."""
    line = _line(result)
    if not line.strip():
        raise Misread("mkfs printed no SOURCE")
    if not result.release.has_image_format:
        return Stored(line.split()[0])
    if line != line.strip() or len(line.split()) != 1:
        raise Misread(f"mkfs printed {line!r}, and all of it would be the SOURCE")
    return Stored(line)


def read_stat(result: Outcome) -> int:
    """The size in MiB, a whole number above zero."""
    line = _line(result)
    if not re.fullmatch(r"\d+", line) or int(line) <= 0:
        raise Misread(f"stat printed {line!r}, not a size in MB")
    return int(line)


def read_monitor(result: Outcome) -> dict[str, int]:
    """USED_MB, TOTAL_MB and FREE_MB of the template text, each exactly once."""
    values: dict[str, int] = {}
    for line in result.stdout.splitlines():
        found = re.fullmatch(r'\s*([A-Z_]+)\s*=\s*"?(\d+)"?\s*', line)
        if not found or found[1] in values:
            raise Misread(f"monitor printed {line!r}, not one NAME=NUMBER a line")
        values[found[1]] = int(found[2])
    if set(values) != {"USED_MB", "TOTAL_MB", "FREE_MB"}:
        raise Misread(f"monitor printed {sorted(values)}, oned reads USED_MB, TOTAL_MB and FREE_MB")
    return values


def read_nothing(result: Outcome) -> None:
    """rm, and the TM actions: oned throws stdout away, and a line of it may only confuse."""
    if result.stdout:
        raise Misread(f"printed {result.stdout[:80]!r} where oned reads nothing")


def _line(result: Outcome) -> str:
    """Return the one line; oned takes every further line for another driver message."""
    text = result.stdout
    if text.count("\n") > 1 or (text.count("\n") == 1 and not text.endswith("\n")):
        raise Misread(f"printed more than one line: {text[:200]!r}")
    return text.rstrip("\n")
