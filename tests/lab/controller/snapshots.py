"""Snapshots: take, list, change, delete. Taking one is three rounds over the nodes: suspend, take, resume."""

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
    SNAPSHOT,
    WARN,
    Answer,
    Document,
    Refused,
)
from .cluster import SNAPSHOT_KINDS, Cluster, Definition, Resource, Snapshot, new_uuid
from .providers import PROVIDERS
from .router import Request, route
from .volumes import Content

PATH = "/v1/resource-definitions/{resource}/snapshots"
ONE = PATH + "/{snapshot}"
Pairs = list[tuple[Definition, Snapshot]]


@route("GET", PATH)
def listed(cluster: Cluster, request: Request) -> Document:
    owner = lookup.listed(cluster, request.params["resource"])
    return Document(request.page([views.snapshot(cluster, owner, owner.snapshots[key])
                                  for key in sorted(owner.snapshots)]))


@route("GET", ONE)
def shown(cluster: Cluster, request: Request) -> Document:
    owner, name = lookup.definition(cluster, request.params["resource"], masked=False), request.params["snapshot"]
    if name.upper() not in owner.snapshots:
        raise Refused(ERROR | 315, f"Snapshot '{name}' not found.", masked=False)
    return Document(views.snapshot(cluster, owner, owner.snapshots[name.upper()]))


@route("GET", "/v1/view/snapshots")
def view(cluster: Cluster, request: Request) -> Document:
    """List snapshots of all definitions, by definition and name; `props` is ignored."""
    wanted = {names.check(names.RESOURCE_NAME, name, masked=False) for name in request.query.get("resources", [])}
    nodes = {names.check(names.NODE_NAME, name, masked=False) for name in request.query.get("nodes", [])}
    found = [(one, one.snapshots[key]) for name, one in sorted(cluster.definitions.items())
             if not wanted or name in wanted for key in sorted(one.snapshots)
             if not nodes or nodes & set(one.snapshots[key].resources)]
    return Document([views.snapshot(cluster, owner, one) for owner, one in request.page(found)])


@route("GET", "/v1/view/snapshot-shippings", before=(1, 31))
def shippings(cluster: Cluster, request: Request) -> Document:
    """List snapshots on their way between nodes: there are none."""
    return Document([])


@route("POST", PATH, body="required")
def create(cluster: Cluster, request: Request) -> Answer:
    """Take a snapshot on all nodes that are online, or on those named: then also, in name only, on an offline one."""
    name, body = request.params["resource"], request.body or {}
    text = "null" if body.get("name") is None else body["name"]
    answer = request.answering(CREATE | SNAPSHOT, {"RscDfn": name, "Snapshot": text}, 201)
    take(cluster, answer, [register(cluster, answer, name, body)])
    return answer


@route("POST", "/v1/actions/snapshot/multi", body="required", since=(1, 22))
def create_multi(cluster: Cluster, request: Request) -> Answer:
    """Take snapshots of several definitions at one moment; refused as a whole."""
    answer = request.answering(CREATE | SNAPSHOT, {}, 201)
    before = {key: dict(one.snapshots) for key, one in cluster.definitions.items()}
    try:
        pairs = [register(cluster, answer, one.get("resource_name"), one)
                 for one in (request.body or {}).get("snapshots") or []]
    except Refused:
        for key, snapshots in before.items():
            cluster.definitions[key].snapshots = snapshots
        raise
    take(cluster, answer, pairs)
    return answer


