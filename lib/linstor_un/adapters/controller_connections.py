"""The connection of two nodes that have the same volume: whether both may write to it at the same time."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ..errors import Failed, NotFound
from .controller_replicas import Replicas
from .controller_session import Seen, path

TWO_PRIMARIES = "DrbdOptions/Net/allow-two-primaries"


class Connections(Replicas):
    """The part of `world.Controller` that changes connections."""

    def allow_two_primaries(self, name: str, one: str, other: str) -> None:
        """See `world.Controller.allow_two_primaries`; DRBD follows before LINSTOR answers."""

        def look() -> Seen:
            return Seen.DONE if self._connection(name, one, other).get(TWO_PRIMARIES) == "yes" else Seen.NOTHING

        doing = f"let {one} and {other} write to {name} at once"
        self._change(doing, "PUT", _address(name, one, other), {"override_props": {TWO_PRIMARIES: "yes"}}, look)

    def forbid_two_primaries(self, name: str, one: str, other: str) -> None:
        """See `world.Controller.forbid_two_primaries`.

        LINSTOR forgets the property before it asks the nodes, and asks none when it is sent again.
        """

        def look() -> Seen:
            return Seen.NOTHING if TWO_PRIMARIES in self._connection(name, one, other) else Seen.DONE

        doing = f"let only one of {one} and {other} write to {name}"
        try:
            self._change(doing, "PUT", _address(name, one, other), {"delete_props": [TWO_PRIMARIES]}, look)
        except NotFound:
            return
        except Failed:
            # LINSTOR from 1.31 on calls it a bug of its own when one of the two has the volume no more.
            if {one.lower(), other.lower()} <= self._nodes_of(name):
                raise

    def _nodes_of(self, name: str) -> set[str]:
        try:
            return {item.node.lower() for item in self.replicas(name)}
        except NotFound:
            return set()

    def _connection(self, name: str, one: str, other: str) -> dict[str, Any]:
        """Return the properties of a connection, none of one that is not there.

        LINSTOR up to 1.29.1 finds it in one order of its nodes only.
        """
        for nodes in ((one, other), (other, one)):
            with suppress(NotFound):
                found = self._read(f"look up the connections of {name}", _address(name, *nodes), dict)
                props = found.get("props")
                return props if isinstance(props, dict) else {}
        return {}


def _address(name: str, one: str, other: str) -> str:
    return path("resource-definitions", name, "resource-connections", one, other)
