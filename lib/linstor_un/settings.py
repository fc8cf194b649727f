"""Attributes of a datastore over linstor_un.conf, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional


@dataclass(frozen=True)
class Settings:
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
    do_not_place_with: tuple[str, ...] = ()
    do_not_place_with_regex: str = ""
    storage_pools: tuple[str, ...] = ()
    diskless_pool: str = ""
    prefer_node: bool = False
    encryption: bool = False
    staging_dir: str = "/var/tmp"
    restricted_dirs: tuple[str, ...] = ()
    safe_dirs: tuple[str, ...] = ()
    no_decompress: str = ""
    limit_transfer_bw: str = ""
