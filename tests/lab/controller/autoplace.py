"""Placing replicas by rule: autoplace, make-available, toggle-disk on stacks without DRBD."""

from __future__ import annotations

from typing import Any, Optional

from . import drbd_placing, lookup, quorum, resources, satellites
from .answers import CREATE, CREATED, ERROR, MODIFY, RESOURCE, WARN, Answer, Refused
from .cluster import Cluster, Definition, Pool, Resource
from .placement import Autoplacer, Select, layer_stack, merged, select_filter
from .router import Request, route

ONE = "/v1/resource-definitions/{resource}"


@route("POST", ONE + "/autoplace", body="required")
def autoplace(cluster: Cluster, request: Request) -> Answer:
    """Bring a definition to place_count replicas; what the filter leaves open comes from its group."""
    name, body = request.params["resource"], request.body or {}
    answer = request.answering(CREATE | RESOURCE, {"RscDfn": name}, 201)
    cluster.pause()
    one = lookup.definition(cluster, name)
    select = select_filter(body.get("select_filter"))
    # The top level members replace those inside the filter, also when they are absent.
    for inside, outside in (("layer_stack", "layer_list"), ("diskless_on_remaining", "diskless_on_remaining")):
        select.pop(inside, None)
        if body.get(outside):
            select[inside] = layer_stack(body[outside]) if inside == "layer_stack" else body[outside]
    place(cluster, answer, one, merged(select, {**cluster.group_of(one).select, "diskless_on_remaining": False}))
    return answer


def placed(cluster: Cluster, one: Definition) -> list[Resource]:
    """Return the replicas that count: with a disk, not going away, on nodes that stay."""
    return [owner for owner in one.resources.values() if not owner.diskless and not owner.deleting
            and not {"EVICTED", "EVACUATE"} & set(owner.flags)
            and "EVACUATE" not in cluster.nodes[owner.node.upper()].flags]


def place(cluster: Cluster, answer: Answer, one: Definition, select: Select, deploy: bool = True) -> list[Resource]:
    """Place what is missing and deploy it, or say why nothing is to do; 996 when it cannot be."""
    have = placed(cluster, one)
    missing = int(select.get("place_count") or 0) - len(have)
    more = int(select.get("additional_place_count") or 0)
    # What is missing comes before what is wanted in addition.
    more = more if more > 0 >= missing else missing
    if more < 0:
        nodes = ", ".join(f"'{owner.node}'" for owner in have)
        raise _Already(f"The resource '{one.name}' was already deployed on {len(have)} nodes: {nodes}. The resource "
                       "would have to be deleted from nodes to reach the placement count.")
    if more == 0 and not select.get("diskless_on_remaining"):
        answer.add(WARN | 1006, f"Resource '{one.name}' was already deployed on {len(have)} nodes. Skipping.",
                   details=f"Used nodes (storage pool name): {len(have)}")
        return []
    chosen = choose(cluster, one, select, more)
    if chosen is None:
        raise Refused(ERROR | 996, "Not enough available nodes", details="Not enough nodes fulfilling the constraints")
    new = create(cluster, answer, one, chosen, select)
    if deploy:
        resources.finish(cluster, answer, one, new)
    return new


class _Already(Refused):
    """More replicas than asked for: a warning that ends the call, with HTTP 201."""

    def __init__(self, text: str) -> None:
        super().__init__(WARN | 1006, text, details="Nothing was changed")


def choose(cluster: Cluster, one: Definition, select: Select, count: int) -> Optional[list[Pool]]:
    """Return the pools for `count` more replicas of a definition, None if there are not so many."""
    size = sum(volume.size for volume in one.volumes.values())
    skip = {owner.node for owner in one.resources.values() if owner.diskless and not owner.deleting}
    return Autoplacer(cluster, select, one, size, skip).choose(count)


def create(cluster: Cluster, answer: Answer, one: Definition, chosen: list[Pool], select: Select) -> list[Resource]:
    """Store replicas in the chosen pools and say where; a refusal leaves none of them."""
    layers = list(select.get("layer_stack") or [])
    with resources.all_or_nothing(one):
        new = [resources.add(cluster, answer, one, pool.node, {"StorPoolName": pool.name}, [], layers)
               for pool in chosen]
        if select.get("diskless_on_remaining"):
            new += drbd_placing.fill_with_diskless(cluster, one, layers)
    refs: dict[str, Any] = {}
    for place_, pool in enumerate(chosen):
        refs[f"Node/{place_}"] = pool.node
        refs[f"StoragePool/{place_}/0"] = f"{pool.name},{pool.kind}"
    used = ", ".join(f"'{pool.node} ({pool.name})'" for pool in chosen)
    answer.add(CREATED, f"Resource '{one.name}' successfully autoplaced on {len(chosen)} nodes", refs,
               details=f"Used nodes (storage pool name): {used}")
    return [owner for owner in new if owner is not None]


def top_up(cluster: Cluster, answer: Answer, one: Definition, operation: int, given: Optional[Select] = None) -> bool:
    """Place what the definition's group wants more than there is; return whether that was anything.

    `given` comes before what the group has.
    """
    select = merged(given or {}, cluster.group_of(one).select)
    there = [owner for owner in one.resources.values() if not quorum.is_tiebreaker(owner)]
    if int(select.get("place_count") or 0) <= len(there):
        return False
    inner = Answer(operation | RESOURCE, dict(answer.refs), error_report=answer.error_report)
    try:
        place(cluster, inner, one, select)
    except Refused as refusal:
        inner.entries.clear()
        inner.refuse(refusal)
    answer.entries += inner.entries
    return True


