"""Resources: a definition's replica, diskless or tiebreaker on a node."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Optional

from . import drbd, drbd_changes, drbd_placing, lookup, names, properties, providers, satellites, views
from .answers import (
    CREATE,
    CREATED,
    DELETE,
    DELETED,
    ERROR,
    INFO,
    MODIFIED,
    MODIFY,
    RESOURCE,
    RESOURCE_CONNECTION,
    VOLUME,
    WARN,
    Answer,
    Document,
    Refused,
)
from .capacity import Usage
from .cluster import DISKLESS_POOL, Cluster, Definition, Pool, Resource, Volume
from .placement import kinds_of, layer_stack, may_mix
from .router import Request, route
from .volume_definitions import pool_of

PATH = "/v1/resource-definitions/{resource}/resources"
ONE = PATH + "/{node}"
FLAGS = {
    "CLEAN", "DELETE", "DISKLESS", "DISK_ADD_REQUESTED", "DISK_ADDING", "DISK_REMOVE_REQUESTED", "DISK_REMOVING",
    "DRBD_DISKLESS", "NVME_INITIATOR", "INACTIVE", "RESTORE_FROM_SNAPSHOT", "EVICTED", "TIE_BREAKER", "EVACUATE",
    "DRBD_DELETE", "EBS_INITIATOR", "INACTIVE_PERMANENTLY",
}


@route("GET", PATH)
def listed(cluster: Cluster, request: Request) -> Document:
    """Answer from memory; `nodes` is not looked at."""
    one = lookup.definition(cluster, request.params["resource"], masked=False)
    return Document(request.page([views.resource(cluster, one.resources[key]) for key in sorted(one.resources)]))


@route("GET", ONE)
def shown(cluster: Cluster, request: Request) -> Document:
    return Document(views.resource(cluster, _find(cluster, request)))


def _find(cluster: Cluster, request: Request) -> Resource:
    one, node = lookup.definition(cluster, request.params["resource"], masked=False), request.params["node"]
    return lookup.resource(one, node, masked=False, text=f"Resource '{one.name}' on '{node}' not found.")


@route("GET", ONE + "/volumes")
def volumes(cluster: Cluster, request: Request) -> Document:
    owner = _with_volumes(cluster, request)
    return Document(request.page([views.volume(cluster, owner, owner.volumes[number])
                                  for number in sorted(owner.volumes)]))


@route("GET", ONE + "/volumes/{volume_number}")
def volume(cluster: Cluster, request: Request) -> Document:
    number = request.volume_number()
    owner = _with_volumes(cluster, request)
    if number not in owner.volumes:
        text = f"Volume '{number}' of resource '{owner.definition.name}' on node '{owner.node}' not found."
        raise Refused(ERROR | 304, text, masked=False)
    return Document(views.volume(cluster, owner, owner.volumes[number]))


def _with_volumes(cluster: Cluster, request: Request) -> Resource:
    """Find a resource as the list of all volumes has it: an unknown definition, or no volume, is no resource."""
    name, node = request.params["resource"], request.params["node"]
    names.check(names.NODE_NAME, node, masked=False)
    key = names.check(names.RESOURCE_NAME, name, masked=False)
    lookup.node(cluster, node, masked=False)
    one = cluster.definitions.get(key)
    owner = one.resources.get(node.upper()) if one else None
    if owner is None or not owner.volumes:
        raise Refused(ERROR | 302, f"Resource '{name}' not found on node '{node}'.", masked=False)
    return owner


@route("GET", "/v1/view/resources")
def view(cluster: Cluster, request: Request) -> Document:
    """List all resources with volumes; those without any (that match) are left out. `props` are the resources' own."""
    nodes = {lookup.node(cluster, name, masked=False).name.upper() for name in request.query.get("nodes", [])}
    wanted = {names.check(names.RESOURCE_NAME, name, masked=False) for name in request.query.get("resources", [])}
    pools = {names.check(names.POOL_NAME, name, masked=False) for name in request.query.get("storage_pools", [])}
    terms = request.query.get("props", [])
    found = []
    for key, one in sorted(cluster.definitions.items()):
        for node, owner in sorted(one.resources.items()) if not wanted or key in wanted else ():
            if (not nodes or node in nodes) and properties.matches(owner.props, terms) and any(
                    not pools or volume.pool.upper() in pools for volume in owner.volumes.values()):
                found.append(owner)
    return Document([views.view(cluster, owner, pools) for owner in request.page(found)])