def register(cluster: Cluster, answer: Answer, name: Any, body: dict[str, Any]) -> tuple[Definition, Snapshot]:
    """Check a snapshot as a body asks for it and store it, not yet taken."""
    names.check(names.RESOURCE_NAME, name)
    wanted, named = body.get("name"), body.get("nodes") or []
    key = names.check(names.SNAPSHOT_NAME, wanted)
    owner = lookup.definition(cluster, name)
    if key in owner.snapshots:
        raise Refused(ERROR | 514, f"A snapshot definition with the name '{wanted}' already exists in resource "
                      f"definition '{owner.name}'.", cause="The snapshot exists already")
    props = body.get("snapshot_definition_props") or {}
    properties.check(cluster.version, "snapshot", props)
    _refuse_impossible(cluster, owner)
    said: dict[str, str] = {}
    properties.change(said, answer, SNAPSHOT, props)
    holders = _holders(cluster, answer, owner, named)
    drbd_changes.refuse_snapshot(cluster, owner, holders)
    one = record(owner, str(wanted), holders)
    one.props.update(said)
    where = f" on nodes '{', '.join(named)}'" if named else ""
    answer.add(CREATED, f"New snapshot '{wanted}' of resource '{owner.name}'{where} registered.",
               {"UUID": one.uuid}, details=f"UUID is: {one.uuid}")
    return owner, one


def _refuse_impossible(cluster: Cluster, owner: Definition) -> None:
    """Refuse a snapshot of what no pool of the definition can take, or nobody is there to take."""
    diskful = [one for one in owner.resources.values() if not one.diskless]
    for one in diskful:
        for volume in one.volumes.values():
            kind = satellites.kind_of(cluster, one, volume)
            if kind not in SNAPSHOT_KINDS:
                raise Refused(ERROR | 994, f"Storage driver '{kind}' does not support snapshots.")
    if not any(cluster.online(one.node) for one in diskful):
        raise Refused(ERROR | 995, "No diskful connected satellite for snapshot or no resources.", report=True)


def _holders(cluster: Cluster, answer: Answer, owner: Definition, named: list[str]) -> list[Resource]:
    """Return the replicas to take a snapshot of: those on the nodes `named`, else all that are online."""
    found = []
    for one in [lookup.resource(owner, lookup.node(cluster, node).name) for node in named] or owner.resources.values():
        if one.diskless and named:
            raise Refused(ERROR | 994, f"Cannot create snapshot from diskless resource on node '{one.node}'")
        away = "EVACUATE" in cluster.nodes[one.node.upper()].flags
        if not one.diskless and (away or not named and not cluster.online(one.node)):
            answer.add(WARN, f"Snapshot for resource '{owner.name}' will not be created on node '{one.node}' because "
                             f"that node is currently {'evacuating' if away else 'offline'}.")
        elif not one.diskless:
            found.append(one)
    if not found:
        raise Refused(ERROR | 302, "No resources found for snapshotting", report=True)
    return found


def record(owner: Definition, name: str, holders: list[Resource]) -> Snapshot:
    """Store what a snapshot remembers of its definition."""
    sequence = max((one.sequence for one in owner.snapshots.values()), default=0) + 1
    one = Snapshot(
        name, sequence,
        sizes={number: volume.size for number, volume in owner.volumes.items()},
        volume_props={number: dict(volume.props) for number, volume in owner.volumes.items()},
        resources={held.node.upper(): {
            "node": held.node, "uuid": new_uuid(), "props": dict(held.props), "layers": list(held.layers),
            "pools": {number: volume.pool for number, volume in held.volumes.items()},
            "volumes": {number: new_uuid() for number in held.volumes},
            "sizes": {number: volume.usable for number, volume in held.volumes.items()},
            "chunks": {number: dict(volume.chunks) for number, volume in held.volumes.items()},
            "volume_props": {number: drbd.volume_props(held, volume) for number, volume in held.volumes.items()},
        } for held in holders},
        definition_props=dict(owner.props),
        props={"BackupShipping/BackupNodeIdsToReset": drbd_changes.node_ids(owner), "SequenceNumber": str(sequence)},
        layers=list(owner.layers),
    )
    owner.snapshots[name.upper()] = one
    return one


