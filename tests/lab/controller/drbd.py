"""Where the rest of the controller meets DRBD and LUKS: what these layers do at each step of a request."""

from __future__ import annotations

from typing import Any, Callable, Optional

from . import (
    drbd_disks,
    drbd_documents,
    drbd_kernel,
    drbd_removal,
    drbd_sizes,
    progress,
    properties,
    providers,
    quorum,
    resources,
    satellites,
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
    RESOURCE,
    VOLUME,
    WARN,
    Answer,
    Refused,
)
from .capacity import Usage
from .cluster import DISKLESS_POOL, Cluster, Definition, Node, Resource, Volume, VolumeDefinition
from .drbd_documents import definition_data
from .volumes import Opening

QUORUM = drbd_kernel.QUORUM
NOT_UP_TO_DATE = ", because we have a non-UpToDate DRBD device."
THIN_OPTIONS = ("yes", "65536")
THICK_OPTIONS = ("no", "4096")

__all__ = ["definition_data"]


# --- documents ------------------------------------------------------------------------------------------------


def volume_definition_data(cluster: Cluster, owner: Definition, one: VolumeDefinition) -> dict[str, Any]:
    return drbd_documents.volume_definition_data(cluster, one)


def state(cluster: Cluster, one: Resource) -> dict[str, Any]:
    return {"in_use": in_use(cluster, one)}


def in_use(cluster: Cluster, one: Resource) -> bool:
    """Tell whether the controller knows that somebody holds the device open for writing."""
    drbd_kernel.notice(cluster, one.definition)
    return cluster.online(one.node) and drbd_kernel.primary(cluster, one)


def resource_data(cluster: Cluster, one: Resource) -> dict[str, Any]:
    progress.pass_by(cluster)
    return drbd_documents.resource(cluster, one)


