"""linstor_un.conf: shell assignments, parsed and never executed.

Sites bring the file of the old driver, which was sourced by bash. Understood is what such files hold:
NAME=value with quotes and backslashes, `export`, comments, several assignments on a line, $NAME, ${NAME} and
${NAME:-default} of names assigned before. Everything else is named and left alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_ASSIGNMENT = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=")
_BLANK = re.compile(r"(?:[ \t\r\n;]|\\\n|#[^\n]*)+")
_EXPANSION = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)(\}|:?[-=]))")
_ENDS_WORD = " \t\r\n;"
# What would run something, or means something else than text, outside of quotes.
_SPECIAL = "`$&|<>()!*?[]{}~"
_DEEPEST = 20


class ConfFile(NamedTuple):
    """What a file says: values by name, and remarks about what in it means nothing."""

    values: dict[str, str]
    remarks: list[str]


class _NotPlain(Exception):
    """A value is not plain text."""


def parse(text: str) -> ConfFile:
    """Return the assignments of a file. Never raises: what is not understood becomes a remark."""
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        self._at = 0
        self._result = ConfFile({}, [])

    def read(self) -> ConfFile:
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at >= len(self._text):
                return self._result
            self._statement()

    def _statement(self) -> None:
        start = self._at
        assignment = _ASSIGNMENT.match(self._text, start)
        try:
            if not assignment:
                raise _NotPlain
            self._at = assignment.end()
            self._result.values[assignment[1]] = self._word(_ENDS_WORD, depth=0)
        except _NotPlain:
            end = self._text.find("\n", start)
            self._at = len(self._text) if end < 0 else end
            line = self._text.count("\n", 0, start) + 1
            said = self._text[start : self._at].strip()[:100]
            self._result.remarks.append(f"line {line} is not a plain assignment and has no effect: {said}")

    def _word(self, ends: str, depth: int) -> str:
        """Read up to one of the characters `ends`, or to the end of the text."""
        parts: list[str] = []
        while self._at < len(self._text) and self._text[self._at] not in ends:
            parts.append(self._part(depth))
        return "".join(parts)

    def _part(self, depth: int) -> str:
        character = self._text[self._at]
        if character == "'":
            end = self._text.find("'", self._at + 1)
            if end < 0:
                raise _NotPlain
            quoted, self._at = self._text[self._at + 1 : end], end + 1
            return quoted
        if character == '"':
            return self._quoted(depth)
        if character == "\\":
            return self._escaped()
        if character == "$":
            return self._expansion(depth)
        if character in _SPECIAL:
            raise _NotPlain
        self._at += 1
        return character

    def _quoted(self, depth: int) -> str:
        self._at += 1
        parts: list[str] = []
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == '"':
                self._at += 1
                return "".join(parts)
            if character == "\\":
                parts.append(self._escaped(inside='$`"\\'))
            elif character == "$":
                parts.append(self._expansion(depth))
            elif character == "`":
                raise _NotPlain
            else:
                parts.append(character)
                self._at += 1
        raise _NotPlain

    def _escaped(self, inside: str = "") -> str:
        """Read a backslash and what follows it; between double quotes it only quotes the characters `inside`."""
        following = self._text[self._at + 1 : self._at + 2]
        self._at += 2
        if following == "\n":
            return ""
        return following if not inside or following in inside else f"\\{following}"

    def _expansion(self, depth: int) -> str:
        found = _EXPANSION.match(self._text, self._at)
        if not found or depth >= _DEEPEST:
            raise _NotPlain
        self._at = found.end()
        name, operator = found[1] or found[2], found[3] or "}"
        value = self._result.values.get(name)
        if operator == "}":
            if value is None:
                self._result.remarks.append(f"${name} is not set before it is used; it counts as empty")
            return value or ""
        default = self._word("}", depth + 1)
        if self._at >= len(self._text):
            raise _NotPlain
        self._at += 1
        takes_default = not value if operator.startswith(":") else value is None
        return default if takes_default else value or ""