@route("POST", PATH, body="required")
def create(cluster: Cluster, request: Request) -> Answer:
    """Put a definition on nodes, all or none: one element that exists already and nothing at all is created."""
    return _create(cluster, request, request.body or [])


@route("POST", ONE, body="required")
def create_on(cluster: Cluster, request: Request) -> Answer:
    body = request.body or {}
    resource = {**(body.get("resource") or {}), "node_name": request.params["node"]}
    return _create(cluster, request, [{**body, "resource": resource}])


def _create(cluster: Cluster, request: Request, given: list[dict[str, Any]]) -> Answer:
    name = request.params["resource"]
    answer = request.answering(CREATE | RESOURCE, {"RscDfn": name}, 201)
    if not given and cluster.version.has("tolerant_deletes"):
        raise Refused(ERROR | 998, "An unknown error occurred.", masked=False, report=True)
    if not given:
        answer.add(WARN | 3000, "No resources specified", bare=True)
        return answer
    wanted = [one.get("resource") or {} for one in given]
    for one, body in zip(wanted, given):
        if body.get("resource") is None or any(flag not in FLAGS for flag in one.get("flags") or []):
            raise Refused(ERROR | 998, "An unknown error occurred.", masked=False, report=True)
        lookup.node(cluster, one.get("node_name") or "", masked=False, status=0 if names.valid(
            names.NODE_NAME, one.get("node_name") or "") else 400)
    owner = lookup.definition(cluster, name)
    try:
        with all_or_nothing(owner):
            new = [add(cluster, answer, owner, one["node_name"], one.get("props") or {}, one.get("flags") or [],
                       layer_stack(body.get("layer_list"))) for one, body in zip(wanted, given)]
    except Exists as already:
        answer.entries.clear()
        answer.add(INFO | 10008, str(already), cause="The resource already exists")
        return answer
    finish(cluster, answer, owner, [one for one in new if one], said=True)
    return answer


class Exists(Exception):
    """A diskful resource is on the node already."""


@contextlib.contextmanager
def all_or_nothing(one: Definition) -> Iterator[None]:
    """Take back what was added to a definition, and written on it, when this block is refused."""
    before = (dict(one.resources), list(one.layers), dict(one.props))
    props = [(thing, dict(thing.props)) for thing in (*one.volumes.values(), *one.resources.values())]
    try:
        yield
    except (Refused, Exists):
        one.resources, one.layers, one.props = before
        for thing, kept in props:
            thing.props = kept
        raise


def add(cluster: Cluster, answer: Answer, one: Definition, node: str, props: dict[str, str], flags: list[str],
        layers: list[str]) -> Optional[Resource]:
    """Store a new resource, not yet deployed, with its volumes.

    None where an existing diskless resource is what was asked for. Raises Exists or Refused.
    """
    place = lookup.node(cluster, node)
    if "EVACUATE" in place.flags:
        raise Refused(ERROR | 975, f"node '{place.name} is being evacuated. No new resources allowed on this node.",
                      report=True)
    present = one.resources.get(place.name.upper())
    if present is not None and present.diskless and "DRBD" in present.layers:
        return drbd_placing.add_again(cluster, answer, present, props, flags)
    stack = layers or one.layers or (one.stacks() or [[]])[0] or ["DRBD", "STORAGE"]
    diskless_pool = _named_pool(cluster, place.name, props.get("StorPoolName"), one, stack)
    flags = _diskless_flags(stack, flags, diskless_pool)
    if present is not None and not present.deleting:
        raise Exists(f"A resource '{one.name}' on node '{place.name}' already exists.")
    missing = [kind for kind in stack if kind not in place.layers]
    if missing:
        raise Refused(ERROR | 988, f"Satellite '{place.name}' does not support the following layers: "
                      f"[{', '.join(missing)}]", report=True)
    properties.check(cluster.version, "resource", props)
    one.layers = one.layers or list(stack)
    made = Resource(one, place.name, list(stack), flags=flags)
    if present is not None:
        made = present
        made.flags = [flag for flag in made.flags if flag not in ("DELETE", "DRBD_DELETE")]
    drbd_placing.number_resource(cluster, made)
    properties.change(made.props, answer, RESOURCE, props)
    if made.diskless and "StorPoolName" not in made.props:
        made.props["StorPoolName"] = DISKLESS_POOL
    one.resources[place.name.upper()] = made
    _add_volumes(cluster, one, made)
    return made


