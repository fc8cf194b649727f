"""One VM's life in which every action of the driver has its part, held against the model after each step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lab.histories.cloud import Cloud
from lab.histories.machine import compare
from lab.histories.model import Disk, Image, Model, Vm, Volume
from lab.oned import documents
from lab.site import SYSTEM, Site

_SIZE = 4


class Step(NamedTuple):
    """A step of the life, and what was wrong after it; nothing when all was right."""

    name: str
    wrong: list[str]


class Life:
    """The life on a site."""

    def __init__(self, site: Site) -> None:
        site.reset()
        site.documents.put(documents.datastore(SYSTEM + 1, 1, RESOURCE_GROUP="opennebula"))
        self.site = site
        self.model = Model()
        self.cloud = Cloud(site, self.model, contextlib.nullcontext)
        self.system = Image(1, Volume("one-image-1", _SIZE), persistent=False)
        self.data = Image(2, Volume("one-image-2", _SIZE), persistent=True)
        self.vm = Vm(7, "node1", SYSTEM)
        self.token = 0

    def live(self) -> Iterator[Step]:
        """Live, step by step; a step that fails is told, and the life goes on as far as it can."""
        for name, step in self._steps():
            wrong = []
            try:
                step()
            except AssertionError as failure:
                wrong.append(str(failure))
            yield Step(name, wrong + compare(self.site, self.model))

    def close(self) -> None:
        """End what still runs."""
        self.cloud.close()

    def _steps(self) -> list[tuple[str, Callable[[], None]]]:
        cloud, vm = self.cloud, self.vm
        return [
            ("datastore mkfs", self._make_images),
            ("datastore clone", self._clone_image),
            ("tm clone, ln, mkimage", self._deploy),
            ("tm snap_create_live", lambda: self._write_and(lambda: cloud.snapshot(vm, self.disk))),
            ("tm resize, running", lambda: self._write_and(lambda: cloud.resize(vm, self.disk, _SIZE + 4))),
            ("tm cpds, running", lambda: self._save_as(4, -1)),
            ("tm premigrate, postmigrate", lambda: self._write_and(lambda: cloud.migrate_live(vm, "node2", True))),
            ("tm premigrate, failmigrate", lambda: cloud.migrate_live(vm, "node3", False)),
            ("tm mvds, delete", self._detach),
            ("tm snap_create", lambda: self._off_and(lambda: cloud.snapshot(vm, self.disk))),
            ("tm cpds of a snapshot", lambda: self._save_as(5, 0)),
            ("tm mv, to another host", lambda: cloud.migrate(vm, "node3", SYSTEM)),
            ("tm mv, to another datastore", lambda: cloud.migrate(vm, "node3", SYSTEM + 1)),
            ("tm snap_revert, older", lambda: cloud.revert(vm, self.disk, 0)),
            ("tm snap_revert, newer", lambda: cloud.revert(vm, self.disk, 1)),
            ("tm snap_delete", lambda: cloud.unsnapshot(vm, self.disk, 0)),
            ("tm mv, undeployed and back", self._undeploy),
            ("datastore snap_revert, snap_delete, snap_flatten", self._image_snapshots),
            ("tm delete", self._terminate),
            ("datastore rm", self._remove_images),
        ]

    @property
    def disk(self) -> Disk:
        """The VM's cloned disk."""
        return self.vm.disks[0]

    def _make_images(self) -> None:
        for image in (self.system, self.data):
            self.cloud.make_image(image)
            self.model.images[image.number] = image
            self.token += 1
            self.cloud.scribble(image.volume, self.token, self.token)

    def _clone_image(self) -> None:
        copy = Image(3, self.system.volume.copy_to("one-image-3"), persistent=True)
        self.cloud.clone_image(self.system, copy)
        self.model.images[3] = copy

    def _deploy(self) -> None:
        self.model.vms[7] = self.vm
        self.vm.disks = {
            0: Disk(0, self.system.volume.copy_to("one-vm-7-disk-0"), self.system),
            1: Disk(1, self.data.volume, self.data),
            2: Disk(2, Volume("one-vm-7-disk-2", _SIZE)),
        }
        self.cloud.deploy(self.vm)

    def _write_and(self, step: Callable[[], None]) -> None:
        for disk in self.vm.disks.values():
            self.token += 1
            self.cloud.write(self.vm, disk, 100 + self.token, self.token)
        step()

    def _off_and(self, step: Callable[[], None]) -> None:
        self.cloud.stop(self.vm)
        step()

    def _save_as(self, number: int, snapshot: int) -> None:
        volume = self.disk.volume
        kept = volume.snapshots.get(snapshot, volume)
        image = Image(number, Volume(f"one-image-{number}", volume.size, dict(kept.blocks)), persistent=False)
        self.cloud.save_as(self.vm, self.disk, image, snapshot)
        self.model.images[number] = image

    def _detach(self) -> None:
        self.cloud.detach(self.vm, self.vm.disks[1])
        self.cloud.detach(self.vm, self.vm.disks[2])

    def _undeploy(self) -> None:
        self.cloud.undeploy(self.vm)
        self.cloud.redeploy(self.vm, "node1", SYSTEM)
        self.cloud.stop(self.vm)

    def _image_snapshots(self) -> None:
        """Snapshots of a persistent image are taken while a VM has it, and stay when it goes."""
        disk = Disk(3, self.data.volume, self.data)
        self.cloud.attach(self.vm, disk)
        for _ in range(3):
            self.cloud.snapshot(self.vm, disk)
            self.token += 1
            self.cloud.scribble(disk.volume, 300 + self.token, self.token)
        self.cloud.detach(self.vm, disk)
        volume = self.data.volume
        self.cloud.image_snapshot("snap_revert", self.data, 1)
        volume.blocks = dict(volume.snapshots[1].blocks)
        self.cloud.image_snapshot("snap_delete", self.data, 1)
        del volume.snapshots[1]
        self.cloud.image_snapshot("snap_flatten", self.data, 0)
        volume.blocks = dict(volume.snapshots[0].blocks)
        volume.snapshots.clear()

    def _terminate(self) -> None:
        self.cloud.terminate(self.vm)
        del self.model.vms[7]

    def _remove_images(self) -> None:
        for number in list(self.model.images):
            self.cloud.remove_image(self.model.images.pop(number))
