"""The rules by which hypothesis draws a history of a site."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from lab.guests import Guests
from lab.histories.drawing import (
    MOST_DISKS,
    MOST_IMAGES,
    MOST_SNAPSHOTS,
    MOST_VMS,
    SYSTEMS,
    Drawing,
)
from lab.histories.model import BLOCKS_IN_MIB, POWEROFF, RUNNING, STOPPED, SUSPENDED, UNDEPLOYED, Image, Volume
from lab.site import Site

ON_HOST = (RUNNING, POWEROFF, SUSPENDED)
ANY = (*ON_HOST, STOPPED, UNDEPLOYED)


def machine(site: Site, guests: Guests) -> type[Histories]:
    """Return the machine whose histories run on this site, one after the other, each from an empty site.

    Arguments: guests, whose libvirtd answers on every host.
    """
    return type("Here", (Histories,), {"site": site, "guests": guests, "happened": Counter()})


class Histories(Drawing):
    """Commands of users, failures of hosts and of the controller; after each the model says what there should be."""

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        type(self).steps += 1
        self.compare()

    # --- images -------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.images) < MOST_IMAGES)
    @rule(persistent=st.booleans())
    def make_image(self, persistent: bool) -> None:
        self.create_image(persistent)

    @precondition(lambda self: self.free_images() and len(self.model.images) < MOST_IMAGES)
    @rule(data=st.data(), persistent=st.booleans())
    def clone_image(self, data: st.DataObject, persistent: bool) -> None:
        source = self.pick(data, "source", self.free_images())
        image = self.new_image(lambda number: source.volume.copy_to(f"one-image-{number}"), persistent)
        self.cloud.clone_image(source, image)
        self.model.images[image.number] = image

    @precondition(lambda self: self.free_images())
    @rule(data=st.data())
    def remove_image(self, data: st.DataObject) -> None:
        image = self.pick(data, "image", self.free_images())
        self.cloud.remove_image(image)
        del self.model.images[image.number]
        for _, disk in self.disks(*ANY, wanted=lambda disk: disk.image is image):
            disk.image = Image(image.number, image.volume, persistent=False)

    @precondition(lambda self: self.images_with_snapshots())
    @rule(data=st.data(), action=st.sampled_from(["snap_delete", "snap_revert", "snap_flatten"]))
    def image_snapshot(self, data: st.DataObject, action: str) -> None:
        image = self.pick(data, "image", self.images_with_snapshots())
        self.cloud.image_snapshot(action, image, self.pick(data, "snapshot", sorted(image.volume.snapshots)))

    # --- VMs ----------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.model.vms) < MOST_VMS)
    @rule(data=st.data())
    def create_vm(self, data: st.DataObject) -> None:
        self.deploy(data)

    @precondition(lambda self: self.vms(*ANY))
    @rule(data=st.data())
    def terminate(self, data: st.DataObject) -> None:
        vm = self.pick(data, "vm", self.vms(*ANY))
        self.cloud.terminate(vm)
        self.gone(vm)

    @precondition(lambda self: self.vms(RUNNING))
    @rule(data=st.data())
    def power_off(self, data: st.DataObject) -> None:
        self.cloud.stop(self.pick(data, "vm", self.vms(RUNNING)))

    @precondition(lambda self: self.vms(POWEROFF))
    @rule(data=st.data())
    def power_on(self, data: st.DataObject) -> None:
        self.cloud.start(self.pick(data, "vm", self.vms(POWEROFF)))

    @precondition(lambda self: self.vms(RUNNING))
    @rule(data=st.data())
    def suspend(self, data: st.DataObject) -> None:
        self.cloud.suspend(self.pick(data, "vm", self.vms(RUNNING)))

    @precondition(lambda self: self.vms(SUSPENDED))
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.cloud.resume(self.pick(data, "vm", self.vms(SUSPENDED)))

    @precondition(lambda self: self.vms(RUNNING, SUSPENDED))
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        self.cloud.put_away(self.pick(data, "vm", self.vms(RUNNING, SUSPENDED)))

    @precondition(lambda self: self.vms(RUNNING, POWEROFF))
    @rule(data=st.data())
    def undeploy(self, data: st.DataObject) -> None:
        self.cloud.undeploy(self.pick(data, "vm", self.vms(RUNNING, POWEROFF)))

    @precondition(lambda self: self.vms(STOPPED, UNDEPLOYED))
    @rule(data=st.data())
    def resume_elsewhere(self, data: st.DataObject) -> None:
        """A host is chosen anew for a VM that was stopped or undeployed."""
        vm = self.pick(data, "vm", self.vms(STOPPED, UNDEPLOYED))
        again = self.cloud.take_out if vm.state == STOPPED else self.cloud.redeploy
        again(vm, self.pick(data, "host", self.hosts()), self.pick(data, "datastore", SYSTEMS))

    @precondition(lambda self: self.vms(*ON_HOST))
    @rule(data=st.data())
    def migrate(self, data: st.DataObject) -> None:
        vm = self.pick(data, "vm", self.vms(*ON_HOST))
        host, datastore = self.pick(data, "host", self.hosts()), self.pick(data, "datastore", SYSTEMS)
        if (host, datastore) != (vm.host, vm.datastore):
            self.cloud.migrate(vm, host, datastore)

    @precondition(lambda self: self.vms(RUNNING))
    @rule(data=st.data(), works=st.booleans())
    def migrate_live(self, data: st.DataObject, works: bool) -> None:
        vm = self.pick(data, "vm", self.vms(RUNNING))
        self.cloud.migrate_live(vm, self.pick(data, "host", [h for h in self.hosts() if h != vm.host]), works)

    # --- disks --------------------------------------------------------------------------------------------

    @precondition(lambda self: self.disks(RUNNING))
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        vm, disk = self.pick(data, "disk", self.disks(RUNNING))
        self.token += 1
        self.cloud.write(vm, disk, data.draw(st.integers(0, disk.volume.size * BLOCKS_IN_MIB - 1)), self.token)

    @precondition(lambda self: self.vms(RUNNING, POWEROFF))
    @rule(data=st.data())
    def attach(self, data: st.DataObject) -> None:
        vm = self.pick(data, "vm", self.vms(RUNNING, POWEROFF))
        if len(vm.disks) < MOST_DISKS:
            self.cloud.attach(vm, self.new_disk(data, vm))

    @precondition(lambda self: self.disks(RUNNING, POWEROFF))
    @rule(data=st.data())
    def detach(self, data: st.DataObject) -> None:
        vm, disk = self.pick(data, "disk", self.disks(RUNNING, POWEROFF))
        self.cloud.detach(vm, disk)
        if disk.linked:
            disk.image.vm = None

    @precondition(lambda self: self.growing(RUNNING, POWEROFF, UNDEPLOYED))
    @rule(data=st.data(), more=st.sampled_from([1, 4]))
    def resize(self, data: st.DataObject, more: int) -> None:
        vm, disk = self.pick(data, "disk", self.growing(RUNNING, POWEROFF, UNDEPLOYED))
        self.cloud.resize(vm, disk, disk.volume.size + more)

    @precondition(lambda self: self.to_snapshot(*ON_HOST))
    @rule(data=st.data())
    def snapshot(self, data: st.DataObject) -> None:
        vm, disk = self.pick(data, "disk", self.to_snapshot(*ON_HOST))
        if len(disk.volume.snapshots) < MOST_SNAPSHOTS:
            self.cloud.snapshot(vm, disk)

    @precondition(lambda self: self.with_snapshots(*ON_HOST))
    @rule(data=st.data())
    def delete_snapshot(self, data: st.DataObject) -> None:
        vm, disk = self.pick(data, "disk", self.with_snapshots(*ON_HOST))
        self.cloud.unsnapshot(vm, disk, self.pick(data, "snapshot", sorted(disk.volume.snapshots)))

    @precondition(lambda self: self.with_snapshots(RUNNING, POWEROFF))
    @rule(data=st.data())
    def revert(self, data: st.DataObject) -> None:
        """oned reverts a VM that is powered off."""
        vm, disk = self.pick(data, "disk", self.with_snapshots(RUNNING, POWEROFF))
        if vm.state == RUNNING:
            self.cloud.stop(vm)
        self.cloud.revert(vm, disk, self.pick(data, "snapshot", sorted(disk.volume.snapshots)))

    @precondition(lambda self: self.with_image(*ANY) and len(self.model.images) < MOST_IMAGES)
    @rule(data=st.data(), persistent=st.booleans())
    def save_as(self, data: st.DataObject, persistent: bool) -> None:
        vm, disk = self.pick(data, "disk", self.with_image(*ANY))
        snapshot = self.pick(data, "snapshot", [-1, *sorted(disk.volume.snapshots)])
        kept = disk.volume.snapshots.get(snapshot, disk.volume)
        image = self.new_image(
            lambda number: Volume(f"one-image-{number}", disk.volume.size, dict(kept.blocks)), persistent
        )
        self.cloud.save_as(vm, disk, image, snapshot)
        self.model.images[image.number] = image

    # --- failures -----------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.3, 1.5]))
    def controller_restarts(self, seconds: float) -> None:
        self.cloud.controller_restarts(seconds)

    @precondition(lambda self: self.vms(RUNNING))
    @rule(data=st.data())
    def host_dies(self, data: st.DataObject) -> None:
        """A host is fenced: the VMs that ran there start elsewhere, then it comes back."""
        dead = self.pick(data, "host", sorted({vm.host for vm in self.vms(RUNNING)}))
        safe = self.pick(data, "safe", [host for host in self.hosts() if host != dead])
        fleeing = [vm for vm in self.vms(RUNNING) if vm.host == dead]
        self.cloud.host_dies(dead)
        for vm in fleeing:
            self.cloud.flee(vm, safe)
        self.cloud.host_is_back(dead)
