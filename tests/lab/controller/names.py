"""Names as LINSTOR allows them, and how it orders them: by their upper case spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .answers import ERROR, Refused

_WORD = re.compile(r"(?=.*[A-Za-z])[A-Za-z_][A-Za-z0-9_-]*", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*", re.ASCII)

RESOURCE_NAME, SNAPSHOT_NAME, GROUP_NAME, POOL_NAME, NODE_NAME, STORE_NAME = 202, 218, 237, 208, 200, 223
_TEXT = {
    RESOURCE_NAME: "The specified resource name '{}' is invalid.",
    SNAPSHOT_NAME: "The given snapshot name '{}' is invalid.",
    GROUP_NAME: "The given resource group name '{}' is invalid.",
    POOL_NAME: "The given storage pool name '{}' is invalid.",
    NODE_NAME: "The given node name '{}' is invalid.",
    STORE_NAME: "The given keyValueStore name '{}' is invalid.",
}


def valid(kind: int, name: str) -> bool:
    """Tell whether `name` may name an object of `kind`, one of the constants above."""
    if kind == NODE_NAME:
        return 2 <= len(name) <= 255 and bool(_HOST.fullmatch(name))
    shortest = 3 if kind == POOL_NAME else 2
    if kind == RESOURCE_NAME and name.upper() in ("ALL", "PROXY"):
        return False
    return shortest <= len(name) <= 48 and bool(_WORD.fullmatch(name))


def check(kind: int, name: object, *, masked: bool = True, status: int = 0) -> str:
    """Return the upper case spelling of a valid name; refuse an invalid one with the code of its kind."""
    text = "null" if name is None else str(name)
    if name is None or not valid(kind, text):
        raise Refused(ERROR | kind, _TEXT[kind].format(text), masked=masked, status=status, report=masked)
    return text.upper()


def hash_order(names: Iterable[str]) -> list[str]:
    """Return names in the order a small Java HashSet of them iterates: rollback answers its nodes in that order."""
    def bucket(name: str) -> int:
        value = 0
        for letter in name.upper():
            value = (value * 31 + ord(letter)) & 0xFFFFFFFF
        return (value ^ (value >> 16)) & 15
    return sorted(names, key=bucket)
