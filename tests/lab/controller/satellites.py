"""What satellites do: make, resize and remove volumes, answer for it, and catch up after they were away."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable, Optional

from . import drbd, drbd_placing, providers
from .answers import CREATED, DELETED, ERROR, MODIFIED, VOLUME, Answer, Hang
from .cluster import Cluster, Definition, Resource, Volume, at_once, milliseconds
from .contents import content

GRANULARITY = "StorDriver/internal/AllocationGranularity"
SMALLEST_WIPED = 4  # KiB; the quick wipe of a smaller volume fails


class Failed(Exception):
    """A satellite could not do its part; the text is its message."""


def kind_of(cluster: Cluster, owner: Resource, volume: Volume) -> str:
    """Return the provider kind of a volume's pool; a pool that is gone counts as diskless."""
    pool = cluster.pool(owner.node, volume.pool)
    return pool.kind if pool else "DISKLESS"


def ask(cluster: Cluster, answer: Answer, nodes: Iterable[str], work: Callable[[str], None],
        said: Optional[Callable[[str], Optional[tuple[int, str]]]] = None, must_reach: bool = True) -> set[str]:
    """Make one round trip to the satellites of `nodes`, and return the nodes that did their work.

    An offline one is warned about at once and, as LINSTOR does, still reported as done; before 1.31 it is an error
    for calls that `must_reach` all. A failing one ends with an error entry in place of its message.
    """
    done: set[str] = set()
    ordered = sorted(nodes, key=lambda name: (cluster.online(name), name.upper()))
    reached: list[str] = []
    for node in ordered:
        if cluster.online(node):
            cluster.pause()
            settle(cluster, node)
            if (str(answer.refs.get("RscDfn")).upper(), node.upper()) in cluster.stale:
                raise Hang(f"{node} refuses the volume definition and reconnects for ever")
            try:
                work(node)
            except Failed as failure:
                # Who fails answers first: before those that do their work.
                label = f"({node})" if cluster.version.has("short_node_label") else f"(Node: '{node}')"
                answer.add(ERROR | 998, f"{label} {failure}", error_report_ids=[cluster.report(str(failure))])
                continue
            done.add(node)
        elif must_reach and not cluster.version.has("offline_is_warning"):
            answer.add(ERROR | 995, f"No connection to satellite '{node}'")
            continue
        else:
            answer.offline(node)
        reached.append(node)
    for node in reached:
        words = said(node) if said else None
        if words:
            answer.add(*words)
    return done


def run(cluster: Cluster, answer: Optional[Answer], owner: Resource) -> None:
    """Bring the volumes of one resource on an online node to what its definition says.

    Raises Failed where the satellite cannot.
    """
    if "INACTIVE" in owner.flags:
        return
    for number in sorted(owner.volumes):
        _apply(cluster, answer, owner, owner.volumes[number])
        if _unmeasured(cluster, owner):
            owner.volumes[number].allocated = owner.volumes[number].usable = 0
    owner.known = True
    owner.created = owner.created or milliseconds()
    drbd.adjusted(cluster, answer, owner)


def _unmeasured(cluster: Cluster, owner: Resource) -> bool:
    """Tell whether nobody measures the volumes, as of a definition that is being deleted since 1.31."""
    return "DELETE" in owner.definition.flags and "DRBD" not in owner.layers and \
        cluster.version.has("offline_is_warning")


def _apply(cluster: Cluster, answer: Optional[Answer], owner: Resource, volume: Volume) -> None:
    wanted = owner.definition.volumes[volume.number]
    kind = kind_of(cluster, owner, volume)
    if owner.diskless:
        attach(cluster, owner, volume)
        return
    if not volume.size:
        _create(cluster, owner, volume, kind, wanted.size)
        wanted.props.setdefault(GRANULARITY, providers.PROVIDERS[kind].granularity)
        say(answer, owner, volume, kind, CREATED, "created")
        return
    if volume.dead:
        return
    if volume.size != wanted.size:
        providers.cut(volume, wanted.size)
        _touch(owner, volume, kind, wanted.size)
        cluster.volumes.resize(content(owner, volume.number), size_bytes(cluster, owner, kind, wanted.size))
        volume.lost = False
        measure(owner, volume, kind, wanted.size)
        say(answer, owner, volume, kind, MODIFIED, "resized")
    elif volume.lost and cluster.version.has("loop_device_measured") or kind == "LVM_THIN" and owner.known:
        measure(owner, volume, kind, wanted.size)
    elif kind == "FILE_THIN" and (volume.lost or not _unmeasured(cluster, owner)):
        volume.lost = False
        # Taking allocated for usable, this provider "resizes" each volume in every run.
        measure(owner, volume, kind, wanted.size)
        say(answer, owner, volume, kind, MODIFIED, "resized")