def volume_data(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    return drbd_documents.volume(cluster, owner, one)


def volume_state(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    return drbd_documents.volume_state(cluster, owner, one)


def volume_props(owner: Resource, one: Volume) -> dict[str, str]:
    """Return the properties LINSTOR keeps of a deployed volume; none without DRBD."""
    return drbd_documents.symlinks(owner, one) if "DRBD" in owner.layers else {}


def device_path(cluster: Cluster, owner: Resource, one: Volume) -> str:
    return drbd_documents.device_path(owner, one)


def crypt_data(cluster: Cluster, one: Resource) -> dict[str, Any]:
    return drbd_documents.crypt(cluster, one)


def crypt_volume(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    return drbd_documents.crypt_volume(cluster, owner, one)


def flags(one: Resource) -> list[str]:
    """Return the flags as shown: TIE_BREAKER stands for three bits, so it is hidden while there is a disk."""
    return [flag for flag in one.flags if flag != "TIE_BREAKER" or one.diskless]


def connections(cluster: Cluster, one: Definition) -> list[dict[str, Any]]:
    """Return the resource connections: every pair of nodes, with properties where there are any."""
    nodes = [one.resources[key].node for key in sorted(one.resources)]
    pairs = [(first, second) for place, first in enumerate(nodes) for second in nodes[place + 1:]]
    found = []
    for first, second in pairs:
        props = one.pairs.get((first.upper(), second.upper()))
        found.append({"node_a": first, "node_b": second, **({"props": props} if props else {})})
    return found


# --- what satellites do ---------------------------------------------------------------------------------------


def adjusted(cluster: Cluster, answer: Optional[Answer], owner: Resource) -> None:
    """Do what DRBD does whenever a satellite looks at a resource: peers and options become as configured.

    Raises Failed while two nodes are Primary and that is no longer allowed.
    """
    if "DRBD" not in owner.layers:
        return
    one = owner.definition
    text = f"({owner.node}) Resource '{one.name}' [DRBD]"
    if one.resizing:
        if answer is not None:
            answer.add(RESOURCE, f"{text} not adjusted ")
        return
    present = {node for node, other in one.resources.items() if other is not owner and "DELETE" not in other.flags
               and (other.known or "DRBD_DELETE" not in other.flags)}
    allowed = {node for node in present if _two_primaries(cluster, one, owner.node.upper(), node)}
    if drbd_kernel.primary(cluster, owner) and any(
            drbd_kernel.primary(cluster, other) for other in drbd_kernel.connected(cluster, owner)
            if other.node.upper() not in allowed):
        raise satellites.Failed(f"Failed to adjust DRBD resource {one.name}")
    owner.peers, owner.two_primaries = present, allowed
    owner.late.clear()
    owner.broken.clear()
    for other in one.resources.values():
        other.late.discard(owner.node.upper())
        other.broken.discard(owner.node.upper())
    if answer is not None:
        answer.add(RESOURCE | MODIFIED, f"{text} adjusted.")


def _two_primaries(cluster: Cluster, one: Definition, first: str, second: str) -> bool:
    pair = one.pairs.get((min(first, second), max(first, second)), {})
    value = pair.get(drbd_kernel.TWO_PRIMARIES, cluster.effective(one, drbd_kernel.TWO_PRIMARIES))
    return (value or "no") in ("yes", "true")


def shut_down(cluster: Cluster, answer: Optional[Answer], owner: Resource) -> None:
    """Take the DRBD resource down on its node before its volumes go.

    A device that is open cannot be. With readers only it loses connections first (without a disk just one of them).
    Raises Failed.
    """
    if "DRBD" not in owner.layers or not owner.known:
        return
    name = owner.definition.name
    held = drbd_kernel.opening(cluster, owner)
    if held is Opening.READ:
        others = [other for other in owner.definition.resources.values() if other.node.upper() in owner.peers]
        if owner.diskless and others:
            owner.peers.discard(min(others, key=lambda other: other.node_id).node.upper())
        else:
            owner.peers.clear()
    if held is not Opening.NO:
        raise satellites.Failed(f"Shutdown of the DRBD resource '{name} failed")
    owner.known = False
    if answer is not None:
        answer.add(RESOURCE | DELETED, f"({owner.node}) Resource '{name}' [DRBD] deleted.")


def device_size(cluster: Cluster, owner: Resource, kind: str, size: int) -> int:
    """Return the KiB a DRBD device of `size` net KiB has on a provider."""
    return drbd_sizes.device(owner.layers, kind, size, drbd_documents.slots(owner.definition))


def storage_size(owner: Resource, size: int) -> int:
    """Return the KiB the storage below DRBD and LUKS is asked for."""
    return drbd_sizes.on_storage(owner.layers, size, drbd_documents.slots(owner.definition))


def head_size(owner: Resource) -> int:
    """Return the KiB at the start of the storage that the data does not have: LUKS's header."""
    return drbd_sizes.LUKS_HEADER if "LUKS" in owner.layers else 0


def tail_size(owner: Resource, kind: str, size: int) -> int:
    """Return the KiB at the end of the storage that DRBD keeps for its metadata."""
    slots = drbd_documents.slots(owner.definition)
    disk = drbd_sizes.below_drbd(owner.layers, kind, size, slots)
    return drbd_sizes.metadata(disk, slots) if "DRBD" in owner.layers else 0


def backing_path(cluster: Cluster, owner: Resource, volume: Volume) -> Optional[str]:
    """Return the path of the storage below DRBD and LUKS; a diskless has none."""
    if owner.diskless:
        return None
    pool = cluster.pool(owner.node, volume.pool)
    where = pool.props.get("StorDriver/StorPoolName", pool.name).split("/")[0] if pool else volume.pool
    return f"/dev/{where}/{drbd_documents.storage_name(owner, volume)}"


# --- requests -------------------------------------------------------------------------------------------------


def properties_changed(cluster: Cluster, answer: Any, one: Definition, override: dict[str, str],
                       delete: list[str]) -> None:
    """React to properties that mean something to DRBD when a definition is changed: who set quorum by hand."""
    if QUORUM in override and cluster.version.has("quorum_setter_kept"):
        one.props[quorum.SET_BY] = "user"
    if QUORUM in delete:
        one.props.pop(quorum.SET_BY, None)
        if drbd_kernel.under_drbd(one):
            quorum.settle(cluster, answer, one)
    if "DrbdOptions/auto-quorum" in override:
        answer.add(WARN | 4000, f"DrbdOptions/auto-quorum is deprecated, please use {QUORUM}")
        answer.entries.insert(0, answer.entries.pop())


def manage(cluster: Cluster, answer: Any, one: Definition) -> Optional[Resource]:
    """Bring tiebreaker and quorum to what the replicas ask for; called after every change of the resources.

    Returns a tiebreaker that is registered but not deployed.
    """
    if not one.resources:
        return None
    if not any("DRBD" in owner.layers for owner in one.resources.values()):
        if cluster.version.has("quorum_always_set"):
            one.props.setdefault(QUORUM, "off")
        return None
    quorum.choose_verify_algorithm(answer, one)
    tie = quorum.add_tiebreaker(cluster, answer, one)
    quorum.settle(cluster, answer, one)
    return tie


def bring_up(cluster: Cluster, answer: Answer, one: Definition, new: list[Resource],
             tie: Optional[Resource] = None, from_snapshot: bool = False) -> None:
    """Deploy new resources, wait until they are connected, and then the tiebreaker that came with them.

    After the first replicas of all, all satellites look once more: one replica has become the source of the rest.
    """
    if "DRBD" not in {kind for owner in new for kind in owner.layers}:
        satellites.deploy(cluster, answer, one, [owner.node for owner in new])
        return
    first = not from_snapshot and not any(owner.known and not owner.diskless for owner in one.resources.values())
    _options(cluster, one, new)
    for group in (new, [tie] if tie is not None else []):
        if not group:
            continue
        done = satellites.deploy(cluster, answer, one, [owner.node for owner in group])
        if group is new:
            drbd_disks.attach(cluster, one, [owner for owner in new if not owner.diskless], lambda: None)
        for owner in group:
            if owner.node in done and len(one.resources) > 1 and cluster.online(owner.node) and owner.volumes:
                answer.add(RESOURCE | CREATED, f"Resource '{one.name}' on '{owner.node}' ready")
        if group is new and first:
            satellites.refresh(cluster, answer, one)


def restored(cluster: Cluster, answer: Answer, one: Definition, made: list[Resource], tie: Optional[Resource],
             fill: Callable[[Resource, Volume], None]) -> None:
    """Deploy replicas that come from a snapshot: `fill` gives a volume its bytes, and the metadata with them."""
    for owner in made:
        for volume in owner.volumes.values():
            fill(owner, volume)
            volume.state = "UpToDate"
    bring_up(cluster, answer, one, made, tie, from_snapshot=True)
    for owner in made:
        answer.add(VOLUME | CREATED, f"({owner.node}) Volume number 0 of resource '{one.name}' created")


def _options(cluster: Cluster, one: Definition, new: list[Resource]) -> None:
    """Set what LINSTOR keeps of a volume when its first replicas are made."""
    disks = sorted((owner for owner in new if not owner.diskless), key=lambda owner: owner.node.upper())
    for number, volume in one.volumes.items():
        if not disks:
            return
        pool = cluster.pool(disks[0].node, disks[0].volumes[number].pool)
        aligned, granularity = THIN_OPTIONS if pool is not None and pool.thin else THICK_OPTIONS
        volume.props.setdefault("DrbdOptions/Disk/discard-zeroes-if-aligned", aligned)
        volume.props.setdefault("DrbdOptions/Disk/rs-discard-granularity", granularity)
        volume.props.setdefault("Linstor/Drbd/InitialUptoDateOn", disks[0].node.upper())
        volume.flags = volume.flags if "DRBD_INITIALIZED" in volume.flags else [*volume.flags, "DRBD_INITIALIZED"]


def refresh(cluster: Cluster, answer: Answer, one: Definition) -> None:
    """Let all satellites look at a definition. Those without a disk are first; the first failure ends it."""
    if not layered(one):
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
        if "DRBD" in owner.layers and in_use(cluster, owner):
            raise Refused(ERROR | 997, text.format(owner.node))


def synced(cluster: Cluster, one: Definition) -> bool:
    """Tell whether every replica whose state is known is UpToDate; no state counts as synced."""
    progress.pass_by(cluster)
    return all(volume.state == "UpToDate" for owner in one.resources.values()
               if not owner.diskless and owner.known and cluster.online(owner.node) for volume in owner.volumes.values())


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


def number_resource(cluster: Cluster, made: Resource) -> None:
    """Give a new resource under DRBD its node id and ports; LUKS needs the master passphrase, else 998."""
    if "LUKS" in made.layers and not cluster.unlocked:
        raise Refused(ERROR | 998, "An exception occurred while creating layer data", report=True)
    taken = {other.node_id for other in made.definition.resources.values() if other is not made}
    made.node_id = next(number for number in range(32) if number not in taken)
    made.ports = made.ports or [drbd_documents.FIRST_PORT + len(taken)]
    made.drbd_flags = ["DISKLESS", "INITIALIZED"] if made.diskless else ["INITIALIZED"]
    if "DRBD" in made.layers:
        made.definition.drbd = made.definition.drbd or definition_data(cluster, 7)
        for volume in made.definition.volumes.values():
            volume.drbd = volume.drbd or drbd_documents.volume_definition_data(cluster, volume)


def add_again(cluster: Cluster, answer: Any, present: Resource, props: dict[str, str],
              wanted: list[str]) -> Optional[Resource]:
    """Create a resource where a diskless one is: the tiebreaker becomes a plain one, or it gets a disk."""
    diskless = {"DRBD_DISKLESS", "DISKLESS"} & set(wanted) or props.get("StorPoolName") == DISKLESS_POOL
    if diskless:
        drop_tiebreaker_flag(present)
        return present
    drbd_disks.add(cluster, answer, present, props.get("StorPoolName"), None)
    return None


def takes_over(cluster: Cluster, answer: Any, owner: Resource, keep_tiebreaker: bool) -> bool:
    """Do the whole of a resource delete under DRBD; False leaves it to the caller."""
    if "DRBD" not in owner.layers:
        return False
    progress.pass_by(cluster)
    drbd_kernel.notice(cluster, owner.definition)
    drbd_removal.delete(cluster, answer, owner, keep_tiebreaker)
    return True


def take_down(cluster: Cluster, answer: Answer, one: Definition) -> bool:
    return drbd_removal.take_down(cluster, answer, one)


def layered(one: Definition) -> bool:
    return any("DRBD" in owner.layers for owner in one.resources.values())


def returned(cluster: Cluster) -> None:
    """Do what waited for a satellite that is back: deletions go on, missing tiebreakers are made."""
    for one in cluster.sorted_definitions():
        if "DELETE" in one.flags:
            drbd_removal.go_on(cluster, one)
        elif layered(one):
            silent = Answer(RESOURCE)
            tie = manage(cluster, silent, one)
            if tie is not None:
                bring_up(cluster, silent, one, [tie])


def change_connection(cluster: Cluster, answer: Any, one: Definition, nodes: tuple[str, str],
                      body: dict[str, Any]) -> None:
    """Change the properties of the connection of two nodes; all satellites look at it."""
    first, second = sorted(name.upper() for name in nodes)
    props = one.pairs.setdefault((first, second), {})
    override, delete = body.get("override_props") or {}, body.get("delete_props") or []
    properties.check(cluster.version, "definition", override, delete)
    changed = properties.change(props, answer, 0x24 << 16, override, delete, body.get("delete_namespaces"))
    shown = [one.resources[name].node for name in (first, second)]
    answer.add(MODIFIED, f"Resource connection between nodes '{shown[0]}' and '{shown[1]}' for resource '{one.name}' "
                         "modified.")
    if changed:
        satellites.refresh(cluster, answer, one)


def fill_with_diskless(cluster: Cluster, answer: Any, one: Definition, layers: list[str]) -> list[Optional[Resource]]:
    """Put a diskless resource on every node that has none; 225 on a stack that cannot."""
    if "DRBD" not in (layers or one.layers or ["DRBD"]):
        raise Refused(ERROR | 225, "The given storage pool is a diskless storage pool, but no layer from the given "
                      "layer-list supports diskless storage pools", report=True)
    return [quorum.new_diskless(cluster, one, node.name) for key, node in sorted(cluster.nodes.items())
            if key not in one.resources and node.online and "DRBD" in node.layers]


def is_gone(present: Resource) -> bool:
    """Tell whether a resource that is still listed exists no more for whoever wants it."""
    return False


def provide_diskless(cluster: Cluster, answer: Any, one: Definition, place: Node, stack: list[str],
                     diskful: bool) -> bool:
    """Make a diskless resource where a peer has a disk and none is asked for here; False to go on with a replica.

    Since 1.34 it is a client without a vote. Before, it is a voter, and a tiebreaker elsewhere goes.
    """
    peers = [owner for owner in one.resources.values() if not owner.diskless and not owner.deleting]
    if diskful or not peers:
        return False
    if not place.online or "DRBD" not in place.layers:
        raise Refused(ERROR | 310, f"Autoplacer could not find diskless stor pool on node {place.name} matching "
                      "resource-groups autoplace-settings", details="No pool fits")
    made = quorum.new_diskless(cluster, one, place.name)
    if cluster.version.has("drbd_client"):
        made.drbd_flags.append("CLIENT")
    answer.add(RESOURCE | CREATED, "Successfully set property key(s): StorPoolName")
    tie = quorum.tiebreaker(one)
    if tie is not None and not quorum.votes(cluster, one).wants_tiebreaker(quorum.enabled(cluster, one)):
        answer.add(INFO | 10004, "Tie breaker marked for deletion")
    else:
        tie = None
    quorum.settle(cluster, answer, one)
    resources.announce(answer, made)
    bring_up(cluster, answer, one, [made])
    if tie is not None:
        drbd_removal.clean_up(cluster, answer, tie)
    return True


def drop_tiebreaker_flag(present: Resource) -> None:
    """Let a tiebreaker count as a diskless resource that is wanted."""
    present.flags = [flag for flag in present.flags if flag != "TIE_BREAKER"]


def add_disk(cluster: Cluster, answer: Any, owner: Resource, pool: Optional[str], source: Optional[str] = None,
             by: str = "user") -> None:
    """Give a diskless resource a disk; with `source`, that node's disk goes once the new one is in sync."""
    drbd_disks.add(cluster, answer, owner, pool, source, by)


def remove_disk(cluster: Cluster, answer: Any, owner: Resource) -> None:
    """Make a replica diskless; 991 for the last disk that is online."""
    drbd_disks.remove_and_report(cluster, answer, owner)


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


def announce_clone(cluster: Cluster, answer: Any, source: Definition, made: Definition, override: dict[str, str],
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


def cloned(cluster: Cluster, source: Definition, made: Definition) -> None:
    """Connect the replicas of a clone. Through LUKS all is copied, block by block, after the request was answered."""
    if not layered(made):
        return
    for owner in made.resources.values():
        adjusted(cluster, None, owner)
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
