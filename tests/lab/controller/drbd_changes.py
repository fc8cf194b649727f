"""Changing what is under DRBD: properties, sizes, connections, snapshots, clones, and when that is refused."""

from __future__ import annotations

from typing import Any

from . import (
    drbd,
    drbd_kernel,
    progress,
    properties,
    providers,
    quorum,
    satellites,
)
from .answers import (
    CREATE,
    CREATED,
    DEFINITION,
    DELETE,
    DELETED,
    ERROR,
    MODIFIED,
    RESOURCE,
    RESOURCE_CONNECTION,
    VOLUME,
    WARN,
    Answer,
    Refused,
)
from .capacity import Usage
from .cluster import Cluster, Definition, Resource, VolumeDefinition

NOT_UP_TO_DATE = ", because we have a non-UpToDate DRBD device."


def properties_changed(cluster: Cluster, answer: Any, one: Definition, override: dict[str, str],
                       delete: list[str]) -> None:
    """React to properties that mean something to DRBD when a definition is changed: who set quorum by hand."""
    if drbd_kernel.QUORUM in override and cluster.version.has("quorum_setter_kept"):
        one.props[quorum.SET_BY] = "user"
    if drbd_kernel.QUORUM in delete:
        one.props.pop(quorum.SET_BY, None)
        if drbd_kernel.under_drbd(one):
            quorum.settle(cluster, answer, one)
    if quorum.AUTO in override and cluster.version.has("auto_quorum_deprecated"):
        answer.add(WARN | 4000, f"DrbdOptions/auto-quorum is deprecated, please use {drbd_kernel.QUORUM}")
        answer.entries.insert(0, answer.entries.pop())


def refresh(cluster: Cluster, answer: Answer, one: Definition) -> None:
    """Let all satellites look at a definition. Those without a disk are first; the first failure ends it."""
    if not drbd.layered(one):
        satellites.refresh(cluster, answer, one, must_reach=False)
        return
    for owner in sorted(one.resources.values(), key=lambda found: (cluster.online(found.node), not found.diskless)):
        satellites.ask(cluster, answer, [owner.node],
                       lambda node: satellites.look(cluster, answer, one, node), must_reach=False)
        if answer.failed:
            return


def refuse_in_use(cluster: Cluster, one: Definition, text: str) -> None:
    """Refuse with 997 when any resource under DRBD is known to be in use; `text` takes the node's name."""
    for owner in one.resources.values():
        if "DRBD" in owner.layers and drbd.in_use(cluster, owner):
            raise Refused(ERROR | 997, text.format(owner.node))


def synced(cluster: Cluster, one: Definition) -> bool:
    """Tell whether every replica whose state is known is UpToDate; no state counts as synced."""
    progress.pass_by(cluster)
    known = [owner for owner in one.resources.values() if owner.known and cluster.online(owner.node)]
    return all(volume.state == "UpToDate" for owner in known if not owner.diskless for volume in owner.volumes.values())


def refuse_resize(cluster: Cluster, owner: Definition, one: VolumeDefinition, size: int) -> None:
    """Refuse what DRBD or a thick pool cannot do with a new net size in KiB. Thin pools are not looked at."""
    progress.pass_by(cluster)
    replicas = [found for found in owner.resources.values() if "DRBD" in found.layers and not found.diskless]
    if replicas and size < one.size and cluster.version.has("shrink_refused_with_drbd"):
        raise Refused(ERROR | 206, "Shrinking volumes is not supported by layer 'DRBD'. Volumes can only grow in size.")
    if any(not drbd_kernel.up_to_date(found) or not cluster.online(found.node) for found in replicas):
        raise Refused(ERROR | 974, "Cannot resize volume" + NOT_UP_TO_DATE)
    usage, short = Usage(cluster), []
    for found in owner.resources.values():
        pool = cluster.pool(found.node, found.volumes[one.number].pool) if one.number in found.volumes else None
        if pool is not None and not pool.thin and not pool.diskless and size - one.size > usage.estimate(pool):
            short.append(f"Node: {pool.node}, StorPool: {pool.name}")
    if short:
        raise Refused(ERROR | 980, f"Cannot grow the volume definition by {size - one.size}KiB, as the following "
                      "storage pool do not have enough free space:\n" + "\n".join(short))


def resize(cluster: Cluster, answer: Answer, owner: Definition, one: VolumeDefinition) -> None:
    """Grow the disks everywhere, then DRBD on one node; the others follow."""
    updated = f"Updated volume {one.number} of '{owner.name}' on '{{}}'"
    owner.resizing = True
    try:
        for text in (updated, f"Resized resource '{owner.name}' on '{{}}'"):
            satellites.refresh(cluster, answer, owner, lambda node, words=text: (MODIFIED, words.format(node)))
            if answer.failed:
                return
    finally:
        owner.resizing = False
    disks = [found for found in owner.resources.values() if not found.diskless]
    leader = next((found for found in disks if drbd_kernel.primary(cluster, found)), disks[0] if disks else None)
    satellites.ask(cluster, answer, [leader.node] if leader else [],
                   lambda node: satellites.run(cluster, answer, owner.resources[node.upper()]),
                   lambda node: (MODIFIED, f"Resized DRBD resource '{owner.name}' on '{node}'"))
    satellites.refresh(cluster, answer, owner, lambda node: (MODIFIED, updated.format(node)))


