"""Pure choices: whose an existing definition is, and which host does the copying."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from itertools import combinations
from typing import Optional

from .errors import BadRequest, Exists, InUse, Refused, Unreachable
from .inventory import DRBD, LUKS, STORAGE, Definition, Group, Pool, Replica
from .naming import AUX, CLONED_FROM, DELETING, DISK_ID, IMAGE_ID, ORIGIN, RUN, STATE, VM_ID
from .settings import Settings
from .world import CloudHost

# What is restored there does without its snapshot.
_INDEPENDENT = {"LVM_THIN", "FILE_THIN"}
IDENTITY = (VM_ID, DISK_ID, IMAGE_ID, ORIGIN)


class Fate(Enum):
    """What to do with a name that is to be created."""

    CREATE = "create"
    KEEP = "keep"
    REPLACE = "replace"


def contradiction(definition: Definition, marks: Mapping[str, str]) -> str:
    """Return the mark that says the definition is somebody else's, as KEY=VALUE, or "" when none does.

    A mark that is absent contradicts nothing: the driver before this one marked images with nothing,
    and disks with VM_ID, DISK_ID and DS_ID only.
    """
    for key in IDENTITY:
        found = definition.props.get(key)
        if found is not None and key in marks and found != marks[key]:
            return f"{key[len(AUX) :]}={found}"
    return ""


def fate(
    definition: Optional[Definition], marks: Mapping[str, str], cloned: Optional[Definition] = None
) -> Fate:  # fmt: skip
    """Decide about a definition whose name an action wants to create with these marks.

    Complete and ours: a rerun, keep it. Half-made and ours: the leftover of a killed run, replace it.
    Raises Exists for anybody else's and InUse for one that LINSTOR is still deleting: it still accepts
    new resources then, and would delete them later.
    Arguments: cloned, what it may be an unmarked clone of.
    """
    if definition is None:
        return Fate.CREATE
    if definition.deleting:
        raise InUse(
            f"{definition.name} is still being deleted by LINSTOR; bring its offline nodes back, "
            f"or declare them lost with `linstor node lost`, and retry"
        )
    if half_made(definition):
        return Fate.REPLACE
    if unmarked_clone(definition, cloned):
        return Fate.REPLACE
    kinds = [key for key in (VM_ID, IMAGE_ID) if key in definition.props]
    other = contradiction(definition, marks)
    if not other and kinds and not any(key in marks for key in kinds):
        # A disk's name with an image's marks alone: it was copied from that image, by nobody knows whom.
        other = f"{kinds[0][len(AUX) :]}={definition.props[kinds[0]]}"
    if other or not kinds:
        reason = f"is marked {other}" if other else "carries no mark of this driver"
        raise Exists(f"{definition.name} exists already and {reason}; remove or rename it on LINSTOR, then retry")
    if definition.props.get(STATE) == DELETING or not definition.complete:
        return Fate.REPLACE
    return Fate.KEEP


def half_made(definition: Definition) -> bool:
    """Return whether a run of the driver made the definition and never called it complete: RUN goes with that.

    Its other marks say nothing: restoring a snapshot copies the source's over them.
    """
    return RUN in definition.props


def unmarked_clone(definition: Definition, source: Optional[Definition]) -> bool:
    """Return whether LINSTOR before 1.32 cloned the source to the definition, and nobody has marked it since.

    LINSTOR names the source in a property, and copies all others. A clone that the driver completed has a VM or an
    image in its marks that the source does not have, and what somebody made otherwise names another source or none.
    """
    if source is None or definition.props.get(CLONED_FROM, "").lower() != source.name.lower():
        return False
    return _marks(definition) == _marks(source)


def _marks(definition: Definition) -> dict[str, str]:
    return {key: value for key, value in definition.props.items() if key.startswith(AUX)}


def made_by(definition: Optional[Definition], run: str) -> bool:
    """Return whether exactly this run of the driver made the definition and has not completed it."""
    return definition is not None and definition.props.get(RUN) == run


def bridge_candidates(hosts: Sequence[CloudHost], allowed: Sequence[str]) -> list[CloudHost]:
    """Return the hosts that may copy: usable for oned, and in BRIDGE_LIST when that is set.

    Raises BadRequest when BRIDGE_LIST names no host of OpenNebula, Unreachable when all are off.
    """
    if allowed and not any(host.name in allowed for host in hosts):
        raise BadRequest(f"BRIDGE_LIST {' '.join(allowed)!r} names no host of OpenNebula; correct the datastore")
    usable = [host for host in hosts if host.usable and (not allowed or host.name in allowed)]
    if not usable:
        among = f"of BRIDGE_LIST {' '.join(allowed)!r} " if allowed else ""
        raise Unreachable(f"no host {among}is enabled and monitored in OpenNebula, so none can copy; enable one")
    return usable


def bridge(candidates: Sequence[CloudHost], holders: Sequence[Collection[str]], prefer: str = "") -> CloudHost:
    """Choose the host that copies.

    Arguments: candidates, not empty; holders, for each volume involved the nodes that hold a usable
    replica; prefer, a host to take among equals. A host that holds more of the volumes wins (nothing
    has to be attached and nothing crosses the network twice), then the preferred, then the least busy.
    """

    def rank(host: CloudHost) -> tuple[int, bool, float, str]:
        held = sum(host.name in nodes for nodes in holders)
        return (-held, host.name != prefer, host.load, host.name)

    return min(candidates, key=rank)


def holding(replicas: Sequence[Replica]) -> list[str]:
    """Return the nodes with a usable replica, in the order LINSTOR lists them."""
    return [replica.node for replica in replicas if replica.diskful and replica.usable]


def require_reachable(name: str, replicas: Sequence[Replica]) -> None:
    """Raise Refused for a volume without a usable replica: LINSTOR would make the first, empty one where it is to be
    attached."""
    if not holding(replicas):
        raise Refused(f"{name} has no replica on an online node, so no host can use it; bring one back")


def require_together(name: str, replicas: Sequence[Replica]) -> None:
    """Raise Refused for a volume whose replicas were written to on both sides of a partition.

    DRBD may call the newer one outdated, and whatever makes the nodes look at the volume again (an attachment, a
    property) connects them and lets the older data win: an administrator has to choose first.
    """
    nodes = [replica.node for replica in replicas if replica.apart]
    if nodes:
        raise Refused(
            f"the replicas of {name} have differing data, {', '.join(nodes)} is StandAlone from another; "
            f"choose which to keep (`drbdadm connect --discard-my-data` where it is lost) and retry"
        )


def require_connected(name: str, replicas: Sequence[Replica], node: str) -> None:
    """Raise Refused where a VM would come to a replica that DRBD has cut off from another one.

    Both call themselves up to date while only the link between them is down, and where there is no quorum the one that
    is not written to any more can be opened: the VM would go on with what was there before.
    Arguments: node, where the VM would come to; without a replica there DRBD reads over the network what is current.
    """
    cut = sorted({one for pair in cut_off(replicas) if node in pair for one in pair} - {node})
    if cut:
        raise Refused(
            f"the replica of {name} on {node} has no connection to that on {', '.join(cut)}, which may be newer; "
            f"look at `drbdadm status {name}` there and retry when they are connected"
        )


def cut_off(replicas: Sequence[Replica]) -> list[tuple[str, str]]:
    """Return the pairs of nodes whose replicas DRBD does not keep equal now, as one of them tells; both report."""
    usable = [replica for replica in replicas if replica.diskful and replica.usable]
    return [(one.node, other.node) for one, other in combinations(usable, 2) if not _connected(one, other)]


def _connected(one: Replica, other: Replica) -> bool:
    return one.sees.get(other.node) is not False and other.sees.get(one.node) is not False


def require_joined(name: str, replicas: Sequence[Replica]) -> None:
    """Raise Refused for a volume of which DRBD has cut a replica off from another one."""
    for one, other in cut_off(replicas):
        raise Refused(
            f"the replicas of {name} on {one} and {other} have no connection to each other, and one of them may be "
            f"newer; look at `drbdadm status {name}` there and retry when they are connected"
        )


def require_current(name: str, replicas: Sequence[Replica]) -> None:
    """Raise Refused for a volume where nobody knows which of its replicas are current, because DRBD has cut some off.

    That is where the volume is open for writing, else where more than half of them see each other, or half and the
    tiebreaker: with a quorum no others wrote.
    """
    if _current(replicas) is None:
        require_joined(name, replicas)


def behind(replicas: Sequence[Replica]) -> list[str]:
    """Return the nodes that do not reach the replicas that `require_current` calls current, where these are known."""
    current = _current(replicas)
    return [one.node for one in replicas if one.usable and current is not None and one not in current]


def _current(replicas: Sequence[Replica]) -> Optional[Sequence[Replica]]:
    every = _sides([replica for replica in replicas if replica.usable])
    sides = [side for side in every if any(replica.diskful for replica in side)]
    written = [side for side in sides if any(replica.in_use for replica in side)]
    current = written or [side for side in sides if _quorate(side, sum(replica.diskful for replica in replicas))]
    return current[0] if len(current) == 1 else None


def _quorate(side: Sequence[Replica], replicas: int) -> bool:
    votes = 2 * sum(replica.diskful for replica in side)
    return votes > replicas or (votes == replicas and any(replica.tiebreaker for replica in side))


def _sides(replicas: Sequence[Replica]) -> list[list[Replica]]:
    """Return the resources in groups, of which none has a connection to another. Two without a disk have none ever."""
    sides: list[list[Replica]] = []
    for replica in replicas:
        near = [
            side
            for side in sides
            if any((replica.diskful or other.diskful) and _connected(replica, other) for other in side)
        ]
        sides = [side for side in sides if side not in near] + [[replica, *(one for side in near for one in side)]]
    return sides


def unknown(replicas: Sequence[Replica]) -> list[str]:
    """Return the nodes whose satellite does not report: nobody knows who has the device open there.

    A controller that was restarted calls satellites online, and shows a state of their resources, a moment before it
    knows openers, or without DRBD devices. Resources that LINSTOR evicted are left out: they are replaced already.
    """
    return [r.node for r in replicas if not _reported(r) and not r.flags & {"EVICTED", "INACTIVE"}]


def untold(replicas: Sequence[Replica]) -> list[str]:
    """Return the nodes that are online, and do not tell of a device that they have."""
    return [replica.node for replica in replicas if replica.usable and not _reported(replica)]


def _reported(replica: Replica) -> bool:
    told = replica.in_use is not None if DRBD in replica.layers else bool(replica.device)
    return replica.online and told


def away(replicas: Sequence[Replica]) -> list[str]:
    """Return the silent nodes that DRBD does not reach either: the machine is off, or cut from the others.

    Where only the satellite is stopped, DRBD goes on, and so does a VM. What no node tells about is not taken for away.
    """
    told = [replica.sees for replica in replicas if replica.usable]
    return [
        node
        for node in unknown(replicas)
        if any(node in sees for sees in told) and not any(sees.get(node) for sees in told)
    ]


def steady(replicas: Sequence[Replica]) -> list[str]:
    """Return the nodes with a usable replica, those that LINSTOR is emptying left out while there are others."""
    staying = holding([replica for replica in replicas if "EVACUATE" not in replica.flags])
    return staying or holding(replicas)


def alone(settings: Settings) -> bool:
    """Return whether LAYER_LIST leaves DRBD out: a volume is then only where it has a replica."""
    return bool(settings.layer_list) and DRBD not in {layer.upper() for layer in settings.layer_list}


def completed(settings: Settings, group: Optional[Group]) -> Settings:
    """Return the settings with what they leave to the resource group, for replicas that no autoplacer places.

    LINSTOR looks at nothing of a group for a replica on a named node: without a pool's name it takes DfltStorPool,
    without layers DRBD on STORAGE.
    """
    if group is None:
        return settings
    return settings._replace(
        storage_pools=settings.storage_pools or group.pools,
        providers=settings.providers or group.providers,
        replica_count=settings.replica_count or group.replicas,
        layer_list=settings.layer_list or group.layers,
    )


def like_each_other(pools: Sequence[Pool]) -> list[str]:
    """Return the pools' names, first what most nodes have, of these what has most room on each: replicas are alike."""
    room: dict[str, list[int]] = {}
    for pool in pools:
        room.setdefault(pool.name.lower(), []).append(pool.free or 0)
    return sorted(room, key=lambda name: (-len(room[name]), -min(room[name]), name))


