"""The simulated LINSTOR of one recording, and what an operator would do there by hand."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from lab.controller.cluster import Cluster, Group
from lab.controller.drbd_kernel import TWO_PRIMARIES
from lab.controller.faults import Fault
from lab.controller.router import respond
from lab.controller.server import Controller
from lab.controller.volumes import Content
from lab.hosts import Hosts, LoopVolumes
from lab.replaying import contents
from lab.replaying.facts import Datastore
from lab.replaying.snapshot import Definition

FOREIGN = "payroll-db"
PLACE_COUNT = 2
"""Replicas that every resource group of the lab asks for."""
POOL_KIB = 200 << 20
_DEFAULT_POOL = "data"
_DEFAULT_STACK = ["DRBD", "STORAGE"]
_ERROR_UNKNOWN = -(1 << 62) | 999


class Volumes(LoopVolumes):
    """Loop devices that tell whenever bytes of a volume are kept as they are at one moment."""

    def __init__(self, hosts: Hosts) -> None:
        super().__init__(None, hosts)
        self.at_moment: Callable[[str], None] = lambda definition: None

    def snapshot(self, content: Content, name: str) -> None:
        self.at_moment(content.resource)
        super().snapshot(content, name)

    def clone(self, source: Content, target: Content) -> None:
        self.at_moment(source.resource)
        super().clone(source, target)


class Linstor:
    """A controller with the nodes, pools and groups that datastores name, and one definition of somebody else."""

    def __init__(
        self, version: str, nodes: Iterable[str], datastores: Iterable[Datastore], volumes: LoopVolumes
    ) -> None:
        self.volumes = volumes
        self.cluster = Cluster(version, volumes)
        datastores = list(datastores)
        pools = {pool for datastore in datastores for pool in _words(datastore, "STORAGE_POOL")} | {_DEFAULT_POOL}
        for node in nodes:
            self.cluster.add_node(node)
            for pool in sorted(pools):
                self.cluster.add_pool(node, pool, "LVM_THIN", POOL_KIB)
        for name in {group for datastore in datastores for group in _words(datastore, "RESOURCE_GROUP")}:
            select = {"place_count": PLACE_COUNT, "storage_pool": _DEFAULT_POOL, "storage_pool_list": [_DEFAULT_POOL]}
            self.cluster.groups[name.upper()] = Group(name, select=select)
        self.controller = Controller(self.cluster)
        self.make(FOREIGN, 8, marks={})

    def rest(self, method: str, path: str, body: Optional[Mapping[str, Any]] = None) -> Any:
        """Send a request past the server, so that injected faults do not meet it; RuntimeError when refused."""
        raw = json.dumps(body).encode() if body is not None else None
        headers = {"content-type": "application/json"} if raw else {}
        response = respond(self.cluster, method, path, headers, raw)
        text = (response.body or b"").decode()
        if response.status >= 400:
            raise RuntimeError(f"{method} {path}: {response.status} {text[:300]}")
        return json.loads(text) if text else None

    def make(self, name: str, mib: int, *, marks: Mapping[str, Any], group: str = "DfltRscGrp") -> None:
        """Create a definition of `mib` MiB with two replicas."""
        props = {f"Aux/one/{key}": str(value) for key, value in marks.items()}
        self.rest("POST", "/v1/resource-definitions",
                  {"resource_definition": {"name": name, "resource_group_name": group, "props": props}})
        self.rest("POST", f"/v1/resource-definitions/{name}/volume-definitions",
                  {"volume_definition": {"size_kib": mib << 10}})
        self.rest("POST", f"/v1/resource-definitions/{name}/autoplace",
                  {"select_filter": {"place_count": PLACE_COUNT, "storage_pool": _DEFAULT_POOL}})

    def attach(self, name: str, node: str) -> None:
        """Make a definition available on a node, if both exist."""
        if self.cluster.definition(name) and self.cluster.node(node):
            path = f"/v1/resource-definitions/{name}/resources/{node}/make-available"
            self.rest("POST", path, {"diskful": False, "layer_list": ["DRBD", "STORAGE"]})

    def detach(self, name: str, node: str) -> None:
        """Take a diskless resource away from a node; a replica stays."""
        definition = self.cluster.definition(name)
        resource = definition.resources.get(node.upper()) if definition else None
        if resource and resource.diskless and "TIE_BREAKER" not in resource.flags:
            self.rest("DELETE", f"/v1/resource-definitions/{name}/resources/{node}")

    def remove(self, name: str) -> None:
        """Delete a definition with its snapshots, if it exists."""
        definition = self.cluster.definition(name)
        if definition:
            for snapshot in list(definition.snapshots):
                self.rest("DELETE", f"/v1/resource-definitions/{name}/snapshots/{snapshot}")
            self.rest("DELETE", f"/v1/resource-definitions/{name}")

    def resize(self, name: str, mib: int) -> None:
        """Let volume 0 have at least `mib` MiB."""
        definition = self.cluster.definition(name)
        if definition and definition.volumes[0].size < mib << 10:
            self.rest("PUT", f"/v1/resource-definitions/{name}/volume-definitions/0", {"size_kib": mib << 10})

    def definitions(self) -> dict[str, Definition]:
        """Return all definitions as a snapshot has them."""
        with self.cluster.lock:
            return {item.name: self._definition(item) for item in self.cluster.sorted_definitions()}

    def _definition(self, item: Any) -> Definition:
        resources = [r for r in item.resources.values() if "TIE_BREAKER" not in r.flags]
        return Definition(
            item.volumes[0].size if 0 in item.volumes else 0,
            {key: value for key, value in item.props.items() if key.startswith("Aux/")},
            frozenset(r.node for r in resources if not r.diskless),
            frozenset(r.node for r in resources if r.diskless),
            frozenset(snapshot.name for snapshot in item.snapshots.values()),
            frozenset(item.flags),
            frozenset(self._dual(item)),
            frozenset(r.node for r in item.resources.values() if "TIE_BREAKER" in r.flags),
        )

    def _dual(self, item: Any) -> Iterator[str]:
        """Yield the pairs of nodes that may both be primary, by LINSTOR's properties or in DRBD itself."""
        inherited = self.cluster.effective(item, TWO_PRIMARIES)
        for first, second in itertools.combinations(sorted(item.resources), 2):
            value = item.pairs.get((first, second), {}).get(TWO_PRIMARIES, inherited)
            one, other = item.resources[first], item.resources[second]
            if (value or "no") in ("yes", "true") or second in one.two_primaries or first in other.two_primaries:
                yield f"{one.node} {other.node}"

    def snapshot_missing(self, name: str, snapshot: str) -> str:
        """Return what keeps a snapshot from being one of every replica, "" when nothing does."""
        definition = self.cluster.definition(name)
        found = definition.snapshots.get(snapshot.upper()) if definition else None
        if definition is None or found is None:
            return "does not exist"
        lacking = [r.node for key, r in definition.resources.items() if not r.diskless and key not in found.taken]
        if lacking:
            return f"was not taken on {lacking}"
        return "" if "SUCCESSFUL" in found.flags else f"has the flags {found.flags}"

    def stack_trouble(self, name: str) -> str:
        """Return what a new resource of a definition would have below it that its others have not, "" for nothing."""
        definition = self.cluster.definition(name)
        known = definition.layers or _DEFAULT_STACK if definition else []
        stacks = definition.stacks() if definition else []
        return "" if stacks in ([], [known]) else f"has the stacks {stacks}, a new resource gets {known}"

    def path(self, name: str) -> Path:
        """Return the file that holds the bytes all replicas share, with all that was written to devices in it."""
        definition = self.cluster.definition(name)
        assert definition is not None
        return self.volumes.settled(Content(definition.name, 0))

    def fingerprint(self, name: str) -> str:
        """Return the digest of a definition's bytes, "" when it does not exist."""
        return contents.fingerprint(self.path(name)) if self.cluster.definition(name) else ""

    def capacity_mib(self, datastore: Datastore) -> int:
        """Return what a datastore can hold at most: its pools' sum over the replicas of each volume."""
        wanted = set(_words(datastore, "STORAGE_POOL")) or {_DEFAULT_POOL}
        total = sum(pool.total for node in self.cluster.nodes.values() for pool in node.pools.values()
                    if pool.name in wanted)
        return total // replica_count(datastore) >> 10

    @contextlib.contextmanager
    def refusing(self, methods: str, path: str) -> Iterator[None]:
        """Answer every matching request with an error and do nothing, for the length of the block."""
        entry = {"ret_code": _ERROR_UNKNOWN, "message": "Refused: the recorded call failed"}
        always = 1 << 30
        self.controller.faults.add(Fault("refuse", method=methods, path=path, entries=[entry], times=always))
        try:
            yield
        finally:
            self.controller.faults.clear()


def replica_count(datastore: Datastore) -> int:
    """Return how many replicas a datastore's attributes ask for."""
    nodes = _words(datastore, "NODE_LIST")
    count = (_words(datastore, "REPLICA_COUNT") or _words(datastore, "AUTO_PLACE") or [""])[0]
    return len(nodes) if nodes else int(count) if count.isdigit() else PLACE_COUNT


def _words(datastore: Datastore, name: str) -> list[str]:
    return datastore.template.get(name, "").replace(",", " ").split()
