"""The attributes an administrator may set: what each may hold, and the field of Settings that it fills."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple
from urllib.parse import urlsplit

from .errors import BadRequest

# LINSTOR takes these names in any case; the table has them as it writes them.
LAYERS = ("DRBD", "LUKS", "NVME", "CACHE", "WRITECACHE", "BCACHE", "STORAGE")
PROVIDERS = ("LVM", "LVM_THIN", "ZFS", "ZFS_THIN", "FILE", "FILE_THIN", "SPDK", "REMOTE_SPDK", "EBS_INIT", "EBS_TARGET",
             "STORAGE_SPACES", "STORAGE_SPACES_THIN")  # fmt: skip
# DRBD 9 holds no more than 32 nodes in a resource.
_MOST_REPLICAS = 32
_LONGEST_TIMEOUT = 86400
_MOST_EXTRA = 1 << 20

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_NODE = rf"(?=.{{2,255}}\Z){_LABEL}(?:\.{_LABEL})*\Z"
_HOST = r"(?=.{1,255}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z"
_IPV6 = r"(?=.*:)[0-9A-Fa-f:.]{2,45}\Z"
_OBJECT = r"(?=.*[A-Za-z])[A-Za-z_][A-Za-z0-9_-]{1,47}\Z"
_POOL = r"(?=.*[A-Za-z])[A-Za-z_][A-Za-z0-9_-]{2,47}\Z"
_PROPERTY = r"[^\s,]{1,256}\Z"
_RATE = r"[0-9]{1,15}[kKmMgG]?\Z"
_SEPARATOR = r"[\s,]+"
_SCHEMES = frozenset({"linstor", "linstor+ssl", "http", "https"})

Read = Callable[[str, str], Any]


class Attribute(NamedTuple):
    """Where a value goes, and how it is read: `read(text, name)` raises BadRequest naming what is allowed."""

    field: str
    read: Read


def _refuse(name: str, value: str, allowed: str) -> BadRequest:
    return BadRequest(f"{name} is {value[:200]!r}; allowed is {allowed}")


def _one_of(*words: str) -> Read:
    def read(text: str, name: str) -> str:
        if text.lower() not in words:
            raise _refuse(name, text, " or ".join(words))
        return text.lower()

    return read


def _matching(pattern: str, allowed: str) -> Read:
    def read(text: str, name: str) -> str:
        if not re.match(pattern, text):
            raise _refuse(name, text, allowed)
        return text

    return read


def _list_of(read_one: Read) -> Read:
    """A list separated by blanks or commas; each member once, in its order."""

    def read(text: str, name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(read_one(member, name) for member in re.split(_SEPARATOR, text) if member))

    return read


def _upper(words: Sequence[str]) -> Read:
    def read(text: str, name: str) -> str:
        if text.upper() not in words:
            raise _refuse(name, text, f"a list of {', '.join(words)}")
        return text.upper()

    return read


def _number(least: int, most: int, unit: str) -> Read:
    def read(text: str, name: str) -> int:
        if not re.match(r"[0-9]{1,9}\Z", text) or not least <= int(text) <= most:
            raise _refuse(name, text, f"a number of {unit} from {least} to {most}")
        return int(text)

    return read


def _yes(text: str, name: str) -> bool:
    return bool(_one_of("yes", "no")(text, name) == "yes")


def _path(text: str, name: str) -> str:
    if not text.startswith("/") or not text.isprintable():
        raise _refuse(name, text, "an absolute path")
    return text


def _regex(text: str, name: str) -> str:
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise _refuse(name, text, f"a regular expression ({error})")
    return text


def _controller(text: str, name: str) -> str:
    try:
        parts = urlsplit(text if "://" in text else f"linstor://{text}")
        host = parts.hostname or ""
        good = parts.scheme in _SCHEMES and bool(re.match(_HOST, host) or re.match(_IPV6, host)) and parts.port != 0
        plain = parts.path in ("", "/") and not parts.query and not parts.fragment and parts.username is None
    except ValueError:
        good = plain = False
    if not (good and plain):
        raise _refuse(name, text, "HOST, HOST:PORT or a scheme before them: linstor, linstor+ssl, http, https")
    return text


_NODES = _list_of(_matching(_NODE, "a list of LINSTOR node names"))
_DIRECTORIES = _list_of(_path)
_PROPERTIES = _list_of(_matching(_PROPERTY, "a list of property names"))
_COUNT = _number(1, _MOST_REPLICAS, "replicas")
_POOL_NAME = _matching(_POOL, "a storage pool name: 3 to 48 letters, digits, _ or -")

ATTRIBUTES = {
    "CLONE_MODE": Attribute("clone_mode", _one_of("copy", "snapshot", "clone")),
    "BRIDGE_LIST": Attribute("bridge_list", _list_of(_matching(_HOST, "a list of host names"))),
    "LS_CONTROLLERS": Attribute("controllers", _list_of(_controller)),
    "LS_CERTFILE": Attribute("certfile", _path),
    "LS_KEYFILE": Attribute("keyfile", _path),
    "LS_CAFILE": Attribute("cafile", _path),
    "LS_TOKEN_FILE": Attribute("token_file", _path),
    "LS_TIMEOUT": Attribute("timeout", _number(1, _LONGEST_TIMEOUT, "seconds")),
    "RESOURCE_GROUP": Attribute(
        "resource_group", _matching(_OBJECT, "a resource group name: 2 to 48 letters, digits, _ or -")
    ),
    "NODE_LIST": Attribute("node_list", _NODES),
    "LAYER_LIST": Attribute("layer_list", _list_of(_upper(LAYERS))),
    "PROVIDERS": Attribute("providers", _list_of(_upper(PROVIDERS))),
    "REPLICAS_ON_SAME": Attribute("replicas_on_same", _PROPERTIES),
    "REPLICAS_ON_DIFFERENT": Attribute("replicas_on_different", _PROPERTIES),
    "REPLICA_COUNT": Attribute("replica_count", _COUNT),
    "CHECKPOINT_REPLICA_COUNT": Attribute("checkpoint_replica_count", _COUNT),
    "CHECKPOINT_SIZE_PERCENT": Attribute("checkpoint_size_percent", _number(1, 1000, "percent")),
    "CHECKPOINT_SIZE_EXTRA": Attribute("checkpoint_size_extra", _number(0, _MOST_EXTRA, "MiB")),
    "DO_NOT_PLACE_WITH": Attribute("do_not_place_with", _list_of(_matching(_OBJECT, "a list of resource names"))),
    "DO_NOT_PLACE_WITH_REGEX": Attribute("do_not_place_with_regex", _regex),
    "STORAGE_POOL": Attribute("storage_pools", _list_of(_POOL_NAME)),
    "DISKLESS_POOL": Attribute("diskless_pool", _POOL_NAME),
    "PREFER_NODE": Attribute("prefer_node", _yes),
    "ON_NO_QUORUM": Attribute("on_no_quorum", _one_of("suspend-io", "io-error", "linstor")),
    "ENCRYPTION": Attribute("encryption", _yes),
    "STAGING_DIR": Attribute("staging_dir", _path),
    "RESTRICTED_DIRS": Attribute("restricted_dirs", _DIRECTORIES),
    "SAFE_DIRS": Attribute("safe_dirs", _DIRECTORIES),
    "NO_DECOMPRESS": Attribute("no_decompress", _one_of("yes", "no")),
    "LIMIT_TRANSFER_BW": Attribute("limit_transfer_bw", _matching(_RATE, "bytes a second, as 500K or 10M")),
}
OLD_SPELLINGS = {"AUTO_PLACE": "REPLICA_COUNT", "CHECKPOINT_AUTO_PLACE": "CHECKPOINT_REPLICA_COUNT"}
