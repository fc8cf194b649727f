"""One VM's life in which every action of the driver has its part, held against the model after each step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from lab.guests import Guests
from lab.histories.calls import CallFailed
from lab.histories.cloud import Cloud
from lab.histories.comparing import compare
from lab.histories.model import BLOCK, Disk, Image, Model, Vm, Volume, block
from lab.oned import documents
from lab.site import IMAGES, SYSTEM, Site

_SIZE = 4
_CONTEXT = 9
_INCOMING = Path("/var/tmp")


class Step(NamedTuple):
    """A step of the life: how many calls it took, and what was wrong after it, nothing when all was right."""

    name: str
    calls: int
    wrong: list[str]


class Life:
    """The life on a site."""

    def __init__(self, site: Site, guests: Guests) -> None:
        site.reset()
        site.documents.put(documents.datastore(SYSTEM + 1, 1, RESOURCE_GROUP="opennebula"))
        self.site = site
        self.model = Model()
        self.cloud = Cloud(site, guests, self.model, contextlib.nullcontext)
        self.system = Image(1, Volume("one-image-1", _SIZE), persistent=False)
        self.data = Image(2, Volume("one-image-2", _SIZE), persistent=True)
        self.vm = Vm(7, "node1", SYSTEM)
        self.token = 0

    def live(self) -> Iterator[Step]:
        """Live, step by step; a step that fails is told, and the life goes on as far as it can."""
        for name, step in self._steps():
            wrong, before = [], self.cloud.count
            try:
                step()
            except AssertionError as failure:
                wrong.append(str(failure))
            wrong += compare(self.site, self.model, self.cloud.domains)
            yield Step(name, self.cloud.count - before, wrong)

    def close(self) -> None:
        """End what still runs."""
        self.cloud.close()

    def _steps(self) -> list[tuple[str, Callable[[], None]]]:
        cloud, vm = self.cloud, self.vm
        return [
            ("datastore stat, cp", self._import_image),
            ("datastore mkfs", self._make_image),
            ("datastore clone", self._clone_image),
            ("datastore export, export_done", self._export_image),
            ("tm clone, ln, mkimage, context", self._deploy),
            ("datastore monitor, tm monitor", self._monitor),
            ("tm snap_create_live", lambda: self._write_and(lambda: cloud.snapshot(vm, self.disk))),
            ("tm resize, running", lambda: self._write_and(lambda: cloud.resize(vm, self.disk, _SIZE + 4))),
            ("tm cpds, running", lambda: self._save_as(4, -1)),
            ("tm prebackup_live, postbackup_live", lambda: self._write_and(lambda: cloud.back_up(vm))),
            ("tm premigrate, postmigrate", lambda: self._write_and(lambda: cloud.migrate_live(vm, "node2", True))),
            ("tm premigrate, failmigrate", lambda: cloud.migrate_live(vm, "node3", False)),
            ("vmm save, restore", self._suspend),
            ("vmm save, tm mv, vmm restore, to another host", lambda: cloud.migrate(vm, "node3", SYSTEM)),
            ("vmm save, tm mv, to the front-end", lambda: self._write_and(lambda: cloud.put_away(vm))),
            ("tm cpds, stopped", lambda: self._save_as(5, -1)),
            ("tm mv, vmm restore, in another datastore", lambda: cloud.take_out(vm, "node1", SYSTEM + 1)),
            ("tm mkswap, delete", self._swap),
            ("tm mvds, delete", self._detach),
            ("tm snap_create", lambda: self._off_and(lambda: cloud.snapshot(vm, self.disk))),
            ("tm prebackup, postbackup", lambda: cloud.back_up(vm)),
            ("tm restore of a backup", lambda: cloud.restore(vm, self.disk, {3: 9001, 700: 9002})),
            ("tm cpds of a snapshot", lambda: self._save_as(6, 0)),
            ("tm mv, to another host", lambda: cloud.migrate(vm, "node3", SYSTEM + 1)),
            ("tm mv, to another datastore", lambda: cloud.migrate(vm, "node3", SYSTEM)),
            ("tm snap_revert, older", lambda: cloud.revert(vm, self.disk, 0)),
            ("tm snap_revert, newer", lambda: cloud.revert(vm, self.disk, 1)),
            ("tm snap_delete", lambda: cloud.unsnapshot(vm, self.disk, 0)),
            ("tm mv, resize, undeployed and back", self._undeploy),
            ("tm mv, from a host that is dead", self._flee),
            ("datastore snap_revert, snap_delete, snap_flatten", self._image_snapshots),
            ("tm delete", self._terminate),
            ("datastore rm", self._remove_images),
        ]

    @property
    def disk(self) -> Disk:
        """The VM's cloned disk."""
        return self.vm.disks[0]

    # --- images -------------------------------------------------------------------------------------------

    def _import_image(self) -> None:
        path = _INCOMING / "life.raw"
        self.token += 1
        path.write_bytes(bytes(BLOCK) + block(self.token) + bytes(_SIZE * (1 << 20) - 2 * BLOCK))
        path.chmod(0o644)
        self.system.volume.blocks[1] = self.token
        self.cloud.import_image(self.system, str(path))
        self.model.images[self.system.number] = self.system

    def _make_image(self) -> None:
        self.cloud.make_image(self.data)
        self.model.images[self.data.number] = self.data
        self.token += 1
        self.cloud.scribble(self.data.volume, self.token, self.token)

    def _clone_image(self) -> None:
        copy = Image(3, self.system.volume.copy_to("one-image-3"), persistent=True)
        self.cloud.clone_image(self.system, copy)
        self.model.images[3] = copy

    def _export_image(self) -> None:
        """Read an image as a marketplace does, and let it go."""
        host, path = self.cloud.export_image(self.data)
        read = ["dd", f"if={path}", f"bs={BLOCK}", f"skip={self.token}", "count=1", "status=none"]
        done = self.site.hosts.run(host, read, text=False, check=False)
        if done.stdout != block(self.token):
            raise CallFailed(f"{path} on {host} does not hold the image: {done.stderr.decode()}")
        self.cloud.export_done(self.data, host, path)

    def _image_snapshots(self) -> None:
        """Snapshots of a persistent image are taken while a VM has it, and stay when it goes."""
        disk = Disk(3, self.data.volume, self.data)
        self.cloud.attach(self.vm, disk)
        for _ in range(3):
            self.cloud.snapshot(self.vm, disk)
            self.token += 1
            self.cloud.scribble(disk.volume, 300 + self.token, self.token)
        self.cloud.detach(self.vm, disk)
        for action, number in (("snap_revert", 1), ("snap_delete", 1), ("snap_flatten", 0)):
            self.cloud.image_snapshot(action, self.data, number)

    def _remove_images(self) -> None:
        for number in list(self.model.images):
            self.cloud.remove_image(self.model.images.pop(number))

    def _monitor(self) -> None:
        for store in (IMAGES, SYSTEM):
            if self.cloud.monitor(store) <= 0:
                raise CallFailed(f"datastore {store} has no capacity")

    # --- the VM -------------------------------------------------------------------------------------------

    def _deploy(self) -> None:
        self.model.vms[7] = self.vm
        self.vm.disks = {
            0: Disk(0, self.system.volume.copy_to("one-vm-7-disk-0"), self.system),
            1: Disk(1, self.data.volume, self.data),
            2: Disk(2, Volume("one-vm-7-disk-2", _SIZE)),
        }
        self.cloud.deploy(self.vm)
        path = _INCOMING / "context.sh"
        path.write_text("NETWORK=YES\n")
        self.cloud.context(self.vm, _CONTEXT, str(path))

    def _write_and(self, step: Callable[[], None]) -> None:
        for disk in self.vm.disks.values():
            self.token += 1
            self.cloud.write(self.vm, disk, 100 + self.token, self.token)
        step()

    def _off_and(self, step: Callable[[], None]) -> None:
        self.cloud.stop(self.vm)
        step()

    def _suspend(self) -> None:
        self._write_and(lambda: self.cloud.suspend(self.vm))
        self.cloud.resume(self.vm)

    def _save_as(self, number: int, snapshot: int) -> None:
        volume = self.disk.volume
        kept = volume.snapshots.get(snapshot, volume)
        image = Image(number, Volume(f"one-image-{number}", volume.size, dict(kept.blocks)), persistent=False)
        self.cloud.save_as(self.vm, self.disk, image, snapshot)
        self.model.images[number] = image

    def _swap(self) -> None:
        """Swap space comes and goes; what is in it is not the model's."""
        disk = Disk(4, Volume("one-vm-7-disk-4", _SIZE), swap=True)
        self.cloud.attach(self.vm, disk)
        if not self.site.read(disk.volume.name, BLOCK).endswith(b"SWAPSPACE2"):
            raise CallFailed(f"{disk.volume.name} is no swap space")
        self.cloud.detach(self.vm, disk)

    def _detach(self) -> None:
        self.cloud.detach(self.vm, self.vm.disks[1])
        self.cloud.detach(self.vm, self.vm.disks[2])

    def _undeploy(self) -> None:
        self.cloud.undeploy(self.vm)
        self.cloud.resize(self.vm, self.disk, self.disk.volume.size + 1)
        self.cloud.redeploy(self.vm, "node1", SYSTEM)

    def _flee(self) -> None:
        self.cloud.host_dies("node1")
        self.cloud.flee(self.vm, "node2")
        self.cloud.host_is_back("node1")
        self.cloud.stop(self.vm)

    def _terminate(self) -> None:
        self.cloud.terminate(self.vm)
        del self.model.vms[7]
