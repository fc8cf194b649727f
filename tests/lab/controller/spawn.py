"""Spawning definitions from groups, adjusting groups, and asking how much a group could take."""

from __future__ import annotations

from typing import Any

from . import autoplace, definitions, drbd, lookup, poison, properties, resources, volume_definitions
from .answers import CREATE, CREATED, ERROR, GROUP, INFO, VOLUME_DEFINITION, Answer, Document, Refused, entry
from .capacity import Usage, packed, space_info
from .cluster import Cluster, Definition, Group
from .groups import members
from .placement import Autoplacer, Select, merged, select_filter
from .router import Request, route

ONE = "/v1/resource-groups/{resource_group}"


@route("POST", ONE + "/spawn", body="required")
def spawn(cluster: Cluster, request: Request) -> Answer:
    """Make definition, volumes and replicas in one call; whatever is refused leaves nothing behind."""
    body = request.body or {}
    name = body.get("resource_definition_name")
    answer = request.answering(CREATE | GROUP, {"RscDfn": str(name).replace("None", "null"),
                                                "RscGrp": request.params["resource_group"]}, 201)
    cluster.pause()
    group = lookup.group(cluster, request.params["resource_group"])
    if "volume_sizes" in body and body["volume_sizes"] is None:
        raise properties.unhandled(f"Registration of resource group '{group.name}'", "NullPointerException")
    sizes, partial = body.get("volume_sizes") or [], bool(body.get("partial")) or not group.volume_groups
    if not partial and len(sizes) != len(group.volume_groups):
        raise Refused(ERROR | 228, f"Invalid count of volume sizes to spawn resource group '{group.name}'")
    if not group.volume_groups:
        answer.add(INFO, "Resource-group doesn't have any volume-groups, automatically assume partial mode.")
    if name is None:
        raise properties.unhandled(f"Registration of resource group '{group.name}'", "ApiException")
    poison.check(cluster, poison.SPAWN)
    select = merged(select_filter(body.get("select_filter")), group.select)
    _spawn(cluster, answer, group, select, body, sizes)
    return answer


def _spawn(cluster: Cluster, answer: Answer, group: Group, select: Select, body: dict[str, Any],
           sizes: list[int]) -> None:
    props = body.get("resource_definition_props") or {}
    made = definitions.build(cluster, body["resource_definition_name"],
                             body.get("resource_definition_external_name"), list(select.get("layer_stack") or []),
                             group.name, props)
    properties.change(made.props, answer, definitions.DEFINITION, props)
    key = made.name.upper()
    cluster.definitions[key] = made
    if "DRBD" in made.layers or body.get("peer_slots") is not None:
        made.drbd = drbd.definition_data(cluster, body.get("peer_slots") or 7)
    try:
        if body.get("volume_passphrases") and not cluster.unlocked:
            raise Refused(ERROR | 312, "Unable to create encrypt key without having a master key")
        _volumes(cluster, answer, made, sizes)
        definitions.announce(answer, made)
        if body.get("definitions_only"):
            answer.add(INFO | 10000, f"Resource definition {made.name} and {len(sizes)} created but no resources "
                                     "deployed", cause="definitions_only")
            return
        new = _place(cluster, answer, made, select)
    except Refused:
        cluster.definitions.pop(key, None)
        raise
    resources.finish(cluster, answer, made, new)


def _volumes(cluster: Cluster, answer: Answer, made: Definition, sizes: list[int]) -> None:
    inner = Answer(CREATE | VOLUME_DEFINITION, dict(answer.refs))
    for number, size in enumerate(sizes):
        try:
            volume_definitions.build(cluster, inner, made, {"volume_number": number, "size_kib": size})
        except Refused as refusal:
            refusal.code |= VOLUME_DEFINITION
            raise
        text = f"Volume definition with number '{number}' successfully  created in resource definition '{made.name}'."
        answer.add(VOLUME_DEFINITION | CREATED, text, {"VlmNr": str(number)})


