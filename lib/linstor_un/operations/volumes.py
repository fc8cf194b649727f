"""A volume's way on LINSTOR: born with its owner's marks, filled, complete; gone.

CREATE   definition + marks + STATE=creating -> replicas -> (filled by the caller) -> STATE removed
KILLED   a rerun finds STATE=creating under its own marks and replaces what it finds
REMOVE   only a definition whose marks do not contradict, and that nobody has open
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Callable, NamedTuple, Optional

from .. import placement
from ..errors import Exists, InUse, NotEnoughSpace, NotFound, Refused, Unsupported
from ..inventory import DRBD, Definition, Pool, Replica, Snapshot
from ..naming import AUX, COPY_OF, CREATING, REVERTING, RUN, STATE, by_res, restored_definition
from ..placement import Fate
from ..retry import until
from ..settings import Settings
from ..units import Kib
from ..world import Controller, World

# A process that is ending may hold a device a little longer than oned thinks.
CLOSING_SECONDS = 10.0
# How long a rollback whose end nobody told is waited for.
ROLLBACK_SECONDS = 60.0

# KiB that may be allocated of a fresh thin volume; DRBD's data for 7 peers is a part in 4700 more.
_FRESH = 2 * 1024

TakeBack = Callable[[World, Controller, str], None]


class Wanted(NamedTuple):
    """A volume to be made: its size in KiB, where it goes, whose it is.

    `host` is where it will be used, "" for nowhere in particular.
    """

    name: str
    size: Kib
    settings: Settings
    marks: Mapping[str, str]
    host: str = ""


class Volume(NamedTuple):
    """A volume with its replicas.

    `zero` is whether it is known to read as zeroes everywhere. `marks` and `inherited` are of one that is not complete
    yet: marks that it was born with and may have lost, and such as came with another's data.
    """

    name: str
    size: Kib
    settings: Settings
    replicas: tuple[Replica, ...]
    zero: bool = False
    marks: Mapping[str, str] = MappingProxyType({})
    inherited: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The layer stack of a replica with data, topmost first: diskless ones are listed without LUKS."""
        ordered = sorted(self.replicas, key=lambda replica: not replica.diskful)
        return ordered[0].layers if ordered else ()

    @property
    def replicated(self) -> bool:
        """DRBD keeps the replicas equal and lends the device to any node; without it each replica stands alone."""
        return DRBD in self.layers

    def on(self, node: str) -> Optional[Replica]:
        """Return the resource on a node, or None."""
        return next((r for r in self.replicas if r.node == node), None)

    def device(self, node: str) -> str:
        """Return the path of the device on a node.

        The udev rule of drbd-utils names DRBD devices by resource; for other stacks the path is what
        LINSTOR reports. Raises Unsupported when there is no device on that node, Refused when LINSTOR knows none now.
        """
        if self.replicated:
            return by_res(self.name)
        here = self.on(node)
        if here is None:
            raise Unsupported(
                f"{self.name} has no device on {node}, and without DRBD in its layers it cannot be reached from there; "
                f"add DRBD to LAYER_LIST or place a replica on {node}"
            )
        if not here.device:
            # A controller that was restarted knows none before the satellite is connected again.
            raise Refused(
                f"LINSTOR does not know the device of {self.name} on {node} now; "
                f"retry when {node} is online in `linstor node list`"
            )
        return here.device


def defined(controller: Controller, name: str) -> Definition:
    """Return a definition that has to be there, one request. Raises NotFound."""
    found = controller.definitions([name]).get(name)
    if found is None:
        raise NotFound(f"{name} does not exist on LINSTOR; look at `linstor resource-definition list`")
    return found


def look(controller: Controller, name: str, settings: Settings, size: Kib) -> Volume:
    """Return the volume as it is now, one request. Raises NotFound."""
    return Volume(name, size, settings, tuple(controller.replicas(name)))


