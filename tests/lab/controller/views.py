"""The documents LINSTOR shows of its objects. Empty members are left out, as its JSON writer does."""

from __future__ import annotations

from typing import Any, Optional

from . import drbd
from .answers import NOT_CONNECTED_DETAILS, WARN, entry
from .cluster import (
    LAYERS,
    SNAPSHOT_KINDS,
    UNLIMITED,
    Cluster,
    Definition,
    Group,
    Node,
    Pool,
    Resource,
    Snapshot,
    Volume,
    VolumeDefinition,
)

NO_DRIVERS = ("LVM", "SPDK", "STORAGE_SPACES", "ZFS_THIN", "ZFS", "STORAGE_SPACES_THIN", "LVM_THIN")


def filled(document: dict[str, Any], *keep: str) -> dict[str, Any]:
    """Return the document without empty members, but for those named."""
    return {key: value for key, value in document.items() if key in keep or (value not in (None, "", [], {}))}


def definition(cluster: Cluster, one: Definition, with_volumes: bool) -> dict[str, Any]:
    """Return a resource definition; volume definitions only where the request asked for them."""
    return filled({
        "name": one.name,
        "external_name": one.external_name,
        "props": dict(sorted(one.props.items())),
        "flags": one.flags,
        "layer_data": _layer_data(one.layers, one.drbd),
        "uuid": one.uuid,
        "resource_group_name": one.group,
        "volume_definitions": [
            volume_definition(one, one.volumes[number]) for number in sorted(one.volumes)
        ] if with_volumes else [],
    })


def volume_definition(owner: Definition, one: VolumeDefinition) -> dict[str, Any]:
    return filled({
        "volume_number": one.number,
        "size_kib": one.size,
        "props": dict(sorted(one.props.items())),
        "flags": one.flags,
        "layer_data": _layer_data(owner.layers, one.drbd),
        "uuid": one.uuid,
    }, "volume_number")


def _layer_data(layers: list[str], data: Optional[dict[str, Any]]) -> list[dict[str, Any]]:
    kinds = set(layers) | ({"DRBD"} if data else set())
    return [filled({"type": kind, "data": data if kind == "DRBD" else None}) for kind in LAYERS if kind in kinds]


def resource(cluster: Cluster, one: Resource) -> dict[str, Any]:
    """Return a resource as GET .../resources shows it: without its volumes, from the controller's memory."""
    document = filled({
        "name": one.definition.name,
        "node_name": one.node,
        "props": one.props,
        "flags": drbd.flags(one),
        "layer_object": layer_object(cluster, one),
    })
    # The state is what the satellite told; without a connection, or before it told anything, there is none.
    if one.known and cluster.online(one.node):
        document["state"] = drbd.state(cluster, one) if "DRBD" in one.layers else {}
    document["uuid"] = one.uuid
    if one.created:
        document["create_timestamp"] = one.created
    return document


def layer_object(cluster: Cluster, one: Resource) -> dict[str, Any]:
    """Return the tree of layers of a resource, top layer outside."""
    tree: dict[str, Any] = {}
    for kind in reversed(one.layers):
        layer: dict[str, Any] = {"children": [tree]} if tree else {}
        layer["type"] = kind
        if kind == "DRBD":
            layer["drbd"] = drbd.resource_data(cluster, one)
        elif kind == "STORAGE":
            volumes = [storage_data(one.volumes[number]) for number in sorted(one.volumes)]
            if one.uuid in cluster.untold:
                cluster.untold.discard(one.uuid)
                untold = {"device_path": None, "allocated_size_kib": -1, "usable_size_kib": -1}
                volumes = [filled({**volume, **untold}, "volume_number") for volume in volumes]
            layer["storage"] = filled({"storage_volumes": volumes})
        else:
            layer[kind.lower()] = drbd.crypt_data(one) if kind == "LUKS" else {}
        tree = layer
    return tree


def storage_data(volume: Volume) -> dict[str, Any]:
    return filled({
        "volume_number": volume.number,
        "device_path": volume.device,
        "allocated_size_kib": volume.allocated,
        "usable_size_kib": volume.usable,
        "disk_state": "" if volume.state == "Diskless" else "[]",
    }, "volume_number", "allocated_size_kib", "usable_size_kib")


def view(cluster: Cluster, one: Resource, pools: Optional[set[str]] = None) -> dict[str, Any]:
    """Return a resource with its volumes, as GET /v1/view/resources shows it; `pools` are upper case names."""
    numbers = [nr for nr in sorted(one.volumes) if not pools or one.volumes[nr].pool.upper() in pools]
    return {**resource(cluster, one), "volumes": [volume(cluster, one, one.volumes[nr]) for nr in numbers]}


