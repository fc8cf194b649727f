"""Giving a diskless resource a disk, taking one away, and moving a replica to another node."""

from __future__ import annotations

from typing import Callable, Optional

from . import drbd_placing, drbd_removal, progress, properties, quorum, resources, satellites
from .answers import CREATED, ERROR, INFO, MODIFIED, RESOURCE, Answer, Refused
from .capacity import Usage
from .cluster import DISKLESS_POOL, Cluster, Definition, Resource
from .drbd_kernel import up_to_date
from .placement import Autoplacer, merged

STOR_POOL, DISKFUL_BY, MIGRATE_FROM = "StorPoolName", "DiskfulBy", "MigrateFrom"


def add(cluster: Cluster, answer: Answer, owner: Resource, pool: Optional[str], source: Optional[str],
        by: str = "user") -> None:
    """Give a diskless resource a disk in `pool`, or in the pool the group wants; 206 or 310 where none fits.

    With `source`, a node's name, that replica goes once the new one is in sync.
    """
    one, node = owner.definition, owner.node
    name = pool or _pool_by_group(cluster, owner)
    _check_space(cluster, owner, name)
    for key, value in ((DISKFUL_BY, by), *([(MIGRATE_FROM, source.upper())] if source else []), (STOR_POOL, name)):
        owner.props[key] = value
    for _ in range(2):
        answer.add(RESOURCE | CREATED, "Successfully set property key(s): StorPoolName")
    answer.add(MODIFIED, f"Addition of disk to resource '{one.name}' on node '{node}' registered")
    owner.flags = [flag for flag in owner.flags if flag not in ("DISKLESS", "DRBD_DISKLESS")]
    owner.drbd_flags = [flag for flag in owner.drbd_flags if flag != "INITIALIZED"] \
        if "INITIALIZED" in owner.drbd_flags else [flag for flag in owner.drbd_flags if flag != "DISKLESS"]
    for volume in owner.volumes.values():
        volume.pool, volume.size, volume.state = name, 0, "Inconsistent"
    owner.layers = list(next(other.layers for other in one.resources.values() if not other.diskless))
    _others(cluster, answer, owner, f"Prepared '{{}}' to expect disk on '{node}'")
    tie = quorum.add_tiebreaker(cluster, answer, one)
    quorum.settle(cluster, answer, one)
    satellites.ask(cluster, answer, [node], lambda _: satellites.run(cluster, answer, owner),
                   lambda _: (MODIFIED, f"Added disk on '{node}'"))
    if tie is not None:
        drbd_placing.bring_up(cluster, answer, one, [tie])
    attach(cluster, one, [owner], lambda: _migrated(cluster, owner))


def _pool_by_group(cluster: Cluster, owner: Resource) -> str:
    one = owner.definition
    size = sum(volume.size for volume in one.volumes.values())
    wanted = merged({"node_name_list": [owner.node], "layer_stack": one.layers or None}, cluster.group_of(one).select)
    wanted = {key: value for key, value in wanted.items() if value is not None}
    chosen = Autoplacer(cluster, wanted, one, size, {owner.node}).choose(1)
    if not chosen:
        raise Refused(ERROR | 310, f"Autoplacer could not find diskful stor pool on node {owner.node} matching "
                      "resource-groups autoplace-settings", details="No pool fits")
    return chosen[0].name


def _check_space(cluster: Cluster, owner: Resource, name: str) -> None:
    one, found, usage = owner.definition, cluster.pool(owner.node, name), Usage(cluster)
    if found is not None:
        resources.refuse_kind(cluster, one, found)
    for number, volume in sorted(one.volumes.items()):
        if found is None:
            raise Refused(ERROR | 311, f"The storage pool '{name}' for resource '{one.name}' for volume number "
                          f"'{number}' is not deployed on node '{owner.node}'.")
        if volume.size > usage.estimate(found):
            raise Refused(ERROR | 206, f"Not enough free space available for volume {number} of resource "
                          f"'{one.name}'.")


def _others(cluster: Cluster, answer: Answer, owner: Resource, text: str) -> None:
    """Let the satellites of all other nodes look at the resource and say `text`, which takes their name."""
    def work(node: str) -> None:
        satellites.run(cluster, answer, owner.definition.resources[node.upper()])

    satellites.ask(cluster, answer, [other.node for other in owner.definition.resources.values()
                                     if other is not owner and not other.deleting],
                   work, lambda node: (MODIFIED, text.format(node)))


