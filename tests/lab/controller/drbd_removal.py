"""Taking resources under DRBD away: the peers are told first, tiebreaker and quorum follow the number of disks."""

from __future__ import annotations

from typing import Callable, Optional

from . import drbd, drbd_disks, properties, quorum, satellites
from .answers import DELETED, ERROR, INFO, MODIFIED, RESOURCE, Answer, Refused
from .cluster import Cluster, Definition, Resource
from .drbd_kernel import primary, up_to_date

TAKEOVER = ("The given resource will not be deleted but will be taken over as a linstor managed tiebreaker "
            "resource.")


def delete(cluster: Cluster, answer: Answer, owner: Resource, keep_tiebreaker: bool) -> None:
    """Remove a resource or turn it into the tiebreaker; 997 while it is in use or the last disk others depend on."""
    one = owner.definition
    if primary(cluster, owner) and cluster.online(owner.node):
        raise Refused(ERROR | 997, f"Resource '{one.name}' is still in use.")
    others = [other for other in one.resources.values() if other is not owner and not other.deleting]
    if not owner.diskless and others and all(other.diskless for other in others):
        raise Refused(ERROR | 997, f"Last resource of '{one.name}' with disk still has diskless resources attached.")
    _forget_unsynced(cluster, owner)
    if _taken_over(cluster, answer, owner, keep_tiebreaker):
        return
    if quorum.is_tiebreaker(owner) and _wanted_without(cluster, owner, quorum.enabled(cluster, one)):
        one.props[quorum.TIEBREAKER] = "False"
        answer.add(INFO | 10002, f"Disabling auto-tiebreaker on resource-definition '{one.name}' as tiebreaker "
                                 "resource was manually deleted")
    _remove(cluster, answer, owner)


def _forget_unsynced(cluster: Cluster, owner: Resource) -> None:
    """Lose the bytes when the only replica that has all of them goes: a resync that is not over has no source then."""
    replicas = [other for other in owner.definition.resources.values() if not other.diskless]
    if [other for other in replicas if up_to_date(other)] != [owner] or replicas == [owner]:
        return
    for number, volume in owner.definition.volumes.items():
        kind = satellites.kind_of(cluster, owner, owner.volumes[number])
        for size in (0, satellites.size_bytes(cluster, owner, kind, volume.size)):
            cluster.volumes.resize(satellites.content(owner, number), size)


def _wanted_without(cluster: Cluster, owner: Resource, enabled: bool) -> bool:
    return cluster.online(owner.node) and quorum.tiebreaker(owner.definition, without=owner) is None and \
        quorum.votes(owner.definition, without=owner).wants_tiebreaker(enabled)


def _taken_over(cluster: Cluster, answer: Answer, owner: Resource, keep: bool) -> bool:
    one, on = owner.definition, quorum.enabled(cluster, owner.definition)
    if quorum.is_tiebreaker(owner) and not keep:
        return False
    if not _wanted_without(cluster, owner, on or keep):
        return False
    if not on:
        one.props[quorum.TIEBREAKER] = "True"
        answer.add(INFO | 10002, "Autotiebreaker automatically enabled due to --keep-tiebreaker")
    answer.add(INFO | 10006, TAKEOVER)
    if not owner.diskless:
        owner.flags = ["TIE_BREAKER"]
        drbd_disks.drop_disk(cluster, answer, owner)
        return True
    owner.flags = ["DISKLESS", "DRBD_DISKLESS", "TIE_BREAKER"]
    quorum.settle(cluster, answer, one)
    _round(cluster, answer, one, lambda node: f"Resource '{one.name}' updated on node '{node}'")
    return True


def _round(cluster: Cluster, answer: Answer, one: Definition, text: Callable[[str], str],
           gone: Optional[Callable[[Resource], bool]] = None, said_of_offline: bool = True) -> set[str]:
    """Let all satellites look at a definition; resources that are `gone` are shut down there instead."""
    def work(node: str) -> None:
        owner = one.resources[node.upper()]
        if gone is not None and gone(owner):
            drbd.shut_down(cluster, answer, owner)
        elif not owner.deleting:
            satellites.run(cluster, answer, owner)

    return satellites.ask(cluster, answer, [owner.node for owner in one.resources.values()], work,
                          lambda node: (MODIFIED, text(node)) if said_of_offline or cluster.online(node) else None)


