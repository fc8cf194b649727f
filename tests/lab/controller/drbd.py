"""What the DRBD and LUKS layers add to the model: documents, in_use, tiebreaker, quorum."""

from __future__ import annotations

from typing import Any, Optional

from .answers import ERROR, Refused
from .cluster import Cluster, Definition, Resource, Volume, VolumeDefinition

QUORUM = "DrbdOptions/Resource/quorum"


def definition_data(cluster: Cluster, peer_slots: int) -> dict[str, Any]:
    """Return the layer data of a definition under DRBD; the port is the resource's own since REST 1.26."""
    return {
        "peer_slots": peer_slots, "al_stripes": 1, "al_stripe_size_kib": 32,
        "port": -1 if cluster.version.has("tcp_ports_per_resource") else 7000 + len(cluster.definitions),
        "transport_type": "IP", "secret": "secret", "down": False,
    }


def volume_definition_data(cluster: Cluster, owner: Definition, one: VolumeDefinition) -> dict[str, Any]:
    """Return the layer data of a volume definition under DRBD: its minor."""
    return {"volume_number": one.number, "minor_number": 1000 + len(cluster.definitions)}


def state(cluster: Cluster, one: Resource) -> dict[str, Any]:
    return {"in_use": in_use(cluster, one)}


def in_use(cluster: Cluster, one: Resource) -> bool:
    """Tell whether DRBD has the resource Primary: somebody holds the device open for writing."""
    return cluster.openers.get((one.definition.name.upper(), one.node.upper())) == "rw"


def resource_data(cluster: Cluster, one: Resource) -> dict[str, Any]:
    return {}