def take(cluster: Cluster, answer: Answer, pairs: Pairs) -> bool:
    """Suspend, take, resume on every online node of the definitions; return whether all went well.

    A snapshot counts as SUCCESSFUL when nobody failed, even where an offline node never heard of it.
    """
    if not pairs:
        return True
    label = ", ".join(owner.name for owner, _ in pairs)
    holders = {node: resource.node for owner, _ in pairs for node, resource in owner.resources.items()
               if cluster.online(resource.node)}

    def noise(node: str) -> None:
        for owner, _ in pairs:
            resource = owner.resources.get(node.upper())
            if resource is not None and not resource.deleting:
                satellites.run(cluster, answer, resource)

    def work(node: str) -> None:
        noise(node)
        for owner, one in pairs:
            _take_on(cluster, answer, owner, one, node)

    nodes = [holders[key] for key in sorted(holders)]
    satellites.ask(cluster, answer, nodes, noise,
                   lambda node: (MODIFIED, f"Suspended IO of '[{label}]' on '{node}' for snapshot"))
    done = satellites.ask(cluster, answer, nodes, work,
                          lambda node: (MODIFIED, f"Took snapshot of '[{label}]' on '{node}'"))
    if len(done) < len(nodes):
        _abort(cluster, answer, pairs, nodes)
        return False
    satellites.ask(cluster, answer, nodes, noise,
                   lambda node: (MODIFIED, f"Resumed IO of '[{label}]' on '{node}' after snapshot"))
    for _, one in pairs:
        one.flags = ["SUCCESSFUL", *one.flags]
    return True


def _take_on(cluster: Cluster, answer: Answer, owner: Definition, one: Snapshot, node: str) -> None:
    resource, held = owner.resources.get(node.upper()), one.resources.get(node.upper())
    if held is None or resource is None:
        answer.add(0, f"({node}) Skipping processing unknown snapshot '{one.name}' of resource '{owner.name}'")
        return
    for number, volume in sorted(resource.volumes.items()):
        if not volume.size:
            raise satellites.Failed("Failed to create snapshot of file volume")
        where = satellites.content(resource, number)
        if where.node or not one.taken:
            cluster.volumes.snapshot(where, one.name)
        label = PROVIDERS[satellites.kind_of(cluster, resource, volume)].label
        answer.add(SNAPSHOT | CREATED, f"({node}) Snapshot [{label}] with name '{one.name}' of resource "
                   f"'{owner.name}', volume number {number} created.", {"VlmNr": str(number)})
    one.taken.add(node.upper())


def _abort(cluster: Cluster, answer: Answer, pairs: Pairs, nodes: list[str]) -> None:
    for node in nodes:
        for owner, _ in pairs:
            answer.add(MODIFIED, f"Aborted snapshot and resumed IO of '{owner.name}' on '{node}'")
    for _, one in pairs:
        one.flags = ["FAILED_DEPLOYMENT"]


def take_automatic(cluster: Cluster, answer: Answer, owner: Definition) -> None:
    """Take the first automatic snapshot, as setting AutoSnapshot/RunEvery does at once."""
    number = int(owner.props.get("AutoSnapshot/NextAutoId", "0")) + 1
    owner.props["AutoSnapshot/NextAutoId"] = str(number)
    inner = Answer(CREATE | SNAPSHOT, {"RscDfn": owner.name, "Snapshot": "auto"}, error_report=answer.error_report)
    try:
        take(cluster, inner, [register(cluster, inner, owner.name, {"name": f"autoSnap{number:05d}"})])
    except Refused as refusal:
        inner.refuse(refusal)
    answer.entries += inner.entries


@route("PUT", ONE, body="required", since=(1, 32))
def modify(cluster: Cluster, request: Request) -> Answer:
    body, params = request.body or {}, request.params
    answer = request.answering(MODIFY | SNAPSHOT, {"RscDfn": params["resource"], "Snapshot": params["snapshot"]})
    names.check(names.RESOURCE_NAME, params["resource"])
    key = names.check(names.SNAPSHOT_NAME, params["snapshot"])
    owner = lookup.definition(cluster, params["resource"])
    one = owner.snapshots.get(key)
    if one is None:
        raise Refused(ERROR | 313, f"Snapshot definition '{owner.name}/{params['snapshot']}' not found.")
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    properties.check(cluster.version, "snapshot", override, delete)
    properties.change(one.props, answer, SNAPSHOT, override, delete, body.get("delete_namespaces"))
    return answer


