"""Volume definitions: create, list, resize, delete."""

from __future__ import annotations

from typing import Any, Optional

from . import drbd, drbd_changes, lookup, names, properties, satellites, views
from .answers import (
    CREATE,
    CREATED,
    DELETE,
    DELETED,
    ERROR,
    MODIFIED,
    MODIFY,
    VOLUME_DEFINITION,
    WARN,
    Answer,
    Document,
    Refused,
)
from .cluster import Cluster, Definition, Resource, Volume, VolumeDefinition
from .router import Request, route

PATH = "/v1/resource-definitions/{resource}/volume-definitions"
ONE = PATH + "/{volume_number}"
LARGEST_NUMBER = 65534
DRBD_SMALLEST, DRBD_LARGEST = 4, 1 << 40
FLAGS = {"ENCRYPTED", "RESIZE", "DELETE", "GROSS_SIZE", "RESIZE_SHRINK"}
_UPDATED = "Updated volume {} of '{}' on '{}'"


@route("GET", PATH)
def listed(cluster: Cluster, request: Request) -> Document:
    one = lookup.listed(cluster, request.params["resource"])
    return Document([views.volume_definition(one, one.volumes[nr]) for nr in sorted(one.volumes)])


@route("GET", ONE)
def shown(cluster: Cluster, request: Request) -> Document:
    number = request.volume_number()
    one = lookup.definition(cluster, request.params["resource"], masked=False)
    if number not in one.volumes:
        raise Refused(ERROR | 303, f"Volume definition '{number}' not found.", masked=False)
    return Document(views.volume_definition(one, one.volumes[number]))


@route("POST", PATH, body="required")
def create(cluster: Cluster, request: Request) -> Answer:
    """Add a volume; where resources exist it is made on all their nodes, without a look at free space."""
    name, body = request.params["resource"], request.body or {}
    answer = request.answering(CREATE | VOLUME_DEFINITION, {"RscDfn": name})
    one = lookup.definition(cluster, name)
    given = body.get("volume_definition") or {}
    made = build(cluster, answer, one, given, body.get("passphrase"), body.get("drbd_minor_number"))
    answer.add(CREATED, f"New volume definition with number '{made.number}' of resource definition '{one.name}' "
                        "created.", {"VlmNr": str(made.number)})
    place(cluster, one, made)
    if one.resources:
        satellites.refresh(cluster, answer, one,
                           lambda node: (MODIFIED, f"Created volume for resource '{one.name}' on '{node}'"))
    return answer


def build(cluster: Cluster, answer: Answer, one: Definition, given: dict[str, Any], passphrase: Optional[str] = None,
          minor: Optional[int] = None) -> VolumeDefinition:
    """Check and store a volume definition as a body gives it. Sizes are net KiB."""
    number = given.get("volume_number")
    if number is not None:
        _check_number(number)
    flags = given.get("flags") or []
    if any(flag not in FLAGS for flag in flags):
        raise properties.unhandled(f"Creation of volume definitions for resource definition '{one.name}'",
                                   "IllegalArgumentException")
    number = _free_number(one) if number is None else number
    answer.refs["VlmNr"] = str(number)
    if number in one.volumes:
        raise Refused(ERROR | 503, f"A volume definition with the number {number} already exists in resource "
                      f"definition '{one.name}'.", cause="The volume definition already exists")
    size = given.get("size_kib") or 0
    _check_size(one, number, size)
    props = given.get("props") or {}
    properties.check(cluster.version, "volume", props)
    if ("ENCRYPTED" in flags or passphrase) and not cluster.unlocked:
        raise Refused(ERROR | 312, "Unable to create an encrypted volume definition without having a master key")
    made = VolumeDefinition(number, size, flags=list(dict.fromkeys(flags)))
    made.props["DrbdCurrentGi"] = f"{hash((made.uuid, size)) & 0xFFFFFFFFFFFFFFFE:X}"
    if "ENCRYPTED" in flags:
        made.props["CryptPasswd"] = "encrypted"
    if passphrase:
        made.props["Encryption/Passphrase"] = "encrypted"
    if "DRBD" in one.layers or minor is not None:
        made.drbd = drbd.volume_definition_data(cluster, made)
        one.drbd = one.drbd or drbd.definition_data(cluster, 7)
    refs, answer.refs = answer.refs, {key: value for key, value in answer.refs.items() if key != "VlmNr"}
    properties.change(made.props, answer, VOLUME_DEFINITION, props)
    answer.refs = {key: value for key, value in refs.items() if key != "VlmNr"}
    one.volumes[number] = made
    return made


