"""Whether one call ended as expected; docs/replay.md says the same in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from lab.oned import answers
from lab.oned.answers import CLOSE, OPEN, Misread, Outcome
from lab.oned.recordings import Call
from lab.replaying import facts
from lab.replaying.contents import EMPTY
from lab.replaying.facts import Datastore, Disk, Place, Vm
from lab.replaying.snapshot import Definition, Snapshot, differences
from lab.replaying.world import World

_LOG = re.compile(r"(ERROR|INFO|WARN|DEBUG): ")
_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "swap"}
_MESSAGE_LIMIT = 600


@dataclass
class Case:
    """One finished call between two moments; complaints gather in `wrong`."""

    world: World
    call: Call
    before: Snapshot
    after: Snapshot
    outcome: Outcome
    wrong: list[str]

    def unless(self, condition: object, complaint: str) -> bool:
        """Note the complaint unless the condition holds; returns whether it does."""
        if not condition:
            self.wrong.append(complaint)
        return bool(condition)

    def nothing_else_changed(
        self, definitions: Collection[str] = (), files: Collection[tuple[str, str]] = ()
    ) -> None:
        """Note everything that changed beside the definitions and files named."""
        seen = [place for host, path in files for place in self.world.everywhere(host, path)]
        self.wrong += differences(self.before, self.after, definitions, seen)

    def read(self, reader: Callable[[Outcome], object]) -> object:
        """Return stdout as oned parses it, None (and a complaint) when it cannot."""
        try:
            return reader(self.outcome)
        except Misread as misread:
            self.wrong.append(f"stdout: {misread}")
            return None


def failed_cleanly(case: Case, reason: str) -> None:
    """Judge a call that had to fail: a code that says nothing is left, one sentence, nothing changed."""
    if not case.unless(not case.outcome.success, f"succeeded although {reason}"):
        return
    case.unless(case.outcome.code in (1, 2), f"exit code {case.outcome.code}, not 1 or 2: {case.outcome.stderr[-800:]}")
    case.unless(not case.outcome.stdout, f"printed {case.outcome.stdout[:80]!r} and failed")
    sentences = _plain_lines(case.outcome.stderr)
    case.unless(len(sentences) == 1, f"{len(sentences)} user sentences instead of one: {sentences}")
    message = case.outcome.user_message
    case.unless(0 < len(message) <= _MESSAGE_LIMIT and "\n" not in message, f"the user would read {message!r}")
    case.unless(bool(sentences) and sentences[0] in message, f"the user would read {message!r}, not {sentences}")
    if case.call.action in ("rm", "delete"):
        case.after = _without_deletion_marks(case.after)
    case.nothing_else_changed()


def _without_deletion_marks(moment: Snapshot) -> Snapshot:
    """A refused deletion may leave the mark that nobody wants the volume any more."""
    definitions = {}
    for name, item in moment.definitions.items():
        props = {key: value for key, value in item.props.items() if (key, value) != ("Aux/one/STATE", "deleting")}
        definitions[name] = replace(item, props=props)
    return Snapshot(definitions, moment.files)


def _plain_lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if not _LOG.match(line) and line not in (OPEN, CLOSE)]


def succeeded(case: Case) -> None:
    """Judge a call that had to succeed by the rule of its action."""
    if not case.unless(case.outcome.success, f"exit code {case.outcome.code}: {case.outcome.stderr[-800:].strip()}"):
        return
    case.unless(not _plain_lines(case.outcome.stderr), f"stderr of a success: {case.outcome.stderr[-300:]!r}")
    RULES[case.call.kind, case.call.action](case)


def _stat(case: Case) -> None:
    size = case.read(answers.read_stat)
    wanted = case.world.source_sizes[facts.image_of(case.call).path]
    case.unless(size in (None, wanted), f"says {size} MiB, the source has {wanted}")
    case.nothing_else_changed()


def _cp(case: Case) -> None:
    image = facts.image_of(case.call)
    stored = case.read(answers.read_cp)
    name = f"one-image-{image.number}"
    wanted = answers.Stored(f"/dev/drbd/by-res/{name}/0", "raw" if case.outcome.release.has_image_format else "")
    case.unless(stored in (None, wanted), f"oned reads {stored}")
    size = max(image.size, case.world.source_sizes[image.path])
    _new_image(case, name, size, case.world.source_fingerprints[image.path])


def _mkfs(case: Case) -> None:
    image = facts.image_of(case.call)
    stored = case.read(answers.read_mkfs)
    name = f"one-image-{image.number}"
    case.unless(stored in (None, answers.Stored(f"/dev/drbd/by-res/{name}/0")), f"oned reads {stored}")
    if image.save_as:
        case.nothing_else_changed()
        return
    kind = image.fs if image.fs in _FILE_SYSTEMS else ""
    _new_image(case, name, image.size, None if kind else EMPTY)
    if kind and name in case.after.definitions:
        _holds(case, name, kind)


def _clone_image(case: Case) -> None:
    image = facts.image_of(case.call)
    stored = case.read(answers.read_clone)
    name = f"one-image-{image.number}"
    case.unless(stored is None or getattr(stored, "source", "") == f"/dev/drbd/by-res/{name}/0", f"oned reads {stored}")
    source = facts.definition_of(image.path)
    _new_image(case, name, image.size, case.world.known.get(source), also=[source])
    _only_snapshot_of(case, source, name, facts.datastore_of(case.call))
    _still(case, source)


def _new_image(case: Case, name: str, size: int, content: Optional[str], also: Collection[str] = ()) -> None:
    """An image of at least `size` MiB is complete, attached nowhere, and its bytes are right."""
    case.nothing_else_changed([name, *also])
    datastore = facts.datastore_of(case.call)
    made = _complete(case, name, size, datastore)
    if made:
        case.unless(not made.attached, f"{name} is still attached on {sorted(made.attached)}")
        _holds_content(case, name, content)
        number = made.props.get("Aux/one/IMAGE_ID")
        case.unless(number == name.rpartition("-")[2], f"{name} is marked with IMAGE_ID {number}")


def _complete(case: Case, name: str, size: int, datastore: Datastore) -> Optional[Definition]:
    """Check existence, size in MiB, replicas and that the definition is not marked as half-made."""
    made = case.after.definitions.get(name)
    if not case.unless(made, f"{name} does not exist") or made is None:
        return None
    case.unless(made.size >= size << 10, f"{name} has {made.size} KiB, asked for {size} MiB")
    case.unless("Aux/one/STATE" not in made.props, f"{name} is left in state {made.props.get('Aux/one/STATE')}")
    case.unless(not made.flags, f"{name} has flags {sorted(made.flags)}")
    count = case.world.replica_count(datastore)
    case.unless(len(made.replicas) == count, f"{name} has replicas on {sorted(made.replicas)}, wanted {count}")
    return made


def _holds_content(case: Case, name: str, content: Optional[str]) -> None:
    """Compare the bytes with what is wanted (None: anything), and remember them."""
    found = case.world.linstor.fingerprint(name)
    case.unless(content in (None, found), f"{name} has not the right bytes")
    case.world.known[name] = found


def _still(case: Case, name: str) -> None:
    """A volume that was only read has the bytes it had."""
    case.unless(case.world.linstor.fingerprint(name) == case.world.known.get(name), f"the bytes of {name} changed")


def _holds(case: Case, name: str, kind: str) -> None:
    found = case.world.signature(name)
    case.unless(found == kind, f"{name} holds {found or 'no file system'}, wanted {kind}")


def _rm(case: Case) -> None:
    case.read(answers.read_nothing)
    _gone(case, facts.definition_of(facts.image_of(case.call).source))


def _gone(case: Case, *names: str, files: Collection[tuple[str, str]] = ()) -> None:
    for name in names:
        case.unless(name not in case.after.definitions, f"{name} is still there")
        case.world.known.pop(name, None)
    case.nothing_else_changed(names, files)


def _monitor(case: Case) -> None:
    values = case.read(answers.read_monitor)
    case.nothing_else_changed()
    if not isinstance(values, dict):
        return
    total, free, used = values["TOTAL_MB"], values["FREE_MB"], values["USED_MB"]
    case.unless(0 <= free <= total and total > 0, f"says total {total}, free {free}")
    case.unless(abs(total - free - used) <= 1, f"says total {total}, free {free}, used {used}")
    limit = case.world.linstor.capacity_mib(facts.datastore_of(case.call))
    case.unless(total <= limit + 1, f"says {total} MiB, after replication there are {limit}")


def _disk_of(case: Case, spot: Place) -> tuple[Optional[Vm], Optional[Disk]]:
    vm = facts.vm_of(case.call.vm_document)
    return vm, vm.disks.get(spot.disk) if vm and spot.disk is not None else None


def _clone(case: Case) -> None:
    case.read(answers.read_nothing)
    spot, source = facts.places(case.call)[-1], facts.definition_of(case.call.argv[0])
    _, disk = _disk_of(case, spot)
    name = f"one-vm-{spot.vm}-disk-{spot.disk}"
    made = _new_disk(case, name, disk.size if disk else 0, spot, also=[source])
    _only_snapshot_of(case, source, name, case.world.datastore(spot.datastore))
    if made:
        _holds_content(case, name, case.world.known.get(source))
    _still(case, source)


def _only_snapshot_of(case: Case, source: str, name: str, datastore: Datastore) -> None:
    """The image is as before; CLONE_MODE=snapshot may have left one snapshot named as the clone."""
    before, after = case.before.definitions[source], case.after.definitions.get(source)
    expected = before
    if datastore.template.get("CLONE_MODE") == "snapshot":
        expected = replace(before, snapshots=before.snapshots | {name})
    case.unless(after in (before, expected), f"image {source} changed from {before} to {after}")


def _new_disk(case: Case, name: str, size: int, spot: Place, also: Collection[str] = ()) -> Optional[Definition]:
    """A VM's own disk of `size` MiB is complete, its marks are right, and it is linked and attached on its host."""
    case.nothing_else_changed([name, *also], _parents(spot))
    datastore = case.world.datastore(spot.datastore)
    made = _complete(case, name, size, datastore)
    _linked(case, spot, name)
    if made:
        for mark, value in _vm_marks(spot).items():
            found = made.props.get(mark)
            case.unless(found == value, f"{name} is marked with {mark} {found}, not {value}")
        case.unless(made.attached <= {spot.host}, f"{name} is attached on {sorted(made.attached)}, too")
        prefer = datastore.template.get("PREFER_NODE", "").lower() in ("yes", "1", "true")
        case.unless(not prefer or spot.host in made.replicas, f"{name} has no replica on {spot.host} (PREFER_NODE)")
    return made


