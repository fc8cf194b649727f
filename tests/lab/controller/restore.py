"""Bringing snapshots back: into a new definition, or over the one they were taken of."""

from __future__ import annotations

import random
import string
from typing import Any, Optional

from . import (
    autoplace,
    definitions,
    drbd,
    drbd_changes,
    drbd_placing,
    lookup,
    names,
    satellites,
    snapshots,
    volume_definitions,
)
from .answers import (
    CREATE,
    CREATED,
    DELETED,
    ERROR,
    INFO,
    MODIFIED,
    MODIFY,
    RESOURCE,
    SNAPSHOT,
    WARN,
    Answer,
    Refused,
    is_error,
)
from .cluster import Cluster, Definition, Resource, Snapshot, Volume, VolumeDefinition
from .contents import opened
from .placement import layer_stack
from .providers import wipe
from .router import Request, route
from .volumes import Content, Opening

ONE = "/v1/resource-definitions/{resource}"


@route("POST", ONE + "/snapshot-restore-volume-definition/{snapshot}", body="required")
def restore_volume_definitions(cluster: Cluster, request: Request) -> Answer:
    """Give a definition the volumes of a snapshot. The success code is DELETED: LINSTOR's own slip."""
    name, params = (request.body or {}).get("to_resource"), request.params
    answer = request.answering(CREATE | SNAPSHOT)
    source = lookup.definition(cluster, params["resource"])
    one = lookup.snapshot(source, params["snapshot"])
    target = lookup.definition(cluster, name)
    for number in sorted(one.sizes):
        if number in target.volumes:
            raise Refused(ERROR | 503, f"A volume definition with the number {number} already exists in resource "
                          f"definition '{target.name}'.", cause="The volume definition exists already")
    for number in sorted(one.sizes):
        target.volumes[number] = _volume_definition(cluster, target, number, one)
        volume_definitions.place(cluster, target, target.volumes[number])
    # The satellites are told, and nobody waits for them.
    satellites.refresh(cluster, Answer(SNAPSHOT), target)
    answer.add(DELETED, f"Volume definitions of resource definition '{target.name}' restored from resource "
                        f"'{source.name}', snapshot '{one.name}'.", details="restored")
    return answer


def _volume_definition(cluster: Cluster, target: Definition, number: int, one: Snapshot) -> VolumeDefinition:
    made = VolumeDefinition(number, one.sizes[number])
    kept = ("DrbdCurrentGi", "Encryption/Passphrase", "Linstor/Drbd/freeze-block-size")
    made.props = {key: value for key, value in one.volume_props[number].items() if key in kept}
    if "DRBD" in target.layers or "DRBD" in one.layers:
        made.drbd = drbd.volume_definition_data(cluster, made)
    return made


@route("POST", ONE + "/snapshot-restore-resource/{snapshot}", body="required")
def restore_resource(cluster: Cluster, request: Request) -> Answer:
    """Make replicas from a snapshot. The snapshot's definition properties replace the target's."""
    body, params = request.body or {}, request.params
    name = body.get("to_resource")
    for kind, text in ((names.RESOURCE_NAME, params["resource"]), (names.SNAPSHOT_NAME, params["snapshot"]),
                       (names.RESOURCE_NAME, name)):
        names.check(kind, text, masked=False)
    answer = request.answering(CREATE | RESOURCE, {"RscDfn": name})
    source = lookup.definition(cluster, params["resource"])
    one = lookup.snapshot(source, params["snapshot"])
    target = lookup.definition(cluster, name)
    if target.resources:
        raise Refused(ERROR | 502, "Cannot restore to resource definition which already has resources", report=True)
    if "SUCCESSFUL" not in one.flags:
        raise Refused(ERROR | 998, "Unable to use failed snapshot", report=True)
    nodes = [lookup.node(cluster, node).name for node in body.get("nodes") or []]
    for node in nodes:
        if node.upper() not in one.resources:
            raise Refused(ERROR | 315, f"Snapshot '{one.name}' of resource '{source.name}' on node '{node}' not "
                          "found.", report=True)
    _check_volumes(target, one)
    if not target.volumes:
        answer.add(WARN | 3000, "No volumes to restore.", details="The definition has no volumes", cause="none")
    where = f" on nodes '{', '.join(nodes)}'" if nodes else ""
    _restore(cluster, answer, source, one, target, nodes, where)
    if not target.volumes:
        answer.add(WARN | 3000, f"No volumes have been defined for resource '{target.name}'")
    return answer


def _check_volumes(target: Definition, one: Snapshot) -> None:
    for number, volume in sorted(target.volumes.items()):
        if number not in one.sizes:
            raise Refused(ERROR | 314, f"Snapshot does not contain required volume number {number}", report=True)
        if one.sizes[number] != volume.size:
            raise Refused(ERROR | 206, f"Snapshot size does not match for volume number {number}; snapshot size: "
                          f"{one.sizes[number]}KiB, required size: {volume.size}KiB", report=True)


