"""A volume's replicas brought to other pools: what is up to date, one that goes, the group they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import placement
from ..errors import Failed, NotFound, Refused
from .controller_connections import Connections
from .controller_session import Seen, path


class Moves(Connections):
    """The part of `world.Controller` that moves replicas."""

    def up_to_date(self, name: str) -> frozenset[str]:
        """See `world.Controller.up_to_date`. A state that nobody reported is none: sync-status takes it for good."""
        doing = f"look whether the replicas of {name} are up to date"
        document = self._read(doing, path("view", "resources", query={"resources": name}), list)
        states = self._parse(doing, _state, document)
        return frozenset(node for node, state in states if state == "UpToDate")

    def remove_replica(self, name: str, node: str, keep: int) -> None:
        """See `world.Controller.remove_replica`.

        Nothing at LINSTOR protects the others: it deletes the second of two replicas, also of a volume in use. It
        makes the node its tiebreaker where it needs one, unasked; asked for that, it would switch tiebreakers on
        where an administrator has switched them off.
        """
        doing = f"remove the replica of {name} on {node}"
        replicas = self.replicas(name)
        # All nodes of the volume look at it again then, and connect: the older data might win.
        placement.require_together(name, replicas)
        there = [item for item in replicas if item.diskful and item.usable]
        if node not in {item.node for item in there}:
            raise NotFound(f"cannot {doing}: it has none there that is online")
        others = self.up_to_date(name) & {item.node for item in there if item.node != node}
        if len(others) < max(keep, 1):
            raise Refused(f"cannot {doing}: only {len(others)} others are up to date, and {keep} have to stay")

        def look() -> Seen:
            return Seen.NOTHING if node in {item.node for item in self.replicas(name) if item.diskful} else Seen.DONE

        self._change(doing, "DELETE", path("resource-definitions", name, "resources", node), None, look, proof=True)
        if look() is not Seen.DONE:
            raise Failed(f"cannot {doing}: LINSTOR says that it did, and it is still there")

    def regroup(self, name: str, group: str) -> None:
        """See `world.Controller.regroup`."""

        def look() -> Seen:
            found = self.definitions([name]).get(name)
            return Seen.DONE if found and found.group.lower() == group.lower() else Seen.NOTHING

        doing = f"put {name} into resource group {group}"
        self._change(doing, "PUT", path("resource-definitions", name), {"resource_group": group}, look, proof=True)


def _state(item: Mapping[str, Any]) -> tuple[str, str]:
    """Return a resource's node, and the state of its volume 0 as DRBD has it."""
    for volume in item.get("volumes") or ():
        if volume.get("volume_number", 0) == 0:
            return item["node_name"], (volume.get("state") or {}).get("disk_state", "")
    return item["node_name"], ""
