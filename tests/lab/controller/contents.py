"""Which bytes belong to a volume, and how they are held open."""

from __future__ import annotations

from .cluster import Cluster, Resource
from .volumes import Content, Opening


def content(owner: Resource, number: int) -> Content:
    """Name the bytes of a volume: replicas under DRBD share them."""
    return Content(owner.definition.name, number, "" if "DRBD" in owner.layers else owner.node)


def opened(cluster: Cluster, owner: Resource, number: int) -> Opening:
    """Tell how the device of a volume is held open on its node, by the lab or really."""
    lab = cluster.openers.get((owner.definition.name.upper(), owner.node.upper()))
    if lab:
        return Opening.WRITE if lab == "rw" else Opening.READ
    return cluster.volumes.opening(content(owner, number), owner.node)
