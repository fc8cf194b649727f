"""Resource definitions: create, list, change, delete."""

from __future__ import annotations

import re
from typing import Any, Optional

from . import (
    autoplace,
    drbd,
    drbd_changes,
    drbd_placing,
    lookup,
    names,
    poison,
    properties,
    satellites,
    snapshots,
    views,
)
from .answers import (
    CREATE,
    CREATED,
    DEFINITION,
    DELETE,
    DELETED,
    ERROR,
    INFO,
    MODIFIED,
    MODIFY,
    WARN,
    Answer,
    Document,
    Refused,
)
from .cluster import LAYERS, Cluster, Definition, Group, new_uuid
from .placement import layer_stack
from .router import Request, route

PATH = "/v1/resource-definitions"
ONE = PATH + "/{resource}"


@route("GET", PATH)
def listed(cluster: Cluster, request: Request) -> Document:
    """Answer from memory, sorted by name; unknown names are skipped, props terms are all to hold."""
    wanted = {names.check(names.RESOURCE_NAME, name, masked=False)
              for name in request.query.get("resource_definitions", [])}
    terms = request.query.get("props", [])
    found = [one for key, one in sorted(cluster.definitions.items())
             if (not wanted or key in wanted) and properties.matches(one.props, terms)]
    with_volumes = request.flag("with_volume_definitions")
    return Document([views.definition(cluster, one, with_volumes) for one in request.page(found)])


@route("GET", ONE)
def shown(cluster: Cluster, request: Request) -> Document:
    return Document(views.definition(cluster, lookup.definition(cluster, request.params["resource"], masked=False),
                                     False))


@route("GET", PATH + "/properties/info")
def property_rules(cluster: Cluster, request: Request) -> Document:
    return Document(properties.table(cluster.version, "definition"))


@route("POST", PATH, body="required")
def create(cluster: Cluster, request: Request) -> Answer:
    """Make a definition. Its flags, uuid and volume_definitions in the body are ignored, as LINSTOR does."""
    given = request.body.get("resource_definition") or {}
    name = given.get("name") or ""
    answer = request.answering(CREATE | DEFINITION, {"RscDfn": name}, 201)
    layers, warnings = _layers([layer["type"] for layer in given.get("layer_data") or []])
    made = build(cluster, name, given.get("external_name"), layers, given.get("resource_group_name"),
                 given.get("props") or {})
    answer.refs["RscDfn"] = made.name
    poison.check(cluster, poison.CREATE)
    if "LUKS" in layers and not cluster.unlocked:
        warnings.append((WARN | 1011, "The master key has not yet been set. Creating volume definitions within "
                                      "an encrypted resource definition will fail!"))
    for code, text in warnings:
        answer.add(code, text, bare=True)
    slots, port = request.body.get("drbd_peer_slots"), request.body.get("drbd_port")
    if port is not None and not cluster.version.has("tcp_ports_per_resource") and any(
            other.drbd and other.drbd["port"] == port for other in cluster.definitions.values()):
        raise Refused(ERROR | 203, "The creation of a new resource definition failed due to an invalid TCP port "
                      "number", report=True)
    register(cluster, answer, made, given.get("props") or {}, slots, port)
    return answer


def _layers(given: list[str]) -> tuple[list[str], list[tuple[int, str]]]:
    """Return a checked stack with STORAGE at its end, and what to warn about; 225 for an impossible one."""
    stack, warnings = layer_stack(given), []
    if stack and stack[-1] != "STORAGE":
        stack.append("STORAGE")
        warnings.append((WARN | 1012, "The layerstack was extended with STORAGE kind."))
    places = [LAYERS.index(kind) for kind in stack]
    if places != sorted(set(places)):
        raise Refused(ERROR | 225, f"The layer stack [{', '.join(stack)}] is invalid", report=True)
    return stack, warnings


