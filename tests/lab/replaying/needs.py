"""What a recording presupposes: images, disks, links and source files that calls outside of it had made."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.parse
from dataclasses import replace
from pathlib import Path
from typing import Optional

from lxml import etree

from lab.hosts import account
from lab.oned.recordings import Call, Recording
from lab.replaying import backup_rules, contents, facts, lifecycle, virsh
from lab.replaying.facts import Disk, Place, Vm
from lab.replaying.world import World

_MAKING = ("clone", "ln", "mkimage", "mkswap")
_DEFAULT_MIB = 64
_BELONGINGS = {
    "vm.xml": 0o644, "deployment.0": 0o644, "nvram.fd": 0o600, "tpm/tpm2/tpm2-00.permall": 0o600, "snap-1.xml": 0o644,
    "kernel": 0o644, "disk.77": 0o660, "notes of the admin": 0o644, ".hidden": 0o644,
}
"""What a VM's directory holds beside our links, by its mode: of oned, libvirt, other drivers and people."""
_HAS_MEMORY = ("deploy", "save_linstor_un", "restore_linstor_un")
_CONTENT_MATTERS = ("snap_create", "snap_create_live", "snap_revert", "snap_flatten", "cpds")
_PACKED = {".gz": ["gzip", "-c"], ".bz2": ["bzip2", "-c"], ".xz": ["xz", "-0c"]}