def volume(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    """Return one volume of a resource with the data of each of its layers."""
    pool = cluster.pool(owner.node, one.pool)
    kind = pool.kind if pool else "DISKLESS"
    layers = []
    for layer in owner.layers:
        if layer == "DRBD":
            layers.append({"type": layer, "data": drbd.volume_data(cluster, owner, one)})
        elif layer == "LUKS":
            layers.append({"type": layer, "data": drbd.crypt_volume(owner, one)})
        else:
            layers.append({"type": layer, "data": storage_data(one)})
    document = filled({
        "volume_number": one.number,
        "storage_pool_name": one.pool,
        "provider_kind": kind,
        "device_path": drbd.device_path(owner, one) if "DRBD" in owner.layers else one.device,
        "allocated_size_kib": _allocated(cluster, owner, one, kind),
        "props": drbd.volume_props(owner, one),
        "flags": [*one.flags, "DELETE"] if "DELETE" in owner.flags else one.flags,
        "layer_data_list": layers,
        "uuid": one.uuid,
    }, "volume_number", "allocated_size_kib")
    if "DRBD" in owner.layers and cluster.online(owner.node) and owner.known:
        document["state"] = drbd.volume_state(cluster, owner, one)
    return document


def _allocated(cluster: Cluster, owner: Resource, one: Volume, kind: str) -> int:
    node = cluster.node(owner.node)
    if kind == "FILE_THIN" and node and node.online:
        # Asked live, the satellite does not count what the quick wipe wrote.
        return -1 if node.behind else 0
    return one.allocated


def snapshot(cluster: Cluster, owner: Definition, one: Snapshot) -> dict[str, Any]:
    """Return a snapshot definition with its snapshot on each node."""
    shown = cluster.version.has("snapshot_props_shown")
    per_node = []
    for key in sorted(one.resources):
        held = one.resources[key]
        per_node.append(filled({
            "snapshot_name": one.name,
            "node_name": held["node"],
            "create_timestamp": one.created,
            "flags": held.get("flags", []),
            "uuid": held["uuid"],
            "resource_props": held["props"] if shown else {},
            "snapshot_volumes": [filled({
                "uuid": held["volumes"][nr], "vlm_nr": nr, "props": held["volume_props"][nr] if shown else {},
                "volume_props": held["volume_props"][nr] if shown else {},
            }, "vlm_nr") for nr in sorted(held["volumes"])],
        }))
    merged = {**one.definition_props, **one.props}
    return filled({
        "name": one.name,
        "resource_name": owner.name,
        "nodes": [held["node_name"] for held in per_node],
        "props": dict(sorted(merged.items())),
        "snapshot_definition_props": dict(sorted(one.props.items())) if shown else {},
        "resource_definition_props": dict(sorted(one.definition_props.items())) if shown else {},
        "flags": one.flags,
        "volume_definitions": [filled({
            "volume_number": number,
            "size_kib": one.sizes[number],
            "volume_definition_props": one.volume_props[number] if shown else {},
        }, "volume_number") for number in sorted(one.sizes)],
        "uuid": one.uuid,
        "snapshots": per_node,
    })


def pool(cluster: Cluster, one: Pool, free: int) -> dict[str, Any]:
    """Return a storage pool; an offline node's has no capacities and says why in `reports`."""
    supports = one.kind in SNAPSHOT_KINDS
    document: dict[str, Any] = filled({
        "storage_pool_name": one.name,
        "node_name": one.node,
        "provider_kind": one.kind,
        "props": dict(sorted(one.props.items())),
    })
    traits = {"SupportsSnapshots": str(supports).lower()}
    document["static_traits"] = traits if one.diskless else {
        "Provisioning": "Thin" if one.thin else "Fat", **traits,
    }
    if cluster.online(one.node):
        document["free_capacity"] = UNLIMITED if one.diskless else free
        document["total_capacity"] = UNLIMITED if one.diskless else one.total
    document["free_space_mgr_name"] = f"{one.node};{one.name}"
    document["uuid"] = one.uuid
    if not cluster.online(one.node):
        text = f"No active connection to satellite '{one.node}'"
        document["reports"] = [entry(WARN | 1002, text, details=NOT_CONNECTED_DETAILS)]
    document["supports_snapshots"] = supports
    document["external_locking"] = False
    return document


def group(one: Group) -> dict[str, Any]:
    """Return a resource group with its select_filter."""
    select = dict(one.select)
    pools = select.get("storage_pool_list")
    if pools:
        select["storage_pool"] = pools[0]
    return filled({
        "name": one.name,
        "description": one.description,
        "props": dict(sorted(one.props.items())),
        "select_filter": filled(select, "place_count"),
        "uuid": one.uuid,
    })


def node(one: Node) -> dict[str, Any]:
    """Return a node with what its satellite supports."""
    providers = [*one.providers, "REMOTE_SPDK", "EBS_INIT", "EBS_TARGET"]
    layers = list(one.layers)
    if not one.online:
        providers, layers = ["DISKLESS", "REMOTE_SPDK", "EBS_INIT", "EBS_TARGET"], ["STORAGE"]
    missing_kinds = ("FILE", "FILE_THIN", *NO_DRIVERS)
    reason = ["not available on this node" if one.online else "No information from satellite yet"]
    document = filled({
        "name": one.name,
        "type": one.kind,
        "flags": one.flags,
        "props": dict(sorted(one.props.items())),
        "net_interfaces": [one.interfaces[key] for key in sorted(one.interfaces)],
        "connection_status": "ONLINE" if one.online else "OFFLINE",
        "uuid": one.uuid,
        "storage_providers": providers,
        "resource_layers": layers,
        "unsupported_providers": {kind: reason for kind in missing_kinds if kind not in providers},
        "unsupported_layers": {kind: reason for kind in LAYERS if kind not in layers},
    })
    if not one.online:
        document["eviction_timestamp"] = one.evict_at
    return document
