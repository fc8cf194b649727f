"""What somebody does who does not know the hazards: plain requests to the simulated controller."""

from __future__ import annotations

import json
from typing import Any

from lab.controller import router
from lab.controller.cluster import Cluster


def naive(cluster: Cluster, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Send a request that is not the driver's; returns status and document. It is not logged and meets no fault."""
    raw = None if body is None else json.dumps(body).encode()
    response = router.respond(cluster, method, f"/v1/{path}", {}, raw)
    return response.status, json.loads(response.body) if response.body else None


def diskful(cluster: Cluster, name: str) -> set[str]:
    """Return the nodes that have a replica with data."""
    definition = cluster.definition(name)
    return {one.node for one in definition.resources.values() if not one.diskless} if definition else set()


def flags(cluster: Cluster, name: str, node: str) -> list[str]:
    """Return the flags of a resource, those of DRBD included."""
    definition = cluster.definition(name)
    assert definition
    one = definition.resources[node.upper()]
    return [*one.flags, *one.drbd_flags]
