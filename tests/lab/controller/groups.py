"""Resource groups and their volume groups."""

from __future__ import annotations

from typing import Any, Optional

from . import autoplace, lookup, names, properties, satellites, views
from .answers import (
    CREATE,
    CREATED,
    DEFINITION,
    DELETE,
    DELETED,
    ERROR,
    GROUP,
    MODIFIED,
    VOLUME_DEFINITION,
    VOLUME_GROUP,
    WARN,
    Answer,
    Document,
    Refused,
)
from .cluster import Cluster, Definition, Group, new_uuid
from .placement import select_filter
from .router import Request, route

PATH = "/v1/resource-groups"
ONE = PATH + "/{resource_group}"
VOLUMES = ONE + "/volume-groups"


@route("GET", PATH)
def listed(cluster: Cluster, request: Request) -> Document:
    wanted = {names.check(names.GROUP_NAME, name, masked=False) for name in request.query.get("resource_groups", [])}
    terms = request.query.get("props", [])
    found = [one for key, one in sorted(cluster.groups.items())
             if (not wanted or key in wanted) and properties.matches(one.props, terms)]
    return Document([views.group(one) for one in request.page(found)])


@route("GET", ONE)
def shown(cluster: Cluster, request: Request) -> Document:
    return Document(views.group(lookup.group(cluster, request.params["resource_group"], masked=False)))


def members(cluster: Cluster, one: Group) -> list[Definition]:
    """Return the definitions of a group by name."""
    return [definition for definition in cluster.sorted_definitions() if definition.group.upper() == one.name.upper()]


@route("POST", PATH, body="required")
def create(cluster: Cluster, request: Request) -> Answer:
    """Make a group. Its props in the body and node_name_list are dropped; an unknown pool is only warned about."""
    body = request.body or {}
    name = body.get("name")
    answer = request.answering(CREATE | GROUP, {"RscGrp": name}, 201)
    select = _stored(select_filter(body.get("select_filter"), masked=False))
    key = names.check(names.GROUP_NAME, name)
    if key in cluster.groups:
        raise Refused(ERROR | 522, f"A Resource group: {name} already exists.", cause="The group exists already")
    _check_place_count(str(name), select)
    one = Group(str(name), description=body.get("description") or "", select={"place_count": 2, **select})
    unknown = [pool for pool in select.get("storage_pool_list") or [] if pool.upper() not in cluster.pool_names]
    if unknown:
        listing = "\n\t".join(unknown)
        answer.add(WARN | 3000, f"The following configured storage pools do not exist on any node:\n\t{listing}",
                   bare=True)
    cluster.groups[key] = one
    answer.add(CREATED, f"New resource group '{name}' created.", {"UUID": one.uuid}, details=f"UUID is: {one.uuid}")
    return answer


def _stored(select: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in select.items() if key != "node_name_list"}


def _check_place_count(name: str, select: dict[str, Any]) -> None:
    if select.get("place_count") is not None and select["place_count"] < 1:
        raise Refused(ERROR | 219, f"Resource group: {name}, place-count must be positive.")


@route("PUT", ONE, body="required")
def modify(cluster: Cluster, request: Request) -> Answer:
    """Change a group; a higher place_count places replicas of all its definitions in the same call."""
    name, body = request.params["resource_group"], request.body or {}
    answer = request.answering(CREATE | GROUP, {"RscGrp": name})
    names.check(names.GROUP_NAME, name)
    given = select_filter(body.get("select_filter"))
    select = _stored(given)
    _check_place_count(name, select)
    one = lookup.group(cluster, name)
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    properties.check(cluster.version, "definition", override, delete)
    one.select.update(select)
    one.select = {key: value for key, value in one.select.items() if value != []}
    if body.get("description") is not None:
        one.description = body["description"]
    changed = properties.change(one.props, answer, DEFINITION, override, delete, body.get("delete_namespaces"))
    answer.add(MODIFIED, f"Resource group '{one.name}' modified.", {"UUID": one.uuid}, details=f"UUID: {one.uuid}")
    counted = given.get("place_count") is not None
    for definition in members(cluster, one) if counted else []:
        autoplace.top_up(cluster, answer, definition, CREATE, given)
    if changed or counted:
        for definition in members(cluster, one):
            _update(cluster, answer, definition)
    return answer


