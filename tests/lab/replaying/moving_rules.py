"""What a VM's disks and directory look like after they were moved: `mv` of a disk and of a directory."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from lab.oned import answers
from lab.replaying import facts
from lab.replaying.case import Case, attached_to, complete, kept, let_go_of, still
from lab.replaying.disk_rules import disk_of, linked, parents, vm_marks
from lab.replaying.facts import Disk, Place
from lab.replaying.snapshot import link_to

_LOST_HOSTS = "Aux/one/LOST_HOSTS"
_PLACEMENT = ("STORAGE_POOL", "RESOURCE_GROUP", "NODE_LIST", "REPLICA_COUNT", "AUTO_PLACE", "LAYER_LIST", "PROVIDERS")


def mv(case: Case) -> None:
    case.read(answers.read_nothing)
    source, target = facts.places(case.call)[:2]
    if source.disk is None:
        _directory(case, source, target)
    elif (disk := _linstor_disk(case, source)) is None:
        _foreign(case, source, target)
    else:
        _disk(case, disk, source, target)


def _linstor_disk(case: Case, spot: Place) -> Optional[Disk]:
    """Return the disk at a place, None for one that is no volume of LINSTOR."""
    _, disk = disk_of(case, spot)
    return disk if disk and disk.definition in case.before.definitions else None


def _foreign(case: Case, source: Place, target: Place) -> None:
    """A plain file of another driver lies, as it was, at one of the two places: the directory is moved as well."""
    case.nothing_else_changed(files=[(source.host, source.path), *parents(target)])
    was = case.before.files.get((source.host, source.path))
    found = [case.after.files.get((spot.host, spot.path)) for spot in (source, target)]
    case.unless(was in found, f"{source.path} was {was}, is {found[0]} there and {found[1]} at {target.host}")


def _disk(case: Case, disk: Disk, source: Place, target: Place) -> None:
    name, before = disk.definition, case.before.definitions[disk.definition]
    case.nothing_else_changed([name], [(source.host, source.path), *parents(target)])
    after = case.after.definitions.get(name)
    if disk.own and after and _other_pool(case, source, target):
        complete(case, name, before.size >> 10, case.world.datastore(target.datastore))
        kept(case, name, ("size", "snapshots", "flags", "dual"))
        case.unless(after.attached <= {target.host}, f"{name} is attached on {sorted(after.attached)}, too")
    else:
        after = kept(case, name)
        _released(case, disk, source, target)
    if after is None:
        return
    dead = facts.dead_host(case.call)
    _marked(case, disk, target, dead)
    if dead:
        case.world.died.setdefault(name, set()).add((dead, source.path))
    still(case, name)
    case.unless(not after.dual, f"{name} may be written on {sorted(after.dual)} at once")
    on_host = target.host in case.world.hosts.names
    case.unless(not on_host or target.host in after.nodes, f"{name} is not on {target.host}")
    _links(case, name, source, target)


def _other_pool(case: Case, source: Place, target: Place) -> bool:
    """Say whether the destination's datastore keeps its volumes elsewhere: then the replicas move, too."""
    one, other = case.world.datastore(source.datastore), case.world.datastore(target.datastore)
    native = facts.LINSTOR_UN in (one.tm_mad, other.tm_mad) and one.tm_mad == other.tm_mad
    return native and any(one.template.get(name) != other.template.get(name) for name in _PLACEMENT)


def _released(case: Case, disk: Disk, source: Place, target: Place) -> None:
    """The source has the volume no more unless another VM there uses it; a dead source may keep it."""
    before = case.before.definitions[disk.definition].attached
    if source.host == target.host or facts.dead_host(case.call):
        attached_to(case, disk.definition, before, [source.host, target.host])
    else:
        let_go_of(case, disk.definition, source.host, [source.path, target.path], [target.host])