def existing(definition: Definition, controller: Controller, settings: Settings) -> Volume:
    """Return the volume of a definition that was read before, one request.

    Raises Unsupported when it has no volume, InUse when LINSTOR is deleting it, Refused when it is between two states.
    """
    if definition.deleting or definition.props.get(STATE) == REVERTING:
        require_whole(definition)
    if definition.size is None:
        raise Unsupported(f"{definition.name} has no volume on LINSTOR; its creation was interrupted, remove it")
    return look(controller, definition.name, settings, definition.size)


def require_whole(definition: Definition) -> None:
    """Raise InUse for a volume that LINSTOR is deleting, Refused for one whose content is half of something."""
    if definition.deleting:
        placement.fate(definition, {})
    state = definition.props.get(STATE)
    if state == REVERTING:
        raise Refused(f"{definition.name} is half-way back to a snapshot or backup, which was interrupted; repeat it")
    if state:
        raise Refused(f"{definition.name} is not complete (STATE={state}); its creation or deletion was interrupted")


def settle_name(
    world: World,
    controller: Controller,
    wanted: Wanted,
    found: Optional[Definition],
    cloned: Optional[Definition] = None,
) -> bool:
    """Make the name free, or find that the volume is there already.

    Arguments: found, the definition as it was read; cloned, what it may be an unmarked clone of.
    Returns True when a complete volume of ours exists (a rerun after success). Raises what `placement.fate` raises, and
    InUse when a half-made one is open, or LINSTOR cannot end its deletion.
    """
    found = _after_deletion(world, controller, wanted, found)
    decision = placement.fate(found, wanted.marks, cloned)
    if decision is Fate.REPLACE and found is not None:
        world.trail.info(f"replacing {wanted.name}, which an interrupted run left half-made")
        discard_half_made(world, controller, found)
    return decision is Fate.KEEP


def _after_deletion(
    world: World, controller: Controller, wanted: Wanted, found: Optional[Definition]
) -> Optional[Definition]:
    """Return what is under the name, waiting a little for a deletion that LINSTOR is about to end."""
    if found is None or not found.deleting:
        return found
    with suppress(NotFound):
        offline = [replica.node for replica in controller.replicas(wanted.name) if not replica.online]
        if offline:
            raise InUse(
                f"{wanted.name} is still being deleted by LINSTOR, which waits for {', '.join(offline)}; "
                f"bring it back, or declare it lost with `linstor node lost`, and retry"
            )

    def ended() -> Optional[bool]:
        now = controller.definitions([wanted.name]).get(wanted.name)
        return None if now is not None and now.deleting else True

    until(world.clock, wanted.settings.timeout / 10, ended)
    return controller.definitions([wanted.name]).get(wanted.name)


def create(
    world: World, controller: Controller, wanted: Wanted, take_back: Optional[TakeBack] = None
) -> Optional[Volume]:
    """Create a volume, half-made until `complete`; its take-back is registered.

    Arguments: take_back, instead of `discard`, which it is called like.
    Returns None when a complete one of ours is there already.
    """
    try:
        return _create(world, controller, wanted, take_back or discard)
    except Exists:
        found = controller.definitions([wanted.name]).get(wanted.name)
        if settle_name(world, controller, wanted, found):
            return None
        return _create(world, controller, wanted, take_back or discard)


