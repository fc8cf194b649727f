"""What happens to DRBD outside LINSTOR: devices opened and closed, machines that die, networks that are cut."""

from __future__ import annotations

from typing import Optional

from . import satellites
from .cluster import Cluster, Resource, at_once
from .drbd_kernel import has_quorum, linked, notice


def open_device(cluster: Cluster, name: str, node: str, mode: str) -> None:
    """Hold the device of a resource open on a node, "rw" or "ro", until `close_device`."""
    cluster.openers[name.upper(), node.upper()] = mode
    one = cluster.definition(name)
    if one is not None:
        notice(cluster, one)


def close_device(cluster: Cluster, name: str, node: str) -> None:
    cluster.openers.pop((name.upper(), node.upper()), None)


@at_once
def cut(cluster: Cluster, name: str) -> None:
    """Take the network of a node away: its satellite is offline, its DRBD peers lose it."""
    satellites.go_offline(cluster, name)
    node = cluster.nodes[name.upper()]
    node.linked = False
    for one in cluster.definitions.values():
        lost = one.resources.get(name.upper())
        if lost is None or lost.diskless:
            continue
        for other in one.resources.values():
            if other is not lost and name.upper() in other.peers and linked(cluster, other) \
                    and has_quorum(cluster, other):
                other.outdated.add(name.upper())


@at_once
def kill(cluster: Cluster, name: str) -> None:
    """Let a machine die: as `cut`, and whoever held a device open there is gone."""
    cut(cluster, name)
    for key in [key for key in cluster.openers if key[1] == name.upper()]:
        del cluster.openers[key]


@at_once
def join(cluster: Cluster, name: str) -> None:
    """Give the network of a node back.

    Where both sides wrote and the old writer still holds its device open, DRBD refuses to connect the replicas:
    the newer copy stays "Outdated" and StandAlone.
    """
    node = cluster.nodes[name.upper()]
    node.linked = True
    for one in cluster.definitions.values():
        lost = one.resources.get(name.upper())
        for other in one.resources.values():
            other.outdated.discard(name.upper())
            if lost is not None and name.upper() in one.diverged and other is not lost and not other.diskless:
                other.strayed.add(name.upper())
                for volume in other.volumes.values():
                    volume.state = "Outdated"
        one.diverged.discard(name.upper())
    satellites.come_back(cluster, name)


def lose(cluster: Cluster, name: str, first: str, second: str) -> None:
    """Let the connection of two nodes break by itself; it comes back when their satellites look at the resource."""
    one = cluster.definition(name)
    for node, other in ((first, second), (second, first)):
        if one is not None and node.upper() in one.resources:
            one.resources[node.upper()].broken.add(other.upper())


def reconnect(cluster: Cluster, name: str, node: str) -> None:
    """Disconnect and connect a resource on a node by hand: an attach that waits for its peers goes on."""
    one = cluster.definition(name)
    owner: Optional[Resource] = one.resources.get(node.upper()) if one else None
    if one is None or owner is None:
        return
    for volume in owner.volumes.values():
        volume.state = "UpToDate"
    # Its peers count on the new disk, and a Primary is connected, only when their satellites look at it again.
    owner.late = {other.node.upper() for other in one.resources.values() if other is not owner}
