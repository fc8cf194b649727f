"""Volumes that grew, were copied into an image, or are lent to a marketplace: `resize`, `cpds`, `export`."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from lxml import etree

from lab.oned import answers
from lab.replaying import facts
from lab.replaying.case import Case, attached_to, complete, holds_content, kept, still
from lab.replaying.contents import fingerprint
from lab.replaying.snapshot_rules import disk_definition, quiet

_MEMBERS = ("IMPORT_SOURCE", "MD5", "SIZE", "FORMAT", "DISPOSE")
_CHUNK = 1 << 20


def resize(case: Case) -> None:
    case.read(answers.read_nothing)
    name, wanted = disk_definition(case), int(case.call.argv[1]) << 10
    case.nothing_else_changed([name])
    after = kept(case, name, ("replicas", "snapshots", "flags", "dual", "props"))
    if after is None:
        return
    attached_to(case, name, case.before.definitions[name].attached)
    case.unless(after.size == wanted, f"{name} has {after.size} KiB, asked for {wanted}")
    held = case.world.linstor.path(name).stat().st_size
    case.unless(held >= wanted << 10, f"the device of {name} has {held} bytes, asked for {wanted} KiB")
    still(case, name)


def cpds(case: Case) -> None:
    case.read(answers.read_nothing)
    source, target = disk_definition(case), facts.definition_of(case.call.argv[1])
    number = int(case.call.argv[2])
    quiet(case, source)
    case.nothing_else_changed([target])
    before = case.before.definitions[source]
    content, size = (case.world.known.get(source), before.size) if number < 0 else case.world.snapped[source, number]
    made = complete(case, target, size >> 10, case.world.datastore(int(case.call.argv[-1])))
    if made:
        case.unless(not made.attached, f"{target} is still attached on {sorted(made.attached)}")
        holds_content(case, target, content)
        image = made.props.get("Aux/one/IMAGE_ID")
        case.unless(image == target.rpartition("-")[2], f"{target} is marked with IMAGE_ID {image}")
        strangers = sorted(key for key in made.props if re.match(r"Aux/one/(VM_ID|DISK_ID|SNAPSHOT_)", key))
        case.unless(not strangers, f"{target} carries {strangers} of the disk")
    still(case, source)


def export(case: Case) -> None:
    image = facts.image_of(case.call)
    name = facts.definition_of(image.source)
    after = kept(case, name)
    answer = _import_info(case)
    host, _, path = answer.get("IMPORT_SOURCE", "").partition("ssh://")[2].partition(":")
    lent = [(host, str(place)) for place in [Path(path), *Path(path).parents]]
    case.nothing_else_changed([name], lent if path in case.after.links_to(host, name) else [])
    somewhere = case.unless(host in case.world.hosts.names and path.startswith("/"), f"stdout leads to {answer}")
    if after is None or not somewhere:
        return
    attached_to(case, name, case.before.definitions[name].attached, [host])
    case.unless(host in after.nodes, f"{name} is not on {host}")
    case.unless(answer.get("FORMAT") == "raw", f"says FORMAT {answer.get('FORMAT')}")
    still(case, name)
    linked = path in case.after.links_to(host, name)
    device = case.world.host_path(host, f"/dev/drbd/by-res/{name}/0" if linked else path)
    if case.unless(device.exists(), f"{path} is not there on {host}"):
        case.unless(fingerprint(device) == case.world.known.get(name), f"{path} on {host} does not hold {name}")
        length = _length(device)
        covered = answer.get("SIZE") == str(-(-length >> 20))
        case.unless(covered, f"says {answer.get('SIZE')} MiB, {length} bytes are read, the image has {image.size} MiB")
        hashed = answer.get("MD5", "")
        case.unless(hashed in ("", _md5(device)), f"the MD5 {hashed} is not that of {path} on {host}")


def _import_info(case: Case) -> dict[str, str]:
    """Return the members of IMPORT_INFO, with a complaint for each that is not there."""
    try:
        root = etree.fromstring(case.outcome.ended.stdout)
    except etree.XMLSyntaxError as error:
        case.wrong.append(f"stdout is no document: {error}")
        return {}
    case.unless(root.tag == "IMPORT_INFO", f"stdout is {root.tag}")
    found = {str(child.tag): (child.text or "").strip() for child in root}
    for member in _MEMBERS:
        case.unless(member in found, f"IMPORT_INFO has no {member}")
    return found


def _length(path: Path) -> int:
    """Return how many bytes reading a device gives."""
    with open(path, "rb") as file:
        return file.seek(0, os.SEEK_END)


def _md5(path: Path) -> str:
    digest = hashlib.md5()
    with open(path, "rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()
