"""LINSTOR's documents -> the values of `world`. Members that are empty are absent in LINSTOR's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Optional

from ..inventory import DRBD, Definition, Group, Node, Pool, Replica, Snapshot
from ..naming import by_res
from ..units import Kib


def definition(item: Mapping[str, Any]) -> Definition:
    """Return a definition from `GET resource-definitions?with_volume_definitions=true`."""
    return Definition(
        name=item["name"],
        flags=frozenset(item.get("flags") or ()),
        props=item.get("props") or {},
        group=item.get("resource_group_name") or "",
        layers=tuple(layer["type"] for layer in item.get("layer_data") or ()),
        size=_first_size(item.get("volume_definitions")),
    )


def _first_size(volumes: Any) -> Optional[Kib]:
    for volume in volumes or ():
        if volume.get("volume_number", 0) == 0:
            return Kib(volume["size_kib"])
    return None


def replica(item: Mapping[str, Any]) -> Replica:
    """Return a resource from `GET resource-definitions/NAME/resources`.

    `state` is there, if only empty, exactly while the node's satellite is connected (measured on 1.27 and 1.33).
    """
    layers: list[str] = []
    layer = item.get("layer_object")
    top = layer
    storage: Mapping[str, Any] = {}
    while layer:
        layers.append(layer.get("type", ""))
        storage = layer.get("storage") or storage
        layer = next(iter(layer.get("children") or ()), None)
    state = item.get("state")
    peers = ((top or {}).get("drbd") or {}).get("connections") or {}
    return Replica(
        node=item["node_name"],
        flags=frozenset(item.get("flags") or ()),
        layers=tuple(layers),
        pool=(item.get("props") or {}).get("StorPoolName", ""),
        device=_device(item["name"], top),
        online=state is not None,
        in_use=(state or {}).get("in_use") if DRBD in layers else None,
        uuid=str(item.get("uuid", "")),
        apart=any(peer.get("message") == "StandAlone" for peer in peers.values()),
        sees={node: peer["connected"] for node, peer in peers.items() if isinstance(peer.get("connected"), bool)},
        allocated=_allocated(storage),
    )


def _allocated(storage: Mapping[str, Any]) -> Optional[Kib]:
    for volume in storage.get("storage_volumes") or ():
        if volume.get("volume_number", 0) == 0:
            size = volume.get("allocated_size_kib", -1)
            return Kib(size) if size >= 0 else None
    return None


def _device(name: str, top: Optional[Mapping[str, Any]]) -> Optional[str]:
    """The path of volume 0: DRBD's by udev's name, which LINSTOR does not report; else the top layer's own."""
    kind = str((top or {}).get("type", ""))
    data = (top or {}).get(kind.lower()) or {}
    for volume in data.get(f"{kind.lower()}_volumes") or ():
        number = volume.get("volume_number", (volume.get("drbd_volume_definition") or {}).get("volume_number", 0))
        path = volume.get("device_path")
        if number == 0 and path:
            return by_res(name) if kind == DRBD else str(path)
    return None


def snapshot(item: Mapping[str, Any]) -> Snapshot:
    """Return a snapshot from `GET view/snapshots`. The sequence number moved between LINSTOR 1.27 and 1.33."""
    props = item.get("snapshot_definition_props") or item.get("props") or {}
    number = str(props.get("SequenceNumber", "0"))
    return Snapshot(
        definition=item["resource_name"],
        name=item["name"],
        flags=frozenset(item.get("flags") or ()),
        nodes=tuple(item.get("nodes") or ()),
        sequence=int(number) if number.isdigit() else 0,
        size=_first_size(item.get("volume_definitions")),
        pools=dict(_snapshot_pools(item.get("snapshots"))),
    )


def _snapshot_pools(items: Any) -> Iterator[tuple[str, str]]:
    for item in items or ():
        pool = (item.get("resource_props") or {}).get("StorPoolName")
        if pool:
            yield item["node_name"], pool


def node(item: Mapping[str, Any]) -> Node:
    """Return a node from `GET nodes`; of the many connection states only ONLINE is usable."""
    return Node(item["name"], item.get("connection_status") == "ONLINE", frozenset(item.get("flags") or ()))


def group(item: Mapping[str, Any]) -> Group:
    """Return a resource group; LINSTOR stores a place count of 2 where none was given."""
    rules = item.get("select_filter") or {}
    pools = rules.get("storage_pool_list") or ([rules["storage_pool"]] if rules.get("storage_pool") else [])
    layers = tuple(str(layer).upper() for layer in rules.get("layer_stack") or ())
    kinds = tuple(str(kind).upper() for kind in rules.get("provider_list") or ())
    return Group(item["name"], int(rules.get("place_count") or 2), tuple(pools), layers, kinds)


def pool(item: Mapping[str, Any]) -> Pool:
    """Return a storage pool from `GET view/storage-pools`; capacities are absent while its satellite is offline."""
    free, total = item.get("free_capacity"), item.get("total_capacity")
    return Pool(
        name=item["storage_pool_name"],
        node=item["node_name"],
        provider=item.get("provider_kind", ""),
        free=None if free is None else Kib(free),
        total=None if total is None else Kib(total),
        shared_space=item.get("free_space_mgr_name") or f"{item['node_name']};{item['storage_pool_name']}",
        snapshots=item.get("supports_snapshots", True),
    )