def change_connection(cluster: Cluster, answer: Any, one: Definition, nodes: tuple[str, str],
                      body: dict[str, Any]) -> None:
    """Change the properties of the connection of two nodes; all satellites look at it."""
    first, second = sorted(name.upper() for name in nodes)
    props = one.pairs.setdefault((first, second), {})
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    properties.check(cluster.version, "connection", override, delete)
    changed = properties.change(props, answer, RESOURCE_CONNECTION, override, delete, body.get("delete_namespaces"))
    shown = [one.resources[name].node for name in (first, second)]
    answer.add(MODIFIED, f"Resource connection between nodes '{shown[0]}' and '{shown[1]}' for resource '{one.name}' "
                         "modified.")
    if changed:
        satellites.refresh(cluster, answer, one)


def refuse_snapshot(cluster: Cluster, owner: Definition, holders: list[Resource]) -> None:
    """Refuse with 979 a snapshot of a replica that is not UpToDate."""
    progress.pass_by(cluster)
    if any("DRBD" in found.layers and not drbd_kernel.up_to_date(found) for found in holders):
        raise Refused(ERROR | 979, f"Cannot create snapshot of '{owner.name}'" + NOT_UP_TO_DATE)


def node_ids(owner: Definition) -> str:
    """Return the node ids of all replicas, as a snapshot remembers them for later shipping."""
    return ",".join(str(number) for number in sorted(found.node_id for found in owner.resources.values()
                                                     if "DRBD" in found.layers and not found.diskless))


def refuse_clone(cluster: Cluster, source: Definition) -> None:
    """Refuse with 974 to clone a definition that has a replica which is not UpToDate."""
    progress.pass_by(cluster)
    if any("DRBD" in owner.layers and not owner.diskless and cluster.online(owner.node)
           and not drbd_kernel.up_to_date(owner) for owner in source.resources.values()):
        raise Refused(ERROR | 974, "Cannot clone resource-definition" + NOT_UP_TO_DATE)


def announce_clone(answer: Any, source: Definition, made: Definition, override: dict[str, str],
                   delete: list[str]) -> None:
    """Say what a successful clone did: suspend the source, register, snapshot, resume, create."""
    made.props["cloned-from"] = source.name
    holders = [source.resources[key] for key in sorted(source.resources)]
    nodes = [owner.node for owner in holders]
    for _ in nodes:
        answer.add(MODIFIED, f"Suspend IO on clone source {source.name}")
    if override:
        answer.add(CREATE | DEFINITION | CREATED, "Successfully set property key(s): " + ",".join(override))
    if delete:
        answer.add(DELETE | DEFINITION | DELETED, "Successfully deleted property key(s): " + ",".join(delete))
    for owner in holders:
        answer.add(CREATED, f"New resource '{made.name}' on node '{owner.node}' registered.")
        for number in sorted(owner.volumes):
            answer.add(VOLUME | CREATED, f"Volume with number '{number}' on resource '{made.name}' on node "
                                         f"'{owner.node}' successfully registered")
    for text in (f"Set snapshot for clone property of '{source.name}' on '{{}}'",
                 f"Resumed IO of '{source.name}' on '{{}}' after clone",
                 f"Created resource '{made.name}' on '{{}}'"):
        for owner in holders:
            if owner.volumes and text.startswith("Created") and not owner.diskless:
                answer.add(VOLUME | CREATED, f"({owner.node}) Volume number 0 of resource '{made.name}' created")
            answer.add(MODIFIED, text.format(owner.node))
            if "DRBD" in owner.layers:
                answer.add(RESOURCE | MODIFIED, f"({owner.node}) Resource '{source.name}' [DRBD] adjusted.")
    for _ in nodes:
        answer.add(MODIFIED, f"Disabled start cloning flag {made.name}")


def cloned(cluster: Cluster, made: Definition) -> None:
    """Connect the replicas of a clone. Through LUKS all is copied, block by block, after the request was answered."""
    if not drbd.layered(made):
        return
    for owner in made.resources.values():
        drbd.adjusted(cluster, None, owner)
    if not any("LUKS" in owner.layers for owner in made.resources.values()):
        return
    for owner in made.resources.values():
        for volume in owner.volumes.values():
            if not owner.diskless:
                providers.write_chunks(volume, 0, volume.usable - 1)
    made.flags.append("CLONING")
    progress.begin(cluster, lambda: _copied(cluster, made))


def _copied(cluster: Cluster, made: Definition) -> None:
    made.flags.remove("CLONING")
    for owner in made.resources.values():
        if cluster.online(owner.node):
            satellites.run(cluster, None, owner)