def _create(world: World, controller: Controller, wanted: Wanted, take_back: TakeBack) -> Volume:
    if wanted.settings.node_list:
        wanted = _on_named_nodes(controller, wanted)
    marks = birth_marks(world, controller, wanted)
    providers: dict[str, str] = {}
    with world.undo.by(wanted.name, take_back, world, controller, wanted.name):
        if placement.spawnable(wanted.settings, wanted.host):
            try:
                providers = controller.spawn(wanted.name, wanted.size, wanted.settings, marks)
            except Unsupported:
                controller.define(wanted.name, wanted.settings, marks)
        else:
            controller.define(wanted.name, wanted.settings, marks)
    if not providers:
        controller.add_volume(wanted.name, wanted.size)
        providers = _place(controller, wanted)
    volume = look(controller, wanted.name, wanted.settings, wanted.size)
    if not placement.holding(volume.replicas):
        raise NotEnoughSpace(f"{wanted.name} got no replica on an online node; look at `linstor storage-pool list`")
    if not volume.replicated and wanted.host and wanted.host not in placement.holding(volume.replicas):
        # The resource group's own stack has no DRBD: nothing can be lent to the host, it needs a replica.
        count = len(volume.replicas) + 1
        providers.update(controller.place(wanted.name, wanted.settings, nodes=[wanted.host], count=count))
        volume = look(controller, wanted.name, wanted.settings, wanted.size)
    return volume._replace(zero=_reads_zero(controller, volume, providers))


def birth_marks(world: World, controller: Controller, wanted: Wanted) -> dict[str, str]:
    """Return what a definition is born with: its owner, that it is not complete, and what it does without quorum."""
    return {**wanted.marks, **controller.quorum(wanted.settings), STATE: CREATING, RUN: world.run}


def _on_named_nodes(controller: Controller, wanted: Wanted) -> Wanted:
    """Return what is wanted with what its resource group says about replicas on the nodes of NODE_LIST.

    LINSTOR registers a replica on an offline node, and then cannot delete the definition before the node is back.
    Raises Refused when such a node is unknown, offline or being emptied, NotFound for an unknown group.
    """
    usable = {node.name.lower() for node in controller.nodes() if node.usable}
    missing = [node for node in wanted.settings.node_list if node.lower() not in usable]
    if missing:
        raise Refused(
            f"{wanted.name} cannot be placed on {', '.join(missing)}, which LINSTOR does not have online "
            f"or evacuates; look at `linstor node list` and at NODE_LIST"
        )
    name = wanted.settings.resource_group
    return wanted._replace(settings=placement.completed(wanted.settings, controller.group(name) if name else None))


def _place(controller: Controller, wanted: Wanted) -> dict[str, str]:
    settings = wanted.settings
    providers: dict[str, str] = {}
    if settings.node_list:
        controller.add_replicas(wanted.name, settings.node_list, settings)
        if (settings.replica_count or 0) <= len(settings.node_list):
            return providers
    elif placement.alone(settings) and wanted.host:
        providers.update(controller.place(wanted.name, settings, nodes=[wanted.host], count=1))
    elif settings.prefer_node and wanted.host:
        # A wish only: a host without the pool, or with a full one, gets a diskless attachment.
        with suppress(NotEnoughSpace, NotFound, Unsupported):
            providers.update(controller.place(wanted.name, settings, nodes=[wanted.host], count=1))
    if not providers or settings.replica_count != len(providers):
        providers.update(controller.place(wanted.name, settings))
    return providers


