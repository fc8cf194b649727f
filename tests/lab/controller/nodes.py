"""Nodes and their storage pools, as an operator registers, changes and removes them."""

from __future__ import annotations

from typing import Any

from . import drbd, drbd_placing, lookup, names, pools, properties, satellites, views
from .answers import (
    CREATE,
    CREATED,
    DELETE,
    DELETED,
    ERROR,
    MODIFIED,
    MODIFY,
    NODE,
    Answer,
    Document,
    Hang,
    Refused,
)
from .cluster import Cluster, Node
from .router import Request, route

PATH = "/v1/nodes"
ONE = PATH + "/{node}"


@route("GET", PATH)
def listed(cluster: Cluster, request: Request) -> Document:
    wanted = {names.check(names.NODE_NAME, name, masked=False) for name in request.query.get("nodes", [])}
    terms = request.query.get("props", [])
    found = [one for key, one in sorted(cluster.nodes.items())
             if (not wanted or key in wanted) and properties.matches(one.props, terms)]
    return Document([views.node(one) for one in request.page(found)])


@route("GET", ONE)
def shown(cluster: Cluster, request: Request) -> Document:
    name = request.params["node"]
    found = cluster.nodes.get(names.check(names.NODE_NAME, name, masked=False))
    if found is None:
        raise Refused(ERROR | 300, f"Node '{name}' not found.", masked=False)
    return Document(views.node(found))


@route("GET", ONE + "/net-interfaces")
def interfaces(cluster: Cluster, request: Request) -> Document:
    one = lookup.node(cluster, request.params["node"], masked=False)
    return Document([one.interfaces[key] for key in sorted(one.interfaces)])


@route("POST", PATH, body="required")
def create(cluster: Cluster, request: Request) -> Answer:
    """Register a node. Nothing listens at its address in the simulator: it stays OFFLINE until the lab says else."""
    body = request.body or {}
    name = body.get("name")
    answer = request.answering(CREATE | NODE, {"Node": name}, 201)
    if names.check(names.NODE_NAME, name) in cluster.nodes:
        raise Refused(ERROR | 500, f"Registration of node '{name}' failed.", cause="The node exists already")
    address = ((body.get("net_interfaces") or [{}])[0] or {}).get("address", "")
    reached = cluster.reachable(str(name), address)
    one = cluster.add_node(str(name), address=address, kind=(body.get("type") or "SATELLITE").upper(), online=reached,
                           **cluster.hardware)
    if not reached:
        one.props.pop("NodeUname")
    properties.change(one.props, answer, NODE, body.get("props") or {})
    answer.add(CREATED, f"New node '{name}' registered.", {"UUID": one.uuid}, details=f"UUID is: {one.uuid}")
    if reached:
        answer.add(CREATE | 9, f"Node '{name}' authenticated", details="Supported storage providers and layers")
    else:
        satellites.go_offline(cluster, one.name)
        answer.offline(one.name)
    return answer


@route("PUT", ONE, body="required")
def modify(cluster: Cluster, request: Request) -> Answer:
    """Change a node's properties. Every satellite hears of it, and an offline one is not even warned about."""
    body, name = request.body or {}, request.params["node"]
    answer = request.answering(MODIFY | NODE, {"Node": name})
    one = lookup.node(cluster, name)
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    properties.check(cluster.version, "node", override, delete)
    changed = properties.change(one.props, answer, NODE, override, delete, body.get("delete_namespaces"))
    answer.add(MODIFIED, f"Node '{one.name}' modified.", {"UUID": one.uuid}, details=f"UUID is: {one.uuid}")
    if changed:
        _tell_all(cluster, answer, one)
    return answer


def _tell_all(cluster: Cluster, answer: Answer, one: Node) -> None:
    concerned = {one.name.upper()}
    for definition in cluster.definitions.values():
        if one.name.upper() in definition.resources:
            concerned |= set(definition.resources)
    for key in sorted(concerned):
        node = cluster.nodes[key]
        if not node.online:
            continue
        satellites.settle(cluster, node.name)
        if node is one:
            answer.add(MODIFIED, f"({node.name}) Node changes applied.")
        for owner in cluster.resources_on(node.name):
            if not owner.deleting and one.name.upper() in owner.definition.resources:
                _run(cluster, answer, owner)


def _run(cluster: Cluster, answer: Answer, owner: Any) -> None:
    try:
        satellites.run(cluster, answer, owner)
    except satellites.Failed as failure:
        answer.add(ERROR | 998, f"({owner.node}) {failure}", error_report_ids=[cluster.report(str(failure))])


