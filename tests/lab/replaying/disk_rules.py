"""What a VM's disk and its host look like after each transfer action."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Optional

from lab.oned import answers
from lab.replaying import facts
from lab.replaying.case import (
    FILE_SYSTEMS,
    Case,
    attached_to,
    complete,
    gone,
    holds,
    holds_content,
    kept,
    let_go_of,
    only_snapshot_of,
    still,
)
from lab.replaying.contents import EMPTY
from lab.replaying.facts import Disk, Place, Vm
from lab.replaying.snapshot import Definition, Snapshot


def disk_of(case: Case, spot: Place) -> tuple[Optional[Vm], Optional[Disk]]:
    """Return the VM of the call, and its disk at a place, as far as the document knows them."""
    vm = facts.vm_of(case.call.vm_document)
    return vm, vm.disks.get(spot.disk) if vm and spot.disk is not None else None


def clone(case: Case) -> None:
    case.read(answers.read_nothing)
    spot, source = facts.places(case.call)[-1], facts.definition_of(case.call.argv[0])
    _, disk = disk_of(case, spot)
    name = f"one-vm-{spot.vm}-disk-{spot.disk}"
    made = _new_disk(case, name, disk.size if disk else 0, spot, also=[source])
    only_snapshot_of(case, source, name, case.world.datastore(spot.datastore))
    if made:
        holds_content(case, name, case.world.known.get(source))
    still(case, source)


def _new_disk(case: Case, name: str, size: int, spot: Place, also: Collection[str] = ()) -> Optional[Definition]:
    """A VM's own disk of `size` MiB is complete, its marks are right, and it is linked and attached on its host."""
    case.nothing_else_changed([name, *also], parents(spot))
    datastore = case.world.datastore(spot.datastore)
    made = complete(case, name, size, datastore)
    linked(case, spot, name)
    if made:
        for mark, value in vm_marks(spot).items():
            found = made.props.get(mark)
            case.unless(found == value, f"{name} is marked with {mark} {found}, not {value}")
        case.unless(made.attached <= {spot.host}, f"{name} is attached on {sorted(made.attached)}, too")
        prefer = datastore.template.get("PREFER_NODE", "").lower() in ("yes", "1", "true")
        case.unless(not prefer or spot.host in made.replicas, f"{name} has no replica on {spot.host} (PREFER_NODE)")
    return made


def vm_marks(spot: Place) -> dict[str, str]:
    """Return the properties that say whose disk a volume is; DS_ID is the system datastore."""
    values = {"VM_ID": spot.vm, "DISK_ID": spot.disk, "DS_ID": spot.datastore}
    return {f"Aux/one/{name}": str(value) for name, value in values.items()}


def parents(spot: Place) -> list[tuple[str, str]]:
    """Name the path and the directories above it: the first disk of a VM makes them."""
    directory = spot.directory
    return [(spot.host, spot.path), (spot.host, directory), (spot.host, directory.rsplit("/", 1)[0])]


def linked(case: Case, spot: Place, name: str) -> None:
    """The path on the host is a link to the definition's device, and the host has the device."""
    entry = case.after.files.get((spot.host, spot.path), "not there")
    there = spot.path in case.after.links_to(spot.host, name)
    case.unless(there, f"{spot.host}:{spot.path} is {entry}, no link to {name}")
    here = case.after.definitions.get(name)
    case.unless(here is None or spot.host in here.nodes, f"{name} is not on {spot.host}")


def ln(case: Case) -> None:
    case.read(answers.read_nothing)
    spot, source = facts.places(case.call)[-1], facts.definition_of(case.call.argv[0])
    linked(case, spot, source)
    case.nothing_else_changed([source], parents(spot))
    after = kept(case, source)
    if after:
        attached_to(case, source, case.before.definitions[source].attached - {spot.host} | after.attached & {spot.host})
        _, disk = disk_of(case, spot)
        allowed: list[dict[str, str]] = [{}, vm_marks(spot)] if disk and disk.persistent else [{}]
        marked = {key: value for key, value in after.props.items() if key in vm_marks(spot)}
        case.unless(marked in allowed, f"{source} carries the marks {marked}")
    still(case, source)


def mkimage(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[-1]
    _, disk = disk_of(case, spot)
    name = f"one-vm-{spot.vm}-disk-{spot.disk}"
    made = _new_disk(case, name, int(case.call.argv[0]), spot)
    kind = disk.fs if disk and disk.fs in FILE_SYSTEMS else ""
    if made:
        holds_content(case, name, None if kind else EMPTY)
        if kind:
            holds(case, name, kind)


def mkswap(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[-1]
    name = f"one-vm-{spot.vm}-disk-{spot.disk}"
    if _new_disk(case, name, int(case.call.argv[0]), spot):
        holds_content(case, name, None)
        holds(case, name, "swap")


def context(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[-1]
    case.nothing_else_changed(files=parents(spot))
    entry = case.after.files.get((spot.host, spot.path), "not there")
    if case.unless(entry.startswith("file "), f"{spot.host}:{spot.path} is {entry}, not a file"):
        data = case.world.host_path(spot.host, spot.path).read_bytes()
        for word in case.call.argv[:-3]:
            text = Path(word.partition(":")[0]).read_bytes()
            case.unless(text in data, f"the context does not hold {word}")


def _below(moment: Snapshot, spot: Place) -> list[tuple[str, str]]:
    return [(host, path) for host, path in moment.files
            if host == spot.host and (path + "/").startswith(spot.path + "/")]


def delete(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[0]
    if spot.disk is None:
        inside = _below(case.before, spot)
        left = _below(case.after, spot)
        case.unless(not left, f"{left} is still there")
        gone(case, f"one-vm-{spot.vm}-checkpoint", files=inside)
        return
    _, disk = disk_of(case, spot)
    case.unless((spot.host, spot.path) not in case.after.files, f"{spot.host}:{spot.path} is still there")
    if disk is None or disk.own:
        gone(case, f"one-vm-{spot.vm}-disk-{spot.disk}", files=[(spot.host, spot.path)])
    else:
        _let_go(case, disk.definition, spot)


def _let_go(case: Case, name: str, spot: Place) -> None:
    """The host has the image no more unless it holds a replica or another VM there has it; the image is as it was."""
    case.nothing_else_changed([name], [(spot.host, spot.path)])
    before = case.before.definitions.get(name)
    if before is None:
        return
    after = kept(case, name)
    if after is None:
        return
    let_go_of(case, name, spot.host, [spot.path])
    case.unless(not after.dual, f"{name} may still be written on {sorted(after.dual)} at once")
    marked = sorted(set(after.props) & set(vm_marks(spot)))
    case.unless(not marked, f"{name} still carries {marked}")
    still(case, name)


def mvds(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[0]
    case.unless((spot.host, spot.path) not in case.after.files, f"{spot.host}:{spot.path} is still there")
    _let_go(case, facts.definition_of(case.call.argv[1]), spot)
