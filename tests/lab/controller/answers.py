"""Answers as LINSTOR words them: entries with return codes, and the HTTP status that follows from them."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any, Optional

SUCCESS, INFO, WARN, ERROR = 0, 1 << 62, 2 << 62, 3 << 62
CREATE, MODIFY, DELETE = 1 << 24, 2 << 24, 3 << 24
NODE, DEFINITION, RESOURCE, VOLUME_DEFINITION = 0x3C << 16, 0x38 << 16, 0x34 << 16, 0x30 << 16
VOLUME, POOL, CONTROLLER, SNAPSHOT, GROUP = 0x2C << 16, 0x14 << 16, 0x10 << 16, 0x0C << 16, 0x44 << 16
VOLUME_GROUP, RESOURCE_CONNECTION, NO_OBJECT = 0x48 << 16, 0x24 << 16, 0
TYPE_BITS, OP_BITS, OBJECT_BITS, CODE_BITS = 3 << 62, 3 << 24, 0x7C << 16, 0xFFFF
CREATED, DELETED, MODIFIED = 1, 2, 3

UNPARSABLE = ERROR | DELETE | OBJECT_BITS | 0xFFFD
NOT_CONNECTED_DETAILS = (
    "The controller is trying to (re-) establish a connection to the satellite. "
    "The controller stored the changes and as soon the satellite is connected, it will receive this update."
)


def now() -> str:
    """Return the time as LINSTOR writes it in created_at."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def entry(code: int, message: Optional[str], refs: Optional[dict[str, Any]] = None, **more: Any) -> dict[str, Any]:
    """Build one ApiCallRc. `code` has type, operation, object and number; `more` may have cause, details,
    correction and error_report_ids. Empty members are left out, as LINSTOR does."""
    signed = code - (1 << 64) if code >= 1 << 63 else code
    answer: dict[str, Any] = {"ret_code": signed}
    if message is not None:
        answer["message"] = message
    answer.update({key: value for key, value in more.items() if value})
    if refs:
        answer["obj_refs"] = dict(refs)
    answer["created_at"] = now()
    return answer


class Refused(Exception):
    """The request ends with this one error. `masked` says whether the context's operation and object are added."""

    def __init__(self, code: int, message: Optional[str], *, masked: bool = True, status: int = 0, **more: Any) -> None:
        super().__init__(message)
        self.code, self.message, self.masked, self.status, self.more = code, message, masked, status, more


class Hang(Exception):
    """The controller never answers this request (it does so for clone requests it cannot parse)."""


@dataclass
class Document:
    """An answer that is no list of entries. `value` None is an empty body."""

    value: Any
    status: int = 200
    content_type: str = "application/json"


@dataclass
class Answer:
    """The entries of one call. `context` is operation and object, `refs` the obj_refs every entry gets."""

    context: int
    refs: dict[str, Any] = field(default_factory=dict)
    ok_status: int = 200
    entries: list[dict[str, Any]] = field(default_factory=list)
    error_report: Any = None

    def add(self, code: int, message: Optional[str], refs: Optional[dict[str, Any]] = None, *, bare: bool = False,
            **more: Any) -> None:
        """Append an entry; operation and object come from the context where `code` has none (never if bare)."""
        if not bare:
            code |= 0 if code & OP_BITS else self.context & OP_BITS
            code |= 0 if code & OBJECT_BITS else self.context & OBJECT_BITS
        self.entries.append(entry(code, message, {**(refs or {}), **({} if bare else self.refs)}, **more))

    def offline(self, node: str) -> None:
        """Warn that the satellite of `node` was not reached; what was asked is stored and done on reconnect."""
        self.add(WARN | 1002, f"No active connection to satellite '{node}'", details=NOT_CONNECTED_DETAILS)

    def refuse(self, refusal: Refused) -> None:
        more = dict(refusal.more)
        if more.pop("report", False) and self.error_report:
            more["error_report_ids"] = [self.error_report(refusal.message or "unknown")]
        self.add(refusal.code, refusal.message, bare=not refusal.masked, **more)
        self.forced_status = refusal.status

    forced_status: int = 0

    @property
    def failed(self) -> bool:
        return any(is_error(one) for one in self.entries)

    @property
    def status(self) -> int:
        return self.forced_status or status_of(self.entries, self.ok_status)


def is_error(one: dict[str, Any]) -> bool:
    """Tell whether an entry is an error (both type bits set)."""
    return (int(one["ret_code"]) & TYPE_BITS) == ERROR


def number(one: dict[str, Any]) -> int:
    """Return the low bits of an entry's return code, which is what clients compare."""
    return int(one["ret_code"]) & CODE_BITS


def status_of(entries: list[dict[str, Any]], ok_status: int) -> int:
    """Return the HTTP status LINSTOR derives from the first error: 3xx not found, 4xx denied, others 500."""
    for one in entries:
        if is_error(one):
            code = number(one)
            if code in (10000, 10001):
                return 403 if code == 10000 else 401
            return 404 if 300 <= code < 400 else 403 if 400 <= code < 500 else 500
    return ok_status
