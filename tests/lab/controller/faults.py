"""Trouble on demand: at the k-th request that matters, the controller refuses, breaks off, hangs or dies."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

KINDS = ("refuse", "lose_answer", "drop", "hang", "late", "restart", "offline")


@dataclass
class Fault:
    """One fault.

    `kind`: "refuse" (500 with `entries`), "lose_answer" (done, connection closed), "drop" (closed before anything
    is done), "hang" (no answer until released or for `seconds`), "late" (done, answered after `seconds`),
    "restart" (the controller goes down for `seconds` and comes back; this request is dropped), "offline" (the
    satellite of `node` stops, then the request goes on).
    `at` counts the requests that match, from 1; requests for the version never count. `times` is how often.
    """

    kind: str
    at: int = 1
    method: str = ".*"
    path: str = ".*"
    seconds: float = 0.0
    entries: list[dict[str, Any]] = field(default_factory=list)
    node: str = ""
    times: int = 1
    seen: int = 0
    released: Optional[threading.Event] = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no fault of kind {self.kind!r}; take one of {', '.join(KINDS)}")

    def hits(self, method: str, path: str) -> bool:
        """Count a request and tell whether the fault strikes at it."""
        if not (re.fullmatch(self.method, method) and re.search(self.path, path)):
            return False
        self.seen += 1
        return self.at <= self.seen < self.at + self.times


class Faults:
    """The faults waiting to happen, the hooks of tests, and the log of all requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []
        self._hooks: dict[int, Callable[[], None]] = {}
        self._released = threading.Event()
        self._down_until = 0.0
        self.count = 0
        self.log: list[dict[str, Any]] = []

    def add(self, fault: Fault) -> None:
        """Let a fault wait for its request."""
        with self._lock:
            self._waiting.append(fault)

    def clear(self) -> None:
        """Forget faults, hooks, log and count, and let go of hanging requests."""
        with self._lock:
            self._waiting.clear()
            self._hooks.clear()
            self.log.clear()
            self.count = 0
            self._down_until = 0.0
        self.release()

    def before(self, k: int, hook: Callable[[], None]) -> None:
        """Call `hook` right before the k-th request (from 1, those for the version not counted) is handled."""
        with self._lock:
            self._hooks[k] = hook

    def release(self) -> None:
        """Let go of the requests that have come so far and hang."""
        with self._lock:
            released, self._released = self._released, threading.Event()
        released.set()

    def take(self, method: str, path: str) -> Optional[Fault]:
        """Count a request, run its hook, and return the fault that strikes at it."""
        if path.rstrip("/") == "/v1/controller/version":
            return None
        with self._lock:
            self.count += 1
            hook = self._hooks.pop(self.count, None)
            struck = [fault for fault in self._waiting if fault.hits(method, path)]
            for fault in struck:
                fault.released = self._released
        if hook is not None:
            hook()
        return struck[0] if struck else None

    def wait(self, fault: Fault) -> None:
        """Hold a request: until released, or for the fault's seconds."""
        (fault.released or self._released).wait(fault.seconds or None)

    def go_down(self, seconds: float) -> None:
        """Refuse connections for a while, as a controller does that restarts."""
        self._down_until = time.monotonic() + seconds

    @property
    def down(self) -> bool:
        return time.monotonic() < self._down_until

    def record(self, method: str, path: str, query: str, body: Optional[bytes], status: Optional[int]) -> None:
        """Log a request; `status` is None when the client got no answer."""
        with self._lock:
            self.log.append({"method": method, "path": path, "query": query, "status": status,
                             "body": body.decode("utf-8", "replace") if body else None})