class Needs:
    """Makes what is missing right before the first call that refers to it, and never again."""

    def __init__(self, world: World, recording: Recording) -> None:
        self._world = world
        self._calls = recording.calls
        self._images: set[str] = set()
        self._vms: set[int] = set()
        self._paths: set[str] = set()
        self._furnished: set[int] = set()
        self._sizes = _image_sizes(recording)

    def prepare(self, call: Call) -> None:
        """Put in place what this call takes for granted."""
        if call.kind == "ds" and call.driver == "linstor_un":
            self._for_datastore_action(call)
        vm = facts.vm_of(call.vm_document)
        if vm and call.kind in ("tm", "vmm"):
            self._for_vm(call, vm)
        if call.action == "context":
            self._context_files(call)
        if call.action == "restore_linstor_un" and vm:
            self._checkpoint(call, vm)
        if call.driver == facts.LINSTOR_UN and call.action.startswith("prebackup"):
            for disk in backup_rules.disks_of(call):
                self._world.scribble(disk.definition)
        if call.driver == facts.LINSTOR_UN and call.kind == "tm" and call.action == "restore":
            self._backup(call)
        if call.driver == facts.LINSTOR_UN and call.action in _CONTENT_MATTERS:
            self._world.scribble(_definition(call, vm))

    def _for_datastore_action(self, call: Call) -> None:
        if call.action == "monitor":
            return
        image = facts.image_of(call)
        document = facts.payload(call).find("IMAGE")
        if document is not None and image.number is not None:
            self._world.documents.put(etree.tostring(document, encoding="unicode"))
        if call.action in ("stat", "cp"):
            self._source_file(call, image.path)
            self._images.add(f"one-image-{image.number}")
        elif call.action in ("mkfs", "clone"):
            self._images.add(f"one-image-{image.number}")
            self._image(facts.definition_of(image.path), image.size)
        else:
            self._image(facts.definition_of(image.source), image.size, image.snapshots)

    def _for_vm(self, call: Call, vm: Vm) -> None:
        for disk in vm.disks.values():
            if disk.image is not None and disk.tm_mad == "linstor_un":
                self._image(facts.definition_of(disk.source), disk.image_size)
        if vm.number not in self._vms:
            self._vms.add(vm.number)
            spots = facts.places(call)
            born = call.action in _MAKING or (call.action.partition(".")[0] in _MAKING)
            if spots and not born:
                for disk in vm.disks.values():
                    if not self._made_later(vm, disk):
                        self._vm_disk(vm, disk, spots[0])
                lifecycle.already_running(self._world, call, vm)
        if call.kind == "tm" and call.driver == facts.LINSTOR_UN and call.action in ("mv", "premigrate"):
            self._belongings(call, vm)

    def _made_later(self, vm: Vm, disk: Disk) -> bool:
        """Say whether a call of this recording makes the disk: then it is not there before."""
        return any(
            call.vm_id == vm.number and call.kind == "tm" and call.action.partition(".")[0] in _MAKING
            and any(spot.disk == disk.number for spot in facts.places(call))
            for call in self._calls
        )

    def _image(self, definition: str, size: int, snapshots: Optional[list[int]] = None) -> None:
        if definition and definition not in self._images:
            self._images.add(definition)
            size = max(size, self._sizes.get(definition, 0)) or _DEFAULT_MIB
            self._world.make_volume(definition, size, pattern=definition)
            for number in snapshots or []:
                self._world.scribble(definition)
                self._world.linstor.rest("POST", f"/v1/resource-definitions/{definition}/snapshots",
                                         {"name": f"snapshot-{number}"})
                self._world.remember_snapshot(definition, number)

    def _vm_disk(self, vm: Vm, disk: Disk, spot: Place) -> None:
        """Make a disk as an earlier prolog had left it: volume, attachment and link on the host of `spot`."""
        if disk.tm_mad != "linstor_un":
            return
        if disk.own:
            size = disk.size or _DEFAULT_MIB
            marks = {"VM_ID": vm.number, "DISK_ID": disk.number, "DS_ID": spot.datastore}
            self._world.make_volume(disk.definition, size, pattern=disk.definition, marks=marks)
        self._world.attach(disk.definition, spot.host)
        self._world.link(spot.host, f"{spot.directory}/disk.{disk.number}", disk.definition)

    def _belongings(self, call: Call, vm: Vm) -> None:
        """Put into the directory, once, what others keep there and what has to be carried along with it."""
        source, target = facts.places(call)[:2]
        directory = source.directory
        host = self._world.host_path(source.host, directory)
        ours = {self._world.tm_mad(spot.datastore) for spot in (source, target)} == {facts.LINSTOR_UN}
        if vm.number in self._furnished or not ours or not host.is_dir():
            return
        self._furnished.add(vm.number)
        for name, mode in _BELONGINGS.items():
            if not (host / name).exists():
                text = f"{name} of VM {vm.number}\n".encode()
                self._world.write_file(source.host, f"{directory}/{name}", text, mode)
        saved = any(other.vm_id == vm.number and other.action == "save_linstor_un" for other in self._calls)
        if not saved:
            self._world.write_file(source.host, f"{directory}/checkpoint", b"memory" * 1000, 0o600)
        link = host / "current"
        link.symlink_to("vm.xml")
        os.chown(link, account.UID, account.GID, follow_symlinks=False)

    def _checkpoint(self, call: Call, vm: Vm) -> None:
        """Make the memory that a VM had been saved to before the recording began."""
        earlier = [other.vm_id == vm.number and other.action in _HAS_MEMORY for other in self._calls
                   if other.seq < call.seq]
        if any(earlier):
            return
        saved = facts.checkpoint_of(call)
        image = virsh.packed("running", lifecycle.document_of(self._world, vm, saved.path.rpartition("/")[0]))
        if not saved.ours:
            self._world.write_file(saved.host, saved.path, image, 0o600)
            return
        marks = {"VM_ID": vm.number, "DS_ID": saved.datastore.number}
        self._world.make_volume(saved.definition, saved.memory + _DEFAULT_MIB, marks=marks)
        with open(self._world.linstor.path(saved.definition), "r+b") as file:
            file.write(image)

    def _backup(self, call: Call) -> None:
        """Let the backup datastore have the image that is restored, with bytes of its own for each disk."""
        image, increment = call.argv[2:4]
        listed = self._world.sources.backup_list(image, increment)
        if listed.exists():
            return
        document = next((found for other in self._calls for found in [_image_document(other, image)] if found), "")
        self._world.documents.put(document)
        urls = {}
        for disk in backup_rules.restored_disks(replace(call, argv=[*call.argv[:4], "-1"])):
            url = f"rsync://104//{increment}:abc{image}//{image}/disk.{disk.number}.{increment}"
            raw, packed = self._world.work / "raw", self._world.work / f"{image}-{increment}-{disk.number}.qcow2"
            raw.unlink(missing_ok=True)
            contents.write_pattern(raw, (disk.size or _DEFAULT_MIB) << 20, url)
            subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, packed], check=True)
            self._world.backups[(image, increment), disk.number] = contents.fingerprint(raw)
            self._world.sources.publish(url, packed)
            urls[str(disk.number)] = url
        listed.write_text(json.dumps(urls))
        listed.chmod(0o644)

    def _context_files(self, call: Call) -> None:
        for word in call.argv[:-3]:
            if word.startswith("/"):
                path = word.partition(":")[0]
                if not Path(path).exists():
                    self._world.write_frontend(path, f"# {path} of VM {call.vm_id}\nFOO='bar baz'\n".encode())

    def _source_file(self, call: Call, path: str) -> None:
        """Put the image at PATH where the front-end finds it; a recorded failure of stat means there was none."""
        if path in self._paths or (call.action == "stat" and call.failure_injected):
            return
        self._paths.add(path)
        raw, mib = self._world.work / f"raw{len(self._paths)}", self._size_of_source(path)
        contents.write_pattern(raw, mib << 20, path)
        name = urllib.parse.unquote(urllib.parse.urlsplit(path).path if "://" in path else path)
        packed = _pack(raw, Path(name).suffix)
        self._world.source_fingerprints[path] = contents.fingerprint(raw)
        self._world.source_sizes[path] = mib
        self._world.sources.publish(path, packed)

    def _size_of_source(self, path: str) -> int:
        """Return the MiB that oned was told when it asked for this path, else the SIZE of the image made of it."""
        for call in self._calls:
            if call.kind == "ds" and call.driver == "linstor_un" and call.action in ("stat", "cp"):
                image = facts.image_of(call)
                answer = str(call.answer.get("stdout", "")).strip()
                if image.path == path and call.action == "stat" and answer.isdigit():
                    return int(answer)
                if image.path == path and call.action == "cp" and image.size:
                    return image.size
        return _DEFAULT_MIB