def _named_pool(cluster: Cluster, node: str, name: Optional[str], one: Definition, stack: list[str]) -> bool:
    """Check a pool named for a resource and return whether it is a diskless one.

    Under DRBD a missing pool is met with the first volume: 311.
    """
    if name is None:
        return False
    key = names.check(names.POOL_NAME, name)
    pool = cluster.pool(node, name)
    if pool is None and "DRBD" in stack and one.volumes:
        raise Refused(ERROR | 311, f"The storage pool '{name}' for resource '{one.name}' for volume number "
                      f"'{min(one.volumes)}' is not deployed on node '{node}'.")
    if pool is None:
        known = key in cluster.pool_names
        text = f"Storage pool '{name}' on node '{node}' not found." if known else \
            f"Storage pool definition '{name}' not found."
        raise Refused(ERROR | (310 if known else 309), text)
    refuse_kind(cluster, one, pool)
    return pool.diskless


def refuse_kind(cluster: Cluster, one: Definition, pool: Pool) -> None:
    """Refuse with 221 a pool of a kind that may not be beside those of the other replicas."""
    for kind in sorted(kinds_of(cluster, one, without=pool.node) if not pool.diskless else ()):
        if not may_mix(cluster, one, pool.kind, kind):
            raise Refused(ERROR | 221, f"Storage driver '{pool.kind}' not allowed for volume.",
                          details="Using storage pools with different storage drivers on the same volume definition "
                                  "is not supported.")


def _diskless_flags(stack: list[str], flags: list[str], diskless_pool: bool) -> list[str]:
    bare = "DISKLESS" in flags and "DRBD_DISKLESS" not in flags
    if "DRBD" not in stack and (bare or diskless_pool):
        raise Refused(ERROR | 225, "The given storage pool is a diskless storage pool, but no layer from the given "
                      "layer-list supports diskless storage pools", report=True)
    if bare or diskless_pool or "DRBD_DISKLESS" in flags:
        return ["DISKLESS", "DRBD_DISKLESS", *[flag for flag in flags if flag not in ("DISKLESS", "DRBD_DISKLESS")]]
    return list(flags)


def _add_volumes(cluster: Cluster, one: Definition, made: Resource) -> None:
    usage = Usage(cluster)
    if one.volumes and "DRBD" not in made.layers and {"DRBD_DISKLESS", "NVME_INITIATOR"} & set(made.flags):
        raise Refused(ERROR | 225, "Diskless volume is only supported in combination with DRBD and/or NVME",
                      report=True)
    for number, definition in sorted(one.volumes.items()):
        name = DISKLESS_POOL if made.diskless else pool_of(cluster, made, definition)
        pool = cluster.pool(made.node, name)
        if pool is None:
            raise Refused(ERROR | 311, f"The storage pool '{name}' for resource '{one.name}' for volume number "
                          f"'{number}' is not deployed on node '{made.node}'.")
        if not made.diskless and number not in made.volumes and definition.size > usage.estimate(pool):
            raise Refused(ERROR | 206, f"Not enough free space available for volume {number} of resource "
                          f"'{one.name}'.")
        usable = definition.size if cluster.version.has("usable_from_the_start") else -1
        made.volumes.setdefault(number, Volume(number, pool.name, usable=usable))
        if "DrbdOptions/Disk/block-size" not in definition.props and cluster.version.has("block_size_set"):
            definition.props["DrbdOptions/Disk/block-size"] = "512"
            if len(one.resources) > 1 and "DRBD" not in made.layers:
                for owner in one.resources.values():
                    owner.props["Satellite/minIoSizeRestartDrbd"] = "true"