def volume_data(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    return {}


def volume_state(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    return {"disk_state": one.state}


def device_path(cluster: Cluster, owner: Resource, one: Volume) -> str:
    minor = owner.definition.volumes[one.number].drbd
    return f"/dev/drbd{minor['minor_number']}" if minor else ""


def crypt_data(cluster: Cluster, one: Resource) -> dict[str, Any]:
    return {}


def crypt_volume(cluster: Cluster, owner: Resource, one: Volume) -> dict[str, Any]:
    return {}


def adjusted(cluster: Cluster, answer: Any, owner: Resource) -> None:
    """Do what DRBD does whenever a satellite looks at a resource."""


def shut_down(cluster: Cluster, answer: Any, owner: Resource) -> None:
    """Take the DRBD resource down on its node before its volumes go."""


def device_size(cluster: Cluster, owner: Resource, kind: str, size: int) -> int:
    """Return the KiB a DRBD device of `size` net KiB has on a provider."""
    return size


def backing_path(cluster: Cluster, owner: Resource, volume: Volume) -> str:
    """Return the path of the disk below DRBD."""
    return f"/dev/{volume.pool}/{owner.definition.name}_{volume.number:05d}"


def properties_changed(cluster: Cluster, answer: Any, one: Definition, override: dict[str, str],
                       delete: list[str]) -> None:
    """React to properties that mean something to DRBD (quorum, tiebreaker) when a definition is changed."""
    if QUORUM in override:
        one.props["Internal/Drbd/QuorumSetBy"] = "user"
    if QUORUM in delete:
        one.props.pop("Internal/Drbd/QuorumSetBy", None)


def manage(cluster: Cluster, answer: Any, one: Definition) -> None:
    """Bring tiebreaker and quorum to what the replicas ask for; called after every change of the resources."""
    if cluster.version.has("quorum_always_set") and one.resources:
        one.props.setdefault(QUORUM, "off")


def refuse_in_use(cluster: Cluster, one: Definition, text: str) -> None:
    """Refuse with 997 when any resource under DRBD is in use; `text` takes the node's name."""
    for owner in one.resources.values():
        if "DRBD" in owner.layers and in_use(cluster, owner):
            raise Refused(ERROR | 997, text.format(owner.node))


def removal_phases(one: Definition) -> list[list[str]]:
    """Return the nodes to clean in each round: under DRBD those without a disk first."""
    diskless = [owner.node for owner in one.resources.values() if owner.diskless]
    diskful = [owner.node for owner in one.resources.values() if not owner.diskless]
    return [nodes for nodes in (diskless, diskful) if nodes]


def synced(cluster: Cluster, one: Definition) -> bool:
    """Tell whether every replica whose state is known is UpToDate; no state counts as synced."""
    return all(volume.state == "UpToDate" for owner in one.resources.values() if not owner.diskless and owner.known
               for volume in owner.volumes.values())


def refuse_resize(cluster: Cluster, owner: Definition, one: VolumeDefinition, size: int) -> None:
    """Refuse what DRBD or a thick pool cannot do with a new net size in KiB."""
    if "DRBD" in owner.layers and size < one.size and cluster.version.has("shrink_refused_with_drbd"):
        raise Refused(ERROR | 206, "Shrinking volumes is not supported by layer 'DRBD'. Volumes can only grow in size.")


def number_resource(cluster: Cluster, made: Resource) -> None:
    """Give a new resource under DRBD its node id and ports."""
    taken = {other.node_id for other in made.definition.resources.values() if other is not made}
    made.node_id = next(number for number in range(32) if number not in taken)


def add_again(cluster: Cluster, answer: Any, present: Resource, props: dict[str, str],
              flags: list[str]) -> Optional[Resource]:
    """Create a resource where a diskless one is: the tiebreaker becomes a plain one, or it gets a disk."""
    return None


def takes_over(cluster: Cluster, answer: Any, owner: Resource, keep_tiebreaker: bool) -> bool:
    """Refuse a resource delete under DRBD, or turn the victim into the tiebreaker and return True."""
    return False


def connections(cluster: Cluster, one: Definition) -> list[dict[str, Any]]:
    """Return the resource connections: every pair of nodes."""
    nodes = [one.resources[key].node for key in sorted(one.resources)]
    return [{"node_a": first, "node_b": second} for place, first in enumerate(nodes) for second in nodes[place + 1:]]


def change_connection(cluster: Cluster, answer: Any, one: Definition, nodes: tuple[str, str],
                      body: dict[str, Any]) -> None:
    """Change the properties of the connection of two nodes."""


def fill_with_diskless(cluster: Cluster, answer: Any, one: Definition, layers: list[str]) -> list[Optional[Resource]]:
    """Put a diskless resource on every node that has none; 225 on a stack that cannot."""
    if "DRBD" not in (layers or one.layers):
        raise Refused(ERROR | 225, "The given storage pool is a diskless storage pool, but no layer from the given "
                      "layer-list supports diskless storage pools", report=True)
    return []


def is_gone(present: Resource) -> bool:
    """Tell whether a resource that is still listed exists no more for whoever wants it."""
    return False


def provide_diskless(cluster: Cluster, answer: Any, one: Definition, place: Any, stack: list[str],
                     diskful: bool) -> bool:
    """Make a diskless resource where a peer has a disk and none is asked for here; False to go on with a replica."""
    return False


def drop_tiebreaker_flag(present: Resource) -> None:
    """Let a tiebreaker count as a diskless resource that is wanted."""
    present.flags = [flag for flag in present.flags if flag != "TIE_BREAKER"]


def add_disk(cluster: Cluster, answer: Any, owner: Resource, pool: Optional[str], source: Optional[str] = None) -> None:
    """Give a diskless resource a disk; with `source`, that node's disk goes once the new one is in sync."""


def remove_disk(cluster: Cluster, answer: Any, owner: Resource) -> None:
    """Make a replica diskless; 991 for the last disk that is online."""


def refuse_snapshot(cluster: Cluster, owner: Definition, holders: list[Resource]) -> None:
    """Refuse with 979 a snapshot of a replica that is not UpToDate."""


def refuse_clone(cluster: Cluster, source: Definition) -> None:
    """Refuse with 974 to clone a definition that has a replica which is not UpToDate."""


def announce_clone(cluster: Cluster, answer: Any, source: Definition, made: Definition) -> None:
    """Say what a successful clone did."""
    made.props["cloned-from"] = source.name