def _free_number(one: Definition) -> int:
    number = 0
    while number in one.volumes:
        number += 1
    return number


def _check_size(one: Definition, number: int, size: int) -> None:
    low, high = (DRBD_SMALLEST, DRBD_LARGEST) if "DRBD" in one.layers else (1, 1 << 62)
    if not low <= size <= high:
        raise Refused(ERROR | 206, f"The volume definition with number '{number}' of resource definition "
                      f"'{one.name}' has an invalid size of '{size}'. Valid sizes range from {low} to {high}.",
                      cause="An attempt was made to create a volume with an invalid size")


def place(cluster: Cluster, one: Definition, made: VolumeDefinition) -> None:
    """Give every resource of the definition a volume for a new volume definition."""
    for owner in one.resources.values():
        owner.volumes[made.number] = Volume(made.number, pool_of(cluster, owner, made), usable=made.size)


def pool_of(cluster: Cluster, owner: Resource, made: VolumeDefinition) -> str:
    """Return the pool a volume of a resource goes to: first where a property names one, then where others are.

    "" when nothing names a pool that the node has.
    """
    one, node = owner.definition, cluster.nodes[owner.node.upper()]
    named = [props.get("StorPoolName") for props in
             (owner.props, made.props, one.props, cluster.group_of(one).props, node.props)]
    neighbours = [volume.pool for other in one.resources.values() if not other.diskless
                  for volume in other.volumes.values()]
    for name in (*named, *neighbours, "DfltStorPool"):
        if name and name.upper() in node.pools:
            return node.pools[name.upper()].name
    return ""


@route("PUT", ONE, body="required")
def modify(cluster: Cluster, request: Request) -> Answer:
    """Change properties or the size. Growing thin volumes is not compared with the pool, nor is shrinking refused
    on a stack without DRBD."""
    number, body = request.volume_number(), request.body or {}
    answer = request.answering(MODIFY | VOLUME_DEFINITION, {"RscDfn": request.params["resource"],
                                                            "VlmNr": str(number)})
    names.check(names.RESOURCE_NAME, request.params["resource"])
    _check_number(number)
    owner = lookup.definition(cluster, request.params["resource"])
    one = lookup.volume(owner, number)
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    properties.check(cluster.version, "volume", override, delete)
    size = body.get("size_kib")
    if size is not None and size <= 0:
        raise Refused(ERROR | 206, f"The given size [{size}KiB] is too small")
    if size is not None and size != one.size:
        drbd_changes.refuse_resize(cluster, owner, one, size)
    # Namespaces to delete are read and forgotten.
    changed = properties.change(one.props, answer, VOLUME_DEFINITION, override, delete)
    same = size is not None and size == one.size
    if same and cluster.version.has("same_size_warning"):
        answer.add(WARN | 1023, "VolumeDefinition already has the expected size, no satellite update will be "
                                "triggered.")
    text = f"Volume definition with number '{number}' of resource definition '{owner.name}' modified."
    answer.add(MODIFIED, text, {"UUID": one.uuid}, details=f"Volume definition UUID is: {one.uuid}")
    if size is not None and (not same or not cluster.version.has("same_size_warning")):
        _resize(cluster, answer, owner, one, size)
    elif changed and owner.resources:
        satellites.refresh(cluster, answer, owner, lambda node: (MODIFIED, _UPDATED.format(number, owner.name, node)))
    return answer


def _check_number(number: int) -> None:
    if not 0 <= number <= LARGEST_NUMBER:
        raise Refused(ERROR | 205, f"The specified volume number '{number}' is invalid. Volume numbers have to be in "
                      f"range of 0 - {LARGEST_NUMBER}.", report=True)