def attach(cluster: Cluster, one: Definition, new: list[Resource], then: Callable[[], None]) -> None:
    """Bring new disks up to date: at once on thin pools, else by a sync that goes on; `then` follows it.

    A disk on a node named in `cluster.stuck` waits for its peers until it is reconnected by hand.
    """
    waiting = False
    for volume in [volume for owner in new for volume in owner.volumes.values()]:
        volume.state = "Inconsistent"
    for owner in new:
        for volume in owner.volumes.values():
            pool = cluster.pool(owner.node, volume.pool)
            alone = not any(up_to_date(other) for other in one.resources.values() if other is not owner)
            if owner.node.upper() in cluster.stuck:
                volume.state = "Negotiating"
            elif (pool is not None and pool.thin) or alone:
                volume.state = "UpToDate"
            waiting |= volume.state != "UpToDate"

    def finish() -> None:
        for owner in new:
            for volume in owner.volumes.values():
                volume.state = volume.state if volume.state == "Negotiating" else "UpToDate"
        then()

    if waiting:
        progress.begin(cluster, finish)
    else:
        then()


def _migrated(cluster: Cluster, owner: Resource) -> None:
    """Go on with a move: when the new disk is in sync, mark the replica it replaces and let it go."""
    source = owner.definition.resources.get(owner.props.get(MIGRATE_FROM, ""))
    if source is None:
        return
    if not up_to_date(owner):
        progress.begin(cluster, lambda: _migrated(cluster, owner))
        return
    del owner.props[MIGRATE_FROM]
    source.flags = [*source.flags, "DELETE"]

    def finish() -> None:
        if "DELETE" in source.flags and owner.definition.resources.get(source.node.upper()) is source:
            source.flags.remove("DELETE")
            drbd_removal.delete(cluster, Answer(RESOURCE), source, True)

    progress.begin(cluster, finish)


def remove(cluster: Cluster, answer: Answer, owner: Resource) -> None:
    """Make a replica diskless.

    LINSTOR fails in the end, with all done, where the resource it works on is or gets deleted meanwhile.
    """
    one = owner.definition
    lost = "DELETE" in owner.flags
    if lost:
        owner.flags = [flag for flag in owner.flags if flag != "DELETE"] + ["TIE_BREAKER"]
    drop_disk(cluster, answer, owner, keep_initialized=lost)
    for tie in [other for other in one.resources.values() if quorum.is_tiebreaker(other)]:
        if not quorum.votes(one).wants_tiebreaker(quorum.enabled(cluster, one)) and not tie.deleting:
            lost |= tie is owner
            if tie is owner:
                answer.add(INFO | 10004, "Tie breaker marked for deletion")
            drbd_removal.clean_up(cluster, answer, tie)
    if lost:
        raise _Carried(properties.unhandled(
            f"Modification of resource '{one.name}' on node '{owner.node}'", "AccessToDeletedDataException",
            "Access to deleted Resource"))


class _Carried(Exception):
    """An error that comes after what was asked for has been done."""

    def __init__(self, refusal: Refused) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def remove_and_report(cluster: Cluster, answer: Answer, owner: Resource) -> None:
    """Do `remove`, and add its late error to what was said so far."""
    try:
        remove(cluster, answer, owner)
    except _Carried as carried:
        answer.refuse(carried.refusal)


def drop_disk(cluster: Cluster, answer: Answer, owner: Resource, keep_initialized: bool = False) -> None:
    """Take the disk of a resource away and tell its peers; tiebreaker and quorum follow."""
    one, node = owner.definition, owner.node
    answer.add(RESOURCE | CREATED, "Successfully set property key(s): StorPoolName")
    answer.add(MODIFIED, f"Removal of disk from resource '{one.name}' on node '{node}' registered")

    def work(_: str) -> None:
        _become_diskless(owner, keep_initialized)
        satellites.run(cluster, answer, owner)

    satellites.ask(cluster, answer, [node], work, lambda _: (MODIFIED, f"Removed disk on '{node}'"))
    tie = quorum.tiebreaker(one, without=owner)
    if tie is not None and not quorum.votes(one).wants_tiebreaker(quorum.enabled(cluster, one)):
        answer.add(INFO | 10004, "Tie breaker marked for deletion")
    quorum.settle(cluster, answer, one)
    _others(cluster, answer, owner, f"Notified '{{}}' that disk has been removed on '{node}'")


def _become_diskless(owner: Resource, keep_initialized: bool) -> None:
    owner.flags = ["DISKLESS", "DRBD_DISKLESS", *[flag for flag in owner.flags if flag == "TIE_BREAKER"]]
    owner.drbd_flags = ["DISKLESS", *(["INITIALIZED"] if keep_initialized else [])]
    owner.props.pop(DISKFUL_BY, None)
    owner.props[STOR_POOL] = DISKLESS_POOL
    owner.layers = [kind for kind in owner.layers if kind != "LUKS"]
    for volume in owner.volumes.values():
        volume.pool, volume.size, volume.allocated, volume.device = DISKLESS_POOL, 0, 0, None
        volume.usable, volume.state = owner.definition.volumes[volume.number].size, "Diskless"


