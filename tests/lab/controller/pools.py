"""Storage pools of nodes, and the names of pools the cluster knows."""

from __future__ import annotations

from typing import Any

from . import lookup, names, properties, views
from .answers import (
    CREATE,
    CREATED,
    DELETE,
    DELETED,
    ERROR,
    MODIFIED,
    MODIFY,
    POOL,
    Answer,
    Document,
    Refused,
)
from .capacity import Usage
from .cluster import Cluster, Node, Pool
from .placement import PROVIDER_KINDS
from .providers import PROVIDERS
from .router import Request, route

PATH = "/v1/nodes/{node}/storage-pools"
ONE = PATH + "/{storagepool}"
DEFINITIONS = "/v1/storage-pool-definitions"
DEVICE_KEYS = ("StorDriver/FileDir", "StorDriver/LvmVg", "StorDriver/ZPool", "StorDriver/ZPoolThin")
GRANULARITY = "StorDriver/internal/AllocationGranularity"


@route("GET", "/v1/view/storage-pools")
def view(cluster: Cluster, request: Request) -> Document:
    """List pools by pool and node name; asked live, an unknown node is an error, from the cache it is nothing."""
    live = not request.flag("cached")
    for name in request.query.get("nodes", []):
        names.check(names.NODE_NAME, name, masked=False)
        if live:
            lookup.node(cluster, name, masked=False)
    nodes = {name.upper() for name in request.query.get("nodes", [])}
    wanted = {names.check(names.POOL_NAME, name, masked=False) for name in request.query.get("storage_pools", [])}
    terms = request.query.get("props", [])
    found = [pool for key, node in cluster.nodes.items() if not nodes or key in nodes
             for name, pool in node.pools.items()
             if (not wanted or name in wanted) and properties.matches(pool.props, terms)]
    found.sort(key=lambda pool: (pool.name.upper(), pool.node.upper()))
    usage = Usage(cluster)
    return Document([views.pool(cluster, pool, usage.free(pool)) for pool in request.page(found)])


@route("GET", PATH)
def listed(cluster: Cluster, request: Request) -> Document:
    node = lookup.node(cluster, request.params["node"], masked=False)
    usage = Usage(cluster)
    return Document([views.pool(cluster, node.pools[key], usage.free(node.pools[key])) for key in sorted(node.pools)])


@route("GET", ONE)
def shown(cluster: Cluster, request: Request) -> Document:
    node, name = lookup.node(cluster, request.params["node"], masked=False), request.params["storagepool"]
    pool = node.pools.get(name.upper())
    if pool is None:
        raise Refused(ERROR | 310, f"Storage pool '{name}' on node '{node.name}' not found.", masked=False)
    if (node.name.upper(), name.upper()) in cluster.broken_pools and not cluster.version.has("pool_update_said"):
        raise Refused(ERROR | 998, f"(Node: '{node.name}') Failed with unhandled error", masked=False, report=True)
    return Document(views.pool(cluster, pool, Usage(cluster).free(pool)))


@route("GET", DEFINITIONS)
def known_names(cluster: Cluster, request: Request) -> Document:
    return Document([{"storage_pool_name": cluster.pool_names[key]} for key in sorted(cluster.pool_names)])


@route("GET", DEFINITIONS + "/{storagepool}")
def known_name(cluster: Cluster, request: Request) -> Document:
    name = request.params["storagepool"]
    if name.upper() not in cluster.pool_names:
        raise Refused(ERROR | 309, f"StoragePoolDefinition '{name}' not found.", masked=False)
    return Document({"storage_pool_name": cluster.pool_names[name.upper()]})


@route("POST", PATH, body="required")
def create(cluster: Cluster, request: Request) -> Answer:
    """Register a pool. One that the satellite cannot open stays registered all the same."""
    body, node_name = request.body or {}, request.params["node"]
    name, kind = body.get("storage_pool_name"), (body.get("provider_kind") or "").upper()
    answer = request.answering(CREATE | POOL, {"StorPoolDfn": name, "Node": node_name}, 201)
    if kind not in PROVIDER_KINDS:
        raise Refused(ERROR | 224, f"Given provider kind '{body.get('provider_kind')}' is invalid", masked=False,
                      status=400)
    key = names.check(names.POOL_NAME, name)
    node = lookup.node(cluster, node_name)
    if key in node.pools:
        raise Refused(ERROR | 510, f"Node: {node.name}, Storage pool name: {name} already exists.")
    if node.online and kind not in node.providers:
        raise Refused(ERROR | 989, f"The satellite does not support the device provider {kind}")
    props = body.get("props") or {}
    properties.check(cluster.version, "pool", props)
    place = next((props[device] for device in DEVICE_KEYS if device in props), None)
    if place is not None and "StorDriver/ThinPool" in props:
        place = f"{place}/{props['StorDriver/ThinPool']}"
    pool = _register(cluster, answer, node, str(name), kind, props, place)
    answer.add(CREATED, f"New storage pool '{name}' on node '{node.name}' registered.", {"UUID": pool.uuid},
               details=f"UUID is: {pool.uuid}")
    _open(cluster, answer, node, pool, place)
    return answer