@route("POST", ONE + "/resources/{node}/make-available", body="required")
def make_available(cluster: Cluster, request: Request) -> Answer:
    """Have the definition usable on a node. Without DRBD that is a further, unrelated and empty volume."""
    name, node, body = request.params["resource"], request.params["node"], request.body or {}
    answer = request.answering(CREATE | RESOURCE, {"RscDfn": name, "Node": node})
    one = lookup.definition(cluster, name)
    provide(cluster, answer, one, node, layer_stack(body.get("layer_list")), bool(body.get("diskful")))
    return answer


def provide(cluster: Cluster, answer: Answer, one: Definition, node: str, layers: list[str], diskful: bool) -> None:
    """Make a definition available on a node, or refuse with 310 where no pool there fits."""
    place_ = lookup.node(cluster, node)
    present = one.resources.get(place_.name.upper())
    stack = layers or one.layers or ["DRBD", "STORAGE"]
    if present is not None:
        if layers and layers != present.layers:
            raise Refused(ERROR | 225, "Layerstack of deployed resource does not match")
        _provide_present(cluster, answer, present, diskful)
        return
    if any(not resource.volumes for resource in one.resources.values()):
        # LINSTOR takes a resource without volumes for one whose volumes are all in pools that the node shares.
        raise Refused(ERROR | 302, f"No active resource found for shared resource {one.name}")
    cluster.pause()
    present = one.resources.get(place_.name.upper())
    if present is not None:
        resources_text = f"A resource '{one.name}' on node '{place_.name}' already exists."
        answer.add((1 << 62) | 10008, resources_text, cause="The resource already exists")
        return
    if "DRBD" in stack and drbd_placing.provide_diskless(cluster, answer, one, place_, diskful):
        return
    wanted = {"additional_place_count": 1, "node_name_list": [place_.name], "layer_stack": stack}
    chosen = choose(cluster, one, merged(wanted, cluster.group_of(one).select), 1)
    if not chosen:
        raise Refused(ERROR | 310, f"Autoplacer could not find diskful stor pool on node {place_.name} matching "
                      "resource-groups autoplace-settings", details="No pool fits")
    made = resources.add(cluster, answer, one, place_.name, {"StorPoolName": chosen[0].name}, [], stack)
    resources.finish(cluster, answer, one, [made] if made else [], said=True)


def _provide_present(cluster: Cluster, answer: Answer, present: Resource, diskful: bool) -> None:
    revived = present.deleting
    present.flags = [flag for flag in present.flags if flag not in ("DELETE", "DRBD_DELETE")]
    if present.diskless and diskful:
        drbd_placing.add_disk(cluster, answer, present, None, by="make-available")
        return
    drbd_placing.drop_tiebreaker_flag(present)
    answer.add(0, "Resource already deployed as requested")
    if revived or "INACTIVE" in present.flags:
        present.flags = [flag for flag in present.flags if flag != "INACTIVE"]
        satellites.refresh(cluster, answer, present.definition)


@route("PUT", ONE + "/resources/{node}/toggle-disk/diskless")
@route("PUT", ONE + "/resources/{node}/toggle-disk/diskless/{disklesspool}")
def to_diskless(cluster: Cluster, request: Request) -> Answer:
    return _toggle(cluster, request, False, None)


@route("PUT", ONE + "/resources/{node}/toggle-disk/diskful", body="optional")
@route("PUT", ONE + "/resources/{node}/toggle-disk/diskful/{storagepool}", body="optional")
def to_diskful(cluster: Cluster, request: Request) -> Answer:
    return _toggle(cluster, request, True, None)


@route("PUT", ONE + "/resources/{node}/migrate-disk/{fromnode}", body="optional")
@route("PUT", ONE + "/resources/{node}/migrate-disk/{fromnode}/{storagepool}")
def migrate(cluster: Cluster, request: Request) -> Answer:
    return _toggle(cluster, request, True, request.params["fromnode"])


@route("PUT", ONE + "/resources/{node}/toggle-disk", body="required", since=(1, 34))
def toggle(cluster: Cluster, request: Request) -> Answer:
    """Do what the three older paths did; INTO_DRBD_CLIENT makes a diskless without a vote."""
    body = request.body or {}
    if body.get("storage_pool"):
        request.params["storagepool"] = body["storage_pool"]
    return _toggle(cluster, request, body.get("operation") == "INTO_DRBD_DISKFUL", body.get("migrate_from"))


def _toggle(cluster: Cluster, request: Request, diskful: bool, source: Optional[str]) -> Answer:
    name, node = request.params["resource"], request.params["node"]
    answer = request.answering(MODIFY | RESOURCE, {"RscDfn": name, "Node": node})
    owner = lookup.resource_on(cluster, name, node)
    if diskful and not owner.diskless:
        answer.add(WARN | 1007, "Resource already has disk", details="Nothing to do")
    elif not diskful and owner.diskless:
        answer.add(WARN | 1008, "Resource already diskless", details="Nothing to do")
    elif not diskful and sum(cluster.online(one.node) for one in owner.definition.resources.values()
                             if not one.diskless) <= 1:
        raise Refused(ERROR | 991, "Cannot remove the disk from the only online resource with a disk")
    elif "DRBD" not in owner.layers:
        raise Refused(ERROR | 225, "Toggle disk is only supported in combination with DRBD")
    elif diskful:
        drbd_placing.add_disk(cluster, answer, owner, request.params.get("storagepool"), source)
    else:
        drbd_placing.remove_disk(cluster, answer, owner)
    return answer
