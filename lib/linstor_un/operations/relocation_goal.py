"""Where a datastore wants a disk that lies elsewhere: by the rules that new ones are placed by, and what forbids it."""

from __future__ import annotations

from typing import NamedTuple, Optional

from .. import placement
from ..errors import Refused, Unsupported
from ..inventory import LUKS, Group, Pool, Replica
from ..settings import Settings
from ..world import Controller
from .volumes import Volume


class Goal(NamedTuple):
    """Where a volume is to be, and how many replicas it is to have.

    `pools` are the names of the datastore's pools, of any if it takes all; `places` those pools on the nodes that it
    takes; `nodes` those that can get a replica now. `keep` is how many replicas have to be up to date all the time.
    `host` is the VM's, where it shall have a replica, "" otherwise.
    """

    pools: tuple[str, ...]
    places: tuple[Pool, ...]
    nodes: tuple[str, ...]
    replicas: int
    keep: int
    host: str

    @property
    def where(self) -> str:
        """The pools, for sentences."""
        return f"pool {', '.join(self.pools)}"

    def fits(self, replica: Replica) -> bool:
        """Return whether a replica is where the datastore wants it. One whose pool LINSTOR does not tell may stay."""
        node, pool = replica.node.lower(), replica.pool.lower()
        return any(node == place.node.lower() and pool in ("", place.name.lower()) for place in self.places)


def alike(one: Settings, other: Settings) -> bool:
    """Return whether two datastores place volumes by the same rules, so that nothing has to move between them."""
    rules = (
        "controllers", "resource_group", "storage_pools", "node_list", "providers", "replica_count",
        "layer_list", "encryption",
    )  # fmt: skip
    return all(getattr(one, rule) == getattr(other, rule) for rule in rules)


def elsewhere(controller: Controller, volume: Volume) -> str:
    """Return the pools that a volume's settings place new ones in, "" when it is there already."""
    settings = volume.settings
    group = controller.group(settings.resource_group) if settings.resource_group else None
    goal = goal_of(controller, volume, group, "")
    return "" if all(goal.fits(replica) for replica in volume.replicas if replica.diskful) else goal.where


def goal_of(controller: Controller, volume: Volume, group: Optional[Group], host: str) -> Goal:
    """Return where the volume is to be, by the rules that new volumes are placed by."""
    settings, present = placement.completed(volume.settings, group), len(holders(volume))
    names = settings.storage_pools
    kinds, listed = {kind.upper() for kind in settings.providers}, len(settings.node_list)
    # More replicas than NODE_LIST has nodes may be anywhere.
    only = {node.lower() for node in settings.node_list if (settings.replica_count or 0) <= listed}
    places = tuple(
        pool
        for pool in controller.pools(names)
        if (not kinds or pool.provider in kinds) and (not only or pool.node.lower() in only)
    )
    pools = names or tuple(sorted({pool.name for pool in places}))
    if not volume.replicated:
        return Goal(pools, places, (), present, present, "")
    count = max(settings.replica_count or 0, listed) or present
    usable = {node.name for node in controller.nodes() if node.usable}
    nodes = tuple(sorted({pool.node for pool in places} & usable))
    keep = min(present, max(count, 2))
    return Goal(pools, places, nodes, count, keep, host if settings.prefer_node else "")


def holders(volume: Volume) -> frozenset[str]:
    """Return the nodes with a replica."""
    return frozenset(replica.node for replica in volume.replicas if replica.diskful)


def old_nodes(volume: Volume, goal: Goal) -> list[str]:
    """Return the nodes with a replica where the datastore does not want it."""
    return [replica.node for replica in volume.replicas if replica.diskful and not goal.fits(replica)]


def _missing(volume: Volume, goal: Goal) -> int:
    return goal.replicas - len(holders(volume)) + len(old_nodes(volume, goal))


def free(volume: Volume, goal: Goal) -> list[str]:
    """Return the nodes that can get a replica now."""
    return [node for node in goal.nodes if node not in holders(volume)]