def build(cluster: Cluster, name: str, external: Optional[str], layers: list[str], group: Optional[str],
          props: dict[str, Any]) -> Definition:
    """Check what a new definition would be and return it, not yet stored."""
    if not name and not external:
        raise Refused(ERROR | 606, "The resource name generation for the creation of a new resource definition failed",
                      cause="No external name was given", correction="Give a name or an external name")
    if external and any(one.external_name == external for one in cluster.definitions.values()):
        raise Refused(ERROR | 517, "The specified external name is already registered", report=True)
    name = name or _from_external(cluster, external or "")
    key = names.check(names.RESOURCE_NAME, name)
    if group and names.check(names.GROUP_NAME, group) not in cluster.groups:
        raise Refused(ERROR | 317, f"Resource group '{group}' could not be found.", report=True)
    owner: Group = cluster.groups[group.upper()] if group else lookup.default_group(cluster)
    if key in cluster.definitions:
        raise Refused(ERROR | 501, f"A resource definition with the name '{name}' already exists",
                      cause="The ResourceDefinition already exists")
    properties.check(cluster.version, "definition", props)
    if properties.too_long(props):
        raise properties.unhandled(f"Creation of resource definition '{name}'", "ApiDatabaseException")
    return Definition(name, owner.name, external_name=external or "", layers=layers)


def _from_external(cluster: Cluster, external: str) -> str:
    text = re.sub(r"[^A-Za-z0-9_-]", "_", external[:48])
    free = names.valid(names.RESOURCE_NAME, text) and text.upper() not in cluster.definitions
    return text if free else f"LS_{new_uuid()}"


def register(cluster: Cluster, answer: Answer, made: Definition, props: dict[str, Any],
             peer_slots: Optional[int] = None, port: Optional[int] = None) -> None:
    """Store a checked definition and say so."""
    properties.change(made.props, answer, DEFINITION, props)
    cluster.definitions[made.name.upper()] = made
    if "DRBD" in made.layers or peer_slots is not None or port is not None:
        made.drbd = drbd.definition_data(cluster, 7 if peer_slots is None else peer_slots)
    announce(answer, made)


def announce(answer: Answer, made: Definition) -> None:
    text = f"Resource definition '{made.name}' UUID is: {made.uuid}"
    answer.add(DEFINITION | CREATE | CREATED, f"New resource definition '{made.name}' created.",
               {"UUID": made.uuid, "RscDfn": made.name}, details=text)


@route("PUT", ONE, body="required")
def modify(cluster: Cluster, request: Request) -> Answer:
    """Change properties, group, layer stack. Any real change goes to all satellites that hold the definition."""
    name, body = request.params["resource"], request.body or {}
    answer = request.answering(MODIFY | DEFINITION, {"RscDfn": name})
    one = lookup.definition(cluster, name)
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    properties.check(cluster.version, "definition", override, delete)
    if override.get("DrbdOptions/ExactSize", "").lower() in ("true", "yes") and one.resources:
        raise Refused(ERROR | 213, "The property 'DrbdOptions/ExactSize' cannot be set to True while there are "
                      f"currently deployed resources({len(one.resources)}).")
    if properties.too_long(override):
        raise properties.unhandled(f"Modification of resource definition '{one.name}'", "ApiDatabaseException")
    slots = body.get("drbd_peer_slots")
    if slots is not None and slots < 1:
        raise Refused(ERROR | 993, "Insufficient peer slots to create resource", report=True)
    moved = _moved(cluster, one, body.get("resource_group"))
    changed = _restack(one, body.get("layer_stack")) or body.get("drbd_port") is not None or moved
    spaces_too = cluster.version.has("namespaces_deleted") or override or delete
    spaces = body.get("delete_namespaces") if spaces_too else None
    changed |= properties.change(one.props, answer, DEFINITION, override, delete, spaces)
    if body.get("drbd_port") is not None or slots is not None:
        one.drbd = one.drbd or drbd.definition_data(cluster, slots or 7)
    drbd_changes.properties_changed(cluster, answer, one, override, delete)
    answer.add(MODIFIED, f"Resource definition '{one.name}' modified.", {"UUID": one.uuid},
               details=f"Resource definition '{one.name}' UUID is: {one.uuid}")
    if moved and _tops_up(cluster, request, one):
        return answer
    if changed and one.resources:
        drbd_changes.refresh(cluster, answer, one)
    drbd_placing.manage(cluster, answer, one)
    if override.get("AutoSnapshot/RunEvery"):
        _start_auto_snapshots(cluster, request, one)
    return answer


