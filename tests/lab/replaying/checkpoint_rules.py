"""A VM's saved memory: `save_linstor_un` and `restore_linstor_un`, of our datastores' VMs and of everybody else's."""

from __future__ import annotations

import base64
import re
from pathlib import Path

from lxml import etree

from lab.replaying import facts, virsh
from lab.replaying.case import Case, complete, plain_lines
from lab.replaying.facts import Checkpoint
from lab.replaying.world import DATASTORES


def save(case: Case) -> None:
    saved, name = facts.checkpoint_of(case.call), case.call.argv[0]
    case.unless(not case.outcome.stdout, f"printed {case.outcome.stdout[:80]!r}, oned takes it for its own")
    guest = _guest(case, name)
    case.unless(guest not in case.after.guests, f"the guest {guest} still runs")
    if not saved.ours:
        _handed_over(case, guest, saved)
        return
    case.nothing_else_changed([saved.definition], _asides(case, saved), [guest])
    count = saved.datastore.template.get("CHECKPOINT_REPLICA_COUNT") or case.world.replica_count(saved.datastore)
    made = complete(case, saved.definition, saved.memory, saved.datastore, int(count))
    if made is None:
        return
    case.unless(made.attached <= {saved.host}, f"{saved.definition} is attached on {sorted(made.attached)}")
    kept = saved_image(case.world.linstor.path(saved.definition))
    case.unless(kept[0] == "running", f"{saved.definition} holds a guest that is {kept[0]}")
    known = case.world.guests.documents.get(guest, kept[1])
    case.unless(kept[1] == known, f"{saved.definition} does not hold the guest {guest}")


def restore(case: Case) -> None:
    saved, name = facts.checkpoint_of(case.call), case.call.argv[2]
    case.unless(case.outcome.stdout.strip() in ("", name), f"printed {case.outcome.stdout[:80]!r}")
    guest = case.world.guests.find(name)
    if not case.unless(guest, f"the guest {name} does not run") or guest is None:
        return
    case.unless((guest.host, guest.state) == (saved.host, "running"), f"{name} is {guest.state} on {guest.host}")
    if not saved.ours:
        _handed_over(case, guest.name, saved)
        return
    case.nothing_else_changed([saved.definition], _asides(case, saved), [guest.name])
    case.unless(saved.definition not in case.after.definitions, f"{saved.definition} is still there")
    before = case.world.guests.documents.get(guest.name, guest.document)
    case.unless(_same(before, guest.document, saved), f"the document of {name} changed beyond its own directory")
    for _, path in virsh.drives(guest.document):
        right = virsh.flat(path).startswith(f"{DATASTORES}/{saved.datastore.number}/{saved.vm}/")
        case.unless(right, f"{name} uses {path}, its datastore is {saved.datastore.number}")
    case.world.guests.documents[guest.name] = guest.document


def failed_there(case: Case, reason: str) -> None:
    """Judge a call that the stock script failed: its code and its words are oned's to read, unchanged."""
    case.unless(case.outcome.code == virsh.STOCK_FAILURE, f"exit code {case.outcome.code} although {reason}")
    said = [line for line in plain_lines(case.outcome.stderr) if "it cannot be done" in line]
    case.unless(said, f"stderr does not tell what the stock script said: {case.outcome.stderr[-300:]!r}")
    case.nothing_else_changed()
    _given(case, facts.checkpoint_of(case.call))


def _guest(case: Case, name: str) -> str:
    """Return a domain's name in moments; it may be its UUID or its name to oned."""
    tags = (f"<name>{name}</name>", f"<uuid>{name}</uuid>")
    for one in case.before.guests:
        if one == name or any(tag in case.world.guests.documents.get(one, "") for tag in tags):
            return one
    return name


def _handed_over(case: Case, guest: str, saved: Checkpoint) -> None:
    """The stock script of the host did it, with the words and the document that oned gave, the latter as XML."""
    case.nothing_else_changed([], _asides(case, saved), [guest])
    _given(case, saved)


def _given(case: Case, saved: Checkpoint) -> None:
    place = case.world.guests.place(saved.host)
    words = (place / ".argv").read_text().splitlines() if (place / ".argv").exists() else None
    case.unless(words == case.call.argv, f"the stock script got {words}, oned gave {case.call.argv}")
    document = (place / ".stdin").read_bytes() if (place / ".stdin").exists() else b""
    case.unless(document == base64.b64decode(case.call.stdin), f"the stock script read {document[:60]!r}")
    for name in (".argv", ".stdin"):
        (place / name).unlink(missing_ok=True)


def _asides(case: Case, saved: Checkpoint) -> list[tuple[str, str]]:
    """Return the paths of the checkpoint itself and of what was moved aside for it."""
    places = {*case.before.files, *case.after.files}
    return [place for place in places if place[1].startswith(saved.path)]


def saved_image(path: Path) -> tuple[str, str]:
    """Return (state, document) of a guest that was saved to a file or volume, ("nothing", "") when none was."""
    try:
        return virsh.image(str(path))
    except SystemExit:
        return "nothing", ""


def _same(before: str, after: str, saved: Checkpoint) -> bool:
    """Compare two documents of a domain but for the datastore in the paths of the VM's own directory."""
    own = re.compile(rf"({DATASTORES}/)\d+(/{saved.vm})(?=[/<'\"\s])".replace("/", "/+", 4))
    first, second = (own.sub(r"\1X\2", etree.tostring(etree.fromstring(text.encode()), method="c14n").decode())
                     for text in (before, after))
    return first == second