@route("DELETE", ONE)
def delete(cluster: Cluster, request: Request) -> Answer:
    """Remove a node with everything on it, used or not; an offline one is simply forgotten."""
    name = request.params["node"]
    answer = request.answering(DELETE | NODE, {"Node": name})
    one = cluster.nodes.get(names.check(names.NODE_NAME, name))
    if one is None:
        return lookup.nothing(answer, f"Deletion of node '{name}' had no effect.")
    for owner in list(cluster.resources_on(one.name)):
        if "DRBD" in owner.layers and drbd.in_use(cluster, owner):
            raise Refused(ERROR | 997, f"Node '{one.name}' has resources that are in use.")
    owners = list(cluster.resources_on(one.name))
    if owners:
        answer.add(DELETED, f"Node '{one.name}' marked for deletion.", details="marked")
    if owners and not one.online and not cluster.version.has("offline_is_warning"):
        one.flags = ["DELETE"]
        answer.offline(one.name)
        answer.add(ERROR | 995, f"No connection to satellite '{one.name}'")
        return answer
    for owner in owners:
        _take_off(cluster, answer, one, owner)
    _forget(cluster, one)
    answer.add(DELETED, f"Node '{one.name}' deleted.", {"UUID": one.uuid}, details=f"UUID is: {one.uuid}")
    return answer


def _take_off(cluster: Cluster, answer: Answer, one: Node, owner: Any) -> None:
    definition = owner.definition
    owner.flags.append("DELETE")

    def work(node: str) -> None:
        if node == one.name:
            said_too = cluster.version.has("offline_is_warning")
            satellites.remove(cluster, answer if said_too else None, owner)
        else:
            satellites.run(cluster, answer, definition.resources[node.upper()])

    def said(node: str) -> tuple[int, str]:
        if node == one.name:
            return MODIFIED, f"Deleted resource '{definition.name}' on '{node}'"
        return MODIFIED, f"Notified '{node}' that resource '{definition.name}' on '{one.name}' is being deleted"

    satellites.ask(cluster, answer, [peer.node for peer in definition.resources.values()], work, said)
    definition.drop(one.name)
    drbd_placing.manage(cluster, answer, definition)


def _forget(cluster: Cluster, one: Node) -> None:
    for definition in cluster.definitions.values():
        definition.drop(one.name)
        for snapshot in list(definition.snapshots.values()):
            snapshot.resources.pop(one.name.upper(), None)
            if not snapshot.resources:
                del definition.snapshots[snapshot.name.upper()]
    del cluster.nodes[one.name.upper()]
    pools.forget_names(cluster)


@route("DELETE", ONE + "/lost")
def lost(cluster: Cluster, request: Request) -> Answer:
    """Remove a node that will not come back; refused while it is connected."""
    name = request.params["node"]
    answer = request.answering(DELETE | NODE, {"Node": name})
    one = cluster.nodes.get(names.check(names.NODE_NAME, name))
    if one is None:
        return lookup.nothing(answer, f"Deletion of node '{name}' had no effect.")
    if one.online:
        raise Refused(ERROR | 506, f"Node '{one.name}' still connected, please use the 'DelNode' api.", report=True)
    _forget(cluster, one)
    answer.add(DELETED, f"Node '{one.name}' deleted.", {"UUID": one.uuid}, details=f"UUID is: {one.uuid}")
    return answer


@route("PUT", ONE + "/reconnect")
def reconnect(cluster: Cluster, request: Request) -> Answer:
    name = request.params["node"]
    answer = request.answering(MODIFY | NODE, {"Node": name})
    one = lookup.node(cluster, name)
    answer.add(0, f"Nodes [{one.name}] will be reconnected.")
    if _forgets_stale_names(cluster, one):
        raise Hang(f"{one.name} is still resyncing")
    if one.online:
        answer.add(9, f"Node '{one.name}' authenticated", details="Supported storage providers and layers")
    else:
        answer.offline(one.name)
    return answer


def _forgets_stale_names(cluster: Cluster, one: Node) -> bool:
    """Let a satellite that reconnects forget stale names; return whether others still hold up what was asked."""
    mine = {pair for pair in cluster.stale if pair[1] == one.name.upper()}
    cluster.stale -= mine
    if cluster.stale and mine:
        return True
    for definition in cluster.sorted_definitions() if mine else ():
        satellites.finish_delete(cluster, definition)
    return False


@route("PUT", ONE + "/evacuate", body="optional")
def evacuate(cluster: Cluster, request: Request) -> Answer:
    """Let no new resource onto a node. (Replicas are not moved: nothing here asks for that.)"""
    answer = request.answering(MODIFY | NODE, {"Node": request.params["node"]})
    one = lookup.node(cluster, request.params["node"])
    one.flags = ["EVACUATE"]
    return answer


@route("PUT", ONE + "/restore", body="optional")
def restore(cluster: Cluster, request: Request) -> Answer:
    answer = request.answering(NODE, {"Node": request.params["node"]})
    one = lookup.node(cluster, request.params["node"])
    one.flags = [flag for flag in one.flags if flag not in ("EVACUATE", "EVICTED")]
    answer.add(0, f"Successfully restored node {one.name}")
    return answer