def announce(answer: Answer, made: Resource) -> None:
    """Say that a resource and its volumes are registered."""
    name = made.definition.name
    answer.add(RESOURCE | CREATE | CREATED, f"New resource '{name}' on node '{made.node}' registered.",
               {"UUID": made.uuid}, details=f"Resource '{name}' on node '{made.node}' UUID is: {made.uuid}")
    for number in sorted(made.volumes):
        answer.add(VOLUME | CREATE | CREATED, f"Volume with number '{number}' on resource '{name}' on node "
                   f"'{made.node}' successfully registered", {"VlmNr": str(number), "Node": made.node},
                   details=f"Volume UUID is: {made.volumes[number].uuid}")


def finish(cluster: Cluster, answer: Answer, one: Definition, new: list[Resource], said: bool = False) -> None:
    """Look after tiebreaker and quorum, deploy new resources on their nodes, and tell the others.

    `said` adds the entries of an explicit creation.
    """
    tie = drbd_placing.manage(cluster, answer, one)
    for made in new if said else ():
        announce(answer, made)
    if new:
        drbd_placing.bring_up(cluster, answer, one, new, tie)
    if not one.volumes and not answer.failed:
        answer.add(WARN | 3000, f"No volumes have been defined for resource '{one.name}'")


@route("PUT", ONE, body="required")
def modify(cluster: Cluster, request: Request) -> Answer:
    """Change a resource's own properties; an unknown StorPoolName is taken without a word."""
    body, name = request.body or {}, request.params["resource"]
    answer = request.answering(MODIFY | RESOURCE, {"RscDfn": name, "Node": request.params["node"]})
    owner = lookup.resource_on(cluster, name, request.params["node"])
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    properties.check(cluster.version, "resource", override, delete)
    changed = properties.change(owner.props, answer, RESOURCE, override, delete, body.get("delete_namespaces"))
    answer.add(MODIFIED, f"Resource '{owner.definition.name}' on node '{owner.node}' modified.",
               {"UUID": owner.uuid}, details=f"UUID is: {owner.uuid}")
    if changed:
        satellites.ask(cluster, answer, [owner.node], lambda node: satellites.run(cluster, answer, owner))
    return answer


@route("DELETE", ONE)
def delete(cluster: Cluster, request: Request) -> Answer:
    """Remove a resource. Without DRBD an open or mounted device is removed all the same."""
    name, node = request.params["resource"], request.params["node"]
    answer = request.answering(DELETE | RESOURCE, {"RscDfn": name, "Node": node})
    names.check(names.NODE_NAME, node)
    if not cluster.version.has("tolerant_deletes"):
        lookup.definition(cluster, name)
        lookup.node(cluster, node)
    one = cluster.definitions.get(names.check(names.RESOURCE_NAME, name))
    owner = one.resources.get(node.upper()) if one else None
    if one is None or owner is None:
        return lookup.nothing(answer, f"Node: {node}, Resource: {name} not found.")
    keep = request.query.get("keep_tiebreaker", [""])[0].lower() == "true" and cluster.version.has("keep_tiebreaker")
    if drbd_placing.takes_over(cluster, answer, owner, keep):
        return answer
    answer.add(DELETED, f"Node: {owner.node}, Resource: {one.name} marked for deletion.", details="marked")
    remove(cluster, answer, owner)
    return answer


def remove(cluster: Cluster, answer: Answer, owner: Resource) -> None:
    """Take one resource off its node, tell its peers, and forget it when its satellite has done so."""
    one, node = owner.definition, owner.node
    owner.flags = [*owner.flags, "DELETE"] if "DELETE" not in owner.flags else owner.flags

    def work(where: str) -> None:
        peer = one.resources[where.upper()]
        if peer is owner:
            satellites.remove(cluster, answer, owner)
        elif not peer.deleting:
            satellites.run(cluster, answer, peer)

    def said(where: str) -> Optional[tuple[int, str]]:
        if where == node:
            return (MODIFIED, f"Cleaning up '{one.name}' on '{node}'") if cluster.online(node) else None
        text = f"Notified '{where}' that '{one.name}' is being cleaned up on Node(s): [{node}]"
        return (MODIFIED, text) if cluster.online(where) else None

    done = satellites.ask(cluster, answer, [peer.node for peer in one.resources.values()], work, said)
    if node in done:
        one.drop(node)
        for volume in one.volumes.values() if not one.resources else ():
            volume.props.pop("DrbdOptions/Disk/block-size", None)
        answer.add(DELETED, f"Node: {node}, Resource: {one.name} deletion complete.", details="complete")
        satellites.finish_delete(cluster, one)
    drbd_placing.manage(cluster, answer, one)


