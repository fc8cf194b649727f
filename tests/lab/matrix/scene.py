"""What is there before each case: subjects of the actions, and much that belongs to others and looks alike."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from lab.controller.drbd_kernel import TWO_PRIMARIES
from lab.controller.volumes import Content
from lab.hosts import account, facts
from lab.matrix.looking import HOST_TREES, Key, State, look
from lab.matrix.stage import HOST, VM, Stage
from lab.oned import documents
from lab.oned.documents import DiskDocument
from lab.site import Site

HOLDERS = ("node1", "node2")
BRIDGE = "node3"
OTHER_VM = 70
SOURCE, PERSISTENT, DOOMED, NEW = 5, 6, 8, 9
# An image that is a backup, and the datastore that has it.
BACKUP, BACKUPS = 53, 104
SYSTEM_DIRECTORY = "/var/lib/one/datastores/101"
SECOND, SECOND_DIRECTORY = 102, "/var/lib/one/datastores/102"
# It has another pool.
THIRD, THIRD_DIRECTORY = 103, "/var/lib/one/datastores/103"
_VOLUME_KIB = 8 << 10


def device(name: str) -> str:
    """Return the path of a volume's device."""
    return f"/dev/drbd/by-res/{name}/0"


def disk_path(disk: int, vm: int = VM) -> str:
    """Return the path of a disk in its VM's directory."""
    return f"{SYSTEM_DIRECTORY}/{vm}/disk.{disk}"


@dataclass(frozen=True)
class Volume:
    """A volume with two replicas: its marks without their prefix, where it is attached, its snapshots, whether the
    VM's saved memory is on it, and two hosts that may write to it at once.

    Since its snapshots were taken it may have been written to (`later`), and have got replicas on more nodes.
    """

    name: str
    marks: dict[str, str] = field(default_factory=dict)
    attached: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    memory: bool = False
    writers: tuple[str, ...] = ()
    later: bool = False
    joined: tuple[str, ...] = ()


def image(number: int, marks: Optional[dict[str, str]] = None, **more: Any) -> Volume:
    """Return a registered image. Arguments: marks, besides its own; more, of Volume."""
    return Volume(f"one-image-{number}", {"IMAGE_ID": str(number), **(marks or {})}, **more)


def vm_marks(vm: int, disk: int) -> dict[str, str]:
    """Return the marks of a VM's disk."""
    return {"VM_ID": str(vm), "DISK_ID": str(disk), "DS_ID": "101"}


@dataclass(frozen=True)
class Scene:
    """Volumes, and files of hosts: (host, path) -> text, "-> TARGET" for a link; whether the VM runs on its host."""

    volumes: tuple[Volume, ...]
    files: dict[tuple[str, str], str]
    runs: bool = False

    def establish(self, site: Stage) -> State:
        """Remove everything from LINSTOR and the hosts, build this scene, and return the state."""
        for definition in site.cluster.sorted_definitions():
            _drop(site, definition.name)
        for key in look(site):
            if key[0] == "file" and key[1] in site.hosts.names:
                _erase(_real(site, key[1], key[2]))
        for volume in self.volumes:
            _build(site, volume)
        for (host, path), text in self.files.items():
            _write(_real(site, host, path), text)
        site.let_run(self.runs)
        return look(site)

    def restore(self, site: Stage, wanted: State) -> None:
        """Put back whatever differs from the state in which this scene was established."""
        now = look(site)
        changed = {key for key in now.keys() | wanted.keys() if now.get(key) != wanted.get(key)}
        owners = {owner for kind, owner, _ in changed if kind != "file"}
        for owner in sorted(owners):
            _drop(site, owner)
        for volume in self.volumes:
            if volume.name in owners:
                _build(site, volume)
        for kind, host, path in changed:
            if kind == "file" and (kind, host, path) in now:
                _erase(_real(site, host, path))
        for (host, path), text in self.files.items():
            if ("file", host, path) in changed:
                _write(_real(site, host, path), text)
        if any(kind == "guest" for kind, _, _ in changed):
            site.let_run(self.runs)
        left = _differing(look(site), wanted)
        if left:
            raise RuntimeError(f"the scene cannot be put back: {left}")


def _differing(one: State, other: State) -> list[str]:
    return [f"{key}: {one.get(key)} {other.get(key)}" for key in one.keys() | other.keys()
            if one.get(key) != other.get(key)]


def scene(*subjects: Volume, files: dict[tuple[str, str], str], runs: bool = False) -> Scene:
    """Return the subjects among foreign objects; a subject takes the place of a foreign one of its name."""
    strangers = [
        image(SOURCE, attached=(BRIDGE,), snapshots=(f"one-vm-{OTHER_VM}-disk-3",)),
        image(50),
        Volume(f"one-vm-{OTHER_VM}-disk-0", {**vm_marks(OTHER_VM, 0), "ORIGIN": "one-image-50"}, (HOST,)),
        Volume("one-vm-7-disk-0-old"),
        Volume("one-vm-7-disk-00"),
        Volume("one-image-9-copy"),
    ]
    named = {volume.name for volume in subjects}
    volumes = (*subjects, *(volume for volume in strangers if volume.name not in named))
    staged = "/var/tmp/linstor_un-_dev_drbd_by-res_one-image-50_0.0123456789abcdef"
    foreign = {
        (HOST, disk_path(0, OTHER_VM)): f"-> {device(f'one-vm-{OTHER_VM}-disk-0')}",
        (HOST, f"{SYSTEM_DIRECTORY}/{OTHER_VM}/deployment.0"): "another VM's",
        (BRIDGE, f"{staged}/image"): "staged by another action",
    }
    if any(volume.name == f"one-image-{SOURCE}" and BRIDGE in volume.attached for volume in volumes):
        foreign[BRIDGE, disk_path(1, OTHER_VM)] = f"-> {device(f'one-image-{SOURCE}')}"
    return Scene(volumes, {**foreign, **files}, runs)


