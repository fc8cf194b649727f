"""LINSTOR's own clone of a definition, and its status."""

from __future__ import annotations

from typing import Any

from . import definitions, drbd, drbd_changes, lookup, names, poison, properties, satellites
from .answers import CREATE, DEFINITION, ERROR, Answer, Document, Refused, status_of
from .cluster import CLONE_KINDS, Cluster, Definition, Pool, Resource, Volume, VolumeDefinition
from .placement import Autoplacer, layer_stack, merged
from .router import Request, route

ONE = "/v1/resource-definitions/{resource}"
NO_POOL = "No suitable storage pools found for cloning."


@route("GET", ONE + "/clone/{clone}")
def status(cluster: Cluster, request: Request) -> Document:
    """Tell CLONING, COMPLETE or FAILED of a clone; 404 for anything that is none."""
    source, clone = (cluster.definition(request.params[key]) for key in ("resource", "clone"))
    if source is None or clone is None or clone.clone_of != source.name.upper():
        raise Refused(ERROR | 301, "Cloned resource not found.", masked=False)
    failed = "FAILED" in clone.flags or any(not cluster.online(owner.node) for owner in clone.resources.values())
    return Document({"status": "FAILED" if failed else "CLONING" if "CLONING" in clone.flags else "COMPLETE"})


@route("POST", ONE + "/clone", body="required", hang_unparsable=(1, 31))
def clone(cluster: Cluster, request: Request) -> Document:
    """Clone a definition with all replicas. Refusals come in `messages` of the same object as a success."""
    body, source_name = request.body or {}, request.params["resource"]
    name = body.get("name")
    if cluster.version.has("clone_options"):
        lookup.definition(cluster, source_name, masked=False)
    answer = Answer(CREATE | DEFINITION, {"RscDfn": name}, 201, error_report=cluster.report)
    cluster.pause()
    try:
        if name is None:
            raise Refused(ERROR | names.RESOURCE_NAME, "No name for the cloned resource was specified.")
        _clone(cluster, answer, lookup.definition(cluster, source_name), name, body)
    except Refused as refusal:
        answer.entries.clear()
        answer.refuse(refusal)
    if name is None and not cluster.version.has("clone_options"):
        raise Refused(ERROR | 998, None, masked=False, report=True)
    shown = "__invalid_name__" if name is None else name
    code = status_of(answer.entries, 201) if cluster.version.has("clone_errors_are_500") else 201
    return Document({
        "location": f"/v1/resource-definitions/{source_name}/clone/{shown}",
        "source_name": source_name, "clone_name": shown, "messages": answer.entries,
    }, 500 if code != 201 else 201)


def _clone(cluster: Cluster, answer: Answer, source: Definition, name: str, body: dict[str, Any]) -> None:
    group = body.get("resource_group") or source.group
    layers = layer_stack(body.get("layer_list")) or list(source.layers)
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    properties.check(cluster.version, "definition", override, delete)
    made = definitions.build(cluster, name, body.get("external_name"), layers, group, {})
    drbd_changes.refuse_clone(cluster, source)
    if not source.resources and not cluster.version.has("clone_options"):
        # It stays for ever, half made.
        made.flags, made.props["cloned-from"], made.clone_of = ["CLONING"], source.name, source.name.upper()
        cluster.definitions[made.name.upper()] = made
        raise Refused(ERROR | 998, f"Creation of resource definition '{name}' failed due to an unknown exception.",
                      report=True)
    chosen = _pools(cluster, source, made, layers)
    made.props = {**source.props, **override}
    for key in delete:
        made.props.pop(properties.normal(key), None)
    made.clone_of = source.name.upper()
    made.drbd = drbd.definition_data(cluster, 7) if "DRBD" in layers or source.drbd else None
    cluster.definitions[made.name.upper()] = made
    for number, volume in source.volumes.items():
        made.volumes[number] = VolumeDefinition(number, volume.size, props=dict(volume.props), flags=list(volume.flags))
        if volume.drbd:
            made.volumes[number].drbd = drbd.volume_definition_data(cluster, made.volumes[number])
    drbd_changes.announce_clone(answer, source, made, override, delete)
    for owner in source.resources.values():
        _copy(cluster, source, made, owner, chosen.get(owner.node.upper()))
    drbd_changes.cloned(cluster, made)


def _pools(cluster: Cluster, source: Definition, made: Definition, layers: list[str]) -> dict[str, Pool]:
    """Return the pool of each replica of the clone, by node in upper case.

    The clone has to be on the nodes of its source; the group of the clone only chooses the pools there.
    """
    holders = [owner for owner in source.resources.values() if not owner.diskless]
    size = sum(volume.size for volume in source.volumes.values())
    select = {"node_name_list": [owner.node for owner in holders], "layer_stack": layers or None}
    wanted = merged({key: value for key, value in select.items() if value}, cluster.groups[made.group.upper()].select)
    own = {volume.pool.upper() for owner in holders for volume in owner.volumes.values()}
    if made.group == source.group:
        wanted["storage_pool_list"] = sorted(own)
    chosen = Autoplacer(cluster, wanted, None, size).choose(len(holders)) if holders else None
    if not chosen or not size:
        raise Refused(ERROR | 996, NO_POOL, report=True)
    kinds = {satellites.kind_of(cluster, owner, volume) for owner in holders for volume in owner.volumes.values()}
    if not kinds <= set(CLONE_KINDS) or any(pool.kind not in CLONE_KINDS for pool in chosen):
        if cluster.version.has("restore_drops_layers") and not source.layers and source.stacks() == [["STORAGE"]]:
            raise poison.clone_refused(cluster, source, made)
        raise Refused(ERROR | 227, "Clone source contains unsupported storage pools", report=True)
    return {pool.node.upper(): pool for pool in chosen}


def _copy(cluster: Cluster, source: Definition, made: Definition, owner: Resource, pool: Any) -> None:
    """Make one replica of the clone from the source's on the same node."""
    copy = Resource(made, owner.node, list(owner.layers if owner.diskless else made.layers or owner.layers),
                    flags=list(owner.flags), props=dict(owner.props), node_id=owner.node_id, ports=list(owner.ports),
                    drbd_flags=list(owner.drbd_flags))
    if pool is not None:
        copy.props["StorPoolName"] = pool.name
    made.resources[owner.node.upper()] = copy
    for number, volume in owner.volumes.items():
        name = pool.name if pool is not None else volume.pool
        copy.volumes[number] = Volume(number, name, usable=made.volumes[number].size, state=volume.state,
                                      allocated=volume.allocated)
        if not owner.diskless:
            where = satellites.content(copy, number)
            if where.node or _first(copy, number):
                cluster.volumes.clone(satellites.content(owner, number), where)
            kind = satellites.kind_of(cluster, copy, copy.volumes[number])
            copy.volumes[number].chunks = dict(volume.chunks)
            satellites.measure(copy, copy.volumes[number], kind, made.volumes[number].size)
            satellites.attach(cluster, copy, copy.volumes[number])
    satellites.run(cluster, None, copy)


def _first(copy: Resource, number: int) -> bool:
    return not any(other is not copy and other.volumes[number].size for other in copy.definition.resources.values()
                   if number in other.volumes)
