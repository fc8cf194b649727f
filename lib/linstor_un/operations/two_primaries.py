"""Two hosts that may write to a volume at the same time: only the two of a live migration, and only as long.

A migration is marked on the definition, with its VM, its hosts and its time, before anything else is done, so that
whoever touches the volume next, or monitors the datastore, finds what a lost migration left and takes it back.

DRBD must not be told to stop while both write: LINSTOR forgets the permission, DRBD keeps it, and nobody asks again.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Callable, Optional

from .. import naming, placement
from ..errors import DriverError, Failed, InUse, NotFound
from ..inventory import Definition, Replica
from ..naming import MIGRATION, Migration
from ..onexml import Vm
from ..world import Controller, World
from . import volumes

# What an administrator allowed for all nodes of a volume is not ours to give or to take.
_BY_ADMINISTRATOR = "DrbdOptions/Net/allow-two-primaries"
# MIGRATE: oned waits for the end of a live migration.
_MIGRATING = 4
# A migration that is marked for longer is asked for when its datastore is monitored.
LEASE_SECONDS = 900.0


def of(definition: Definition) -> Optional[Migration]:
    """Return the live migration that a definition is marked with."""
    return naming.migration(definition.props.get(MIGRATION, ""))


def lock(name: str) -> str:
    """Return the name of the lock under which a volume's migration begins, from its mark to its permission, and ends.

    Monitoring, which holds none of the volume's other locks, would else end one half of it.
    """
    return f"migration-{name}"


def begin(
    world: World,
    controller: Controller,
    definition: Definition,
    vm_id: int,
    source: str,
    target: str,
    keep: Collection[str],
) -> bool:
    """Mark a migration; returns whether the hosts still have to be allowed to write at once.

    The take-back ends it. Nothing is done where an administrator allowed all nodes to write.
    Arguments: keep, the hosts whose attachments the take-back leaves.
    """
    if definition.props.get(_BY_ADMINISTRATOR, "no") in ("yes", "true"):
        return False
    mark = Migration(vm_id, source, target, int(world.clock.date())).mark()
    label = f"two primaries of {definition.name} on {source} and {target}"
    with world.undo.by(label, end, world, controller, definition.name, keep):
        controller.mark(definition.name, {MIGRATION: mark})
    return True


def end_lost(
    world: World, controller: Controller, definition: Definition, keep: Collection[str], dead: Collection[str] = ()
) -> None:
    """End what an interrupted migration left on a volume that oned is about again; see `end`."""
    if of(definition):
        end(world, controller, definition.name, keep, dead)


def end_lost_of(world: World, controller: Controller, definition: Definition, vm: Vm) -> Definition:
    """End what an interrupted migration left on a disk of a VM that oned does something else with now.

    What cannot be ended is told in oned's log, and stays for monitoring: the disk's action does not depend on it.
    Arguments: vm, as oned has it: its last host keeps the disk. Returns the definition as it is then.
    """
    lost = of(definition)
    if lost is None or vm.lcm_state == _MIGRATING:
        return definition
    try:
        end(world, controller, definition.name, _host_of(vm), only=lost)
    except DriverError as error:
        world.trail.warn(f"two primaries of {definition.name} stay allowed: {error}")
        return definition
    return definition._replace(props={key: value for key, value in definition.props.items() if key != MIGRATION})


def _host_of(vm: Vm) -> set[str]:
    return {record.host for record in vm.history[-1:]}


def end(
    world: World,
    controller: Controller,
    name: str,
    keep: Collection[str],
    dead: Collection[str] = (),
    only: Optional[Migration] = None,
    let_go: Callable[[], None] = lambda: None,
) -> Optional[Migration]:
    """Let only one host write again, and take the attachments off hosts that are not to be kept.

    The mark goes last: an attachment that is left before that is found by it.
    Arguments: keep, the hosts that the VM may be on; dead, those that are not waited for; only, the migration to end,
    any if None; let_go, what else is done before the mark goes. Returns the one that was ended, None when there was
    none. Raises InUse while two hosts have the volume open, or may have, and Refused when its replicas differ, as they
    may where two hosts wrote.
    """
    with world.locks.hold(lock(name)):
        found = controller.definitions([name]).get(name)
        ended = of(found) if found else None
        if ended is None or only not in (None, ended):
            return None
        replicas = controller.replicas(name)
        placement.require_together(name, replicas)
        _require_one_user(name, replicas, ended, dead)
        if {ended.source, ended.target} <= {replica.node for replica in replicas}:
            controller.forbid_two_primaries(name, ended.source, ended.target)
        let_go()
        for host in {ended.source, ended.target} - {*keep, *dead}:
            _release(world, controller, name, host)
        _clear(controller, name, ended)
    return ended


def end_when_closed(
    world: World, controller: Controller, name: str, keep: Collection[str], let_go: Callable[[], None]
) -> Optional[Migration]:
    """Let only one host write again; QEMU may take a moment to end on the other. Returns and raises as `end` does."""
    ended: list[Optional[Migration]] = []

    def step() -> None:
        ended.append(end(world, controller, name, keep, let_go=let_go))

    volumes.when_closed(world, step)
    return ended[-1]


def _require_one_user(name: str, replicas: Sequence[Replica], ended: Migration, dead: Collection[str]) -> None:
    silent = [node for node in placement.unknown(replicas) if node in (ended.source, ended.target)]
    users = sorted({replica.node for replica in replicas if replica.in_use} | {*silent} - {*dead})
    if len(users) > 1:
        raise InUse(
            f"{name} is, or may be, open on {' and '.join(users)}: the live migration of VM {ended.vm_id} from "
            f"{ended.source} to {ended.target} has not ended; look where it runs and retry"
        )


def _clear(controller: Controller, name: str, ended: Migration) -> None:
    """Remove the mark, with which all nodes bring DRBD to what LINSTOR has; where one does not, the mark stays."""
    try:
        controller.mark(name, {}, [MIGRATION], followed=True)
    except NotFound:
        return
    except Failed:
        controller.mark(name, {MIGRATION: ended.mark()})
        raise


def _release(world: World, controller: Controller, name: str, host: str) -> None:
    """A volume that is written to is one VM's alone: who is not its host needs it no more."""
    try:
        controller.release(name, host)
    except DriverError as error:
        world.trail.warn(f"left behind: attachment of {name} on {host} ({error})")


def expire(world: World, controller: Controller, marked: Sequence[Definition]) -> None:
    """End the migrations that oned knows nothing of any more; what cannot be ended is told in oned's log.

    Arguments: marked, the definitions that carry the mark of one.
    """
    for definition in marked:
        lost = of(definition)
        if lost is not None and world.clock.date() - lost.since > LEASE_SECONDS:
            try:
                _expire(world, controller, definition.name, lost)
            except DriverError as error:
                world.trail.warn(f"two primaries of {definition.name} stay allowed: {error}")


def _expire(world: World, controller: Controller, name: str, lost: Migration) -> None:
    try:
        vm = world.cloud.vm(lost.vm_id)
    except NotFound:
        hosts: set[str] = set()
    else:
        if vm.lcm_state == _MIGRATING:
            return
        hosts = _host_of(vm)
    if end(world, controller, name, hosts, only=lost):
        world.trail.info(f"only one host may write to {name} again: VM {lost.vm_id} is not being migrated any more")