def spawnable(settings: Settings, host: str) -> bool:
    """Return whether one spawn request can place a volume as the settings say.

    Arguments: host, where the volume will be used, "" for nowhere in particular.
    """
    on_host = bool(host) and (settings.prefer_node or alone(settings))
    return bool(settings.resource_group) and not settings.node_list and not on_host


def layer_stack(settings: Settings, inherited: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the layers to ask for, top first; empty means LINSTOR's choice.

    Encryption is a layer above storage. The old volume flag ENCRYPTED is never used: LINSTOR accepts it on
    a stack without LUKS and stores plain text.
    Arguments: inherited, the resource group's stack, needed where encryption adds a layer to it.
    """
    layers = [layer.upper() for layer in settings.layer_list]
    if settings.encryption and not layers:
        layers = [layer.upper() for layer in inherited] or [DRBD, STORAGE]
    if layers and STORAGE not in layers:
        layers.append(STORAGE)
    if settings.encryption and LUKS not in layers:
        layers.insert(layers.index(STORAGE), LUKS)
    return tuple(layers)


def stacked_as_asked(settings: Settings, group: Optional[Group], replicas: Sequence[Replica]) -> bool:
    """Return whether what shares the replicas' blocks has the layers that the settings, or else their group, ask for.

    What is encrypted suits also where nobody asked for that: it is no less secret than what was asked for.
    Arguments: group, of the settings; replicas, of the volume whose layers the new one would have.
    """
    inherited = group.layers if group else ()
    asked = layer_stack(settings, inherited) or inherited
    found = {replica.layers for replica in replicas if replica.diskful}
    plain = tuple(layer for layer in asked if layer != LUKS)
    return not asked or all(
        layers == asked or (LUKS in layers and tuple(layer for layer in layers if layer != LUKS) == plain)
        for layers in found
    )


def may_lie_with(
    settings: Settings, group: Optional[Group], replicas: Sequence[Replica], pools: Sequence[Pool]
) -> bool:  # fmt: skip
    """Return whether a volume may be where another one's replicas are, and share what they hold, by its own rules.

    CLONE_MODE has to ask for it, and number of replicas, layers and pools have to be what the settings ask for. Rules
    about nodes count as broken: nobody knows what LINSTOR would choose. A ZFS clone would keep the other's snapshot.
    Arguments: settings and group, of the new volume; replicas and pools, of the other one.
    """
    holders = [replica for replica in replicas if replica.diskful]
    about_nodes = (settings.node_list, settings.replicas_on_same, settings.replicas_on_different)
    about_others = (settings.do_not_place_with, settings.do_not_place_with_regex)
    if settings.clone_mode == "copy" or any(about_nodes) or any(about_others) or not holders:
        return False
    inherited = group.layers if group else ()
    layers = layer_stack(settings, inherited) or inherited or (DRBD, STORAGE)
    allowed = settings.storage_pools or (group.pools if group else ())
    providers = {provider.upper() for provider in settings.providers} or _INDEPENDENT
    return (
        len(holders) == len(holding(holders)) == (settings.replica_count or (group.replicas if group else 0))
        and all(replica.layers == layers for replica in holders)
        and (DRBD in layers or len(holders) == 1)
        and all(not allowed or replica.pool in allowed for replica in holders)
        and bool(pools)
        and {pool.provider for pool in pools} <= providers & _INDEPENDENT
    )
