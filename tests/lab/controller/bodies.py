"""Request bodies: what each handler accepts. LINSTOR refuses unknown keys, so does the simulator.

bodies.json has one entry a handler: keys with their types; "key@1.31,1.33" is known to these versions only.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

# Handlers that answer an unparsable body with 400; all others with 500 (measured on 1.33.3 and 1.27.1).
ANSWER_400 = {
    "POST /v1/resource-definitions",
    "POST /v1/resource-groups",
    "POST /v1/resource-groups/{resource_group}/volume-groups",
    "PUT /v1/key-value-store/{instance}",
    "POST /v1/resource-definitions/{resource}/snapshot-restore-volume-definition/{snapshot}",
}
_LONG = 1 << 63


class Unparsable(Exception):
    """The body is no JSON of the shape the handler knows; the text says where."""


@cache
def _schemas() -> dict[str, Any]:
    text = (Path(__file__).with_name("bodies.json")).read_text(encoding="utf-8")
    schemas: dict[str, Any] = json.loads(text)
    return schemas


@cache
def schema(handler: str, version: str) -> Any:
    """Return the body schema of "METHOD /path/{param}" for a version such as "1.33", None for no body."""
    found = _schemas().get(handler)
    return None if found is None else _for_version(found, version)


def _for_version(node: Any, version: str) -> Any:
    if isinstance(node, list):
        return [_for_version(node[0], version)]
    if not isinstance(node, dict):
        return node
    known = {}
    for key, value in node.items():
        name, _, versions = key.partition("@")
        if not versions or version in versions.split(","):
            known[name] = _for_version(value, version)
    return known


def parse(handler: str, version: str, raw: bytes) -> Any:
    """Return the body as the handler sees it: checked, numbers and booleans in string places made strings.

    Raises Unparsable for broken JSON, a wrong type or an unknown key, as LINSTOR's JSON reader does.
    """
    wanted = schema(handler, version)
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, UnicodeDecodeError) as problem:
        raise Unparsable(str(problem)) from problem
    return _checked(value, wanted, "")


def _checked(value: Any, wanted: Any, where: str) -> Any:
    if value is None or wanted == "any":
        return value
    if isinstance(wanted, dict):
        if not isinstance(value, dict):
            raise Unparsable(f"{where or 'body'}: object expected")
        anything = wanted.get("*")
        out = {}
        for key, item in value.items():
            if key not in wanted and anything is None:
                raise Unparsable(f'Unrecognized field "{key}" at {where or "body"}')
            out[key] = _checked(item, wanted.get(key, anything), f"{where}.{key}")
        return out
    if isinstance(wanted, list):
        if not isinstance(value, list):
            raise Unparsable(f"{where or 'body'}: list expected")
        return [_checked(item, wanted[0], f"{where}[{place}]") for place, item in enumerate(value)]
    return _scalar(value, wanted, where)


def _scalar(value: Any, wanted: str, where: str) -> Any:
    if isinstance(value, (dict, list)):
        raise Unparsable(f"{where or 'body'}: {wanted} expected")
    if wanted == "str":
        return str(value).lower() if isinstance(value, bool) else str(value)
    if wanted == "bool":
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        return bool(value)
    try:
        made = float(value) if wanted == "float" else int(value)
    except (TypeError, ValueError) as problem:
        raise Unparsable(f"{where}: {wanted} expected") from problem
    if wanted == "int" and not -_LONG <= made < _LONG:
        raise Unparsable(f"{where}: out of range")
    return made