def _create(cluster: Cluster, owner: Resource, volume: Volume, kind: str, size: int) -> None:
    if kind == "FILE_THIN" and size < SMALLEST_WIPED:
        owner.failing = "Failed to quick-wipe devicePath /dev/loop0"
    if owner.failing:
        raise Failed(owner.failing)
    where = content(owner, volume.number)
    if not where.node and any(other is not owner and other.volumes[volume.number].size and not other.diskless
                              for other in owner.definition.resources.values() if volume.number in other.volumes):
        pass  # a further replica of bytes that exist already
    else:
        cluster.volumes.create(where, size_bytes(cluster, owner, kind, size))
    providers.wipe(volume, size)
    if kind == "LVM_THIN":
        volume.chunks = {}
    _touch(owner, volume, kind, size)
    measure(owner, volume, kind, size)
    volume.allocated = 0 if kind == "LVM_THIN" else volume.allocated  # lvs is asked before anything is written
    attach(cluster, owner, volume)
    for other in owner.definition.resources.values():
        if other.diskless and other.known and volume.number in other.volumes:
            attach(cluster, other, other.volumes[volume.number])


def _touch(owner: Resource, volume: Volume, kind: str, size: int) -> None:
    """Allocate what a satellite writes to a thin LV when it makes or grows it: both ends, LUKS header, metadata."""
    if kind == "LVM_THIN":
        end = providers.rounded(kind, drbd.storage_size(owner, size))
        providers.write_chunks(volume, 0, drbd.head_size(owner) or providers.WIPED - 1)
        providers.write_chunks(volume, end - (drbd.tail_size(owner, kind, size) or providers.WIPED), end - 1)


def wrote(cluster: Cluster, definition: Definition, number: int, size: int) -> None:
    """Note that somebody wrote the first `size` KiB of a volume; all replicas have them."""
    for owner in definition.resources.values():
        volume = owner.volumes.get(number)
        if volume is not None and volume.size and kind_of(cluster, owner, volume) == "LVM_THIN":
            start = drbd.head_size(owner)
            providers.write_chunks(volume, start, start + size - 1)


def measure(owner: Resource, volume: Volume, kind: str, size: int) -> None:
    """Store what the satellite of a resource reports for a deployed volume of `size` net KiB."""
    providers.measure(volume, kind, size, drbd.storage_size(owner, size))


def size_bytes(cluster: Cluster, owner: Resource, kind: str, size: int) -> int:
    """Return the bytes a device of `size` net KiB really has."""
    if "DRBD" in owner.layers:
        return drbd.device_size(owner, kind, size) * 1024
    return providers.rounded(kind, size) * 1024


def attach(cluster: Cluster, owner: Resource, volume: Volume) -> None:
    """Show the volume as a device on its node."""
    where = content(owner, volume.number)
    if where.node:
        volume.device = cluster.volumes.attach(where, owner.node, None)
        return
    # A diskless may be told before the first replica is made: its device opens when there is one.
    if not owner.diskless or any(other.volumes[volume.number].size and not other.diskless
                                 for other in owner.definition.resources.values() if volume.number in other.volumes):
        cluster.volumes.attach(where, owner.node, drbd.device_path(owner, volume))
    volume.device = drbd.backing_path(cluster, owner, volume)


def say(answer: Optional[Answer], owner: Resource, volume: Volume, kind: str, code: int, word: str) -> None:
    """Add what a satellite reports of one volume."""
    if answer is not None:
        label = providers.PROVIDERS[kind].label
        text = f"({owner.node}) Volume number {volume.number} of resource '{owner.definition.name}' [{label}] {word}"
        answer.add(VOLUME | code, text, {"VlmNr": str(volume.number)})


def remove(cluster: Cluster, answer: Optional[Answer], owner: Resource) -> None:
    """Remove the volumes of a resource from its node. A FILE provider does so even while a device is open.

    Raises Failed where DRBD cannot shut down or the volume never could be made.
    """
    if owner.failing:
        raise Failed(owner.failing)
    drbd.shut_down(cluster, answer, owner)
    for number in sorted(owner.volumes):
        drop_volume(cluster, answer, owner, owner.volumes[number])
    owner.known = False


def drop_volume(cluster: Cluster, answer: Optional[Answer], owner: Resource, volume: Volume) -> None:
    """Remove one volume from its node; shared bytes go with the last replica that has a disk."""
    where = content(owner, volume.number)
    cluster.volumes.detach(where, owner.node)
    if owner.diskless or not volume.size:
        return
    others = [other for other in owner.definition.resources.values() if other is not owner and not other.diskless
              and volume.number in other.volumes and other.volumes[volume.number].size]
    if where.node or not others:
        cluster.volumes.delete(where)
    say(answer, owner, volume, kind_of(cluster, owner, volume), DELETED, "deleted")
    volume.size = 0


def settle(cluster: Cluster, node: str) -> None:
    """Let a satellite that came back finish what it missed; whoever waits for it waits for this first."""
    found = cluster.node(node)
    if not found or not found.behind or not found.online:
        return
    found.behind = False
    for owner in list(cluster.resources_on(node)):
        if "DELETE" in owner.definition.flags and not cluster.version.has("offline_is_warning"):
            _delete_all(cluster, owner.definition)
        _settle(cluster, owner)
    for definition in cluster.sorted_definitions():
        finish_delete(cluster, definition)
    drbd_placing.returned(cluster)


