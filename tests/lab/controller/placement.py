"""Where replicas may go, and where they go: LINSTOR's autoplacer as far as its rules are visible from outside."""

from __future__ import annotations

import itertools
import re
from typing import Any, Optional

from .answers import ERROR, Refused
from .capacity import Usage
from .cluster import LAYERS, Cluster, Definition, Node, Pool

Select = dict[str, Any]
MIXING = "AllowMixingStoragePoolDriver"
_FAMILY = {"ZFS_THIN": "ZFS", "FILE_THIN": "FILE"}
_MIXABLE = {"LVM", "LVM_THIN", "ZFS", "ZFS_THIN"}
PROVIDER_KINDS = {
    "DISKLESS", "LVM", "LVM_THIN", "ZFS", "ZFS_THIN", "FILE", "FILE_THIN", "SPDK", "REMOTE_SPDK", "EBS_INIT",
    "EBS_TARGET", "STORAGE_SPACES", "STORAGE_SPACES_THIN",
}


def layer_stack(names: Optional[list[str]], *, masked: bool = True) -> list[str]:
    """Return layer names in upper case; refuse an unknown one with 224."""
    stack = [str(name).upper() for name in names or []]
    for name, given in zip(stack, names or []):
        if name not in LAYERS:
            raise Refused(ERROR | 224, f"Given layer kind '{given}' is invalid", masked=masked, report=masked)
    return stack


def select_filter(given: Optional[dict[str, Any]], *, masked: bool = True) -> Select:
    """Return a select_filter as it is kept: layers in upper case, one pool name as a list, unknown kinds refused."""
    select = {key: value for key, value in (given or {}).items() if value is not None}
    if "layer_stack" in select:
        select["layer_stack"] = layer_stack(select["layer_stack"], masked=masked)
    pool = select.pop("storage_pool", None)
    if pool and not select.get("storage_pool_list"):
        select["storage_pool_list"] = [pool]
    for kind in select.get("provider_list", []):
        if kind.upper() not in PROVIDER_KINDS:
            raise Refused(ERROR | 224, f"Given provider kind '{kind}' is invalid", masked=masked, report=True)
    return select


def merged(first: Select, second: Select) -> Select:
    """Return `first` with what it leaves open taken from `second` (an empty list is no gap)."""
    return {**second, **first}


def kinds_of(cluster: Cluster, one: Definition, without: str = "") -> set[str]:
    """Return the kinds of the pools that a definition's replicas are in, those on one node left out."""
    pools = [cluster.pool(owner.node, volume.pool) for owner in one.resources.values()
             if not owner.diskless and owner.node.upper() != without.upper() for volume in owner.volumes.values()]
    return {pool.kind for pool in pools if pool is not None and not pool.diskless}


def may_mix(cluster: Cluster, one: Optional[Definition], kind: str, other: str) -> bool:
    """Tell whether one volume may have replicas in pools of both kinds: some may when an administrator allows it."""
    if _FAMILY.get(kind, kind) == _FAMILY.get(other, other):
        return True
    allowed = (cluster.effective(one, MIXING) if one else cluster.props.get(MIXING)) or "false"
    return allowed.lower() == "true" and {kind, other} <= _MIXABLE


