"""How much fits into storage pools, for volumes with several replicas on distinct nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Callable

from ..inventory import Capacity, Pool
from ..units import Kib

_TOLD = 5


def capacity_of(pools: Sequence[Pool], nodes: Sequence[str], replicas: int, providers: Sequence[str]) -> Capacity:
    """Return what volumes can be asked for in these pools, in KiB.

    Arguments: pools, from the controller's memory; nodes, which have a replica of each volume; replicas, how many
    distinct nodes each volume needs at least, those among them; providers, the only kinds to count, all when empty.
    Offline nodes have no capacity, a pool shared by nodes counts on one of them, DISKLESS pools do not count.
    """
    listed = {node.lower() for node in nodes}
    others = max(0, replicas - len(listed))
    kinds = {provider.upper() for provider in providers}
    totals: dict[str, int] = defaultdict(int)
    free: dict[str, int] = defaultdict(int)
    largest: dict[str, int] = defaultdict(int)
    shared: set[str] = set()
    for pool in pools:
        usable = pool.free is not None and pool.total is not None and pool.provider != "DISKLESS"
        if not usable or (kinds and pool.provider not in kinds) or pool.shared_space in shared:
            continue
        shared.add(pool.shared_space)
        node = pool.node.lower()
        totals[node] += pool.total or 0
        free[node] += pool.free or 0
        largest[node] = max(largest[node], pool.free or 0)

    def least(room: dict[str, int], among: Callable[[Sequence[int], int], int]) -> Kib:
        """Return what each listed node has room for, and any `others` of the rest together."""
        rest = [size for node, size in room.items() if node not in listed]
        return Kib(min([room[node] for node in listed] + ([among(rest, others)] if others else [])))

    return Capacity(least(totals, _spread), least(free, _spread), least(largest, _nth))


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


def _nth(sizes: Sequence[int], replicas: int) -> int:
    """Return how large one piece can be that needs `replicas` distinct places."""
    return sorted([0] * replicas + list(sizes))[-replicas]


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
