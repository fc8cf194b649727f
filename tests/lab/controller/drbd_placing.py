"""Putting resources under DRBD on nodes, and having LINSTOR look after tiebreaker and quorum."""

from __future__ import annotations

from typing import Any, Callable, Optional

from . import (
    drbd,
    drbd_disks,
    drbd_documents,
    drbd_kernel,
    drbd_removal,
    progress,
    quorum,
    resources,
    satellites,
)
from .answers import (
    CREATED,
    ERROR,
    INFO,
    RESOURCE,
    VOLUME,
    Answer,
    Refused,
)
from .cluster import DISKLESS_POOL, Cluster, Definition, Node, Resource, Volume

THIN_OPTIONS = ("yes", "65536")
THICK_OPTIONS = ("no", "4096")


def manage(cluster: Cluster, answer: Any, one: Definition) -> Optional[Resource]:
    """Bring tiebreaker and quorum to what the replicas ask for; called after every change of the resources.

    Returns a tiebreaker that is registered but not deployed.
    """
    if not one.resources:
        return None
    if not any("DRBD" in owner.layers for owner in one.resources.values()):
        if cluster.version.has("quorum_always_set"):
            one.props.setdefault(drbd_kernel.QUORUM, "off")
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


def number_resource(cluster: Cluster, made: Resource) -> None:
    """Give a new resource under DRBD its node id and ports; LUKS needs the master passphrase, else 998."""
    if "LUKS" in made.layers and not cluster.unlocked:
        raise Refused(ERROR | 998, "An exception occurred while creating layer data", report=True)
    taken = {other.node_id for other in made.definition.resources.values() if other is not made}
    made.node_id = next(number for number in range(32) if number not in taken)
    made.ports = made.ports or [drbd_documents.FIRST_PORT + len(taken)]
    made.drbd_flags = ["DISKLESS", "INITIALIZED"] if made.diskless else ["INITIALIZED"]
    if "DRBD" in made.layers:
        made.definition.drbd = made.definition.drbd or drbd_documents.definition_data(cluster, 7)
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


def returned(cluster: Cluster) -> None:
    """Do what waited for a satellite that is back: deletions go on, missing tiebreakers are made."""
    for one in cluster.sorted_definitions():
        if "DELETE" in one.flags:
            drbd_removal.go_on(cluster, one)
        elif drbd.layered(one):
            silent = Answer(RESOURCE)
            tie = manage(cluster, silent, one)
            if tie is not None:
                bring_up(cluster, silent, one, [tie])


def fill_with_diskless(cluster: Cluster, one: Definition, layers: list[str]) -> list[Optional[Resource]]:
    """Put a diskless resource on every node that has none; 225 on a stack that cannot, unless no node remains."""
    if "DRBD" not in (layers or one.layers or ["DRBD"]) and not one.resources.keys() >= cluster.nodes.keys():
        raise Refused(ERROR | 225, "The given storage pool is a diskless storage pool, but no layer from the given "
                      "layer-list supports diskless storage pools", report=True)
    return [quorum.new_diskless(one, node.name) for key, node in sorted(cluster.nodes.items())
            if key not in one.resources and node.online and "DRBD" in node.layers]


def provide_diskless(cluster: Cluster, answer: Any, one: Definition, place: Node, diskful: bool) -> bool:
    """Make a diskless resource where a peer has a disk and none is asked for here; False to go on with a replica.

    Since 1.34 it is a client without a vote. Before, it is a voter, and a tiebreaker elsewhere goes.
    """
    peers = [owner for owner in one.resources.values() if not owner.diskless and not owner.deleting]
    if diskful or not peers:
        return False
    if not place.online or "DRBD" not in place.layers:
        raise Refused(ERROR | 310, f"Autoplacer could not find diskless stor pool on node {place.name} matching "
                      "resource-groups autoplace-settings", details="No pool fits")
    made = quorum.new_diskless(one, place.name)
    if cluster.version.has("drbd_client"):
        made.drbd_flags.append("CLIENT")
    answer.add(RESOURCE | CREATED, "Successfully set property key(s): StorPoolName")
    tie = quorum.tiebreaker(one)
    if tie is not None and not quorum.votes(one).wants_tiebreaker(quorum.enabled(cluster, one)):
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
    """Make a replica diskless."""
    drbd_disks.remove_and_report(cluster, answer, owner)