def _image_document(call: Call, number: str) -> str:
    """Return the document of an image in the stdin of a call of a backup datastore, "" where there is none."""
    if call.kind != "ds" or call.stdin_encoding != "base64-xml":
        return ""
    found = facts.payload(call).find("IMAGE")
    same = found is not None and found.findtext("ID") == number
    return etree.tostring(found, encoding="unicode") if found is not None and same else ""


def _definition(call: Call, vm: Optional[Vm]) -> str:
    """Return the definition that a snapshot or copy action is about."""
    if call.kind == "ds":
        return facts.definition_of(facts.image_of(call).source)
    disk = vm.disks.get(facts.places(call)[0].disk or 0) if vm else None
    return disk.definition if disk else ""


def _image_sizes(recording: Recording) -> dict[str, int]:
    """Return the largest size in MiB that any document of the recording gives an image."""
    sizes: dict[str, int] = {}
    for document in recording.vm_documents.values():
        vm = facts.vm_of(document)
        for disk in vm.disks.values() if vm else ():
            name = facts.definition_of(disk.source)
            sizes[name] = max(sizes.get(name, 0), disk.image_size)
    return sizes


def _pack(raw: Path, suffix: str) -> Path:
    """Return a file with the content of `raw` in the format that the suffix of PATH promises."""
    packed = raw.with_suffix(suffix)
    formats = {".qcow2": "qcow2", ".vmdk": "vmdk", ".vhdx": "vhdx", ".vdi": "vdi"}
    if suffix in formats:
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", formats[suffix], raw, packed], check=True)
    elif suffix in _PACKED:
        with open(packed, "wb") as target:
            subprocess.run([*_PACKED[suffix], str(raw)], stdout=target, check=True)
    else:
        return raw
    return packed
