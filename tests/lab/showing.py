"""What the demo prints: chapters, driver calls, tables and checks; colours on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from lab.oned.answers import Outcome

_STYLES = {"bold": "1", "red": "31", "green": "32", "blue": "34", "dim": "2"}
_INDENT = "   "


class Wrong(Exception):
    """Something that the demo shows is not as it must be."""


def short(digest: str) -> str:
    """Return the first characters of a hash."""
    return f"{digest[:16]}…"


def _reads_document(command: str) -> bool:
    """Say whether a call is one of those that get their request as XML on standard input."""
    return "/datastore/linstor_un/" in command or "/tm/linstor_un/monitor " in command


class Screen:
    """Where the story is told. It counts the calls, their time and the checks."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty()
        self._chapter = 0
        self._calls = 0
        self._checks = 0
        self._seconds = 0.0

    def title(self, text: str) -> None:
        """Say what follows."""
        self._print(self._style(text, "bold"))

    def chapter(self, text: str) -> None:
        """Begin a numbered part."""
        self._chapter += 1
        self._print("", self._style(f"{self._chapter}. {text}", "bold"))

    def note(self, text: str) -> None:
        """Say something beside the story."""
        self._print(_INDENT + self._style(text, "dim"))

    def output(self, lines: Iterable[str]) -> None:
        """Show what a program said."""
        self._print(*(f"{_INDENT}  {line}" for line in lines))

    def call(self, outcome: Outcome) -> None:
        """Show a call of a driver script as oned made it, its time, and what oned read."""
        self._calls += 1
        self._seconds += outcome.ended.seconds
        command = outcome.ended.command
        seconds = f"{outcome.ended.seconds:5.2f} s"
        document = self._style(" < DS_DRIVER_ACTION_DATA in base64", "dim") if _reads_document(command) else ""
        self._print(f"{_INDENT}{self._style(seconds, 'blue')}  {command}{document}")
        answer = " ".join(outcome.stdout.split())
        if answer:
            self._print(f"{_INDENT}         oned reads: {answer}")
        for line in outcome.stderr.splitlines():
            self._print(f"{_INDENT}         {self._style(line, 'dim')}")

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Show a table whose first row is its head."""
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for number, row in enumerate(rows):
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            self._print(f"{_INDENT}  {self._style(line, 'dim') if number == 0 else line}")

    def check(self, holds: bool, text: str) -> None:
        """Say that something holds. Raises Wrong when it does not."""
        if not holds:
            raise Wrong(f"this does not hold: {text}")
        self._checks += 1
        self._print(f"{_INDENT}{self._style('ok', 'green')}       {text}")

    def done(self, seconds: float) -> int:
        """Sum up; return the exit code."""
        summary = f"{self._calls} driver calls in {self._seconds:.1f} s, {self._checks} checks hold"
        self._print("", self._style(f"{summary} ({seconds:.1f} s in all)", "green"))
        return 0

    def clean(self) -> int:
        """Say that the lab is gone; return the exit code."""
        self._print(self._style("nothing is left of it: no process, mount, loop device, namespace or file", "green"))
        return 0

    def failed(self, reason: str) -> int:
        """Say what went wrong; return the exit code."""
        self._print("", self._style(f"The demo failed: {reason}", "red"))
        return 1

    def _style(self, text: str, style: str) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colours else text

    @staticmethod
    def _print(*lines: str) -> None:
        for line in lines:
            print(line, flush=True)
