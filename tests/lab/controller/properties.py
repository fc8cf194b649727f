"""Properties: which keys are allowed with which values, and how one request changes them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Optional

from .answers import CREATE, CREATED, DELETE, DELETED, ERROR, Answer, Refused
from .features import Version

LONGEST_KEY, LONGEST_VALUE = 256, 4096
_RECORDED = ("1.27", "1.33")


@cache
def _tables() -> dict[str, Any]:
    text = Path(__file__).with_name("properties.json").read_text(encoding="utf-8")
    tables: dict[str, Any] = json.loads(text)
    return tables


def table(version: Version, kind: str) -> dict[str, Any]:
    """Return what a version answers for `kind`: "controller" or "definition" (key rules), or "defaults" (values)."""
    tables = _tables()
    known = [name for name in _RECORDED if int(name.split(".")[1]) <= int(version.name.split(".")[1])]
    found: dict[str, Any] = tables[known[-1] if known else _RECORDED[0]][kind]
    if kind == "defaults" and not version.has("auto_quorum_deprecated"):
        # A database is made with it (Migration_2019_10_01_AutoQuorumAndTieBreaker); the recorded one had lost it.
        return {**found, "DrbdOptions/auto-quorum": "io-error"}
    return found


def normal(key: str) -> str:
    """Return a key as it is stored: without empty path elements ("Aux//a/" is Aux/a)."""
    return "/".join(part for part in key.split("/") if part)


def rule(version: Version, kind: str, key: str) -> Optional[dict[str, Any]]:
    """Return the rule of an allowed key, None for one that is not on the list. Aux/ is free.

    `kind` is "controller", "definition" (and of groups), "volume" (definitions), "resource", "node", "pool",
    "connection" or "snapshot"; what the last five allow was asked of 1.33 alone.
    """
    if key.startswith("Aux/"):
        return {"prop_type": "string"}
    if kind in ("controller", "definition"):
        return table(version, kind).get(key)
    if key not in _tables()["kinds"].get(kind, ()):
        return None
    return _tables()["others"].get(key) or table(version, "definition").get(key) or table(version, "controller").get(
        key, {"prop_type": "string"})


def value_fits(found: dict[str, Any], value: str) -> bool:
    """Tell whether a value obeys the rule of its key."""
    kind, allowed = found["prop_type"], found.get("value", "")
    if kind == "long":
        return bool(re.fullmatch(r"-?\d+", value))
    if kind in ("range", "range_float"):
        low, high = (float(end) for end in allowed.strip("()").split(" - "))
        return bool(re.fullmatch(r"-?\d+(\.\d+)?", value)) and low <= float(value) <= high
    if kind == "numeric_or_symbol":
        numbers, symbols = allowed.split(" or ")
        return value_fits({"prop_type": "range", "value": numbers}, value) or bool(re.fullmatch(symbols, value))
    if kind in ("regex", "boolean", "boolean_true_false", "symbol"):
        insensitive = allowed.startswith("(?i)")
        return bool(re.fullmatch(allowed.replace("(?i)", ""), value, re.IGNORECASE if insensitive else 0))
    return True


def check(version: Version, kind: str, override: dict[str, Any], delete: Optional[list[str]] = None) -> None:
    """Refuse with 213 what may not be set or deleted; nothing is stored when one key of a request is bad."""
    for key, value in override.items():
        found = rule(version, kind, key)
        if found is None:
            raise Refused(ERROR | 213, f"Invalid property key: {key}", report=True)
        if value is None:
            raise Refused(ERROR | 213, "Invalid value: null", report=True)
        if len("/" + key) > LONGEST_KEY:
            raise Refused(ERROR | 213, f"Invalid key: {key}", report=True)
        if not value_fits(found, value):
            raise Refused(ERROR | 213, f"Invalid property({key}) value: {value}", report=True)
    for key in delete or []:
        if rule(version, kind, key) is None:
            raise Refused(ERROR | 213, "Invalid property key", report=True)


def too_long(override: dict[str, Any]) -> bool:
    """Tell whether a value does not fit the database; that shows only when the request is committed."""
    return any(value is not None and len(value) > LONGEST_VALUE for value in override.values())


def change(props: dict[str, str], answer: Answer, obj: int, override: dict[str, str],
           delete: Optional[list[str]] = None, namespaces: Optional[list[str]] = None) -> bool:
    """Apply checked changes and say so in the answer: sets first, then deletes, then whole namespaces.

    Returns whether any step changed something (a key set and deleted again did). Deleting what is not set is reported
    as done.
    """
    changed = False
    if override:
        answer.add(CREATE | obj | CREATED, "Successfully set property key(s): " + ",".join(override))
        for key, value in override.items():
            stored = _as_stored(key, value)
            changed |= props.get(normal(key)) != stored
            props[normal(key)] = stored
    if delete:
        answer.add(DELETE | obj | DELETED, "Successfully deleted property key(s): " + ",".join(sorted(delete)))
        for key in delete:
            changed |= props.pop(normal(key), None) is not None
    for space in namespaces or []:
        root = normal(space)
        for key in [key for key in props if key == root or key.startswith(root + "/")]:
            del props[key]
            changed = True
    return changed


def _as_stored(key: str, value: str) -> str:
    """Return a value as LINSTOR keeps it: true and false in lower case where the key is of that type."""
    found = _tables()[_RECORDED[0]]["definition"].get(key, {})
    return value.lower() if found.get("prop_type") == "boolean_true_false" else value


def matches(props: dict[str, str], terms: list[str]) -> bool:
    """Tell whether all `props=` terms of a list request hold: "key" is set, or "key=value" is exactly so."""
    for term in terms:
        key, equal, value = term.partition("=")
        if key not in props or (equal and props[key] != value):
            return False
    return True


def unhandled(doing: str, kind: str, what: str = "") -> Refused:
    """Return the refusal LINSTOR gives when its own code throws: 998 with the type of the exception."""
    text = f"{doing} failed due to an unhandled exception of type {kind}. {what}".strip()
    return Refused(ERROR | 998, text, report=True)