def _reads_zero(controller: Controller, volume: Volume, providers: Mapping[str, str]) -> bool:
    """Fresh volumes of thin pools read as zeroes; those of thick ones hold what was there before.

    LUKS hides the zeroes below it, and DRBD reads from any replica, so every one of them counts. LINSTOR takes a volume
    that it lost track of for a new one of that name: more is allocated then than DRBD's own data, as far as it tells.
    """
    if "LUKS" in volume.layers:
        return False
    holders = [replica for replica in volume.replicas if replica.diskful]
    if any(one.allocated is None or one.allocated > _FRESH + volume.size // 500 for one in holders):
        return False
    known = {r.node: providers.get(r.node, "") for r in holders}
    if not all(known.values()):
        pools = {(pool.node, pool.name): pool.provider for pool in controller.pools([r.pool for r in holders])}
        known = {r.node: pools.get((r.node, r.pool), "") for r in holders}
    return all(Pool("", node, kind, None, None, "").thin for node, kind in known.items())


def discard(world: World, controller: Controller, name: str) -> None:
    """Take back a creation of this run: delete the definition if, and only if, this run made it."""
    found = controller.definitions([name]).get(name)
    if placement.made_by(found, world.run):
        delete_when_closed(world, controller, name)


def complete(world: World, controller: Controller, name: str, restored: Optional[Volume] = None) -> None:
    """Say that the volume holds what it should: from now on a rerun keeps it. The last effect of a creation.

    What was borrowed is given back before it, so that a rerun after a crash finds either all of it or the state
    `creating`. Arguments: restored, the volume, where its marks may have to be set right.
    """
    world.undo.give_back()
    done = [STATE, RUN, COPY_OF]
    marks = {key: value for key, value in restored.marks.items() if key not in done} if restored else {}
    with world.undo.by(name, delete_when_closed, world, controller, name):
        controller.mark(name, marks, clear=[*done, *(restored.inherited if restored else ())])


def discard_half_made(world: World, controller: Controller, found: Definition) -> None:
    """Delete what an interrupted run left, with what it had beside it. Raises InUse when it is open."""
    clear_beside(world, controller, found)
    delete_when_closed(world, controller, found.name)


def clear_beside(world: World, controller: Controller, found: Definition) -> None:
    """Remove the snapshot, and the volume made of it, that an interrupted copy left beside its half-made target.

    A revert that was interrupted leaves such a volume too; its snapshots are the target's own.
    Raises Refused when the replicas of the copy's source differ: deleting its snapshot makes DRBD connect them.
    """
    if found.props.get(STATE) == REVERTING:
        clear_restored(world, controller, found.name)
    source = found.props.get(COPY_OF)
    if source is None or not placement.half_made(found):
        return
    with suppress(NotFound):
        placement.require_together(source, controller.replicas(source))
    clear_restored(world, controller, found.name)
    controller.delete_snapshot(source, found.name)


def clear_restored(world: World, controller: Controller, target: str) -> None:
    """Remove the volume that an interrupted copy to `target` had restored from a snapshot."""
    name = restored_definition(target)
    found = controller.definitions([name]).get(name)
    if found is not None and placement.half_made(found):
        delete_when_closed(world, controller, name)


def delete_when_closed(world: World, controller: Controller, name: str, snapshots: bool = False) -> None:
    """Delete a definition with its snapshots. Arguments: snapshots, whether it is known to have some."""
    if snapshots:
        _delete_snapshots(world, controller, name)

    def step() -> None:
        try:
            controller.delete(name)
        except Exists:
            _delete_snapshots(world, controller, name)
            controller.delete(name)

    when_closed(world, step)


def _delete_snapshots(world: World, controller: Controller, name: str) -> None:
    """Delete all snapshots, in the end also the one that a rollback of LINSTOR's own left: it keeps a definition too.

    A rollback that is under way falls back to that one, so it is given time to end.
    """

    def settled() -> Optional[list[Snapshot]]:
        found = controller.snapshots(name, safety=True)
        return None if any(one.safety for one in found) else found

    found = until(world.clock, ROLLBACK_SECONDS, settled)
    for snapshot in controller.snapshots(name, safety=True) if found is None else found:
        controller.delete_snapshot(name, snapshot.name)


def when_closed(world: World, step: Callable[[], None]) -> None:
    """Do what LINSTOR refuses while a device is open, waiting a little for a process that is ending."""
    refusals: list[InUse] = []

    def attempt() -> Optional[bool]:
        try:
            step()
        except InUse as refusal:
            refusals.append(refusal)
            return None
        return True

    if not until(world.clock, CLOSING_SECONDS, attempt):
        raise refusals[-1]


def inherited(source: Definition, marks: Mapping[str, str]) -> tuple[str, ...]:
    """Return the driver's marks on a source that a copy of it must not keep (LINSTOR copies them all)."""
    return tuple(key for key in source.props if key.startswith(AUX) and key not in marks)