def _settle(cluster: Cluster, owner: Resource) -> None:
    try:
        if owner.deleting:
            remove(cluster, None, owner)
            if "DELETE" not in owner.definition.flags:
                owner.definition.drop(owner.node)
        else:
            _finish_volumes(cluster, owner)
            run(cluster, None, owner)
    except Failed:
        owner.known = owner.known and "DRBD" in owner.layers


def _finish_volumes(cluster: Cluster, owner: Resource) -> None:
    """Delete or resize at last the volumes whose change an offline satellite held up (before 1.31)."""
    for number, definition in list(owner.definition.volumes.items()):
        if "DELETE" in definition.flags:
            drop_volume(cluster, None, owner, owner.volumes.pop(number))
            if not any(number in other.volumes for other in owner.definition.resources.values()):
                del owner.definition.volumes[number]
        definition.flags = [flag for flag in definition.flags if flag != "RESIZE"]


def _delete_all(cluster: Cluster, definition: Definition) -> None:
    """Take up the deletion of a definition again, as LINSTOR before 1.31 does: also what was added meanwhile goes."""
    for owner in definition.resources.values():
        if not owner.deleting and cluster.online(owner.node):
            owner.flags = [*owner.flags, "DELETE"]
            _settle(cluster, owner)


def finish_delete(cluster: Cluster, definition: Definition) -> bool:
    """Remove a definition marked for deletion once every satellite has removed its resource.

    A resource that was added meanwhile keeps the definition, flagged DELETE, for good.
    """
    if "DELETE" not in definition.flags or definition.snapshots:
        return False
    if not all(owner.deleting and is_gone(cluster, owner) for owner in definition.resources.values()):
        return False
    definition.resources.clear()
    cluster.definitions.pop(definition.name.upper(), None)
    return True


def is_gone(cluster: Cluster, owner: Resource) -> bool:
    """Tell whether the satellite of a resource marked for deletion has removed it."""
    node = cluster.node(owner.node)
    return bool(node and node.online and not node.behind and not owner.known and not owner.failing
                and not any(volume.size for volume in owner.volumes.values()))


@at_once
def go_offline(cluster: Cluster, name: str) -> None:
    """Stop the satellite of a node. What it reported (in_use, capacities) is forgotten; devices stay."""
    node = cluster.nodes[name.upper()]
    node.online, node.behind = False, False
    node.evict_at = milliseconds() + 3600 * 1000


@at_once
def come_back(cluster: Cluster, name: str, caught_up: bool = True) -> None:
    """Start the satellite again. Without `caught_up` it is ONLINE but busy until somebody waits for it."""
    node = cluster.nodes[name.upper()]
    node.online, node.behind = True, True
    # It reports resource by resource, in the order of names.
    for place, owner in enumerate(cluster.resources_on(name)):
        owner.known = owner.known and ("DRBD" in owner.layers or (place == 0 and not owner.deleting))
    if caught_up:
        settle(cluster, name)


def created(name: str, node: str) -> tuple[int, str]:
    """Word the success of creating a resource on a node."""
    return MODIFIED, f"Created resource '{name}' on '{node}'"


def added_peers(name: str, node: str, peers: Iterable[str]) -> tuple[int, str]:
    """Word the success of telling a node about new peers."""
    listed = ", ".join(f"'{peer}'" for peer in peers)
    return MODIFIED, f"Added peer(s) {listed} to resource '{name}' on '{node}'"


def deploy(cluster: Cluster, answer: Answer, definition: Definition, new: list[str]) -> set[str]:
    """Ask all satellites of a definition to apply new resources on the nodes `new`."""
    name = definition.name

    def words(node: str) -> Optional[tuple[int, str]]:
        if node in new:
            return created(name, node)
        return added_peers(name, node, new)

    def work(node: str) -> None:
        look(cluster, answer, definition, node)

    return ask(cluster, answer, [one.node for one in definition.resources.values() if not one.deleting or
                                 not cluster.online(one.node)], work, words)


def look(cluster: Cluster, answer: Answer, definition: Definition, node: str) -> None:
    """Have one satellite look at a definition: apply its resource, remove it, or find it gone meanwhile."""
    owner = definition.resources.get(node.upper())
    if owner is None:
        answer.add(0, f"({node}) Skipping processing resource: {definition.name}")
    elif not owner.deleting:
        run(cluster, answer, owner)
    elif owner.failing:
        raise Failed(owner.failing)
    elif "DRBD" in owner.layers and not owner.known:
        answer.add(0, f"({node}) Skipping processing resource: {definition.name}")


def refresh(cluster: Cluster, answer: Answer, definition: Definition,
            said: Optional[Callable[[str], Optional[tuple[int, str]]]] = None, must_reach: bool = True) -> set[str]:
    """Ask all satellites of a definition to look at it again, as any property change does."""
    def work(node: str) -> None:
        look(cluster, answer, definition, node)

    return ask(cluster, answer, [one.node for one in definition.resources.values()], work, said, must_reach)




def forget(cluster: Cluster, owner: Resource, number: int) -> None:
    """Lose track of bytes on an offline node: nobody will ever remove them."""
    cluster.orphans.setdefault(owner.node, set()).add(f"{owner.definition.name}_{number:05d}")
