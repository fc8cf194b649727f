"""What a live migration looks like before, after and when it failed: `premigrate`, `postmigrate`, `failmigrate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Optional

from lab.oned import answers
from lab.replaying import facts
from lab.replaying.case import Case, attached_to, kept, let_go_of, still
from lab.replaying.disk_rules import linked, parents
from lab.replaying.facts import Disk, Place
from lab.replaying.moving_rules import carried
from lab.replaying.snapshot import Snapshot
from lab.replaying.world import Migration

_DATA = ("size", "replicas", "snapshots", "flags")
_DS_ID = "Aux/one/DS_ID"


def premigrate(case: Case) -> None:
    case.read(answers.read_nothing)
    source, target = facts.places(case.call)[:2]
    disks = _disks(case)
    case.nothing_else_changed([disk.definition for disk in disks], [
        *_own_links(disks, target), (target.host, target.path), (target.host, target.path.rpartition("/")[0]),
        *_copied(case, source, target), *_same_host(case, source, target),
    ])
    for disk in disks:
        _lent(case, disk, source, target)
    if not _secondary(case) and not case.world.same_directory(source, target):
        for path, entry in carried(case, case.before.below(source.host, source.path)).items():
            found = case.after.files.get((target.host, f"{target.path}/{path}"))
            case.unless(found == entry, f"{target.host}:{target.path}/{path} is {found}, it is {entry} at the source")
    there = (target.host, target.path) in case.before.files
    before = {disk.definition: case.before.definitions[disk.definition] for disk in disks}
    lost = case.world.migrations.get(target.vm)
    if lost and (lost.source, lost.target, lost.directory) == (source.host, target.host, target.path):
        # The same once more, after one that has never ended: all is to be as it was before the first.
        before, there = {**before, **lost.before}, lost.there
    case.world.migrations[target.vm] = Migration(source.host, target.host, target.path, before, there)


def _lent(case: Case, disk: Disk, source: Place, target: Place) -> None:
    """The destination has the disk as well; both may write, and nobody else; nothing else is different."""
    name, before = disk.definition, case.before.definitions[disk.definition]
    after = kept(case, name, _DATA)
    linked(case, _at(target, disk), name)
    attached_to(case, name, before.attached, [target.host])
    if after is None:
        return
    case.unless(before.props.items() <= after.props.items() or name in case.world.lost,
                f"{name} had the properties {before.props}, has {after.props}")
    pair = " ".join(sorted((source.host, target.host), key=str.upper))
    case.unless(after.dual <= {pair} | before.dual, f"{name} may be written on {sorted(after.dual)} at once")
    needed = disk.written and source.host != target.host
    case.unless(not needed or pair in after.dual, f"{name} may not be written on {pair} at once: {sorted(after.dual)}")
    still(case, name)


def postmigrate(case: Case) -> None:
    case.read(answers.read_nothing)
    source, target = facts.places(case.call)[:2]
    disks = _disks(case)
    gone = _left(case, disks, source, target)
    own = [*gone, *_links_with_parents(disks, target), *_same_host(case, source, target)]
    case.nothing_else_changed([disk.definition for disk in disks], own)
    migration = case.world.migrations.pop(target.vm, None)
    for disk in disks:
        linked(case, _at(target, disk), disk.definition)
        if source.host != target.host:
            let_go_of(case, disk.definition, source.host, [_at(source, disk).path], [target.host])
        _settled(case, disk, migration, target)
    # A driver that calls ours removes its directory after this, links and all.
    for host, path in [] if _secondary(case) else gone:
        case.unless((host, path) not in case.after.files, f"{host}:{path} is still there")


def failmigrate(case: Case) -> None:
    case.read(answers.read_nothing)
    source, target = facts.places(case.call)[:2]
    disks = _disks(case)
    migration = case.world.migrations.pop(target.vm, None)
    gone = [] if migration is None or migration.there else _left(case, disks, target, source)
    case.nothing_else_changed([disk.definition for disk in disks], gone)
    for disk in disks:
        name, before = disk.definition, case.before.definitions[disk.definition]
        first = migration.before.get(name, before) if migration else before
        attached_to(case, name, before.attached - {target.host} | first.attached & {target.host})
        _settled(case, disk, migration, source)
    for host, path in gone:
        case.unless((host, path) not in case.after.files, f"{host}:{path} is still there")


def half_done(case: Case) -> None:
    """A failed end of a migration goes as far as it can: each disk is where it was, or where it should be."""
    source, target = facts.places(case.call)[:2]
    loser = source if case.call.action == "postmigrate" else target
    disks = _disks(case)
    case.nothing_else_changed([disk.definition for disk in disks], [
        *_own_links(disks, source), *_own_links(disks, target), *_left(case, disks, loser, loser),
    ])
    for disk in disks:
        before, after = case.before.definitions[disk.definition], kept(case, disk.definition, _DATA)
        attached_to(case, disk.definition, before.attached, [loser.host])
        if after:
            case.unless(after.dual <= before.dual, f"{disk.definition} may be written on {sorted(after.dual)} at once")
        still(case, disk.definition)


def taken_back(case: Case) -> Snapshot:
    """Return the moment after a call without what it took back of lost migrations."""
    definitions = dict(case.after.definitions)
    for name, hosts in case.world.lost.items():
        before, after = case.before.definitions.get(name), definitions.get(name)
        if before and after and before.attached - hosts <= after.attached <= before.attached \
                and after.dual <= before.dual and after.props.items() <= before.props.items():
            definitions[name] = replace(after, attached=before.attached, dual=before.dual, props=before.props)
    return replace(case.after, definitions=definitions)


def _settled(case: Case, disk: Disk, migration: Optional[Migration], keeper: Place) -> None:
    """Nobody else may write any more, nothing tells of the migration, and the VM's mark names where it is now."""
    name, before = disk.definition, case.before.definitions[disk.definition]
    after = kept(case, name, _DATA)
    if after is None:
        return
    case.unless(keeper.host in after.nodes, f"{name} is not on {keeper.host}")
    case.unless(not after.dual, f"{name} may still be written on {sorted(after.dual)} at once")
    wanted = dict(migration.before[name].props if migration and name in migration.before else before.props)
    if _DS_ID in wanted:
        wanted[_DS_ID] = str(keeper.datastore)
    known = {key: value for key, value in after.props.items() if migration or key in wanted}
    case.unless(known == wanted, f"{name} has the properties {dict(after.props)}, not {wanted}")
    still(case, name)


