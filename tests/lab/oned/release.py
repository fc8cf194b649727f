"""What the supported OpenNebula releases do differently towards a driver, by release number."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum


class DatastoreForm(Enum):
    """How one_datastore hands over DS_DRIVER_ACTION_DATA."""

    ARGUMENT = "<action> BASE64 ID, empty stdin"
    DASH = "<action> - ID, base64 on stdin"
    STDIN = "<action> ID, base64 on stdin"


class ErrorDialect(Enum):
    """What oned shows the user of a failed script's stderr."""

    BLOCK = "the text between the 8< markers"
    WHOLE = "all of stderr, lines joined by blanks"
    PLAIN = "the lines that are no log lines, joined by nothing"


@dataclass(frozen=True)
class Release:
    """One OpenNebula release; `stdin_option` says that one_datastore runs with -i (offered by 6.4.4+ and 6.6.2+)."""

    number: tuple[int, ...]
    stdin_option: bool = False

    def __str__(self) -> str:
        return ".".join(map(str, self.number)) + ("-stdin" if self.stdin_option else "")

    @property
    def datastore_form(self) -> DatastoreForm:
        """6.7.80 dropped the argument for good; the development number separates 6.6.x from 6.8."""
        if self.number >= (6, 7, 80):
            return DatastoreForm.STDIN
        return DatastoreForm.DASH if self.stdin_option else DatastoreForm.ARGUMENT

    @property
    def error_dialect(self) -> ErrorDialect:
        """6.0.0 is the last tag that looks for the markers, 7.0.0 the first that sorts out log lines."""
        if self.number < (6, 0, 3):
            return ErrorDialect.BLOCK
        return ErrorDialect.WHOLE if self.number < (7, 0) else ErrorDialect.PLAIN

    @property
    def has_image_format(self) -> bool:
        """From 6.0 an image has FORMAT and FS (before: FSTYPE), and the answer to cp must name the format."""
        return self.number >= (6, 0)


def release(text: str) -> Release:
    """Read "7.4", "6.6.3" or "6.6-stdin"; ValueError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+){1,3})(-stdin)?", text)
    if not found:
        raise ValueError(f"{text!r} is no OpenNebula release such as 7.4.0 or 6.6-stdin")
    number = tuple(map(int, found[1].split(".")))
    if found[2] and not (6, 4) <= number < (6, 7, 80):
        raise ValueError(f"OpenNebula {found[1]} has no one_datastore -i; use it with 6.4 or 6.6")
    return Release(number, bool(found[2]))