def _restore(cluster: Cluster, answer: Answer, source: Definition, one: Snapshot, target: Definition,
             nodes: list[str], where: str) -> None:
    """Store and deploy the replicas of a snapshot under `target`, which has the volumes but no resources."""
    target.props.update(one.definition_props)
    if not cluster.version.has("restore_drops_layers"):
        target.props.update(one.props)
    else:
        # The snapshot's stack, which is empty, replaces the definition's; DRBD has data there of its own.
        drbd_ = any("DRBD" in held["layers"] for held in one.resources.values())
        target.layers = ["DRBD", "STORAGE"] if drbd_ else []
    made = []
    for key in sorted(one.resources):
        held = one.resources[key]
        if not nodes or held["node"] in nodes:
            made.append(_replica(cluster, target, held))
    for number, volume in target.volumes.items():
        volume.props.update(one.volume_props[number])
    tie = drbd_placing.manage(cluster, answer, target)
    text = f"Resource '{target.name}'{where} restored from resource '{source.name}', snapshot '{one.name}'."
    answer.add(RESOURCE | CREATE | CREATED, text, details=f"Nodes: {', '.join(owner.node for owner in made)}")
    if drbd.layered(target):
        drbd_placing.restored(cluster, answer, target, made, tie,
                      lambda owner, volume: _fill(cluster, source, one, owner, volume))
        return

    def work(node: str) -> None:
        owner = target.resources[node.upper()]
        if node.upper() not in one.taken and not cluster.version.has("restore_of_nothing_works"):
            raise satellites.Failed("Failed to copy file")
        for number in sorted(owner.volumes):
            _fill(cluster, source, one, owner, owner.volumes[number])
            kind = satellites.kind_of(cluster, owner, owner.volumes[number])
            satellites.say(answer, owner, owner.volumes[number], kind, CREATED, "created")
        satellites.run(cluster, None, owner)
        owner.flags = [flag for flag in owner.flags if flag != "RESTORE_FROM_SNAPSHOT"]

    satellites.ask(cluster, answer, [owner.node for owner in made], work,
                   lambda node: (SNAPSHOT | MODIFIED, f"Created resource '{target.name}' on '{node}'"))
    if not answer.failed:
        target.props.pop("BackupShipping/BackupNodeIdsToReset", None)


def _replica(cluster: Cluster, target: Definition, held: dict[str, Any]) -> Resource:
    owner = Resource(target, held["node"], list(held["layers"]), props=dict(held["props"]))
    target.resources[owner.node.upper()] = owner
    drbd_placing.number_resource(cluster, owner)
    early = cluster.version.has("usable_from_the_start")
    owner.flags += [] if early else ["RESTORE_FROM_SNAPSHOT"]
    for number, definition in target.volumes.items():
        owner.volumes[number] = Volume(number, held["pools"][number], usable=definition.size if early else -1)
    return owner


def _fill(cluster: Cluster, source: Definition, one: Snapshot, owner: Resource, volume: Volume) -> None:
    """Give a restored replica its bytes; a snapshot that never was taken there leaves it empty."""
    where = satellites.content(owner, volume.number)
    kind = satellites.kind_of(cluster, owner, volume)
    size = owner.definition.volumes[volume.number].size
    if where.node or not any(other is not owner and other.volumes[volume.number].size
                             for other in owner.definition.resources.values()):
        taken = owner.node.upper() in one.taken
        snapped = Content(source.name, volume.number, where.node)
        if not taken:
            cluster.volumes.create(where, satellites.size_bytes(cluster, owner, kind, size))
        elif snapped == where:
            cluster.volumes.rollback(where, one.name)
        else:
            cluster.volumes.restore(snapped, one.name, where)
    owner.definition.volumes[volume.number].props.setdefault(
        satellites.GRANULARITY, satellites.providers.PROVIDERS[kind].granularity)
    wipe(volume, size)
    if kind == "LVM_THIN":
        held = one.resources.get(owner.node.upper())
        volume.chunks = dict(held["chunks"][volume.number]) if held else {}
    satellites.measure(owner, volume, kind, size)
    volume.allocated = 0 if kind == "LVM_THIN" else volume.allocated
    satellites.attach(cluster, owner, volume)
    if (owner.definition.name, owner.node, volume.number) in cluster.held:
        # The loop device was open when its file went: it stays, with size 0, until it is made anew.
        volume.dead, volume.allocated, volume.usable = True, 0, 0