class Autoplacer:
    """Chooses pools for one request. `size` is the sum of the volumes' KiB; `skip` are nodes that count as free."""

    def __init__(self, cluster: Cluster, select: Select, definition: Optional[Definition], size: int,
                 skip: Optional[set[str]] = None) -> None:
        self.cluster, self.select, self.definition, self.size = cluster, select, definition, size
        self.skip = {name.upper() for name in skip or set()}
        self.usage = Usage(cluster)

    def candidates(self) -> list[Pool]:
        """Return the pools that pass every filter, by pool and node name."""
        found = []
        for node in (self.cluster.nodes[key] for key in sorted(self.cluster.nodes)):
            if self._node_fits(node):
                found += [node.pools[key] for key in sorted(node.pools) if self._pool_fits(node.pools[key])]
        return sorted(found, key=lambda pool: (pool.name.upper(), pool.node.upper()))

    def choose(self, count: int) -> Optional[list[Pool]]:
        """Return `count` pools on distinct nodes, or None when the constraints leave no such set."""
        if count <= 0:
            return None
        best: dict[str, Pool] = {}
        for pool in self._by_preference(self.candidates()):
            best.setdefault(pool.node.upper(), pool)
        for chosen in itertools.combinations(best.values(), count):
            if self._together([pool.node for pool in chosen]) and self._mix({pool.kind for pool in chosen}):
                return sorted(chosen, key=lambda pool: pool.node.upper())
        return None

    def _by_preference(self, pools: list[Pool]) -> list[Pool]:
        wanted = [name.upper() for name in self.cluster.prefer(self.definition.name if self.definition else "")]

        def rank(pool: Pool) -> tuple[int, int, str]:
            key = pool.node.upper()
            return (wanted.index(key) if key in wanted else len(wanted), -self.usage.free(pool), key)

        return sorted(pools, key=rank)

    def _node_fits(self, node: Node) -> bool:
        names = [name.upper() for name in self.select.get("node_name_list") or []]
        if not node.online or "EVACUATE" in node.flags or "EVICTED" in node.flags or "DELETE" in node.flags:
            return False
        if node.props.get("AutoplaceTarget", "true").lower() in ("false", "no"):
            return False
        if names and node.name.upper() not in names:
            return False
        if any(layer not in node.layers for layer in self.select.get("layer_stack") or []):
            return False
        return not self._keeps_away(node)

    def _keeps_away(self, node: Node) -> bool:
        """Tell whether a resource on the node forbids it: one of the definition itself, or one to stay apart from."""
        key = node.name.upper()
        if self.definition and key in self.definition.resources and key not in self.skip:
            return True
        apart = {name.upper() for name in self.select.get("not_place_with_rsc") or []}
        expression = self.select.get("not_place_with_rsc_regex")
        try:
            pattern = re.compile(expression, re.IGNORECASE) if expression else None
        except re.error as problem:
            raise Refused(ERROR | 998, "Registration of auto-placing resource failed due to an unhandled exception of "
                          f"type PatternSyntaxException. {problem}", report=True) from problem
        for resource in self.cluster.resources_on(node.name):
            name = resource.definition.name
            if name.upper() in apart or (pattern and pattern.search(name)):
                return True
        return False

    def _pool_fits(self, pool: Pool) -> bool:
        wanted = [name.upper() for name in self.select.get("storage_pool_list") or []]
        kinds = [kind.upper() for kind in self.select.get("provider_list") or []]
        if pool.diskless or (wanted and pool.name.upper() not in wanted) or (kinds and pool.kind not in kinds):
            return False
        return self.size <= self.usage.estimate(pool)

    def _mix(self, kinds: set[str]) -> bool:
        """Tell whether replicas may be in pools of these kinds, with those that there are already."""
        if self.definition:
            kinds = kinds | kinds_of(self.cluster, self.definition)
        return all(may_mix(self.cluster, self.definition, one, other) for one in kinds for other in kinds)

    def _together(self, nodes: list[str]) -> bool:
        """Tell whether the replicas_on_* rules hold for these nodes with those that have a replica already."""
        have = [one.node for one in self.definition.resources.values() if one.node.upper() not in self.skip] \
            if self.definition else []
        props = [self.cluster.nodes[name.upper()].props for name in (*have, *nodes)]
        for rule in self.select.get("replicas_on_same") or []:
            key, _, value = rule.partition("=")
            values = {one.get(key) for one in props}
            if None in values or len(values) > 1 or (value and values != {value}):
                return False
        for rule in self.select.get("replicas_on_different") or []:
            key, _, value = rule.partition("=")
            values_seen = [one[key] for one in props if key in one]
            if value and value in [self.cluster.nodes[name.upper()].props.get(key) for name in nodes]:
                return False
            if not value and len(set(values_seen)) < len(values_seen):
                return False
        for key, most in (self.select.get("x_replicas_on_different_map") or {}).items():
            values_seen = [one[key] for one in props if key in one]
            if any(values_seen.count(value) > int(most) for value in values_seen):
                return False
        return True