def _register(cluster: Cluster, answer: Answer, node: Node, name: str, kind: str, props: dict[str, Any],
              place: Any) -> Pool:
    like = next((one for one in node.pools.values() if one.kind == kind), None)
    total, used = (like.total, like.used_elsewhere) if like else (cluster.new_pool_size, 0)
    total = node.capacities.get(str(place), total)
    stored = {key: value for key, value in props.items() if key not in (*DEVICE_KEYS, "StorDriver/ThinPool")}
    if place is not None:
        stored["StorDriver/StorPoolName"] = place
    pool = cluster.add_pool(node.name, name, kind, total, used_elsewhere=used)
    properties.change(pool.props, answer, POOL, stored)
    pool.props[GRANULARITY] = PROVIDERS[kind].granularity
    if kind.startswith("LVM"):
        pool.props["StorDriver/internal/minIoSize"] = "512"
    if kind == "LVM_THIN":
        pool.props["StorDriver/internal/lvmthin/thinPoolGranularity"] = "64"
        pool.props["StorDriver/internal/lvmthin/thinPoolMetadataPercent"] = "10.64"
    return pool


def _open(cluster: Cluster, answer: Answer, node: Node, pool: Pool, place: Any) -> None:
    if not node.online:
        answer.offline(node.name)
        return
    if place is None:
        answer.add(ERROR | 998, f"({node.name}) Failed to apply storage pool changes")
    elif node.directories is not None and place not in node.directories:
        text = "External command failed" if pool.kind.startswith("FILE") else f"Volume group '{place}' not found"
        answer.add(ERROR | 990, f"({node.name}) {text}", details="The satellite could not open the pool")
    else:
        answer.add(MODIFIED, f"({node.name}) Changes applied to storage pool '{pool.name}' of node '{node.name}'")
        if cluster.version.has("pool_update_said"):
            answer.add(MODIFIED, f"Storage pool updated on '{node.name}'")
        return
    cluster.broken_pools.add((node.name.upper(), pool.name.upper()))
    if not cluster.version.has("pool_update_said"):
        return
    refusal = properties.unhandled(f"Registration of storage pool '{pool.name}' on node '{node.name}'",
                                   "DelayedApiRcException")
    answer.add(refusal.code, refusal.message, error_report_ids=[cluster.report(refusal.message)])


@route("PUT", ONE, body="required")
def modify(cluster: Cluster, request: Request) -> Answer:
    body, name = request.body or {}, request.params["storagepool"]
    answer = request.answering(MODIFY | POOL, {"StorPoolDfn": name, "Node": request.params["node"]})
    node = lookup.node(cluster, request.params["node"])
    if name.upper() not in cluster.pool_names:
        raise Refused(ERROR | 309, f"Storage pool definition '{name}' not found.")
    pool = node.pools.get(name.upper())
    if pool is None:
        raise Refused(ERROR | 310, f"Storage pool '{name}' on node '{node.name}' not found.")
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    properties.check(cluster.version, "pool", override, delete)
    properties.change(pool.props, answer, POOL, override, delete, body.get("delete_namespaces"))
    answer.add(MODIFIED, f"Storage pool '{pool.name}' on node '{node.name}' modified.", {"UUID": pool.uuid},
               details=f"UUID is: {pool.uuid}")
    if node.online:
        answer.add(MODIFIED, f"({node.name}) Changes applied to storage pool '{pool.name}' of node '{node.name}'")
        if cluster.version.has("pool_update_said"):
            answer.add(MODIFIED, f"Storage pool updated on '{node.name}'")
    else:
        answer.offline(node.name)
    return answer


@route("DELETE", ONE)
def delete(cluster: Cluster, request: Request) -> Answer:
    name, node_name = request.params["storagepool"], request.params["node"]
    answer = request.answering(DELETE | POOL, {"StorPoolDfn": name, "Node": node_name})
    if name.upper() == "DFLTDISKLESSSTORPOOL":
        raise Refused(ERROR | 208, "The default diskless storage pool cannot be deleted!", report=True)
    if not cluster.version.has("tolerant_deletes") and name.upper() not in cluster.pool_names:
        raise Refused(ERROR | 309, f"Storage pool definition '{name}' not found.")
    node = cluster.node(node_name)
    pool = node.pools.get(name.upper()) if node else None
    if node is None or pool is None:
        return lookup.nothing(answer, f"Deletion of storage pool '{name}' on node '{node_name}' had no effect.")
    if any(volume.pool == pool.name for owner in cluster.resources_on(node.name) for volume in owner.volumes.values()):
        raise Refused(ERROR | 997, f"The specified storage pool '{pool.name}' on node '{node.name}' can not be "
                      "deleted as volumes / snapshot-volumes are still using it.")
    del node.pools[name.upper()]
    cluster.broken_pools.discard((node.name.upper(), name.upper()))
    forget_names(cluster)
    answer.add(DELETED, f"Node: {node.name}, Storage pool name: {pool.name} deleted.", {"UUID": pool.uuid},
               details=f"UUID is: {pool.uuid}")
    return answer


def forget_names(cluster: Cluster) -> None:
    """Forget the names of pools that no node has any more."""
    used = {name for node in cluster.nodes.values() for name in node.pools}
    cluster.pool_names = {key: name for key, name in cluster.pool_names.items() if key in used or
                          key == "DFLTSTORPOOL"}