@route("POST", ONE + "/snapshot-rollback/{snapshot}", body="optional", since=(1, 31))
def rollback(cluster: Cluster, request: Request) -> Answer:
    """Put a snapshot back in place: safety snapshot, delete all resources, restore, provide on the former nodes.

    Nodes without the snapshot lose their replica on any stack but DRBD over STORAGE.
    """
    owner, one, answer = _rollback_checked(cluster, request)
    former = {key: resource.node for key, resource in owner.resources.items()}
    diskful = {key for key, resource in owner.resources.items() if not resource.diskless}
    safety_name = "safety-snap-" + "".join(random.choices(string.ascii_letters + string.digits, k=10))
    holders = [resource for resource in owner.resources.values() if not resource.diskless]
    safety = snapshots.record(owner, safety_name, holders) if holders else None
    if safety is not None:
        safety.flags = ["SAFETY_SNAPSHOT"]
    if safety is not None and not snapshots.take(cluster, answer, [(owner, safety)]):
        return answer
    _clear(cluster, answer, owner, one)
    _restore(cluster, answer, owner, one, owner, [], "")
    if safety is not None:
        snapshots.remove(cluster, answer, owner, safety, None)
    for key in names.hash_order(former):
        inner = Answer(CREATE | RESOURCE, {**answer.refs, "Node": former[key]}, error_report=cluster.report)
        try:
            autoplace.provide(cluster, inner, owner, former[key], layer_stack([]), key in diskful)
        except Refused as refusal:
            inner.entries.clear()
            inner.refuse(refusal)
        answer.entries += inner.entries
    return answer


def _rollback_checked(cluster: Cluster, request: Request) -> tuple[Definition, Snapshot, Answer]:
    name, snapshot = request.params["resource"], request.params["snapshot"]
    answer = request.answering(MODIFY | SNAPSHOT, {"RscDfn": name, "Snapshot": snapshot})
    owner = lookup.definition(cluster, name)
    one = lookup.snapshot(owner, snapshot)
    if "SUCCESSFUL" not in one.flags:
        raise Refused(ERROR | 998, "Unable to use failed snapshot", report=True)
    for resource in owner.resources.values():
        if not cluster.online(resource.node):
            raise Refused(ERROR | 995, f"No active connection to satellite '{resource.node}'.", report=True,
                          details="Rollback needs all satellites of the resource")
    drbd_changes.refuse_in_use(cluster, owner, f"Resource '{owner.name}' on node '{{}}' is still in use.")
    return owner, one, answer


def _clear(cluster: Cluster, answer: Answer, owner: Definition, one: Snapshot) -> None:
    """Delete all resources of a definition and give it the volumes of the snapshot."""
    answer.add(DELETED, f"Resource definition '{owner.name}' marked for deletion.")
    open_ones = {(resource.node, number) for resource in owner.resources.values() for number in resource.volumes
                 if opened(cluster, resource, number) is not Opening.NO}
    cluster.held = {(owner.name, *key) for key in open_ones if "DRBD" not in (owner.stacks() or [[]])[0]}
    definitions.take_down(cluster, answer, owner)
    owner.resources.clear()
    owner.pairs.clear()
    for number in list(owner.volumes):
        if number not in one.sizes:
            del owner.volumes[number]
    for number, size in one.sizes.items():
        volume = owner.volumes.get(number) or VolumeDefinition(number, size)
        volume.size, volume.props = size, dict(one.volume_props[number])
        owner.volumes[number] = volume


@route("POST", ONE + "/snapshot-rollback/{snapshot}", before=(1, 31))
def rollback_in_place(cluster: Cluster, request: Request) -> Answer:
    """Roll back as LINSTOR did before 1.31: the newest snapshot only, on every node in place. No body is read."""
    owner, one, answer = _rollback_checked(cluster, request)
    if any(other.sequence > one.sequence for other in owner.snapshots.values()):
        raise Refused(ERROR | 514, f"Rollback is only allowed with the most recent snapshot of '{owner.name}'",
                      report=True)
    for resource in owner.resources.values():
        if not resource.diskless and resource.node.upper() not in one.resources:
            raise Refused(ERROR | 315, f"Snapshot '{one.name}' of resource '{owner.name}' on node '{resource.node}' "
                          "not found.", report=True)
    answer.add(MODIFIED, f"Snapshot '{one.name}' of resource '{owner.name}' marked down for rollback.")
    nodes = [resource.node for resource in owner.resources.values()]

    def noise(node: str) -> None:
        satellites.run(cluster, answer, owner.resources[node.upper()])

    def work(node: str) -> None:
        resource = owner.resources[node.upper()]
        if node.upper() not in one.taken and not resource.diskless:
            raise satellites.Failed("Failed to copy file")
        for number in sorted(resource.volumes) if not resource.diskless else ():
            cluster.volumes.rollback(satellites.content(resource, number), one.name)
        satellites.run(cluster, answer, resource)

    for text, step in ((f"Deactivated resource '{owner.name}' on '{{}}' for rollback", noise),
                       (f"Rolled resource '{owner.name}' back on '{{}}'", work),
                       (f"Re-activated resource '{owner.name}' on '{{}}' after rollback", noise)):
        def said(node: str, words: str = text) -> Optional[tuple[int, str]]:
            return MODIFIED, words.format(node)

        satellites.ask(cluster, answer, nodes, step, said)
        if answer.failed:
            inner = Answer(answer.context, answer.refs)
            inner.add(INFO | 10010, "Satellites failed the snapshot rollback. Recreating resource on those nodes")
            place = max(index for index, entry in enumerate(answer.entries) if is_error(entry))
            answer.entries[place + 1:place + 1] = inner.entries
            break
    return answer