def _moved(cluster: Cluster, one: Definition, group: Optional[str]) -> bool:
    if not group:
        return False
    target = lookup.group(cluster, group)
    different = target.name != one.group
    one.group = target.name
    return different


def _restack(one: Definition, given: Optional[list[str]]) -> bool:
    if not given:
        return False
    stack, _ = _layers(given)
    if stack != one.layers and one.resources:
        raise Refused(ERROR | 502, "Changing the layer stack with already deployed resource is not supported",
                      report=True)
    one.layers = stack
    return True


def _tops_up(cluster: Cluster, request: Request, one: Definition) -> bool:
    """Place the replicas a new group wants more; return whether there were any."""
    assert request.answer is not None
    return autoplace.top_up(cluster, request.answer, one, CREATE)


def _start_auto_snapshots(cluster: Cluster, request: Request, one: Definition) -> None:
    assert request.answer is not None
    snapshots.take_automatic(cluster, request.answer, one)


@route("DELETE", ONE)
def delete(cluster: Cluster, request: Request) -> Answer:
    """Remove a definition with its resources. One with an offline holder stays, flagged DELETE, until that is back."""
    name = request.params["resource"]
    answer = request.answering(DELETE | DEFINITION, {"RscDfn": name})
    one = cluster.definitions.get(names.check(names.RESOURCE_NAME, name))
    if one is None:
        return lookup.nothing(answer, f"Resource definition: {name} not found.")
    if one.snapshots:
        raise Refused(ERROR | 514, f"Cannot delete resource definition '{one.name}' because it has snapshots.",
                      report=True)
    drbd_changes.refuse_in_use(cluster, one, f"Resource '{one.name}' on node '{{}}' is still in use.")
    poison.check_delete(one)
    if not one.resources:
        del cluster.definitions[one.name.upper()]
        return _deleted(answer, one)
    one.flags = ["DELETE"]
    answer.add(DELETED, f"Resource definition '{one.name}' marked for deletion.")
    if take_down(cluster, answer, one):
        if cluster.definitions.get(one.name.upper()) is not one:
            if cluster.version.has("late_deletes_are_noop"):
                answer.add(INFO | 10007, f"Resource definition: {one.name} does not exist. Noop.")
        elif satellites.finish_delete(cluster, one):
            _deleted(answer, one)
    return answer


def _deleted(answer: Answer, one: Definition) -> Answer:
    answer.add(DELETED, f"Resource definition '{one.name}' deleted.", {"UUID": one.uuid},
               details=f"Resource definition '{one.name}' UUID is: {one.uuid}")
    return answer


def take_down(cluster: Cluster, answer: Answer, one: Definition) -> bool:
    """Mark all resources and remove them from their nodes; return whether no satellite failed or was away."""
    if drbd.layered(one):
        return drbd_placing.take_down(cluster, answer, one)
    for owner in one.resources.values():
        owner.flags = [*owner.flags, "DELETE"] if "DELETE" not in owner.flags else owner.flags
    there = {owner.node for owner in one.resources.values() if not satellites.is_gone(cluster, owner)}
    nodes = [owner.node for owner in one.resources.values()]

    def work(node: str) -> None:
        owner = one.resources.get(node.upper())
        if owner is not None and (owner.failing or not satellites.is_gone(cluster, owner)):
            satellites.remove(cluster, answer, owner)
        elif node in there and cluster.version.has("late_deletes_are_noop"):  # another request was quicker
            answer.add(0, f"({node}) Skipping processing resource: {one.name}")

    def said(node: str) -> Optional[tuple[int, str]]:
        text = f"Resource '{one.name}' on '{node}' marked for deletion"
        return (MODIFIED, text) if cluster.online(node) else None

    return len(satellites.ask(cluster, answer, nodes, work, said, must_reach=False)) == len(nodes)


@route("GET", ONE + "/sync-status")
def sync_status(cluster: Cluster, request: Request) -> Document:
    one = lookup.definition(cluster, request.params["resource"], masked=False)
    return Document({"synced_on_all": drbd_changes.synced(cluster, one)})