@route("POST", ONE + "/activate")
def activate(cluster: Cluster, request: Request) -> Answer:
    return _switch(cluster, request, True)


@route("POST", ONE + "/deactivate")
def deactivate(cluster: Cluster, request: Request) -> Answer:
    return _switch(cluster, request, False)


def _switch(cluster: Cluster, request: Request, on: bool) -> Answer:
    name, node = request.params["resource"], request.params["node"]
    answer = request.answering(MODIFY | RESOURCE, {"RscDfn": name, "Node": node})
    owner = lookup.resource_on(cluster, name, node)
    one = owner.definition
    if on != ("INACTIVE" in owner.flags):
        answer.add(INFO | 10007, f"Resource is already {'activated' if on else 'deactivated'}. Noop")
        return answer
    owner.flags = [flag for flag in owner.flags if flag != "INACTIVE"] + ([] if on else ["INACTIVE"])
    for volume in owner.volumes.values():
        kind = satellites.kind_of(cluster, owner, volume)
        if on:
            providers.measure(volume, kind, volume.size)
        else:
            volume.allocated = volume.usable = 0
            satellites.say(answer, owner, volume, kind, MODIFIED, "deactivated")
    first, second = ("Resource updated", "Resource activated") if on else \
        ("Resource marked inactivate", "Finished deactivation of resource")
    for here, there in ((("Reactivating resource" if on else "Resource deactivated"), first), (second, second)):
        satellites.refresh(cluster, answer, one, lambda where, mine=here, peer=there: (
            MODIFIED, f"{mine if where == owner.node else peer} on '{where}'"))
    return answer


@route("GET", "/v1/resource-definitions/{resource}/resource-connections")
def connections(cluster: Cluster, request: Request) -> Document:
    one = lookup.definition(cluster, request.params["resource"], masked=False)
    return Document(drbd.connections(one))


@route("GET", "/v1/resource-definitions/{resource}/resource-connections/{node_a}/{node_b}")
def connection(cluster: Cluster, request: Request) -> Document:
    one = lookup.definition(cluster, request.params["resource"], masked=False)
    nodes = [request.params[key].upper() for key in ("node_a", "node_b")]
    if cluster.version.has("reversed_connections_found"):
        nodes.sort()
    for found in drbd.connections(one):
        if [found["node_a"].upper(), found["node_b"].upper()] == nodes:
            return Document(found)
    text = f"Resource connection between '{request.params['node_a']}' and '{request.params['node_b']}' not found."
    raise Refused(ERROR | 307, text, masked=False)


@route("PUT", "/v1/resource-definitions/{resource}/resource-connections/{node_a}/{node_b}", body="required")
def modify_connection(cluster: Cluster, request: Request) -> Answer:
    params, body = request.params, request.body or {}
    answer = request.answering(MODIFY | RESOURCE_CONNECTION, {
        "RscDfn": params["resource"], "FirstNode": params["node_a"], "SecondNode": params["node_b"]})
    places = [lookup.node(cluster, params[key]) for key in ("node_a", "node_b")]
    one = cluster.definitions.get(names.check(names.RESOURCE_NAME, params["resource"]))
    ends = [one.resources.get(place.name.upper()) if one else None for place in places]
    if None in ends and not cluster.version.has("tolerant_deletes"):
        lookup.resource(lookup.definition(cluster, params["resource"]), params["node_b" if ends[0] else "node_a"])
    doing = f"Modification of resource connection between nodes '{params['node_a']}' and '{params['node_b']}' for " \
            f"resource '{params['resource']}'"
    if one is None or None in ends:
        raise properties.unhandled(doing, "ImplementationError")
    if ends[0] is ends[1]:
        raise Refused(ERROR | 999, f"{doing} failed due to an implementation error. Cannot create a resource "
                      "connection to the same resource", report=True)
    drbd_changes.change_connection(cluster, answer, one, (params["node_a"], params["node_b"]), body)
    return answer