def _disks(case: Case) -> list[Disk]:
    vm = facts.vm_of(case.call.vm_document)
    return [disk for disk in vm.on_linstor() if disk.definition in case.before.definitions] if vm else []


def _at(directory: Place, disk: Disk) -> Place:
    return replace(directory, path=f"{directory.path}/disk.{disk.number}", file=f"disk.{disk.number}")


def _own_links(disks: list[Disk], directory: Place) -> list[tuple[str, str]]:
    return [(directory.host, _at(directory, disk).path) for disk in disks]


def _links_with_parents(disks: list[Disk], directory: Place) -> Iterator[tuple[str, str]]:
    for disk in disks:
        yield from parents(_at(directory, disk))


def _secondary(case: Case) -> bool:
    return bool(facts.caller(case.call))


def _copied(case: Case, source: Place, target: Place) -> list[tuple[str, str]]:
    """Return where the files of the directory may appear: as secondary nowhere."""
    if _secondary(case):
        return []
    return [(target.host, f"{target.path}/{path}") for path in case.before.below(source.host, source.path)]


def _same_host(case: Case, source: Place, target: Place) -> list[tuple[str, str]]:
    """Return all of both directories when a VM changes its datastore and not its host: what is in them may follow."""
    vm = facts.vm_of(case.call.vm_document)
    if source.host != target.host or vm is None or len(vm.datastores) < 2 or _secondary(case):
        return []
    former = target.path.replace(f"/{target.datastore}/", f"/{vm.datastores[-2]}/")
    names = {path for moment in (case.before, case.after) for path in
             [*moment.below(source.host, former), *moment.below(source.host, target.path)]}
    both = (former, target.path)
    return [(source.host, path) for path in both] + [(source.host, f"{path}/{name}") for path in both for name in names]


def _left(case: Case, disks: list[Disk], loser: Place, keeper: Place) -> list[tuple[str, str]]:
    """Return what goes on the host that the VM is not on any more: the directory, or as secondary our links."""
    if loser.host == keeper.host or case.world.same_directory(loser, keeper):
        return []
    if _secondary(case):
        return [place for place in _own_links(disks, loser) if place in case.before.files]
    inside = case.before.below(loser.host, loser.path)
    return [(loser.host, loser.path), *((loser.host, f"{loser.path}/{path}") for path in inside)]