def _resize(cluster: Cluster, answer: Answer, owner: Definition, one: VolumeDefinition, size: int) -> None:
    one.size = size
    for resource in owner.resources.values():
        if one.number in resource.volumes and not cluster.online(resource.node) and \
                cluster.version.has("usable_from_the_start"):
            resource.volumes[one.number].usable = size
    if not owner.resources:
        return
    if drbd.layered(owner):
        drbd_changes.resize(cluster, answer, owner, one)
        return
    updated = _UPDATED.format(one.number, owner.name, "{}")
    for text in (updated, f"Resized resource '{owner.name}' on '{{}}'", updated):
        satellites.refresh(cluster, answer, owner, lambda node, words=text: (MODIFIED, words.format(node)))
        if answer.failed:
            _hold_up(cluster, one, "RESIZE")
            return


@route("DELETE", ONE)
def delete(cluster: Cluster, request: Request) -> Answer:
    """Remove a volume everywhere. On an offline node its bytes stay for good, forgotten."""
    number, name = request.volume_number(), request.params["resource"]
    answer = request.answering(DELETE | VOLUME_DEFINITION, {"RscDfn": name, "VlmNr": str(number)})
    tolerant = cluster.version.has("tolerant_deletes")
    names.check(names.RESOURCE_NAME, name)
    _check_number(number)
    owner = cluster.definitions.get(names.check(names.RESOURCE_NAME, name)) if tolerant \
        else lookup.definition(cluster, name)
    if owner is None or number not in owner.volumes:
        return lookup.nothing(answer, f"Resource definition: {name}, Volume number: {number} not found.")
    drbd_changes.refuse_in_use(cluster, owner, f"Resource '{owner.name}' on node '{{}}' is still in use.")
    text = f"Volume definition with number '{number}' of resource definition '{owner.name}'"
    answer.add(DELETED, f"{text} marked for deletion.", details="marked")
    if owner.resources:
        _drop(cluster, answer, owner, number)
    if answer.failed and _hold_up(cluster, owner.volumes[number], "DELETE"):
        return answer
    del owner.volumes[number]
    answer.add(DELETED, f"{text} deleted.", details="deleted")
    return answer


def _hold_up(cluster: Cluster, one: VolumeDefinition, flag: str) -> bool:
    """Flag a volume definition whose change waits for an offline satellite, as LINSTOR before 1.31 does."""
    if cluster.version.has("offline_is_warning"):
        return False
    one.flags = [*one.flags, flag] if flag not in one.flags else one.flags
    return True


def _drop(cluster: Cluster, answer: Answer, owner: Definition, number: int) -> None:
    def work(node: str) -> None:
        resource = owner.resources[node.upper()]
        volume = resource.volumes.pop(number, None)
        if volume is not None:
            satellites.drop_volume(cluster, answer, resource, volume)
        satellites.run(cluster, answer, resource)

    satellites.ask(cluster, answer, [one.node for one in owner.resources.values()], work,
                   lambda node: (MODIFIED, f"Deleted volume {number} of '{owner.name}' on '{node}'"))
    for resource in owner.resources.values() if cluster.version.has("offline_is_warning") else ():
        volume = resource.volumes.pop(number, None)
        if volume is not None and volume.size:
            satellites.forget(cluster, resource, number)


@route("PUT", ONE + "/encryption-passphrase", body="required", since=(1, 27))
def new_passphrase(cluster: Cluster, request: Request) -> Answer:
    number = request.volume_number()
    answer = request.answering(MODIFY | VOLUME_DEFINITION, {"RscDfn": request.params["resource"],
                                                            "VlmNr": str(number)})
    owner = lookup.definition(cluster, request.params["resource"])
    one = lookup.volume(owner, number)
    one.props["Encryption/Passphrase"] = "encrypted"
    if not any("LUKS" in resource.layers for resource in owner.resources.values()):
        answer.add(WARN | 3000, "No resources have any luks layer, no passphrase has been changed.")
    answer.add(MODIFIED, f"Volume definition with number '{number}' of resource definition '{owner.name}' modified.")
    return answer