def _vm_marks(spot: Place) -> dict[str, str]:
    """Return the properties that say whose disk a volume is; DS_ID is the system datastore."""
    values = {"VM_ID": spot.vm, "DISK_ID": spot.disk, "DS_ID": spot.datastore}
    return {f"Aux/one/{name}": str(value) for name, value in values.items()}


def _parents(spot: Place) -> list[tuple[str, str]]:
    """Name the path and the directories above it: the first disk of a VM makes them."""
    directory = spot.directory
    return [(spot.host, spot.path), (spot.host, directory), (spot.host, directory.rsplit("/", 1)[0])]


def _linked(case: Case, spot: Place, name: str) -> None:
    entry = case.after.files.get((spot.host, spot.path), "not there")
    linked = spot.path in case.after.links_to(spot.host, name)
    case.unless(linked, f"{spot.host}:{spot.path} is {entry}, no link to {name}")
    here = case.after.definitions.get(name)
    case.unless(here is None or spot.host in here.replicas | here.attached, f"{name} is not on {spot.host}")


def _ln(case: Case) -> None:
    case.read(answers.read_nothing)
    spot, source = facts.places(case.call)[-1], facts.definition_of(case.call.argv[0])
    _linked(case, spot, source)
    case.nothing_else_changed([source], _parents(spot))
    before, after = case.before.definitions[source], case.after.definitions.get(source)
    if case.unless(after, f"{source} is gone") and after:
        case.unless(after.attached - {spot.host} == before.attached - {spot.host}, f"{source} moved: {after.attached}")
        for field in ("size", "replicas", "snapshots", "flags"):
            was, now = getattr(before, field), getattr(after, field)
            case.unless(was == now, f"{field} of {source} changed from {was} to {now}")
        _, disk = _disk_of(case, spot)
        allowed: list[dict[str, str]] = [{}, _vm_marks(spot)] if disk and disk.persistent else [{}]
        marked = {key: value for key, value in after.props.items() if key in _vm_marks(spot)}
        case.unless(marked in allowed, f"{source} carries the marks {marked}")
    _still(case, source)