def furnish(site: Site, lcm_state: int, hosts: tuple[str, ...] = (HOST,), **attributes: str) -> None:
    """Set what oned knows. Arguments: lcm_state, the VM's; hosts, where it was and is; attributes of datastores."""
    site.cluster.prefer = lambda _: list(HOLDERS)
    site.datastores(RESOURCE_GROUP="opennebula", BRIDGE_LIST=BRIDGE, LS_TIMEOUT=20, **attributes)
    disks = [
        DiskDocument(0, 12, SOURCE),
        DiskDocument(1, 16, kind="swap", datastore=101),
        DiskDocument(2, 8, PERSISTENT, clone=False),
        DiskDocument(3, 16, kind="fs", datastore=101, more={"FORMAT": "raw", "FS": "ext4"}),
    ]
    snapshots = [documents.Snapshot(number, size=8) for number in range(4)]
    others = [DiskDocument(0, 8, 50), DiskDocument(1, 8, SOURCE, clone=False)]
    site.documents.put(
        documents.datastore(SECOND, 1, RESOURCE_GROUP="opennebula", **attributes),
        documents.datastore(THIRD, 1, STORAGE_POOL="fast", REPLICA_COUNT=2, LS_TIMEOUT=20),
        documents.vm(VM, disks, hosts=hosts, context=4, lcm_state=lcm_state, snapshots=snapshots),
        documents.vm(OTHER_VM, others, hosts=[HOST], lcm_state=3),
        documents.image(site.oned.release, NEW, size=8),
        documents.image(site.oned.release, BACKUP, size=8, kind=6, DATASTORE_ID=BACKUPS),
        documents.datastore(BACKUPS, 3, tm_mad="-", ds_mad="rsync"),
    )


def _build(site: Stage, volume: Volume) -> None:
    props = {f"Aux/one/{key}": value for key, value in volume.marks.items()}
    definition = {"name": volume.name, "resource_group_name": "opennebula", "props": props}
    address = f"/v1/resource-definitions/{volume.name}"
    site.rest("POST", "/v1/resource-definitions", {"resource_definition": definition})
    site.rest("POST", f"{address}/volume-definitions", {"volume_definition": {"size_kib": _VOLUME_KIB}})
    site.rest("POST", f"{address}/autoplace", {"select_filter": {"place_count": len(HOLDERS)}})
    file = site.volumes.settled(Content(volume.name, 0))
    fill(file, volume.name)
    if volume.memory:
        with open(file, "r+b") as begin:
            begin.write(site.memory())
    for node in volume.attached:
        site.rest("POST", f"{address}/resources/{node}/make-available", {"diskful": False})
    for snapshot in volume.snapshots:
        site.rest("POST", f"{address}/snapshots", {"name": snapshot})
    if volume.later:
        facts.fill(site.volumes.settled(Content(volume.name, 0)), f"{volume.name} later", 300_000, start=1 << 20)
    for node in volume.joined:
        site.rest("POST", f"{address}/resources", [{"resource": {"node_name": node}}])
    if volume.writers:
        allowed = {"override_props": {TWO_PRIMARIES: "yes"}}
        site.rest("PUT", "/".join((address, "resource-connections", *volume.writers)), allowed)


def fill(file: Path, seed: str) -> None:
    """Write what a volume of this name holds."""
    facts.fill(file, seed, 300_000)
    facts.fill(file, f"{seed} end", 100_000, start=5 << 20)


def _drop(site: Site, name: str) -> None:
    found = site.definition(name)
    if found is None:
        return
    for snapshot in list(found.snapshots.values()):
        site.rest("DELETE", f"/v1/resource-definitions/{name}/snapshots/{snapshot.name}")
    site.rest("DELETE", f"/v1/resource-definitions/{name}")


def _real(site: Site, host: str, path: str) -> Path:
    """Return where a host's file is, as seen from here; other names are the front-end's."""
    if host not in site.hosts.names:
        return Path(path)
    tree, place = next((tree, place) for tree, place in HOST_TREES.items() if path.startswith(f"{place}/"))
    return site.hosts.device_directory(host).parent / tree / path[len(place) + 1 :]


def _erase(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, text: str) -> None:
    for directory in reversed([path.parent, *path.parent.parents]):
        if not directory.exists():
            account.own_directory(directory)
    _erase(path)
    if text.startswith("-> "):
        path.symlink_to(text[3:])
        os.lchown(path, account.UID, account.GID)
    else:
        account.own_file(path, text)


def subject_keys(state: State, owners: frozenset[str]) -> set[Key]:
    """Return the keys of a state that an action may change: definitions by name, files by their path's beginning."""
    return {
        key for key in state
        if (key[2].startswith(tuple(one for one in owners if one.startswith("/")) or ("\0",)) and key[0] == "file")
        or (key[0] != "file" and key[1] in owners)
    }
