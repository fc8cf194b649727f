"""Failures of oned's XML-RPC interface that a test can ask for."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from enum import Enum
from typing import Optional


class Fault(Enum):
    """What happens to a request instead of, or before, its answer."""

    WRONG_CREDENTIALS = "answered as if the session were unknown"
    INTERNAL_ERROR = "answered with oned's internal error"
    INVALID_XML = "answered with a document that ends in the middle"
    INVALID_RPC = "answered with something that is no XML-RPC"
    DROP = "the connection is closed without an answer"
    SLOW = "answered only after `seconds`, or when the server stops"


@dataclass
class Armed:
    """A fault waiting for its request: the `first`-th that matches `method` (a regular expression), for `times`."""

    fault: Fault
    method: str = ""
    first: int = 1
    times: int = 1
    seconds: float = 60.0
    seen: int = 0


class Faults:
    """The armed faults of one server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[Armed] = []

    def arm(self, fault: Fault, method: str = "", *, first: int = 1, times: int = 1, seconds: float = 60.0) -> None:
        """Let `fault` meet matching requests number `first` ... `first + times - 1`, counted from now."""
        with self._lock:
            self._armed.append(Armed(fault, method, first, times, seconds))

    def clear(self) -> None:
        """Forget every armed fault."""
        with self._lock:
            self._armed.clear()

    def meet(self, method: str) -> Optional[Armed]:
        """Count a request against every armed fault and return the one that strikes it, if any."""
        struck = None
        with self._lock:
            for armed in self._armed:
                if re.search(armed.method, method):
                    armed.seen += 1
                    if armed.first <= armed.seen < armed.first + armed.times:
                        struck = struck or armed
        return struck