def _mkimage(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[-1]
    _, disk = _disk_of(case, spot)
    name = f"one-vm-{spot.vm}-disk-{spot.disk}"
    made = _new_disk(case, name, int(case.call.argv[0]), spot)
    kind = disk.fs if disk and disk.fs in _FILE_SYSTEMS else ""
    if made:
        _holds_content(case, name, None if kind else EMPTY)
        if kind:
            _holds(case, name, kind)


def _mkswap(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[-1]
    name = f"one-vm-{spot.vm}-disk-{spot.disk}"
    if _new_disk(case, name, int(case.call.argv[0]), spot):
        _holds_content(case, name, None)
        _holds(case, name, "swap")


def _context(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[-1]
    case.nothing_else_changed(files=_parents(spot))
    entry = case.after.files.get((spot.host, spot.path), "not there")
    if case.unless(entry.startswith("file "), f"{spot.host}:{spot.path} is {entry}, not a file"):
        data = case.world.host_path(spot.host, spot.path).read_bytes()
        for word in case.call.argv[:-3]:
            text = Path(word.partition(":")[0]).read_bytes()
            case.unless(text in data, f"the context does not hold {word}")


def _below(moment: Snapshot, spot: Place) -> list[tuple[str, str]]:
    return [(host, path) for host, path in moment.files
            if host == spot.host and (path + "/").startswith(spot.path + "/")]


def _delete(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[0]
    if spot.disk is None:
        inside = _below(case.before, spot)
        left = _below(case.after, spot)
        case.unless(not left, f"{left} is still there")
        _gone(case, f"one-vm-{spot.vm}-checkpoint", files=inside)
        return
    _, disk = _disk_of(case, spot)
    case.unless((spot.host, spot.path) not in case.after.files, f"{spot.host}:{spot.path} is still there")
    if disk is None or disk.own:
        _gone(case, f"one-vm-{spot.vm}-disk-{spot.disk}", files=[(spot.host, spot.path)])
    else:
        _let_go(case, disk.definition, spot)


def _let_go(case: Case, name: str, spot: Place) -> None:
    """The host has the image no more unless it holds a replica or another VM there has it; the image is as it was."""
    case.nothing_else_changed([name], [(spot.host, spot.path)])
    before, after = case.before.definitions.get(name), case.after.definitions.get(name)
    if before is None:
        return
    if not case.unless(after, f"image {name} was removed") or after is None:
        return
    others = [path for path in case.before.links_to(spot.host, name) if path != spot.path]
    expected = before.attached if others else before.attached - {spot.host}
    case.unless(after.attached == expected, f"{name} is attached on {sorted(after.attached)}, not {sorted(expected)}")
    for field in ("size", "replicas", "snapshots", "flags"):
        was, now = getattr(before, field), getattr(after, field)
        case.unless(was == now, f"{field} of {name} changed from {was} to {now}")
    marked = sorted(set(after.props) & set(_vm_marks(spot)))
    case.unless(not marked, f"{name} still carries {marked}")
    _still(case, name)


def _mvds(case: Case) -> None:
    case.read(answers.read_nothing)
    spot = facts.places(case.call)[0]
    case.unless((spot.host, spot.path) not in case.after.files, f"{spot.host}:{spot.path} is still there")
    _let_go(case, facts.definition_of(case.call.argv[1]), spot)


RULES: dict[tuple[str, str], Callable[[Case], None]] = {
    ("ds", "stat"): _stat, ("ds", "cp"): _cp, ("ds", "mkfs"): _mkfs, ("ds", "clone"): _clone_image, ("ds", "rm"): _rm,
    ("ds", "monitor"): _monitor, ("tm", "clone"): _clone, ("tm", "ln"): _ln, ("tm", "mkimage"): _mkimage,
    ("tm", "mkswap"): _mkswap, ("tm", "context"): _context, ("tm", "delete"): _delete, ("tm", "mvds"): _mvds,
    ("tm", "monitor"): _monitor,
}