def _update(cluster: Cluster, answer: Answer, one: Definition) -> None:
    def said(node: str) -> Optional[tuple[int, str]]:
        return MODIFIED, f"Updated Resource definition '{one.name}' on '{node}'"

    if one.resources:
        satellites.refresh(cluster, answer, one, said)


@route("DELETE", ONE)
def delete(cluster: Cluster, request: Request) -> Answer:
    name = request.params["resource_group"]
    answer = request.answering(DELETE | GROUP, {"RscGrp": name})
    one = cluster.groups.get(names.check(names.GROUP_NAME, name))
    if one is None:
        return lookup.nothing(answer, f"Resource group: {name} not found.")
    if members(cluster, one):
        raise Refused(ERROR | 501, f"Cannot delete resource group '{one.name}' because it has existing resource "
                      "definitions.")
    del cluster.groups[one.name.upper()]
    answer.add(DELETED, f"Resource group '{one.name}' deleted.", {"UUID": one.uuid}, details=f"UUID: {one.uuid}")
    return answer


@route("GET", VOLUMES)
def volume_groups(cluster: Cluster, request: Request) -> Document:
    one = lookup.group(cluster, request.params["resource_group"], masked=False)
    return Document([_volume_group(one, number) for number in sorted(one.volume_groups)])


@route("GET", VOLUMES + "/{volume_number}")
def volume_group(cluster: Cluster, request: Request) -> Document:
    one = lookup.group(cluster, request.params["resource_group"], masked=False)
    return Document(_volume_group(one, _number(one, request, masked=False)))


def _number(one: Group, request: Request, masked: bool) -> int:
    number = request.volume_number()
    if number not in one.volume_groups:
        raise Refused(ERROR | 318, f"Volume group '{one.name}' with volume number '{number}' not found.",
                      masked=masked)
    return number


def _volume_group(one: Group, number: int) -> dict[str, Any]:
    return {"volume_number": number, **one.volume_groups[number]}


@route("POST", VOLUMES, body="optional")
def create_volume_group(cluster: Cluster, request: Request) -> Answer:
    """Add a volume group; not possible any more once the group has definitions."""
    name, body = request.params["resource_group"], request.body or {}
    answer = request.answering(CREATE | VOLUME_GROUP, {"VlmGrp": name}, 201)
    one = lookup.group(cluster, name)
    if members(cluster, one):
        raise Refused(ERROR | 501, "Volume group cannot be created while the resource group has already resource "
                      "definitions.", report=True)
    number = body.get("volume_number")
    if number is None:
        number = next(free for free in range(len(one.volume_groups) + 1) if free not in one.volume_groups)
    if number in one.volume_groups:
        raise Refused(ERROR | VOLUME_DEFINITION | 523, f"A volume group with the number {number} already exists in "
                      f"resource group '{one.name}'.", cause="The volume group exists already")
    props: dict[str, str] = {}
    properties.check(cluster.version, "volume", body.get("props") or {})
    properties.change(props, answer, VOLUME_DEFINITION, body.get("props") or {})
    one.volume_groups[number] = {**({"props": props} if props else {}), "uuid": new_uuid()}
    answer.add(CREATED, f"New volume group with number '{number}' of resource group '{one.name}' created.",
               {"RscGrp": one.name, "VlmNr": str(number)})
    return answer


@route("DELETE", VOLUMES + "/{volume_number}")
def delete_volume_group(cluster: Cluster, request: Request) -> Answer:
    name = request.params["resource_group"]
    answer = request.answering(DELETE | VOLUME_GROUP, {"VlmGrp": name})
    one = lookup.group(cluster, name)
    number = _number(one, request, masked=True)
    del one.volume_groups[number]
    answer.add(DELETED, f"Volume group with number '{number}' of resource group '{one.name}' deleted.",
               details="deleted")
    return answer
