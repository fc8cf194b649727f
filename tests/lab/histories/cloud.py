"""oned's part of a history: every method does what one command of a user makes oned do."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import subprocess

from lab.histories.calls import CallFailed, source
from lab.histories.lives import Lives
from lab.histories.model import BLOCK, RUNNING, Blocks, Disk, Image, Vm, Volume, block, differing
from lab.oned import documents as D
from lab.oned.answers import read_clone, read_cp, read_mkfs, read_monitor, read_nothing, read_stat
from lab.site import IMAGES, VAR

# An image that is a backup, and the datastore that has it.
_BACKUP, _BACKUPS = 900, 104


class Cloud(Lives):
    """The whole daemon: images, disks, and VMs with their hosts."""

    # --- images -------------------------------------------------------------------------------------------

    def import_image(self, image: Image, path: str) -> None:
        """Make an image of a file of the front-end, which is as large as the image."""
        size = self._ds("stat", image, read_stat, path=path)
        self._require(size, image.volume.size)
        self._require(self._ds("cp", image, read_cp, path=path).source, source(image.volume.name))

    def make_image(self, image: Image) -> None:
        """Create an empty datablock."""
        self._require(self._ds("mkfs", image, read_mkfs).source, source(image.volume.name))

    def clone_image(self, original: Image, image: Image) -> None:
        """Make an image a copy of another."""
        stored = self._ds("clone", image, read_clone, path=source(original.volume.name))
        self._require(stored.source, source(image.volume.name))

    def remove_image(self, image: Image) -> None:
        """Delete an image."""
        self._ds("rm", image, read_nothing, source=source(image.volume.name))

    def export_image(self, image: Image) -> tuple[str, str]:
        """Lend an image to a marketplace, which reads it before `export_done`; returns host and path."""
        told = self._ds("export", image, lambda outcome: outcome.stdout, source=source(image.volume.name))
        found = re.search(r"<IMPORT_SOURCE>(?:<!\[CDATA\[)?ssh://([^:/]+):(/[^<\]]+)", told)
        if not found:
            raise CallFailed(f"export tells of no place: {told}")
        return found[1], found[2]

    def export_done(self, image: Image, host: str, path: str) -> None:
        """Take an image back that was lent."""
        words = [f"{host}:{path}", str(image.number), str(IMAGES)]
        oned = self.site.oned
        call = oned.recorded("datastore/linstor_un/export_done", words, "")
        self._done(f"export_done {' '.join(words)}", lambda: oned.finish(call), read_nothing)

    def monitor(self, datastore: int) -> int:
        """Return the capacity of a datastore, in MiB."""
        document = self.site.documents.get("DATASTORE", datastore)
        assert document
        call = functools.partial(self.site.oned.monitor, document, vm_disks=True)
        return self._done(f"monitor {datastore}", call, read_monitor)["TOTAL_MB"]

    def _require(self, told: object, wanted: object) -> None:
        with self._telling():
            if told != wanted:
                raise CallFailed(f"oned is told {told!r} instead of {wanted!r}")

    def image_snapshot(self, action: str, image: Image, number: int) -> None:
        """Delete, revert to or flatten to a snapshot of an image that no VM has."""
        self._ds(action, image, read_nothing, source=source(image.volume.name), target=number)
        volume = image.volume
        if action == "snap_delete":
            del volume.snapshots[number]
            return
        volume.blocks = dict(volume.snapshots[number].blocks)
        if action == "snap_flatten":
            volume.snapshots.clear()

    # --- bytes --------------------------------------------------------------------------------------------

    def write(self, vm: Vm, disk: Disk, number: int, token: int) -> None:
        """Let a VM's disk be written to, through the link in its directory."""
        self._write(vm.host, self._word(vm, disk).partition(":")[2], disk.volume, number, token)

    def scribble(self, volume: Volume, number: int, token: int) -> None:
        """Let somebody write a block of a volume that no VM has, where a replica is."""
        self._write(self.site.holders(volume.name)[0], source(volume.name), volume, number, token)

    def _write(self, host: str, path: str, volume: Volume, number: int, token: int) -> None:
        argv = ["dd", f"of={path}", f"bs={BLOCK}", f"seek={number}", "count=1", "iflag=fullblock",
                "conv=notrunc,fsync", "status=none"]
        command = self.site.hosts.entering(host, argv)
        self.trace.append(f"block {number} of {volume.name} is written on {host}")
        with self._telling():
            done = subprocess.run(command, input=block(token), capture_output=True, check=False)
            if done.returncode:
                raise CallFailed(done.stderr.decode())
        volume.blocks[number] = token

    # --- disks --------------------------------------------------------------------------------------------

    def attach(self, vm: Vm, disk: Disk) -> None:
        """Give a VM one more disk."""
        vm.disks[disk.number] = disk
        with self._during(vm, ("plug", vm.state)):
            self._give(vm, disk)
            if vm.state == RUNNING:
                self._happens(f"disk {disk.number} comes to {vm.name}", lambda: self.domains.plug(vm, disk))

    def detach(self, vm: Vm, disk: Disk) -> None:
        """Take a disk away from a VM."""
        with self._during(vm, ("unplug", vm.state)):
            if vm.state == RUNNING:
                self._happens(f"disk {disk.number} leaves {vm.name}", lambda: self.domains.unplug(vm, disk))
            self._take(vm, disk)
            del vm.disks[disk.number]

    def resize(self, vm: Vm, disk: Disk, size: int) -> None:
        """Grow a disk to `size` MiB."""
        with self._during(vm, ("resize", vm.state)):
            self._about(vm, disk, "resize", size)
            disk.volume.size = size
            if vm.state == RUNNING:
                self._happens(f"{vm.name} sees {size} MiB", lambda: self.domains.grow(vm, disk))

    def snapshot(self, vm: Vm, disk: Disk) -> None:
        """Take a snapshot of a disk, of a running VM live."""
        number = disk.volume.take()
        with self._during(vm, ("snapshot", vm.state)):
            self._about(vm, disk, "snap_create_live" if vm.state == RUNNING else "snap_create", number)

    def unsnapshot(self, vm: Vm, disk: Disk, number: int) -> None:
        """Delete a snapshot of a disk."""
        with self._during(vm, ("unsnapshot", vm.state)):
            self._about(vm, disk, "snap_delete", number)
        del disk.volume.snapshots[number]

    def revert(self, vm: Vm, disk: Disk, number: int) -> None:
        """Bring a disk back to a snapshot; from 6.8.3 on its size comes back as well."""
        kept = disk.volume.snapshots[number]
        with self._during(vm, "revert"):
            self._about(vm, disk, "snap_revert", number)
            disk.volume.blocks = dict(kept.blocks)
            if self.site.oned.release.number >= (6, 8, 3):
                disk.volume.size = kept.size

    def save_as(self, vm: Vm, disk: Disk, image: Image, snapshot: int) -> None:
        """Make a disk, or one of its snapshots, an image."""
        wanted = source(image.volume.name)
        self._require(self._ds("mkfs", image, read_mkfs, form="save_as").source, wanted)
        release, size = self.site.oned.release, image.volume.size
        self.site.documents.put(D.image(release, image.number, size=size, source=wanted))
        with self._during(vm, ("saveas", vm.state)):
            self._about(vm, disk, "cpds", wanted, snapshot)

    def back_up(self, vm: Vm) -> None:
        """Lay a VM's disks out for a backup datastore, look at what that finds, and tidy up."""
        live = "_live" if vm.state == RUNNING else ""
        disks = [disk for disk in vm.disks.values() if not disk.swap]
        text = self._document(vm, ("backup", vm.state), {"MODE": "FULL", "FS_FREEZE": "TRY"})
        numbers = ":".join(str(disk.number) for disk in disks)
        words = (self._directory(vm), numbers, vm.name, "-", vm.number, vm.datastore)
        self._tm(f"prebackup{live}", *words, stdin=text)
        for disk in disks:
            found = self._laid_out(vm, disk)
            self._require((len(found), differing(disk.volume.blocks, found)), (disk.volume.size << 20, None))
        self._tm(f"postbackup{live}", *words, stdin=text)

    def restore(self, vm: Vm, disk: Disk, blocks: Blocks) -> None:
        """Write a backup with these blocks over a disk of a VM that is off."""
        url, kept = f"rsync://{_BACKUPS}//0:abc//disk.{disk.number}.0", VAR / "backups"
        kept.mkdir(exist_ok=True)
        raw, file = kept / "raw", kept / hashlib.sha1(url.encode()).hexdigest()
        with open(raw, "wb") as image:
            image.truncate(disk.volume.size << 20)
            for number, token in blocks.items():
                image.seek(number * BLOCK)
                image.write(block(token))
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, file], check=True)
        (kept / f"{_BACKUP}.-1.json").write_text(json.dumps({str(disk.number): url}))
        for path in kept.iterdir():
            path.chmod(0o644)
        release = self.site.oned.release
        self.site.documents.put(
            D.image(release, _BACKUP, size=disk.volume.size, kind=6, DATASTORE_ID=_BACKUPS),
            D.datastore(_BACKUPS, 3, tm_mad="-", ds_mad="rsync"),
        )
        with self._during(vm, "restore"):
            self._tm("restore", self._directory(vm), vm.number, _BACKUP, -1, disk.number)
            disk.volume.blocks = dict(blocks)

    def _laid_out(self, vm: Vm, disk: Disk) -> bytes:
        """Return the bytes of a disk that lie ready for a backup datastore."""
        path = f"{self._directory(vm).partition(':')[2]}/backup/disk.{disk.number}.0"
        script = 'qemu-img convert -f qcow2 -O raw "$1" /var/tmp/backup.raw && cat /var/tmp/backup.raw'
        return self.site.hosts.run(vm.host, ["sh", "-c", script, "sh", path], text=False).stdout

    def _about(self, vm: Vm, disk: Disk, action: str, *words: object) -> None:
        """Call an action on a disk; the front-end has the disks of stored VMs."""
        self._tm(action, self._word(vm, disk), *words, vm.number, self._datastore(vm, disk))

    def context(self, vm: Vm, number: int, path: str) -> None:
        """Make the medium that tells a VM what it is."""
        self._tm("context", f"{path}:context.sh", f"{self._directory(vm)}/disk.{number}", vm.number, vm.datastore)
