"""The one place where an answer of LINSTOR becomes a result or an error.

A changing call answers with a list of entries (or an object around it); each has a signed 64 bit code: two bits
for error, warning, information or success, then operation and object, then 15 bits that say what.
Only the low bits decide: the same reason comes with several operations and objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from ..errors import DriverError, Exists, Failed, InUse, NotEnoughSpace, NotFound, Refused, Unsupported
from .controller_link import Lost, Reply

ERROR, WARNING, INFO, SUCCESS = 3, 2, 1, 0

CREATED, DELETED = 1, 2
ALREADY_DEPLOYED = 0
NOT_CONNECTED = 1002
NOT_THERE = 3000
ALREADY_EXISTS = 10008
OBJECT_DEFINITION = 0x380000
OBJECT_SNAPSHOT = 0x0C0000

INVALID_SIZE = 206
NO_PASSPHRASE = 312
# A warning at the creation of an encrypted definition; its replicas then fail with 998.
NO_MASTER_KEY = 1011
HALF_WAY = frozenset({998, 999})
NOT_UNDERSTOOD = 32765

_REASONS: dict[int, type[DriverError]] = {
    980: NotEnoughSpace,
    996: NotEnoughSpace,
    997: InUse,
    **dict.fromkeys((224, 225, 227, 988, 994), Unsupported),
}


class Entry(NamedTuple):
    """One entry of an answer. `kind` is ERROR, WARNING, INFO or SUCCESS, `code` the low 15 bits."""

    kind: int
    code: int
    about: int
    message: str
    cause: str
    reports: tuple[str, ...]
    objects: dict[str, str]


def entries(document: Any) -> Optional[list[Entry]]:
    """Return the entries of an answer: a list, a single entry, or clone's object; None when it is none of these."""
    if isinstance(document, dict):
        document = document.get("messages", document.get("reports", [document]))
    if not isinstance(document, list):
        return None
    found = [_entry(item) for item in document]
    return [entry for entry in found if entry] if all(found) else None


def _entry(item: Any) -> Optional[Entry]:
    if not isinstance(item, dict) or not isinstance(item.get("ret_code"), int):
        return None
    bits = item["ret_code"]
    references = item.get("obj_refs")
    reports = item.get("error_report_ids")
    return Entry(
        kind=bits >> 62 & 3,
        code=bits & 0x7FFF,
        about=bits & 0x7C0000,
        message=str(item.get("message") or "").strip(),
        cause=str(item.get("cause") or "").strip(),
        reports=tuple(str(report) for report in reports) if isinstance(reports, list) else (),
        objects={str(k): str(v) for k, v in references.items()} if isinstance(references, dict) else {},
    )


def result(reply: Reply, doing: str) -> list[Entry]:
    """Return the entries of a changing call's answer.

    Arguments: doing, what the driver was about, for the sentence: "create definition one-image-5".
    Raises the error that the answer tells, and Lost for an answer that is not LINSTOR's own: a proxy's
    502 says nothing about what the controller did.
    """
    _check_access(reply, doing)
    found = entries(reply.document)
    if found is None or (reply.status >= 400 and not any(entry.kind == ERROR for entry in found)):
        raise Lost(f"LINSTOR controller {reply.host} answered HTTP {reply.status} without saying what it did")
    failure = error_of(found, doing)
    if failure:
        raise failure
    return found


def content(reply: Reply, doing: str, kind: type) -> Any:
    """Return the document of a reading call. Arguments: kind, list or dict. Raises what the answer tells instead."""
    _check_access(reply, doing)
    found = entries(reply.document) if reply.status >= 400 else None
    failure = error_of(found or [], doing)
    if failure:
        raise failure
    document = reply.document
    if reply.status != 200 or not isinstance(document, kind) or not _objects(document):
        raise Failed(f"cannot {doing}: LINSTOR controller {reply.host} answered HTTP {reply.status} without it")
    return document


def _objects(document: Any) -> bool:
    return isinstance(document, dict) or all(isinstance(item, dict) for item in document)


def error_of(found: Sequence[Entry], doing: str) -> Optional[DriverError]:
    """Return the error that an answer tells, None for success.

    An error beside successes was met by a satellite after the controller had stored the change; the
    controller checks before it stores, so an error alone means that nothing happened.
    """
    failed = [entry for entry in found if entry.kind == ERROR]
    if not failed:
        return None
    first = failed[0]
    kind = _class_of(first)
    begun = any(entry.kind == SUCCESS for entry in found)
    return (Failed if begun and issubclass(kind, Refused) else kind)(_sentence(first, doing))


def _class_of(entry: Entry) -> type[DriverError]:
    if lacks_passphrase(entry):
        return Unsupported
    if entry.code == INVALID_SIZE:
        return NotEnoughSpace if "free space" in entry.message else Refused
    if entry.code in _REASONS:
        return _REASONS[entry.code]
    if entry.code in HALF_WAY or entry.code == NOT_UNDERSTOOD or not 200 <= entry.code < 1000:
        return Failed
    if 300 <= entry.code < 400:
        return NotFound
    return Exists if 500 <= entry.code < 550 else Refused


def lacks_passphrase(entry: Entry) -> bool:
    """Tell whether LINSTOR cannot encrypt yet: 312, or 998 of LINSTOR 1.33 with the reason in its cause."""
    return entry.code == NO_PASSPHRASE or (entry.code in HALF_WAY and "master key" in f"{entry.message} {entry.cause}")


def _sentence(entry: Entry, doing: str) -> str:
    reason = entry.message.rstrip(".") or f"LINSTOR code {entry.code}"
    if entry.cause and entry.cause.rstrip(".") not in reason:
        reason += f": {entry.cause.rstrip('.')}"
    if lacks_passphrase(entry):
        reason += "; run `linstor encryption create-passphrase` or switch encryption off"
    if entry.code == NOT_UNDERSTOOD:
        reason += "; this LINSTOR version does not understand the driver, report it"
    reports = f" (ErrorReport {', '.join(entry.reports)})" if entry.reports else ""
    return f"cannot {doing}: {reason}{reports}"


def _check_access(reply: Reply, doing: str) -> None:
    """401 and 403 may also come from a proxy in front, without an entry."""
    if reply.status not in (401, 403):
        return
    said = next((entry.message.rstrip(".") for entry in entries(reply.document) or [] if entry.message), "")
    raise Refused(
        f"cannot {doing}: LINSTOR controller {reply.host} refused our credentials (HTTP {reply.status}"
        f"{': ' + said if said else ''}); check LS_TOKEN_FILE and LS_CERTFILE"
    )
