"""The actions, each with the scene it is called in and what it may change there."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.hosts import facts
from lab.matrix import scene
from lab.matrix.scene import (
    BRIDGE,
    DOOMED,
    HOST,
    NEW,
    PERSISTENT,
    SECOND,
    SECOND_DIRECTORY,
    SOURCE,
    SYSTEM_DIRECTORY,
    THIRD_DIRECTORY,
    VM,
    Scene,
    device,
)
from lab.matrix.stage import GUEST
from lab.oned import documents
from lab.oned.documents import DiskDocument
from lab.oned.process import Running
from lab.site import VAR, Site

VERSION = "7.4.0"
IMAGE_FILES = Path("/var/tmp/import")
DISK = f"one-vm-{VM}-disk-0"
CHECKPOINT, DOMAIN = f"one-vm-{VM}-checkpoint", GUEST.name
_FILE = f"{SYSTEM_DIRECTORY}/{VM}/checkpoint"
_SAVED = scene.Volume(CHECKPOINT, {"VM_ID": str(VM), "DS_ID": "101"}, memory=True)
_LENT = f"/var/lib/one/datastores/100/export-{PERSISTENT}/disk.0"
_PLAIN_SOURCE = scene.image(SOURCE, snapshots=("one-vm-70-disk-3",))
_OWN_DISK = scene.Volume(
    DISK, {**scene.vm_marks(VM, 0), "ORIGIN": f"one-image-{SOURCE}", "SNAPSHOT_0/DISK_SIZE": "8192"}, attached=(HOST,),
    snapshots=("snapshot-0",),
)
# What the disk, and the image, hold when their snapshots are taken.
BEFORE, IMAGE_BEFORE = "disk-before.raw", "image-before.raw"
_SNAPSHOTS = {"SNAPSHOT_0/DISK_SIZE": "8192", "SNAPSHOT_1/DISK_SIZE": "8192"}
_SINCE = replace(
    _OWN_DISK, marks={**_OWN_DISK.marks, **_SNAPSHOTS}, snapshots=("snapshot-0", "snapshot-1", "nightly"), later=True
)
_SNAPPED_IMAGE = scene.image(PERSISTENT, _SNAPSHOTS, snapshots=_SINCE.snapshots, later=True)
_FREE_PERSISTENT = scene.image(PERSISTENT)
_USED_PERSISTENT = scene.Volume(
    f"one-image-{PERSISTENT}", {"IMAGE_ID": str(PERSISTENT), **scene.vm_marks(VM, 2)}, attached=(HOST,)
)


@dataclass(frozen=True)
class Action:
    """An action of the matrix.

    `start` calls it; `changes` are the definitions, and beginnings of paths on hosts, that it is about;
    `copies` names the volume that has what another one (or an image file, by its digest's name) has after it;
    `state` is the VM's LCM_STATE; `hosts` are where it was and is; `linstor` is the controller's version.
    """

    name: str
    start: Callable[[Site], Running]
    scene: Scene
    changes: frozenset[str]
    copies: tuple[str, str] = ("", "")
    going: bool = False
    hosts: tuple[str, ...] = (HOST,)
    attributes: Mapping[str, str] = field(default_factory=dict)
    state: int = 1
    linstor: str = "1.33"

    @property
    def lcm_state(self) -> int:
        """LCM_STATE of the VM: EPILOG while it is going."""
        return 11 if self.going else self.state


def make_image_files() -> None:
    """Make the files that images are made from, readable for everybody."""
    IMAGE_FILES.mkdir(exist_ok=True)
    raw = IMAGE_FILES / "image.raw"
    with open(raw, "wb") as file:
        file.truncate(8 << 20)
    facts.fill(raw, "import", 300_000)
    facts.fill(raw, "import end", 100_000, start=5 << 20)
    for name, volume in ((BEFORE, DISK), (IMAGE_BEFORE, f"one-image-{PERSISTENT}")):
        with open(IMAGE_FILES / name, "wb") as file:
            file.truncate(8 << 20)
        scene.fill(IMAGE_FILES / name, volume)
    (IMAGE_FILES / "image.raw.gz").write_bytes(gzip.compress(raw.read_bytes(), 1))
    convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(IMAGE_FILES / "image.qcow2")]
    subprocess.run(convert, check=True, capture_output=True)
    url = f"rsync://{scene.BACKUPS}//0:abc//backup/disk.0.0"
    kept = VAR / "backups"
    kept.mkdir(exist_ok=True)
    shutil.copy(IMAGE_FILES / "image.qcow2", kept / hashlib.sha1(url.encode()).hexdigest())
    (kept / f"{scene.BACKUP}.-1.json").write_text(json.dumps({"0": url}))
    for path in kept.iterdir():
        path.chmod(0o644)
    for path in IMAGE_FILES.iterdir():
        path.chmod(0o644)


def _tm(action: str, *words: object) -> Callable[[Site], Running]:
    return lambda site: site.oned.start_tm(action, *(str(word) for word in words))


def _ds(action: str, number: int, **image: object) -> Callable[[Site], Running]:
    text = documents.image(VERSION, number, size=8, **image)  # type: ignore[arg-type]
    return lambda site: site.oned.start_ds(action, text, site.image_datastore)


def _vmm(action: str, *words: str) -> Callable[[Site], Running]:
    def start(site: Site) -> Running:
        message = documents.vmm_action(VM, site.system_datastore, MEMORY=64)
        return site.oned.start_vmm(action, *words, str(VM), HOST, message=message)

    return start


def _recorded(script: str, *words: object) -> Callable[[Site], Running]:
    return lambda site: site.oned.recorded(script, [str(word) for word in words], "")


def _disk(number: int) -> str:
    return f"{HOST}:/var/lib/one//datastores/101/{VM}/disk.{number}"


def _source(number: int) -> str:
    return f"frontend:{device(f'one-image-{number}')}"


def _path(number: int) -> str:
    return f"{SYSTEM_DIRECTORY}/{VM}/disk.{number}"


def _empty(*volumes: scene.Volume) -> Scene:
    return scene.scene(*volumes, files={})


def _clone(name: str, mode: str, source: scene.Volume) -> Action:
    start = _tm("clone", _source(SOURCE), _disk(0), VM, 100)
    return Action(
        name, start, _empty(source), frozenset({DISK, _path(0)}), (DISK, f"one-image-{SOURCE}"),
        attributes={"CLONE_MODE": mode},
    )


def _save(name: str, state: int, snapshot: int = -1, host: str = HOST, **attributes: str) -> Action:
    new = f"one-image-{NEW}"
    path = f"{host}:/var/lib/one//datastores/101/{VM}/disk.0"
    start = _tm("cpds", path, device(new), snapshot, VM, 100)
    subject = scene.scene(_OWN_DISK, files={(HOST, _path(0)): f"-> {device(DISK)}"})
    return Action(name, start, subject, frozenset({new}), (new, DISK), attributes=attributes, state=state)


def _import(name: str, file: str) -> Action:
    start = _ds("cp", NEW, path=str(IMAGE_FILES / file))
    new = f"one-image-{NEW}"
    return Action(name, start, _empty(), frozenset({new}), (new, "image.raw"))


def _moves() -> list[Action]:
    """Return the actions that bring a VM from a host without a replica to another, or to the front-end."""
    there, second = f"{SYSTEM_DIRECTORY}/{VM}", f"{SECOND_DIRECTORY}/{VM}"
    own = scene.scene(_OWN_DISK, files={(HOST, _path(0)): f"-> {device(DISK)}"})
    filled = scene.scene(files={
        (HOST, f"{there}/deployment.0"): "x", (HOST, f"{there}/vtpm/state"): "y",
        (HOST, f"{there}/kernel"): "-> /elsewhere",
    })  # fmt: skip
    moved = frozenset({DISK, _path(0), f"{second}/disk.0"})
    aside = [f"{directory}/.linstor_un.gone.{VM}/" for directory in (SYSTEM_DIRECTORY, SECOND_DIRECTORY)]
    return [
        Action("mv disk", _tm("mv", _disk(0), f"{BRIDGE}:{second}/disk.0", VM, 100), own, moved,
               state=8, hosts=(HOST, BRIDGE)),
        Action("mv disk to other pools", _tm("mv", _disk(0), f"{BRIDGE}:{THIRD_DIRECTORY}/{VM}/disk.0", VM, 100), own,
               frozenset({DISK, _path(0), f"{THIRD_DIRECTORY}/{VM}/disk.0"}), state=8, hosts=(HOST, BRIDGE)),
        Action("mv disk to the front-end", _tm("mv", _disk(0), f"frontend:{_path(0)}", VM, 100), own, moved, state=10),
        Action("mv directory", _tm("mv", f"{HOST}:{there}", f"{BRIDGE}:{second}", VM, SECOND), filled,
               frozenset({f"{there}/", f"{second}/", *aside}), state=8, hosts=(HOST, BRIDGE)),
    ]


def _live() -> list[Action]:
    """Return the actions of a live migration from a host without a replica to another."""
    there, used = f"{SYSTEM_DIRECTORY}/{VM}", f"one-image-{PERSISTENT}"
    lent = {"attached": (HOST, BRIDGE), "writers": (BRIDGE, HOST)}
    since = {"MIGRATION": f"{VM}/{HOST}/{BRIDGE}/1700000000"}
    links = {_path(0): f"-> {device(DISK)}", _path(2): f"-> {device(used)}"}
    whole = {**links, f"{there}/nvram": "x", f"{there}/vtpm/state": "y"}
    before = scene.scene(_OWN_DISK, _USED_PERSISTENT, files={(HOST, path): text for path, text in whole.items()})
    during = scene.scene(
        *(replace(one, marks={**one.marks, **since}, **lent) for one in (_OWN_DISK, _USED_PERSISTENT)),
        files={(host, path): text for host in (HOST, BRIDGE) for path, text in whole.items()},
    )
    changes = frozenset({DISK, used, f"{there}/", f"{SYSTEM_DIRECTORY}/.linstor_un.gone.{VM}/"})
    disks = [DiskDocument(0, 12, SOURCE), DiskDocument(2, 8, PERSISTENT, clone=False)]
    document = documents.vm(VM, disks, hosts=[BRIDGE], lcm_state=4)
    text = b64encode(document.encode()).decode()
    words = (HOST, BRIDGE, there, str(VM), "101")
    return [
        Action(name, lambda site, name=name: site.oned.start_tm(name, *words, stdin=text),  # type: ignore[misc]
               setting, changes, state=4, hosts=(HOST, BRIDGE))
        for name, setting in (("premigrate", before), ("postmigrate", during), ("failmigrate", during))
    ]


def _snapshots() -> list[Action]:
    """Return the actions on snapshots. Where a replica lacks the snapshot, going back to it is a copy."""
    image, files = f"one-image-{PERSISTENT}", {(HOST, _path(0)): f"-> {device(DISK)}"}
    since = scene.scene(_SINCE, files=files)
    joined = scene.scene(replace(_SINCE, joined=(BRIDGE,)), files=files)
    reverted, restored = frozenset({DISK, _path(0)}), frozenset({DISK, _path(0), f"{DISK}-restored"})

    def of_disk(name: str, number: int, state: int, setting: Scene, changes: frozenset[str], **more: Any) -> Action:
        start = _tm(name.partition(",")[0], _disk(0), number, VM, 100)
        return Action(name, start, setting, changes, state=state, **more)

    def of_image(name: str, subject: scene.Volume = _SNAPPED_IMAGE, *changes: str, **more: Any) -> Action:
        script = name.partition(",")[0].rpartition(" ")[2]
        start = _ds(script, PERSISTENT, target=0, source=device(image), snapshots=(0, 1))
        return Action(name, start, _empty(subject), frozenset({image, *changes}), **more)

    back: dict[str, Any] = {"copies": (DISK, BEFORE)}
    image_back: dict[str, Any] = {"copies": (image, IMAGE_BEFORE)}
    return [
        of_disk("snap_create", 3, 51, since, frozenset({DISK})),
        of_disk("snap_create_live", 3, 57, replace(since, runs=True), frozenset({DISK})),
        of_disk("snap_delete", 0, 53, since, frozenset({DISK})),
        of_disk("snap_revert", 0, 52, since, reverted, **back),
        of_disk("snap_revert, by a copy", 0, 52, joined, restored, **back),
        of_image("image snap_delete"),
        of_image("image snap_revert", **image_back),
        of_image("image snap_revert, by a copy", replace(_SNAPPED_IMAGE, joined=(BRIDGE,)), f"{image}-restored",
                 **image_back),
        of_image("image snap_flatten", **image_back),
    ]


def _backups() -> list[Action]:
    """Return the actions that lay a VM's disk out for a backup, tidy up, and write one over a disk."""
    there, copy = f"{SYSTEM_DIRECTORY}/{VM}", f"one-vm-{VM}-backup-0"
    files = {(HOST, _path(0)): f"-> {device(DISK)}"}
    own = scene.scene(_OWN_DISK, files=files)
    laid_out = scene.scene(
        replace(_OWN_DISK, snapshots=("snapshot-0", f"one-vm-{VM}-backup")),
        scene.Volume(copy, {"VM_ID": str(VM), "STATE": "creating", "RUN": "killed"}, attached=(HOST,)),
        files={**files, (HOST, f"{there}/backup/disk.0.0"): "x", (HOST, f"{there}/backup/vm.xml"): "y"},
    )
    changes = frozenset({DISK, copy, f"{there}/backup/"})

    def action(name: str, state: int, setting: Scene, freeze: str = "NONE") -> Action:
        config = {"MODE": "FULL", "FS_FREEZE": freeze, "LAST_INCREMENT_ID": -1}
        text = documents.vm(VM, [DiskDocument(0, 12, SOURCE)], hosts=[HOST], lcm_state=state, backup=config)
        words = (f"{HOST}:{there}", "0", DOMAIN, "-", str(VM), "101")
        return Action(name, lambda site: site.oned.start_tm(name, *words, stdin=text), setting, changes, state=state)

    return [
        action("prebackup", 70, own),
        action("prebackup_live", 69, replace(own, runs=True), "SUSPEND"),
        action("postbackup", 70, laid_out),
        action("postbackup_live", 69, replace(laid_out, runs=True)),
        Action("restore of a backup", _tm("restore", f"{HOST}:{there}", VM, scene.BACKUP, -1, 0), own,
               frozenset({DISK, _path(0)}), (DISK, "image.raw"), state=71),
    ]


def actions() -> list[Action]:
    """Return all actions."""
    new, used = f"one-image-{NEW}", f"one-image-{PERSISTENT}"
    own = scene.scene(_OWN_DISK, files={(HOST, _path(0)): f"-> {device(DISK)}"})
    linked = scene.scene(_USED_PERSISTENT, files={(HOST, _path(2)): f"-> {device(used)}"})
    directory = scene.scene(files={(HOST, f"{SYSTEM_DIRECTORY}/{VM}/deployment.0"): "x", (HOST, _path(4)): "y"})
    saved_directory = scene.scene(_SAVED, files=directory.files)
    in_use = scene.image(SOURCE, attached=(BRIDGE,), snapshots=("one-vm-70-disk-3",))
    doomed = scene.image(DOOMED, snapshots=("snapshot-1",))
    delete = frozenset({DISK, _path(0)})
    let_go = frozenset({used, _path(2)})
    return [
        Action("stat", _ds("stat", NEW, path=str(IMAGE_FILES / "image.raw.gz")), _empty(), frozenset()),
        _import("cp raw", "image.raw"),
        _import("cp qcow2", "image.qcow2"),
        Action("mkfs", _ds("mkfs", NEW, format="raw", fs="ext4"), _empty(), frozenset({new})),
        Action("image clone", _ds("clone", NEW, path=device(f"one-image-{SOURCE}")), _empty(_PLAIN_SOURCE),
               frozenset({new}), (new, f"one-image-{SOURCE}")),
        Action("rm", _ds("rm", DOOMED, source=device(f"one-image-{DOOMED}")), _empty(doomed),
               frozenset({f"one-image-{DOOMED}"})),
        Action("monitor", lambda site: site.oned.start_ds("monitor", datastore=site.image_datastore), _empty(),
               frozenset()),
        _clone("clone copy", "copy", _PLAIN_SOURCE),
        _clone("clone copy, source in use", "copy", in_use),
        _clone("clone snapshot", "snapshot", _PLAIN_SOURCE),
        _clone("clone clone", "clone", _PLAIN_SOURCE),
        # There a clone has its source's marks until it is marked.
        replace(_clone("clone clone before 1.32", "clone", _PLAIN_SOURCE), linstor="1.31"),
        Action("ln", _tm("ln", _source(PERSISTENT), _disk(2), VM, 100), _empty(_FREE_PERSISTENT), let_go),
        Action("mkimage", _tm("mkimage", 16, "raw", _disk(3), VM, 101), _empty(),
               frozenset({f"one-vm-{VM}-disk-3", _path(3)})),
        Action("mkswap", _tm("mkswap", 16, _disk(1), VM, 101), _empty(), frozenset({f"one-vm-{VM}-disk-1", _path(1)})),
        Action("context", _tm("context", IMAGE_FILES / "image.raw.gz", _disk(4), VM, 101), _empty(),
               frozenset({_path(4)})),
        Action("delete disk", _tm("delete", _disk(0), VM, 101), own, delete, going=True),
        Action("delete disk, snapshot mode", _tm("delete", _disk(0), VM, 101), own, delete, going=True,
               attributes={"CLONE_MODE": "snapshot"}),
        Action("delete linked disk", _tm("delete", _disk(2), VM, 101), linked, let_go, going=True),
        Action("delete directory", _tm("delete", f"{HOST}:{SYSTEM_DIRECTORY}/{VM}", VM, 101), directory,
               frozenset({f"{SYSTEM_DIRECTORY}/{VM}/"}), going=True),
        Action("delete directory, saved", _tm("delete", f"{HOST}:{SYSTEM_DIRECTORY}/{VM}", VM, 101), saved_directory,
               frozenset({f"{SYSTEM_DIRECTORY}/{VM}/", CHECKPOINT}), going=True),
        Action("save", _vmm("save_linstor_un", DOMAIN, _FILE, HOST), scene.scene(files={}, runs=True),
               frozenset({CHECKPOINT, DOMAIN})),
        Action("restore", _vmm("restore_linstor_un", _FILE, HOST, DOMAIN), scene.scene(_SAVED, files={}),
               frozenset({CHECKPOINT, DOMAIN})),
        Action("mvds", _tm("mvds", _disk(2), device(used), VM, 100), linked, let_go, going=True),
        _save("cpds running", 26),
        _save("cpds running, snapshot mode", 26, CLONE_MODE="snapshot"),
        _save("cpds off", 27),
        _save("cpds undeployed", 67, host="frontend"),
        _save("cpds snapshot", 27, snapshot=0),
        Action("export", _ds("export", PERSISTENT, source=device(used)), _empty(_FREE_PERSISTENT),
               frozenset({used, _LENT})),
        Action("export done",
               _recorded("datastore/linstor_un/export_done", f"{BRIDGE}:{device(used)}", PERSISTENT, 100),
               scene.scene(scene.image(PERSISTENT, attached=(BRIDGE,)), files={(BRIDGE, _LENT): f"-> {device(used)}"}),
               frozenset({used, _LENT})),
        Action("resize", _tm("resize", _disk(0), 16, VM, 100), own, frozenset({DISK})),
        *_snapshots(),
        *_backups(),
        *_moves(),
        *_live(),
        Action("tm monitor", lambda site: site.oned.start_monitor(site.system_datastore, vm_disks=True), own,
               frozenset()),
    ]
