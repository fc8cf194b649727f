"""Attributes of a datastore over linstor_un.conf, as one frozen value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional

from . import conffile
from .attributes import ATTRIBUTES, OLD_SPELLINGS, Attribute
from .errors import BadRequest
from .units import Mib

# Keys of the old driver's file that say how its shell commands run.
_WITHOUT_EFFECT = frozenset({"DD_BLOCK_SIZE", "DD_CONV", "LINSTOR", "JQ", "LEGACY_MONITORING"})
# How alike a datastore's attribute must be to one of ours to be taken for a slip of the pen; OpenNebula's own
# attributes and those of other drivers stay below.
_NEAR_MISS = 0.85
_LONGEST_NAME = 64
_LONGEST_VALUE = 16384


class Settings(NamedTuple):
    """What an administrator set. Lists keep their order; empty means not set."""

    clone_mode: str = "copy"
    bridge_list: tuple[str, ...] = ()
    controllers: tuple[str, ...] = ()
    certfile: str = ""
    keyfile: str = ""
    cafile: str = ""
    token_file: str = ""
    timeout: int = 300
    resource_group: str = ""
    node_list: tuple[str, ...] = ()
    layer_list: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    replicas_on_same: tuple[str, ...] = ()
    replicas_on_different: tuple[str, ...] = ()
    replica_count: Optional[int] = None
    checkpoint_replica_count: Optional[int] = None
    checkpoint_size_percent: int = 101
    checkpoint_size_extra: Mib = Mib(256)
    do_not_place_with: tuple[str, ...] = ()
    do_not_place_with_regex: str = ""
    storage_pools: tuple[str, ...] = ()
    diskless_pool: str = ""
    prefer_node: bool = False
    on_no_quorum: str = "suspend-io"
    encryption: bool = False
    staging_dir: str = "/var/tmp"
    restricted_dirs: tuple[str, ...] = ()
    safe_dirs: tuple[str, ...] = ()
    no_decompress: str = ""
    limit_transfer_bw: str = ""


class Loaded(NamedTuple):
    """Settings with what is to be said about where they came from.

    `warnings` are for oned's log: a slip of the pen changes where data is placed. `notes` are for syslog.
    """

    settings: Settings
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def load(template: Mapping[str, str], conf_text: str) -> Loaded:
    """Read a datastore's template over linstor_un.conf.

    Arguments: template, the attributes of DATASTORE/TEMPLATE; conf_text, what the file holds, "" without one.
    An attribute that is empty in the template counts as not set there. An old spelling gives way to the new one.
    Raises BadRequest naming the attribute, its value and what is allowed.
    """
    conf = conffile.parse(conf_text)
    values: dict[str, Any] = {}
    for source, where in ((conf.values, "linstor_un.conf"), (template, "the datastore")):
        for name, attribute in ATTRIBUTES.items():
            spelling = _spelling(source, name)
            if spelling:
                values[attribute.field] = _read(attribute, source[spelling].strip(), f"{spelling} of {where}")
    warnings = [*_unknown_keys(conf.values), *_near_misses(template)]
    return Loaded(Settings(**values), tuple(warnings), (*conf.remarks, *_idle(conf.values)))


def require_placement(settings: Settings) -> None:
    """Raise BadRequest unless the settings say how many replicas a new volume gets, and in which pools.

    Removing, monitoring and letting go need less.
    """
    if not (settings.resource_group or settings.node_list or settings.replica_count):
        raise BadRequest("none of RESOURCE_GROUP, NODE_LIST and REPLICA_COUNT is set; set one of them in the datastore")
    if not settings.resource_group and not settings.storage_pools:
        raise BadRequest("neither RESOURCE_GROUP nor STORAGE_POOL is set; set one of them in the datastore")


def _read(attribute: Attribute, text: str, name: str) -> Any:
    # A regular expression of a mebibyte takes seconds to compile, and nobody means it.
    if len(text) > _LONGEST_VALUE:
        raise BadRequest(f"{name} is {len(text)} characters long; allowed are {_LONGEST_VALUE}")
    return attribute.read(text, name)


def _spelling(source: Mapping[str, str], name: str) -> str:
    """Return under which name the source sets an attribute, or ""."""
    spellings = [name, *(old for old, new in OLD_SPELLINGS.items() if new == name)]
    return next((spelling for spelling in spellings if source.get(spelling, "").strip()), "")


def _ours() -> list[str]:
    return [*ATTRIBUTES, *OLD_SPELLINGS]


def _nearest(key: str, known: Iterable[str], cutoff: float) -> str:
    import difflib

    found = difflib.get_close_matches(key[:_LONGEST_NAME].upper(), list(known), n=1, cutoff=cutoff)
    return found[0] if found else ""


def _unknown_keys(values: Mapping[str, str]) -> list[str]:
    """The file is ours alone, apart from variables that it assigns for its own use, in lower case."""
    known = {*_ours(), *_WITHOUT_EFFECT}
    said = []
    for key in values:
        if key not in known and not key.islower():
            nearest = _nearest(key, known, cutoff=0.4)
            hint = f"; the nearest known key is {nearest}" if nearest else ""
            said.append(f"{key[:_LONGEST_NAME]} in linstor_un.conf is not a key of this driver and has no effect{hint}")
    return said


def _near_misses(template: Mapping[str, str]) -> list[str]:
    ours = _ours()
    said = []
    for key in template:
        nearest = "" if key in ours or len(key) > _LONGEST_NAME else _nearest(key, ours, _NEAR_MISS)
        if nearest:
            said.append(f"{key} of the datastore has no effect; {nearest} may be meant")
    return said


def _idle(values: Mapping[str, str]) -> list[str]:
    idle = sorted(_WITHOUT_EFFECT & set(values))
    return [f"{', '.join(idle)} of the old driver have no effect any more"] if idle else []