def arrived(volume: Volume, goal: Goal) -> bool:
    """Return whether all replicas are where they are to be, and there are enough."""
    return not old_nodes(volume, goal) and _missing(volume, goal) <= 0


def require_encryption(volume: Volume) -> None:
    """Raise Unsupported for a volume that is not encrypted where its settings ask for that."""
    if volume.settings.encryption and LUKS not in volume.layers:
        raise Unsupported(
            f"{volume.name} is not encrypted, as the new datastore wants its disks; save it as an image and make a new "
            f"disk there"
        )


def require_way(volume: Volume, goal: Goal) -> None:
    """Raise Unsupported or Refused for a volume that cannot come to where it is to be."""
    name, where = volume.name, f"{goal.where} of the new datastore"
    if not volume.replicated:
        raise Unsupported(
            f"{name} has no DRBD in its layers, so its data cannot be brought to {where}; choose a datastore with its "
            f"own pool, or save the disk as an image"
        )
    silent = placement.unknown(volume.replicas)
    if silent:
        raise Refused(f"{name} cannot be brought to {where} while {', '.join(silent)} is offline; retry then")
    if len(goal.nodes) < goal.replicas:
        raise Refused(f"{name} needs {goal.replicas} replicas, and {len(goal.nodes)} online nodes have {where}")
    if not free(volume, goal) and len(holders(volume)) <= goal.keep:
        raise Refused(
            f"{name} cannot be brought to {where}: each of its nodes {', '.join(goal.nodes)} has a replica in another "
            f"pool, and one more node is needed to keep {goal.keep} replicas; add the pool on another node"
        )


def require_snapshots(controller: Controller, volume: Volume, goal: Goal) -> None:
    """Raise Unsupported where a volume could not go back to its snapshots, which stay in the pools they were taken in.

    LINSTOR before 1.30 does not tell which these are, before 1.31 it removes no replica with snapshots from ZFS, and
    there its satellites hang on a name that is used again after snapshots outlived their replicas.
    """
    if not controller.rolls_back_to_any():
        raise Unsupported(
            f"{volume.name} has snapshots, and LINSTOR before 1.31 could not go back to them from another pool; delete "
            f"them and retry"
        )
    without = sorted({pool.provider for pool in goal.places if not pool.snapshots})
    if without:
        raise Unsupported(
            f"{volume.name} has snapshots, and could not go back to them in {goal.where} of kind "
            f"{', '.join(without)}; delete them and retry"
        )


def addable(volume: Volume, goal: Goal) -> int:
    """Return how many replicas to add before an old one goes; the VM's host gets its own when it is free of the old."""
    reserved = goal.host in goal.nodes and goal.host in old_nodes(volume, goal)
    more = min(_missing(volume, goal) - reserved, len(free(volume, goal)))
    return max(more, 1) if len(holders(volume)) <= goal.keep else more


def removable(volume: Volume, goal: Goal, origin: str) -> Optional[tuple[str, int]]:
    """Return the node of the old replica that is needed least, None when none can go; and how many have to stay.

    While new ones are missing, their nodes come first, the VM's host above all. The host of the VM's link is last.
    """
    old, missing = old_nodes(volume, goal), _missing(volume, goal)
    least = goal.keep if missing > 0 else goal.replicas
    if not old or len(holders(volume)) <= least:
        return None

    def needed(node: str) -> tuple[bool, bool, bool, str]:
        return missing > 0 and node != goal.host, node not in goal.nodes, node == origin, node

    return min(old, key=needed), least


def hint(controller: Controller, volume: Volume, goal: Goal) -> str:
    """Return what to add to a refusal for lack of space: LINSTOR gives it also where pools are of different kinds."""
    old = {replica.pool for replica in volume.replicas if replica.diskful}
    kinds = {pool.provider for pool in controller.pools(sorted(old))}
    others = {pool.provider for pool in goal.places} - kinds
    if not others:
        return ""
    return (
        f"; LINSTOR has replicas in pools of kind {', '.join(sorted(kinds))} and {', '.join(sorted(others))} only with "
        f"its property AllowMixingStoragePoolDriver"
    )


