"""Replicas and attachments: where a definition has its data, and where its device is available."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional

from .. import placement
from ..errors import Failed, NotFound, Unsupported
from ..inventory import DRBD, LUKS, Replica
from ..placement import layer_stack
from ..settings import Settings
from . import controller_answers as answers
from .controller_bodies import lower, placement_filter
from .controller_definitions import Definitions, placed_on
from .controller_session import Seen, path

DEFAULT_DISKLESS_POOL = "DfltDisklessStorPool"


class Replicas(Definitions):
    """The part of `world.Controller` that changes resources."""

    def place(
        self, name: str, settings: Settings, *, nodes: Sequence[str] = (), count: Optional[int] = None
    ) -> dict[str, str]:
        """See `world.Controller.place`. LINSTOR counts what is placed already; enough is success (1006)."""
        select = placement_filter(settings, nodes=nodes, count=count)
        wanted = select.get("place_count")
        where = f" of {', '.join(settings.storage_pools)}" if settings.storage_pools else ""
        doing = f"place {name} on {wanted or 'its'} nodes{where}"
        body: dict[str, Any] = {"select_filter": select}
        layers = self._stack(settings)
        if layers:
            body["layer_list"] = lower(layers)

        def look() -> Seen:
            found = self.definitions([name]).get(name)
            if not found:
                return Seen.NOTHING
            return self._deployed(name, wanted or self.group(found.group).replicas)

        with self._telling_room(settings):
            found = self._change(doing, "POST", path("resource-definitions", name, "autoplace"), body, look)
        if found is None:
            return {item.node: "" for item in self.replicas(name) if item.diskful}
        return placed_on(found)

    def add_replicas(self, name: str, nodes: Sequence[str], settings: Settings) -> None:
        """See `world.Controller.add_replicas`.

        LINSTOR creates nothing at all, and says 201, when one node of the list has a replica already: then the
        others are asked for alone. A node that is offline gets its replica registered, not made: Failed.
        """
        doing = f"place {name} on {', '.join(nodes)}"
        pools = self._pool_by_node(nodes, settings)
        layers = lower(layer_stack(settings))
        missing = list(nodes)
        for _ in range(2):
            body = [_resource(node, pools.get(node), layers) for node in missing]
            address = path("resource-definitions", name, "resources")
            found = self._change(doing, "POST", address, body, lambda: self._has(name, nodes))
            codes = {entry.code for entry in found or ()}
            if not codes & {answers.ALREADY_EXISTS, answers.NOT_CONNECTED}:
                return
            there = {item.node for item in self.replicas(name) if item.diskful and item.usable and item.device}
            missing = [node for node in nodes if node not in there]
            if not missing:
                return
            if answers.NOT_CONNECTED in codes:
                break
        raise Failed(f"cannot {doing}: {', '.join(missing)} got no replica; check that its LINSTOR satellite is online")

    def _has(self, name: str, nodes: Sequence[str]) -> Seen:
        there = [item for item in self.replicas(name) if item.diskful and item.node in nodes]
        ready = [item for item in there if item.usable and item.device]
        if len(ready) == len(set(nodes)):
            return Seen.DONE
        # One transaction registers all of them.
        return Seen.NOTHING if len(ready) == len(there) else Seen.PARTLY

    def _pool_by_node(self, nodes: Sequence[str], settings: Settings) -> dict[str, str]:
        """The pool to name for each node: of those that the settings name the first that it has.

        Where neither STORAGE_POOL nor the group names any, all of PROVIDERS' kinds count, as for the autoplacer.
        """
        names, kinds = settings.storage_pools, {kind.upper() for kind in settings.providers}
        if len(names) == 1 and not kinds:
            return dict.fromkeys(nodes, names[0])
        asked = {node.lower() for node in nodes}
        pools = [pool for pool in self.pools(names) if pool.node.lower() in asked]
        pools = [pool for pool in pools if not kinds or pool.provider in kinds]
        there = {(pool.node.lower(), pool.name.lower()): pool.name for pool in pools}
        order = [name.lower() for name in names] or placement.like_each_other(pools)
        chosen = {node: [name for name in order if (node.lower(), name) in there] for node in nodes}
        for node, found in chosen.items():
            if not found:
                wanted = " ".join([*sorted(kinds), *names]) or "any kind"
                raise NotFound(f"node {node} has no storage pool of {wanted}; check STORAGE_POOL and PROVIDERS")
        return {node: there[node.lower(), found[0]] for node, found in chosen.items()}

    def attach(self, name: str, node: str, settings: Settings, layers: Sequence[str]) -> None:
        """See `world.Controller.attach`.

        Without DRBD LINSTOR would make an independent, empty device on a node without replica: Unsupported.
        The definition must have a replica somewhere, otherwise LINSTOR makes the first one here.
        """
        doing = f"attach {name} on {node}"
        stack = tuple(layer.upper() for layer in layers)
        if DRBD not in stack or LUKS in stack:
            there = self.replicas(name)
            stack = stack or next((item.layers for item in there if item.diskful), ())
            if DRBD not in stack:
                _require_replica(doing, there, node)
                return
            # A diskless resource of an encrypted volume has no LUKS layer, and LINSTOR refuses another stack than its.
            here = _on(there, node)
            stack = here.layers if here else stack
        if settings.diskless_pool not in ("", DEFAULT_DISKLESS_POOL):
            self._attach_in_pool(doing, name, node, settings.diskless_pool, stack)
            return
        body: dict[str, Any] = {"diskful": False}
        if self._understands("attach_layers"):
            body["layer_list"] = lower(stack)
        address = path("resource-definitions", name, "resources", node, "make-available")
        self._attach(doing, name, node, address, body)

    def _attach_in_pool(self, doing: str, name: str, node: str, pool: str, stack: Sequence[str]) -> None:
        """make-available takes no pool, so a diskless resource is created there."""
        resource = {"node_name": node, "flags": ["DRBD_DISKLESS"], "props": {"StorPoolName": pool}}
        body = [{"resource": resource, "layer_list": lower(stack)}]
        self._attach(doing, name, node, path("resource-definitions", name, "resources"), body)

    def _attach(self, doing: str, name: str, node: str, address: str, body: Any) -> None:
        # A tiebreaker has a device as well, and LINSTOR takes it away when it needs none any more.
        look = self._looks_for(name, node, lambda one: bool(one and one.usable and one.device and not one.tiebreaker))
        found = self._change(doing, "POST", address, body, look, proof=True)
        # "already deployed" is said without asking the node, also while it is offline; so is a warning 1002.
        unsure = {answers.ALREADY_DEPLOYED, answers.ALREADY_EXISTS, answers.NOT_CONNECTED}
        if found is not None and unsure & {entry.code for entry in found} and look() is not Seen.DONE:
            raise Failed(f"cannot {doing}: LINSTOR has no connection to {node}; check its satellite")

    def _looks_for(self, name: str, node: str, good: Callable[[Optional[Replica]], bool]) -> Callable[[], Seen]:
        """Return a look at one node's resource: DONE when `good`, NOTHING otherwise."""

        def look() -> Seen:
            try:
                there = self.replicas(name)
            except NotFound:
                there = []
            return Seen.DONE if good(_on(there, node)) else Seen.NOTHING

        return look

    def release(self, name: str, node: str) -> None:
        """See `world.Controller.release`; two requests, one where nothing is to be done.

        A replica with data is never deleted here. A tiebreaker stays, because deleting it without
        keep_tiebreaker (REST 1.23) switches quorum off for good.
        Raises Failed when the node is offline or a reader keeps the device open: the resource is then half gone.
        """
        doing = f"release {name} on {node}"
        try:
            replicas = self.replicas(name)
        except NotFound:
            return
        # All nodes of the volume look at it again then, and connect: the older data might win.
        placement.require_together(name, replicas)
        there = _on(replicas, node)
        if there is None or there.tiebreaker or not there.diskless:
            return
        query = {"keep_tiebreaker": "True"} if self._understands("keep_tiebreaker") else None
        address = path("resource-definitions", name, "resources", node, query=query)
        gone = self._looks_for(name, node, lambda item: item is None or (item.tiebreaker and not item.deleting))
        found = self._change(doing, "DELETE", address, None, gone, proof=True)
        if found is not None and answers.NOT_CONNECTED in {entry.code for entry in found} and gone() is not Seen.DONE:
            raise Failed(f"cannot {doing}: it goes when {node} is connected to LINSTOR again")


def _on(replicas: Sequence[Replica], node: str) -> Optional[Replica]:
    return next((item for item in replicas if item.node.lower() == node.lower()), None)


def _require_replica(doing: str, there: Sequence[Replica], node: str) -> None:
    """On a stack without DRBD a device is where a replica is, and nowhere else."""
    found = _on(there, node)
    if found is None or not found.diskful:
        holders = ", ".join(item.node for item in there if item.diskful) or "no node"
        raise Unsupported(f"cannot {doing}: without the DRBD layer it is only on {holders}; place a replica there")
    if not found.usable:
        raise Failed(f"cannot {doing}: LINSTOR has no connection to {node}; check its satellite")


def _resource(node: str, pool: Optional[str], layers: Sequence[str]) -> dict[str, Any]:
    resource: dict[str, Any] = {"node_name": node}
    if pool:
        resource["props"] = {"StorPoolName": pool}
    return {"resource": resource, "layer_list": list(layers)} if layers else {"resource": resource}
