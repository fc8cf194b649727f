"""Where the rest of the controller meets DRBD and LUKS: what these layers do at each step of a request."""

from __future__ import annotations

from typing import Any, Optional

from . import (
    drbd_documents,
    drbd_kernel,
    drbd_sizes,
    progress,
    satellites,
)
from .answers import (
    DELETED,
    MODIFIED,
    RESOURCE,
    Answer,
)
from .cluster import Cluster, Definition, Resource, Volume, VolumeDefinition
from .drbd_documents import definition_data
from .volumes import Opening

__all__ = ["definition_data"]


# --- documents ------------------------------------------------------------------------------------------------


def volume_definition_data(cluster: Cluster, one: VolumeDefinition) -> dict[str, Any]:
    return drbd_documents.volume_definition_data(cluster, one)


def state(cluster: Cluster, one: Resource) -> dict[str, Any]:
    return {"in_use": in_use(cluster, one)}


def in_use(cluster: Cluster, one: Resource) -> bool:
    """Tell whether the controller knows that somebody holds the device open for writing."""
    drbd_kernel.notice(cluster, one.definition)
    return cluster.online(one.node) and drbd_kernel.primary(cluster, one)


def resource_data(cluster: Cluster, one: Resource) -> dict[str, Any]:
    progress.pass_by(cluster)
    return drbd_documents.resource(cluster, one)


def volume_data(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    return drbd_documents.volume(cluster, owner, one)


def volume_state(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    return drbd_documents.volume_state(cluster, owner, one)


def volume_props(owner: Resource, one: Volume) -> dict[str, str]:
    """Return the properties LINSTOR keeps of a deployed volume; none without DRBD."""
    return drbd_documents.symlinks(owner, one) if "DRBD" in owner.layers else {}


def device_path(owner: Resource, one: Volume) -> str:
    return drbd_documents.device_path(owner, one)


def crypt_data(one: Resource) -> dict[str, Any]:
    return drbd_documents.crypt(one)


def crypt_volume(owner: Resource, one: Volume) -> dict[str, Any]:
    return drbd_documents.crypt_volume(owner, one)


def flags(one: Resource) -> list[str]:
    """Return the flags as shown: TIE_BREAKER stands for three bits, so it is hidden while there is a disk."""
    return [flag for flag in one.flags if flag != "TIE_BREAKER" or one.diskless]


def connections(one: Definition) -> list[dict[str, Any]]:
    """Return the resource connections: every pair of nodes, with properties where there are any."""
    nodes = [one.resources[key].node for key in sorted(one.resources)]
    pairs = [(first, second) for place, first in enumerate(nodes) for second in nodes[place + 1:]]
    found = []
    for first, second in pairs:
        props = one.pairs.get((first.upper(), second.upper()))
        found.append({"node_a": first, "node_b": second, **({"props": props} if props else {})})
    return found


# --- what satellites do ---------------------------------------------------------------------------------------


def adjusted(cluster: Cluster, answer: Optional[Answer], owner: Resource) -> None:
    """Do what DRBD does whenever a satellite looks at a resource: peers and options become as configured.

    Raises Failed while two nodes are Primary and that is no longer allowed.
    """
    if "DRBD" not in owner.layers:
        return
    one = owner.definition
    text = f"({owner.node}) Resource '{one.name}' [DRBD]"
    if one.resizing:
        if answer is not None:
            answer.add(RESOURCE, f"{text} not adjusted ")
        return
    present = {node for node, other in one.resources.items() if other is not owner and "DELETE" not in other.flags
               and (other.known or "DRBD_DELETE" not in other.flags)}
    allowed = {node for node in present if _two_primaries(cluster, one, owner.node.upper(), node)}
    if drbd_kernel.primary(cluster, owner) and any(
            drbd_kernel.primary(cluster, other) for other in drbd_kernel.connected(cluster, owner)
            if other.node.upper() not in allowed):
        raise satellites.Failed(f"Failed to adjust DRBD resource {one.name}")
    owner.peers, owner.two_primaries = present, allowed
    owner.late.clear()
    owner.broken.clear()
    for other in one.resources.values():
        other.late.discard(owner.node.upper())
        other.broken.discard(owner.node.upper())
    if answer is not None:
        answer.add(RESOURCE | MODIFIED, f"{text} adjusted.")


def _two_primaries(cluster: Cluster, one: Definition, first: str, second: str) -> bool:
    pair = one.pairs.get((min(first, second), max(first, second)), {})
    value = pair.get(drbd_kernel.TWO_PRIMARIES, cluster.effective(one, drbd_kernel.TWO_PRIMARIES))
    return (value or "no") in ("yes", "true")


def shut_down(cluster: Cluster, answer: Optional[Answer], owner: Resource) -> None:
    """Take the DRBD resource down on its node before its volumes go.

    A device that is open cannot be. With readers only it loses connections first (without a disk just one of them).
    Raises Failed.
    """
    if "DRBD" not in owner.layers or not owner.known:
        return
    name = owner.definition.name
    held = drbd_kernel.opening(cluster, owner)
    if held is Opening.READ:
        others = [other for other in owner.definition.resources.values() if other.node.upper() in owner.peers]
        if owner.diskless and others:
            owner.peers.discard(min(others, key=lambda other: other.node_id).node.upper())
        else:
            owner.peers.clear()
    if held is not Opening.NO:
        raise satellites.Failed(f"Shutdown of the DRBD resource '{name} failed")
    owner.known = False
    if answer is not None:
        answer.add(RESOURCE | DELETED, f"({owner.node}) Resource '{name}' [DRBD] deleted.")


def device_size(owner: Resource, kind: str, size: int) -> int:
    """Return the KiB a DRBD device of `size` net KiB has on a provider."""
    return drbd_sizes.device(owner.layers, kind, size, drbd_documents.slots(owner.definition))


def storage_size(owner: Resource, size: int) -> int:
    """Return the KiB the storage below DRBD and LUKS is asked for."""
    return drbd_sizes.on_storage(owner.layers, size, drbd_documents.slots(owner.definition))


def head_size(owner: Resource) -> int:
    """Return the KiB at the start of the storage that the data does not have: LUKS's header."""
    return drbd_sizes.LUKS_HEADER if "LUKS" in owner.layers else 0


def tail_size(owner: Resource, kind: str, size: int) -> int:
    """Return the KiB at the end of the storage that DRBD keeps for its metadata."""
    slots = drbd_documents.slots(owner.definition)
    disk = drbd_sizes.below_drbd(owner.layers, kind, size, slots)
    return drbd_sizes.metadata(disk, slots) if "DRBD" in owner.layers else 0


def backing_path(cluster: Cluster, owner: Resource, volume: Volume) -> Optional[str]:
    """Return the path of the storage below DRBD and LUKS; a diskless has none."""
    if owner.diskless:
        return None
    pool = cluster.pool(owner.node, volume.pool)
    where = pool.props.get("StorDriver/StorPoolName", pool.name).split("/")[0] if pool else volume.pool
    return f"/dev/{where}/{drbd_documents.storage_name(owner, volume)}"


def layered(one: Definition) -> bool:
    return any("DRBD" in owner.layers for owner in one.resources.values())
