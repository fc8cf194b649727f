"""DRBD as the kernels have it: who is connected to whom, who is Primary, who has quorum.

LINSTOR only sees this through the events its satellites report; it goes on without them.
"""

from __future__ import annotations

from collections.abc import Iterator

from .cluster import Cluster, Definition, Resource
from .contents import opened
from .volumes import Opening

QUORUM = "DrbdOptions/Resource/quorum"
ON_NO_QUORUM = "DrbdOptions/Resource/on-no-quorum"
TWO_PRIMARIES = "DrbdOptions/Net/allow-two-primaries"
ERROFS, EMEDIUMTYPE, ENODATA = 30, 124, 61
BEST_SCORE, OWN_DISK, SYNCING_SCORE = 10100, 1, 10000


def under_drbd(one: Definition) -> bool:
    """Tell whether a definition has (or is going to have) DRBD in its stack."""
    stacks = [owner.layers for owner in one.resources.values()] or [one.layers or ["DRBD"]]
    return any("DRBD" in stack for stack in stacks)


def opening(cluster: Cluster, owner: Resource) -> Opening:
    """Tell how the device of a resource is held open on its node (WRITE wins)."""
    found = [opened(cluster, owner, number) for number in owner.volumes] or [Opening.NO]
    return Opening.WRITE if Opening.WRITE in found else Opening.READ if Opening.READ in found else Opening.NO


def primary(cluster: Cluster, owner: Resource) -> bool:
    """Tell whether a resource is Primary: opened for writing. A reader alone leaves it Secondary."""
    return owner.known and opening(cluster, owner) is Opening.WRITE


def linked(cluster: Cluster, owner: Resource) -> bool:
    node = cluster.node(owner.node)
    return bool(node and node.linked)


def connection(cluster: Cluster, owner: Resource, peer: str) -> str:
    """Return the state of the connection to a peer (its node in upper case), as the resource itself sees it."""
    other = owner.definition.resources.get(peer)
    if peer in owner.strayed:
        return "StandAlone"
    if peer in owner.broken:
        return "Connecting"
    me = owner.node.upper()
    if other is None or not other.known or me not in other.peers or me in other.strayed:
        return "Connecting"
    if me in other.late and primary(cluster, owner):
        return "Connecting"
    return "Connected" if linked(cluster, owner) and linked(cluster, other) else "Connecting"


def connected(cluster: Cluster, owner: Resource) -> Iterator[Resource]:
    """Yield the resources this one is connected to."""
    for peer in sorted(owner.peers):
        if connection(cluster, owner, peer) == "Connected":
            other = owner.definition.resources[peer]
            if peer not in owner.late or not primary(cluster, other):
                yield other


def up_to_date(owner: Resource) -> bool:
    return not owner.diskless and all(volume.state == "UpToDate" for volume in owner.volumes.values())


def has_quorum(cluster: Cluster, owner: Resource) -> bool:
    """Tell whether a resource may write: more replicas are here than missing; at a tie those without disk decide.

    A replica known to be outdated is not missed, so the last one of two keeps quorum when the tiebreaker goes too.
    """
    one = owner.definition
    if cluster.effective(one, QUORUM) not in ("majority", "all"):
        return True
    me = owner.node.upper()
    if "DRBD_DELETE" in owner.flags and not owner.peers:
        return False
    if owner.strayed or any(me in other.strayed for other in one.resources.values()):
        return owner.diskless
    here = [owner, *connected(cluster, owner)]
    gone = [one.resources[peer] for peer in owner.peers
            if peer in one.resources and one.resources[peer] not in here and peer not in owner.outdated]
    have, missing = (sum(not other.diskless for other in group) for group in (here, gone))
    if have != missing:
        return have > missing
    votes = [sum(other.diskless for other in group) for group in (here, gone)]
    return votes[0] > votes[1]


def suspends(cluster: Cluster, one: Definition) -> bool:
    """Tell whether writers wait for the quorum; otherwise they get EIO, and a guest makes its disks read-only."""
    return cluster.effective(one, ON_NO_QUORUM) == "suspend-io"


def score(cluster: Cluster, owner: Resource) -> int:
    """Return the promotion score: own data first, then how many copies can be reached; 0 without quorum."""
    near = list(connected(cluster, owner))
    lonely = owner.diskless and len(near) < len(owner.peers) and any(primary(cluster, other) for other in near)
    if not owner.volumes or lonely or not has_quorum(cluster, owner):
        return 0
    copies = sum(up_to_date(other) and owner.node.upper() not in other.late for other in near)
    if up_to_date(owner):
        return BEST_SCORE + OWN_DISK + copies
    behind = any(volume.state == "Inconsistent" for volume in owner.volumes.values()) and not owner.diskless
    return copies + (SYNCING_SCORE if behind else 0)


def may_promote(cluster: Cluster, owner: Resource) -> bool:
    """Tell whether the resource could become Primary: it reaches data with quorum, and nobody is Primary."""
    others = [owner, *connected(cluster, owner)]
    return score(cluster, owner) > 0 and not any(primary(cluster, other) for other in others)


def refusal(cluster: Cluster, owner: Resource, mode: Opening) -> int:
    """Return the errno an opener of the device gets from DRBD, 0 if it gets in.

    While another node is Primary, writers get EROFS (after two seconds) and readers EMEDIUMTYPE, unless the
    connection allows two primaries; without quorum a first reader gets ENODATA.
    """
    if primary(cluster, owner):
        return 0
    for other in connected(cluster, owner):
        if primary(cluster, other) and other.node.upper() not in owner.two_primaries:
            return ERROFS if mode is Opening.WRITE else EMEDIUMTYPE
    return 0 if has_quorum(cluster, owner) else ENODATA


def notice(cluster: Cluster, one: Definition) -> None:
    """Do what the controller does when it hears that a resource is in use: a tiebreaker is one no more."""
    for owner in one.resources.values():
        if "DRBD" not in owner.layers or not primary(cluster, owner):
            continue
        if owner.diskless and "TIE_BREAKER" in owner.flags and cluster.online(owner.node):
            owner.flags = [flag for flag in owner.flags if flag != "TIE_BREAKER"]
        for volume in one.volumes.values():
            volume.props.setdefault("Linstor/Drbd/freeze-block-size", "True")
        if not linked(cluster, owner):
            continue
        for other in one.resources.values():
            if not linked(cluster, other) and primary(cluster, other):
                one.diverged.add(other.node.upper())