def _place(cluster: Cluster, answer: Answer, made: Definition, select: Select) -> list[Any]:
    count = int(select.get("additional_place_count") or 0) or int(select.get("place_count") or 0)
    chosen = autoplace.choose(cluster, made, select, count)
    if chosen is None:
        raise Refused(ERROR | 996, "Not enough available nodes", details="Not enough nodes fulfilling the constraints")
    return autoplace.create(cluster, answer, made, chosen, select)


@route("POST", ONE + "/adjust", body="optional")
def adjust(cluster: Cluster, request: Request) -> Answer:
    name = request.params["resource_group"]
    answer = request.answering(CREATE | GROUP, {"RscGrp": name})
    group = lookup.group(cluster, name)
    _adjust(cluster, answer, [group], select_filter((request.body or {}).get("select_filter")))
    return answer


@route("POST", "/v1/resource-groups/adjustall", body="optional")
def adjust_all(cluster: Cluster, request: Request) -> Answer:
    answer = request.answering(CREATE | GROUP)
    given = select_filter((request.body or {}).get("select_filter"))
    _adjust(cluster, answer, [cluster.groups[key] for key in sorted(cluster.groups)], given)
    return answer


def _adjust(cluster: Cluster, answer: Answer, groups: list[Group], given: Select) -> None:
    """Place everywhere, then deploy. A refusal ends it in between: what was placed by then nobody deploys."""
    made = []
    try:
        for group in groups:
            for definition in members(cluster, group):
                inner = Answer(CREATE | GROUP, dict(answer.refs))
                new = autoplace.place(cluster, inner, definition, merged(given, group.select), deploy=False)
                made.append((inner, definition, new))
    except Refused as refusal:
        answer.refuse(refusal)
        return
    for inner, definition, new in made:
        if new:
            resources.finish(cluster, inner, definition, new)
        answer.entries += inner.entries


@route("POST", ONE + "/query-size-info", body="optional")
def query_size_info(cluster: Cluster, request: Request) -> Document:
    """Tell the largest volume and the space of a group; an unknown group comes as 200 with reports."""
    name, body = request.params["resource_group"], request.body or {}
    cluster.pause()
    try:
        group = lookup.group(cluster, name, masked=False)
    except Refused as refusal:
        return Document({"reports": [entry(refusal.code, refusal.message)]})
    return Document({"space_info": _space(cluster, merged(select_filter(body.get("select_filter")), group.select))})


def _space(cluster: Cluster, select: Select) -> dict[str, Any]:
    placer = Autoplacer(cluster, select, None, 0)
    count = int(select.get("place_count") or 0)
    return space_info(cluster, select, placer.choose(count) or [], placer.candidates())


@route("POST", "/v1/queries/resource-groups/query-all-size-info", body="optional")
def query_all(cluster: Cluster, request: Request) -> Document:
    given = select_filter((request.body or {}).get("select_filter"))
    cluster.pause()
    return Document({"result": {one.name: {"space_info": _space(cluster, merged(given, one.select))}
                                for _, one in sorted(cluster.groups.items())}})


@route("GET", ONE + "/query-max-volume-size")
def query_max_volume_size(cluster: Cluster, request: Request) -> Document:
    return Document(_candidates(cluster, lookup.group(cluster, request.params["resource_group"], masked=False).select))


@route("OPTIONS", "/v1/query-max-volume-size", body="optional")
def query_max(cluster: Cluster, request: Request) -> Document:
    return Document(_candidates(cluster, select_filter(request.body)))


def _candidates(cluster: Cluster, select: Select) -> dict[str, Any]:
    usage = Usage(cluster)
    chosen = Autoplacer(cluster, select, None, 0).choose(int(select.get("place_count") or 0))
    if not chosen:
        raise Refused(ERROR | 996, "Not enough nodes", masked=False)
    return {"candidates": [{
        "storage_pool": chosen[0].name,
        "max_volume_size_kib": packed((usage.free(pool) for pool in chosen), len(chosen)),
        "node_names": [pool.node for pool in chosen],
        "all_thin": all(pool.thin for pool in chosen),
    }], "default_max_oversubscription_ratio": 20.0}


