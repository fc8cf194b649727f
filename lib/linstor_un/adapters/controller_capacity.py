"""How much fits into storage pools, for volumes with several replicas on distinct nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ..inventory import Capacity, Pool
from ..units import Kib

_TOLD = 5


def capacity_of(pools: Sequence[Pool], nodes: Sequence[str], replicas: int, providers: Sequence[str]) -> Capacity:
    """Return what volumes can be asked for in these pools, in KiB.

    Arguments: pools, from the controller's memory; nodes, the only ones to count, all when empty; replicas,
    how many distinct nodes each volume needs; providers, the only kinds to count, all when empty.
    Offline nodes have no capacity, a pool shared by nodes counts on one of them, DISKLESS pools do not count.
    """
    allowed = {node.lower() for node in nodes}
    kinds = {provider.upper() for provider in providers}
    totals: dict[str, int] = defaultdict(int)
    free: dict[str, int] = defaultdict(int)
    largest: dict[str, int] = defaultdict(int)
    shared: set[str] = set()
    for pool in pools:
        usable = pool.free is not None and pool.total is not None and pool.provider != "DISKLESS"
        wanted = (not allowed or pool.node.lower() in allowed) and (not kinds or pool.provider in kinds)
        if not (usable and wanted) or pool.shared_space in shared:
            continue
        shared.add(pool.shared_space)
        totals[pool.node] += pool.total or 0
        free[pool.node] += pool.free or 0
        largest[pool.node] = max(largest[pool.node], pool.free or 0)
    return Capacity(
        total=Kib(_spread(list(totals.values()), replicas)),
        available=Kib(_spread(list(free.values()), replicas)),
        largest=Kib(sorted([0] * replicas + list(largest.values()))[-replicas]),
    )


def room_in(pools: Sequence[Pool]) -> str:
    """Return what is free where, for whom LINSTOR found no place: its own answer lists criteria and not the pools.

    Free space is told in MiB, the unit of SIZE in OpenNebula; a pool of an offline node is told as such.
    """
    if not pools:
        return "there is no such storage pool, check STORAGE_POOL"
    known = sorted(((pool.free, pool) for pool in pools if pool.free is not None), key=lambda item: -item[0])
    told = [f"{free // 1024} MiB in {pool.name} on {pool.node}" for free, pool in known[:_TOLD]]
    if len(known) > _TOLD:
        told.append(f"less in {len(known) - _TOLD} more")
    offline = sorted({pool.node for pool in pools if pool.free is None})
    silent = [f"{', '.join(offline)} offline"] if offline else []
    return "free now: " + "; ".join([", ".join(told) or "nothing", *silent])


def _spread(sizes: Sequence[int], replicas: int) -> int:
    """Return how much fits when every piece needs `replicas` distinct places.

    A place larger than the result is of no more use than one as large as it: with 30, 10, 10 and two
    replicas 20 fit, because each piece needs a partner among the two small ones.
    """
    ordered = sorted(sizes, reverse=True)
    if replicas > len(ordered):
        return 0
    rest = sum(ordered)
    biggest = 0
    while ordered[biggest] > rest // (replicas - biggest):
        rest -= ordered[biggest]
        biggest += 1
    return rest // (replicas - biggest)