def _remove(cluster: Cluster, answer: Answer, owner: Resource) -> None:
    one, node = owner.definition, owner.node
    automatic = quorum.is_tiebreaker(owner)
    owner.flags = [*owner.flags, "DRBD_DELETE"]
    tie = quorum.tiebreaker(one, without=owner)
    if tie is not None and quorum.votes(one, without=owner).wants_tiebreaker(quorum.enabled(cluster, one)):
        tie = None
    if tie is not None:
        tie.flags = [*tie.flags, "DRBD_DELETE"]
        answer.add(INFO | 10004, "Tie breaker marked for deletion")
        quorum.settle(cluster, answer, one)
    answer.add(DELETED, f"Node: {node}, Resource: {one.name} preparing for deletion.", details="preparing")
    _round(cluster, answer, one, lambda where: f"Preparing deletion of resource on '{where}'",
           lambda found: found in (owner, tie))
    if answer.failed:
        answer.refuse(properties.unhandled(f"Deletion of resource '{one.name}' on node '{node}'",
                                           "DelayedApiRcException",
                                           "Exceptions have been converted to responses"))
        return
    owner.flags = ["DELETE", *[flag for flag in owner.flags if flag != "DELETE"]]
    if tie is not None or automatic:
        answer.add(INFO | 10004, "Tie breaker marked for deletion")
    quorum.settle(cluster, answer, one)
    answer.add(DELETED, f"Node: {node}, Resource: {one.name} marked for deletion.", details="marked")
    clean_up(cluster, answer, owner)
    if tie is not None:
        if node.upper() not in one.resources:
            answer.add(INFO | 10004, "Tie breaker marked for deletion")
        clean_up(cluster, answer, tie)


def clean_up(cluster: Cluster, answer: Answer, owner: Resource) -> None:
    """Take one resource off its node, tell its peers, and forget it when its satellite has done so."""
    one, node = owner.definition, owner.node
    owner.flags = [*owner.flags, "DELETE"] if "DELETE" not in owner.flags else owner.flags

    def work(where: str) -> None:
        peer = one.resources[where.upper()]
        if peer is owner:
            satellites.remove(cluster, answer, owner)
        elif not peer.deleting:
            satellites.run(cluster, answer, peer)

    def said(where: str) -> Optional[tuple[int, str]]:
        if where == node:
            return (MODIFIED, f"Cleaning up '{one.name}' on '{node}'") if cluster.online(node) else None
        return MODIFIED, f"Notified '{where}' that '{one.name}' is being cleaned up on Node(s): [{node}]"

    done = satellites.ask(cluster, answer, [peer.node for peer in one.resources.values()], work, said)
    if node in done:
        one.drop(node)
        answer.add(DELETED, f"Node: {node}, Resource: {one.name} deletion complete.", details="complete")
        satellites.finish_delete(cluster, one)


def take_down(cluster: Cluster, answer: Answer, one: Definition) -> bool:
    """Remove all resources of a definition: those without a disk first, then the disks.

    Returns whether all is done. With an offline satellite in the first phase the second waits until that is back.
    """
    diskless = [owner for owner in one.resources.values() if owner.diskless]
    one.unfinished = True
    if diskless:
        _mark(diskless)
        names = {owner.node for owner in one.resources.values()}
        done = _round(cluster, answer, one, lambda node: f"Resource '{one.name}' on '{node}' marked for deletion",
                      lambda owner: owner.diskless, said_of_offline=False)
        if done != names:
            return False
        for owner in diskless:
            one.drop(owner.node)
        _round(cluster, answer, one, lambda node: f"Resource '{one.name}' on '{node}' deleted")
    diskful = list(one.resources.values())
    _mark(diskful)

    def work(node: str) -> None:
        owner = one.resources[node.upper()]
        if owner.known or owner.failing:
            satellites.remove(cluster, answer, owner)

    def said(node: str) -> Optional[tuple[int, str]]:
        text = f"Resource '{one.name}' on '{node}' marked for deletion"
        return (RESOURCE | MODIFIED, text) if cluster.online(node) else None

    done = satellites.ask(cluster, answer, [owner.node for owner in diskful], work, said)
    one.unfinished = len(done) < len(diskful)
    return not one.unfinished


def _mark(going: list[Resource]) -> None:
    for owner in going:
        owner.flags = ["DELETE", *[flag for flag in owner.flags if flag != "DELETE"]]


def go_on(cluster: Cluster, one: Definition) -> None:
    """Go on with a deletion that an offline satellite had stopped."""
    waits = one.unfinished and "DELETE" in one.flags
    if waits and all(cluster.online(owner.node) for owner in one.resources.values()) \
            and take_down(cluster, Answer(RESOURCE), one):
        satellites.finish_delete(cluster, one)
