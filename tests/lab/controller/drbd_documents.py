"""What LINSTOR shows of the DRBD and LUKS layers of a resource."""

from __future__ import annotations

from typing import Any

from . import drbd_kernel, drbd_sizes, satellites
from .cluster import Cluster, Definition, Resource, Volume, VolumeDefinition

AL_STRIPE_KIB = 32
FIRST_PORT, FIRST_MINOR = 7000, 1000


def definition_data(cluster: Cluster, peer_slots: int) -> dict[str, Any]:
    """Return the layer data of a definition under DRBD; the port is the resource's own since LINSTOR 1.31.2."""
    return {
        "peer_slots": peer_slots, "al_stripes": 1, "al_stripe_size_kib": AL_STRIPE_KIB,
        "port": -1 if cluster.version.has("tcp_ports_per_resource") else _free(cluster, "port", FIRST_PORT),
        "transport_type": "IP", "secret": "secret", "down": False,
    }


def _free(cluster: Cluster, key: str, first: int) -> int:
    taken = {data.get(key) for one in cluster.definitions.values()
             for data in (one.drbd, *(volume.drbd for volume in one.volumes.values())) if data}
    return next(number for number in range(first, first + len(taken) + 1) if number not in taken)


def volume_definition_data(cluster: Cluster, one: VolumeDefinition) -> dict[str, Any]:
    """Return the layer data of a volume definition under DRBD: its minor, the same on all nodes for its whole life."""
    return {"volume_number": one.number, "minor_number": _free(cluster, "minor_number", FIRST_MINOR)}


def slots(one: Definition) -> int:
    return int(one.drbd["peer_slots"]) if one.drbd else 7


def resource(cluster: Cluster, owner: Resource) -> dict[str, Any]:
    """Return the DRBD layer of a resource; what satellites report is left out while they are away."""
    one = owner.definition
    data = one.drbd or {}
    document: dict[str, Any] = {
        "drbd_resource_definition": data,
        "node_id": owner.node_id,
        "peer_slots": slots(one),
        "al_stripes": 1,
        "al_size": AL_STRIPE_KIB,
    }
    if cluster.version.has("tcp_ports_per_resource"):
        document["tcp_ports"] = owner.ports
    if owner.drbd_flags:
        document["flags"] = list(owner.drbd_flags)
    if owner.volumes:
        document["drbd_volumes"] = [volume(cluster, owner, owner.volumes[number]) for number in sorted(owner.volumes)]
    if not (owner.known and cluster.online(owner.node)):
        return document
    links = {one.resources[peer].node if peer in one.resources else peer.lower():
             drbd_kernel.connection(cluster, owner, peer) for peer in sorted(owner.peers)}
    if links:
        document["connections"] = {node: {"connected": state == "Connected", "message": state}
                                   for node, state in links.items()}
    document["promotion_score"] = drbd_kernel.score(cluster, owner)
    document["may_promote"] = drbd_kernel.may_promote(cluster, owner)
    return document


def volume(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    """Return the DRBD data of a volume. A diskless one knows only what the definition says."""
    definition = owner.definition.volumes[one.number]
    document: dict[str, Any] = {"drbd_volume_definition": definition.drbd, "device_path": device_path(owner, one)}
    if owner.diskless:
        document.update(allocated_size_kib=-1, usable_size_kib=definition.size)
        return document
    kind, size = satellites.kind_of(cluster, owner, one), one.size or definition.size
    document["backing_device"] = crypt_path(owner, one) if "LUKS" in owner.layers else one.device
    document["allocated_size_kib"] = drbd_sizes.with_metadata(size, slots(owner.definition))
    document["usable_size_kib"] = drbd_sizes.device(owner.layers, kind, size, slots(owner.definition))
    return document


def device_path(owner: Resource, one: Volume) -> str:
    """Return the path of the DRBD device, "" before the volume definition has a minor."""
    data = owner.definition.volumes[one.number].drbd
    return f"/dev/drbd{data['minor_number']}" if data else ""


def storage_name(owner: Resource, one: Volume) -> str:
    return f"{owner.definition.name}_{one.number:05d}"


def crypt_path(owner: Resource, one: Volume) -> str:
    return f"/dev/mapper/Linstor-Crypt-{storage_name(owner, one)}"


def crypt(owner: Resource) -> dict[str, Any]:
    """Return the LUKS layer of a resource."""
    return {"luks_volumes": [crypt_volume(owner, owner.volumes[number]) for number in sorted(owner.volumes)]}


def crypt_volume(owner: Resource, one: Volume) -> dict[str, Any]:
    """Return the LUKS data of a volume: the storage below with its header, and what is left of it."""
    return {
        "volume_number": one.number, "device_path": crypt_path(owner, one), "backing_device": one.device,
        "allocated_size_kib": one.usable, "usable_size_kib": one.usable - drbd_sizes.LUKS_HEADER, "opened": True,
    }


def volume_state(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    """Return the disk state of a volume and, for each connected peer, how it is replicated."""
    document: dict[str, Any] = {"disk_state": one.state}
    states = {other.node: {"replication_state": "Established"} for other in drbd_kernel.connected(cluster, owner)}
    if states:
        document["replication_states"] = states
    return document


def symlinks(owner: Resource, one: Volume) -> dict[str, str]:
    """Return the properties with the links udev makes to a DRBD device: by the disk below, and by resource.

    A device that lost its disk has one link less, but LINSTOR keeps the last property.
    """
    by_resource = f"/dev/drbd/by-res/{owner.definition.name}/{one.number}"
    links = [by_resource]
    if not owner.diskless:
        below = crypt_path(owner, one) if "LUKS" in owner.layers else one.device or ""
        links.insert(0, "/dev/drbd/by-disk/" + below[len("/dev/"):])
    one.links = max(one.links, len(links))
    links += [by_resource] * (one.links - len(links))
    return {f"Satellite/Device/Symlinks/{place}": link for place, link in enumerate(links)}