def _marked(case: Case, disk: Disk, target: Place, dead: str) -> None:
    """The marks tell the VM, the disk and the destination's system datastore; a shared image has none.

    One more may tell of the dead host, which has to be tidied when it is back.
    """
    before, after = case.before.definitions[disk.definition], case.after.definitions[disk.definition]
    wanted = vm_marks(target) if disk.own or before.props.keys() & vm_marks(target).keys() else {}
    found = {key: after.props.get(key) for key in vm_marks(target) if key in after.props}
    case.unless(found == wanted, f"{disk.definition} carries the marks {found}, not {wanted}")
    rest = {key: value for key, value in before.props.items() if key not in vm_marks(target)}
    now = {key: value for key, value in after.props.items() if key not in vm_marks(target)}
    if dead and dead in now.get(_LOST_HOSTS, ""):
        now[_LOST_HOSTS] = rest.setdefault(_LOST_HOSTS, now[_LOST_HOSTS])
    taken_back = disk.definition in case.world.lost and now.items() <= rest.items()
    case.unless(now == rest or taken_back, f"{disk.definition} had the properties {rest}, has {now}")


def _links(case: Case, name: str, source: Place, target: Place) -> None:
    """Who carries the directory decides which link counts: our own mv of the directory, or another driver's."""
    driver = case.world.tm_mad(target.datastore)
    at_source = case.after.files.get((source.host, source.path))
    at_target = case.after.files.get((target.host, target.path))
    if driver == facts.LINSTOR_UN:
        if target.host in case.world.hosts.names:
            linked(case, target, name)
        case.unless(at_target in (None, link_to(name)), f"{target.host}:{target.path} is {at_target}")
        case.unless(at_source in (None, link_to(name)), f"{source.host}:{source.path} is {at_source}")
        return
    carried = case.before.files.get((source.host, source.directory)) == "directory"
    case.unless(
        not carried or at_source == link_to(name),
        f"{source.host}:{source.path} is {at_source}: {driver} carries that directory after this, links and all",
    )
    moves_whole = driver != "ssh" and source.path != target.path
    directory = (target.host, target.directory)
    made = directory in case.after.files and directory not in case.before.files
    case.unless(not (moves_whole and made), f"{target.directory} was made, and {driver} would move into it")


# The directory


def _directory(case: Case, source: Place, target: Place) -> None:
    if case.world.same_directory(source, target) or (source.host, source.path) == (target.host, target.path):
        case.nothing_else_changed()
        return
    inside = case.before.below(source.host, source.path)
    dead = bool(facts.dead_host(case.call))
    for path, entry in {} if dead else carried(case, inside).items():
        there = case.after.files.get((target.host, f"{target.path}/{path}"))
        case.unless(there == entry, f"{target.host}:{target.path}/{path} is {there}, was {entry} on {source.host}")
    left = case.after.below(source.host, source.path)
    if not dead:
        case.unless(not left and (source.host, source.path) not in case.after.files,
                    f"{source.host}:{source.path} is still there with {sorted(left)}")
    _directory_exists(case, source, target, dead)
    arrived = [(target.host, f"{target.path}/{path}") for path in inside]
    gone = [] if dead else [(source.host, source.path), *((source.host, f"{source.path}/{path}") for path in inside)]
    checkpoint = _checkpoint_let_go(case, source)
    case.nothing_else_changed(checkpoint, [*gone, *arrived, *_above(target)])


def carried(case: Case, entries: dict[str, str]) -> dict[str, str]:
    """Return what has to arrive: everything but links to volumes, which each disk's own mv takes care of."""
    volumes = {link_to(name) for name in case.before.definitions}
    return {path: entry for path, entry in entries.items() if entry not in volumes}


def _directory_exists(case: Case, source: Place, target: Place, dead: bool) -> None:
    """Whoever comes next looks for the directory, empty or not."""
    was = (source.host, source.path) in case.before.files
    case.unless(dead or not was or case.after.files.get((target.host, target.path)) == "directory",
                f"{target.host}:{target.path} is not there")


def _above(target: Place) -> list[tuple[str, str]]:
    return [(target.host, target.path), (target.host, target.path.rpartition("/")[0])]


def _checkpoint_let_go(case: Case, source: Place) -> list[str]:
    """The VM's checkpoint may leave the source with the directory, and is otherwise as it was."""
    name = f"one-vm-{source.vm}-checkpoint"
    before, after = case.before.definitions.get(name), case.after.definitions.get(name)
    if before is None or after not in (before, replace(before, attached=before.attached - {source.host})):
        return []
    return [name]
