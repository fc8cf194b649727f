"""LINSTOR's automatons around quorum: when a tiebreaker is made, taken over or dropped, and when quorum is set.

LINSTOR looks at both after every change of a definition's resources. A diskless resource with the flag TIE_BREAKER
is LINSTOR's own; since 1.34 a DRBD client (made by make-available) has no vote and counts as nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .answers import CREATED, INFO, RESOURCE, WARN, Answer
from .cluster import DISKLESS_POOL, Cluster, Definition, Resource, Volume
from .drbd_kernel import ON_NO_QUORUM, QUORUM, under_drbd

TIEBREAKER = "DrbdOptions/auto-add-quorum-tiebreaker"
AUTO = "DrbdOptions/auto-quorum"
SET_BY = "Internal/Drbd/QuorumSetBy"
VERIFY = "DrbdOptions/auto-verify-alg"


@dataclass(frozen=True)
class Votes:
    """The resources of one definition that count: not going away, not inactive, no clients."""

    diskful: int
    diskless: int
    tiebreakers: int

    def wants_tiebreaker(self, enabled: bool) -> bool:
        """Tell whether LINSTOR's own diskless should exist: an even number of disks and nobody else to decide."""
        return enabled and self.diskful >= 2 and self.diskful % 2 == 0 and self.diskless == self.tiebreakers

    def can_have_quorum(self) -> bool:
        """Tell whether one node may fail and a majority is left."""
        return self.diskful >= 3 or (self.diskful >= 2 and self.diskless >= 1)


def counts(owner: Resource) -> bool:
    gone = owner.deleting or "INACTIVE" in owner.flags or "EVICTED" in owner.flags
    return not gone and "DRBD" in owner.layers and "CLIENT" not in owner.drbd_flags


def votes(one: Definition, without: Optional[Resource] = None) -> Votes:
    """Count the resources of a definition, leaving one out if asked to."""
    present = [owner for owner in one.resources.values() if owner is not without and counts(owner)]
    diskless = [owner for owner in present if owner.diskless]
    return Votes(len(present) - len(diskless), len(diskless), sum(is_tiebreaker(owner) for owner in diskless))


def is_tiebreaker(owner: Resource) -> bool:
    """Tell whether a resource is LINSTOR's tiebreaker now; one that got a disk keeps the flag, hidden."""
    return owner.diskless and "TIE_BREAKER" in owner.flags


def enabled(cluster: Cluster, one: Definition) -> bool:
    return (cluster.effective(one, TIEBREAKER) or "true").lower() not in ("false", "no")


def tiebreaker(one: Definition, without: Optional[Resource] = None) -> Optional[Resource]:
    """Return the tiebreaker of a definition that is not going away."""
    for owner in one.resources.values():
        if is_tiebreaker(owner) and owner is not without and not owner.deleting:
            return owner
    return None


def add_tiebreaker(cluster: Cluster, answer: Answer, one: Definition) -> Optional[Resource]:
    """Register the tiebreaker a definition wants and return it, not yet deployed; None where none is wanted."""
    if not under_drbd(one) or not votes(one).wants_tiebreaker(enabled(cluster, one)) or tiebreaker(one):
        return None
    node = _free_node(cluster, one)
    if node is None:
        answer.add(WARN | 1013, "Could not find suitable node to automatically create a tie breaking resource for "
                                f"'{one.name}'.")
        return None
    made = new_diskless(one, node)
    made.flags.append("TIE_BREAKER")
    answer.add(RESOURCE | CREATED, "Successfully set property key(s): StorPoolName")
    answer.add(INFO | 10003, f"Tie breaker resource '{one.name}' created on {node}")
    return made


def _free_node(cluster: Cluster, one: Definition) -> Optional[str]:
    wanted = [name.upper() for name in cluster.prefer(one.name)]
    free = [key for key, node in sorted(cluster.nodes.items()) if key not in one.resources and node.online
            and "DRBD" in node.layers and not {"EVACUATE", "EVICTED"} & set(node.flags)]
    free.sort(key=lambda key: wanted.index(key) if key in wanted else len(wanted))
    return cluster.nodes[free[0]].name if free else None


def new_diskless(one: Definition, node: str) -> Resource:
    """Store a diskless resource of a definition on a node, not yet deployed."""
    stack = next((owner.layers for owner in one.resources.values()), ["DRBD", "STORAGE"])
    made = Resource(one, node, [kind for kind in stack if kind != "LUKS"], flags=["DISKLESS", "DRBD_DISKLESS"],
                    props={"StorPoolName": DISKLESS_POOL}, drbd_flags=["DISKLESS", "INITIALIZED"])
    taken = {other.node_id for other in one.resources.values()}
    made.node_id = next(number for number in range(32) if number not in taken)
    for number, definition in one.volumes.items():
        made.volumes[number] = Volume(number, DISKLESS_POOL, usable=definition.size, allocated=0, state="Diskless")
    one.resources[node.upper()] = made
    return made


def settle(cluster: Cluster, answer: Answer, one: Definition) -> None:
    """Set or take away quorum, unless a user set it by hand."""
    if not cluster.version.has("auto_quorum_deprecated"):
        _settle_both(cluster, answer, one)
        return
    present = one.props.get(QUORUM)
    if one.props.get(SET_BY) == "user":
        return
    if votes(one).can_have_quorum():
        if present != "majority":
            one.props[QUORUM] = "majority"
            was = "undefined" if present is None else f"'{present}'"
            answer.add(INFO | 10002, f"Resource-definition property '{QUORUM}' updated from {was} to 'majority' by "
                                     "AutoQuorum")
    elif present not in (None, "off"):
        one.props[QUORUM] = "off"
        answer.add(INFO | 10005, f"Resource-definition property '{QUORUM}' was removed as there are not enough "
                                 "resources for quorum")
    elif one.resources or present:
        one.props[QUORUM] = "off"


def _settle_both(cluster: Cluster, answer: Answer, one: Definition) -> None:
    """Set or take away quorum and on-no-quorum, whoever set them before: LINSTOR up to 1.30, after each change."""
    wanted = cluster.effective(one, AUTO)
    if wanted in (None, "disabled"):
        return
    told = "Resource-definition property '{}' updated from undefined to '{}' by auto-quorum"
    if votes(one).can_have_quorum():
        for key, value in ((QUORUM, "majority"), (ON_NO_QUORUM, wanted)):
            if one.props.get(key) != value:
                answer.add(INFO | 10002, told.format(key, value))
            one.props[key] = value
        return
    for key, value in ((QUORUM, one.props.get(QUORUM, "off")), (ON_NO_QUORUM, one.props.pop(ON_NO_QUORUM, "off"))):
        if value != "off":
            answer.add(INFO | 10005, f"Resource-definition property '{key}' was removed as there are not enough "
                                     "resources for quorum")
    one.props[QUORUM] = "off"


def choose_verify_algorithm(answer: Answer, one: Definition) -> None:
    """Set what DRBD verifies with, as LINSTOR does with the first resource."""
    if VERIFY not in one.props:
        one.props[VERIFY] = "crc32c"
        answer.add(INFO, f"Updated {one.name} DRBD auto verify algorithm to 'crc32c'")
