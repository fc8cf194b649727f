"""How much fits into pools: free space, oversubscription, and what a group could still take. Sizes are KiB."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .cluster import UNLIMITED, Cluster, Pool, Snapshot
from .providers import CHUNK

DEFAULT_THIN_RATIO = 20.0


class Usage:
    """What all volumes take of each pool, counted in one pass over the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.allocated: dict[tuple[str, str], int] = {}
        self.reserved: dict[tuple[str, str], int] = {}
        self.chunks: dict[tuple[str, str], set[int]] = {}
        for definition in cluster.definitions.values():
            for node, resource in definition.resources.items():
                for volume in resource.volumes.values():
                    key = (node, volume.pool.upper())
                    self.allocated[key] = self.allocated.get(key, 0) + max(volume.allocated, 0)
                    self.reserved[key] = self.reserved.get(key, 0) + volume.usable
                    if volume.chunks:
                        self.chunks.setdefault(key, set()).update(volume.chunks.values())
            for snapshot in definition.snapshots.values():
                self._count_snapshot(cluster, snapshot)

    def _count_snapshot(self, cluster: Cluster, one: Snapshot) -> None:
        """Count a snapshot on thin LVs: what it has alone, and for placement twice its size, as LINSTOR does."""
        for node, held in one.resources.items():
            for number, name in held["pools"].items():
                pool = cluster.pool(node, name)
                if pool is not None and pool.kind == "LVM_THIN":
                    key = (node, name.upper())
                    self.chunks.setdefault(key, set()).update(held["chunks"][number].values())
                    self.reserved[key] = self.reserved.get(key, 0) + 2 * int(held["sizes"][number])

    def free(self, pool: Pool) -> int:
        """Return the free KiB a satellite reports for a pool."""
        if pool.diskless:
            return UNLIMITED
        key = (pool.node.upper(), pool.name.upper())
        used = CHUNK * len(self.chunks.get(key, ())) if pool.kind == "LVM_THIN" else self.allocated.get(key, 0)
        if pool.kind == "LVM_THIN" and used:
            # LVM tells a percentage with two digits, and never 0 of a pool that has something.
            used = -int(-pool.total * max(round(100 * used / pool.total, 2), 0.01) // 100)
        return max(pool.total - pool.used_elsewhere - used, 0)

    def estimate(self, pool: Pool) -> int:
        """Return the largest volume that may still be placed: the lower of what free and total space allow.

        Both are multiplied by a ratio; from the total, what volumes were promised is taken off.
        """
        if pool.diskless:
            return UNLIMITED
        ratio = self.ratio(pool)
        by_free = self._ratio(pool, "MaxFreeCapacityOversubscriptionRatio", ratio) * self.free(pool)
        promised = self.reserved.get((pool.node.upper(), pool.name.upper()), 0)
        by_total = self._ratio(pool, "MaxTotalCapacityOversubscriptionRatio", ratio) * pool.total - promised
        return int(min(by_free, by_total))

    def ratio(self, pool: Pool) -> float:
        """Return the oversubscription ratio of a pool: its own property, the controller's, or its kind's."""
        return self._ratio(pool, "MaxOversubscriptionRatio", DEFAULT_THIN_RATIO) if pool.thin else 1.0

    def own_ratio(self, pool: Pool) -> float:
        """Return the ratio as it is shown of a pool: the controller's property is left out."""
        return float(pool.props.get("MaxOversubscriptionRatio") or (DEFAULT_THIN_RATIO if pool.thin else 1.0))

    def _ratio(self, pool: Pool, key: str, default: float) -> float:
        value = pool.props.get(key) or self.cluster.props.get(key)
        return float(value) if value else default


def packed(sizes: Iterable[int], copies: int) -> int:
    """Return how much data fits when each piece is kept in `copies` different places of the given sizes."""
    left, total = [size for size in sizes if size > 0], 0
    while copies > 0 and len(left) >= copies:
        left.sort(reverse=True)
        step = left[copies - 1]
        total += step
        left = [size - step if place < copies else size for place, size in enumerate(left)]
        left = [size for size in left if size > 0]
    return total


def space_info(cluster: Cluster, select: dict[str, Any], chosen: list[Pool], candidates: list[Pool]) -> dict[str, Any]:
    """Return the space_info of query-size-info. `chosen` are the pools the next spawn would take, or none."""
    usage = Usage(cluster)
    copies = int(select.get("place_count") or 0)
    info: dict[str, Any] = {
        "max_vlm_size_in_kib": min((usage.estimate(pool) for pool in chosen), default=0),
        "available_size_in_kib": packed((usage.free(pool) for pool in candidates), copies) if chosen else 0,
        "capacity_in_kib": packed((pool.total for pool in candidates), copies) if chosen else 0,
        "default_max_oversubscription_ratio": DEFAULT_THIN_RATIO,
    }
    if chosen:
        info["next_spawn_result"] = [{
            "node_name": pool.node, "stor_pool_name": pool.name,
            "stor_pool_oversubscription_ratio": usage.own_ratio(pool),
        } for pool in chosen]
    return info