@route("DELETE", ONE)
def delete(cluster: Cluster, request: Request) -> Answer:
    """Delete a snapshot, or with `nodes` its part there. An offline node's bytes stay, though LINSTOR says deleted."""
    name, snapshot = request.params["resource"], request.params["snapshot"]
    names.check(names.SNAPSHOT_NAME, snapshot, masked=False)
    answer = request.answering(DELETE | SNAPSHOT, {"RscDfn": name, "Snapshot": snapshot})
    if not cluster.version.has("tolerant_deletes"):
        lookup.definition(cluster, name)
    owner = cluster.definitions.get(names.check(names.RESOURCE_NAME, name))
    one = owner.snapshots.get(snapshot.upper()) if owner else None
    if owner is None or one is None:
        return lookup.nothing(answer, f"Snapshot definition {snapshot} of resource {name} not found.")
    wanted = [node.upper() for node in request.query.get("nodes", [])]
    remove(cluster, answer, owner, one, wanted or None)
    return answer


def remove(cluster: Cluster, answer: Answer, owner: Definition, one: Snapshot, only: Optional[list[str]]) -> None:
    """Delete a snapshot from the nodes `only` (upper case), or from all, and say so."""
    text = f"snapshot '{one.name}' of resource '{owner.name}'"
    going = [one.resources[key]["node"] for key in sorted(one.resources) if only is None or key in only]
    staying = [one.resources[key]["node"] for key in sorted(one.resources) if one.resources[key]["node"] not in going]
    for node in going:
        answer.add(DELETED, f"Marked snapshot for deletion {text} on nodes '{node}'")
    missing = [node for node in only or [] if node not in one.resources]
    if missing:
        answer.add(DELETED, f"Marked snapshot for deletion {text}")
        answer.add(WARN | 3000, f"Snapshot definition {one.name} of resource {owner.name} was not found on given "
                                f"nodes: {', '.join(missing).lower()}")

    def work(node: str) -> None:
        if node in going:
            drop_from(cluster, answer, owner, one, node)

    def said(node: str) -> tuple[int, str]:
        word = "Deleted" if node in going else "Updated"
        return MODIFIED, f"{word} snapshot '{one.name}' of '{owner.name}' on '{node}'"

    satellites.ask(cluster, answer, [*staying, *going], work, said, must_reach=False)
    for node in going:
        del one.resources[node.upper()]
    if going:
        answer.add(DELETED, f"Snapshot '{one.name}' of resource '{owner.name}' on nodes '{', '.join(going)}' deleted.")
    if not one.resources:
        owner.snapshots.pop(one.name.upper(), None)
        answer.add(DELETED, f"Snapshot '{one.name}' of resource '{owner.name}' deleted.", {"UUID": one.uuid},
                   details=f"UUID is: {one.uuid}")


def drop_from(cluster: Cluster, answer: Optional[Answer], owner: Definition, one: Snapshot, node: str) -> None:
    """Remove the bytes of a snapshot from one node; nothing to do where it never was taken."""
    if node.upper() not in one.taken:
        return
    one.taken.discard(node.upper())
    held = one.resources[node.upper()]
    if node.upper() not in owner.resources and not cluster.version.has("stale_names_forgotten"):
        cluster.stale.add((owner.name.upper(), node.upper()))
    for number in sorted(held["volumes"]):
        shared = "DRBD" in held["layers"]
        if not shared or not one.taken:
            cluster.volumes.delete_snapshot(Content(owner.name, number, "" if shared else node), one.name)
        if answer is not None:
            pool = cluster.pool(node, held["pools"][number])
            label = PROVIDERS[pool.kind if pool else "DISKLESS"].label
            answer.add(SNAPSHOT | DELETED, f"({node}) Snapshot [{label}] with name '{one.name}' of resource "
                       f"'{owner.name}', volume number {number} deleted.", {"VlmNr": str(number)})


