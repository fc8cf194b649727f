"""The rules by which hypothesis draws a history, and what is compared after each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Optional

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from lab.guests import Guests
from lab.histories.cloud import Cloud
from lab.histories.model import BLOCKS_IN_MIB, POWEROFF, RUNNING, UNDEPLOYED, Disk, Image, Model, Vm, Volume, differing
from lab.matrix.looking import look, quiet
from lab.oned import documents
from lab.site import SYSTEM, Site

SYSTEMS = (SYSTEM, SYSTEM + 1)
_MOST_VMS, _MOST_IMAGES, _MOST_DISKS, _MOST_SNAPSHOTS, _LARGEST = 3, 5, 3, 3, 24
_SIZE = 4


def machine(site: Site, guests: Guests) -> type[RuleBasedStateMachine]:
    """Return the machine whose histories run on this site, one after the other, each from an empty site.

    Arguments: guests, whose libvirtd answers on every host; the guests of a history are processes that hold the disks.
    """

    class Histories(RuleBasedStateMachine):
        """Commands of users, failures of hosts and of the controller; the model says what there should be."""

        # The first history that ended differently than it should; what comes after it is hypothesis trying again.
        failure = ""

        @initialize()
        def begin(self) -> None:
            assert not Histories.failure, Histories.failure
            site.reset()
            site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=60)
            site.documents.put(documents.datastore(SYSTEMS[1], 1, RESOURCE_GROUP="opennebula", LS_TIMEOUT=60))
            site.cluster.prefer = lambda _: []
            self.model = Model()
            self.cloud = Cloud(site, self.model, self.telling)
            self.before = look(site)
            self.token = 0

        # --- choosing -------------------------------------------------------------------------------------

        def pick(self, data: st.DataObject, what: str, among: list[Any]) -> Any:
            return data.draw(st.sampled_from(among), label=what)

        def vms(self, *states: str) -> list[Vm]:
            return [vm for vm in self.model.vms.values() if vm.state in states]

        def disks(self, *states: str, wanted: Optional[Callable[[Disk], bool]] = None) -> list[tuple[Vm, Disk]]:
            return [(vm, disk) for vm in self.vms(*states) for disk in vm.disks.values()
                    if wanted is None or wanted(disk)]

        def free_images(self, persistent: Optional[bool] = None) -> list[Image]:
            return [image for image in self.model.images.values()
                    if image.vm is None and persistent in (None, image.persistent)]

        def hosts(self) -> list[str]:
            return list(site.hosts.names)

        def scribble(self, volume: Volume) -> None:
            """Let somebody fill an image that no VM has."""
            self.token += 1
            number = (self.token * 37) % (volume.size * BLOCKS_IN_MIB)
            self.cloud.scribble(volume, number, self.token)

        def new_image(self, name_of: Callable[[int], Volume], persistent: bool) -> Image:
            number = self.model.next_image
            self.model.next_image += 1
            return Image(number, name_of(number), persistent)

        def new_disk(self, data: st.DataObject, vm: Vm) -> Optional[Disk]:
            """Draw a disk: volatile, cloned, or a persistent image itself."""
            kinds = ["volatile", *(["clone"] if self.free_images(False) else []),
                     *(["persistent"] if self.free_images(True) else [])]
            kind = self.pick(data, "disk", kinds)
            number = vm.next_disk
            vm.next_disk += 1
            name = f"one-vm-{vm.number}-disk-{number}"
            if kind == "volatile":
                return Disk(number, Volume(name, _SIZE))
            image = self.pick(data, "image", self.free_images(kind == "persistent"))
            if kind == "clone":
                size = image.volume.size + self.pick(data, "larger", [0, 4])
                return Disk(number, image.volume.copy_to(name, size), image)
            image.vm = vm.number
            return Disk(number, image.volume, image)

        # --- images ---------------------------------------------------------------------------------------

        @precondition(lambda self: len(self.model.images) < _MOST_IMAGES)
        @rule(persistent=st.booleans())
        def make_image(self, persistent: bool) -> None:
            image = self.new_image(lambda number: Volume(f"one-image-{number}", _SIZE), persistent)
            self.cloud.make_image(image)
            self.model.images[image.number] = image
            self.scribble(image.volume)

        @precondition(lambda self: self.free_images() and len(self.model.images) < _MOST_IMAGES)
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
            for vm in self.model.vms.values():
                for disk in vm.disks.values():
                    if disk.image is image:
                        disk.image = Image(image.number, image.volume, persistent=False)

        def images_with_snapshots(self) -> list[Image]:
            return [image for image in self.free_images() if image.volume.snapshots]

        @precondition(lambda self: self.images_with_snapshots())
        @rule(data=st.data(), action=st.sampled_from(["snap_delete", "snap_revert", "snap_flatten"]))
        def image_snapshot(self, data: st.DataObject, action: str) -> None:
            image = self.pick(data, "image", self.images_with_snapshots())
            number = self.pick(data, "snapshot", sorted(image.volume.snapshots))
            self.cloud.image_snapshot(action, image, number)
            kept = image.volume.snapshots[number]
            if action != "snap_delete":
                image.volume.blocks = dict(kept.blocks)
            if action == "snap_delete":
                del image.volume.snapshots[number]
            elif action == "snap_flatten":
                image.volume.snapshots.clear()

        # --- VMs ------------------------------------------------------------------------------------------

        @precondition(lambda self: len(self.model.vms) < _MOST_VMS)
        @rule(data=st.data())
        def create_vm(self, data: st.DataObject) -> None:
            vm = Vm(self.model.next_vm, self.pick(data, "host", self.hosts()), self.pick(data, "datastore", SYSTEMS))
            self.model.next_vm += 1
            for _ in range(self.pick(data, "disks", [1, 2])):
                disk = self.new_disk(data, vm)
                vm.disks[disk.number] = disk
            self.cloud.deploy(vm)
            self.model.vms[vm.number] = vm

        @precondition(lambda self: self.vms(RUNNING, POWEROFF))
        @rule(data=st.data())
        def attach(self, data: st.DataObject) -> None:
            vm = self.pick(data, "vm", self.vms(RUNNING, POWEROFF))
            if len(vm.disks) < _MOST_DISKS:
                self.cloud.attach(vm, self.new_disk(data, vm))

        @precondition(lambda self: self.disks(RUNNING, POWEROFF))
        @rule(data=st.data())
        def detach(self, data: st.DataObject) -> None:
            vm, disk = self.pick(data, "disk", self.disks(RUNNING, POWEROFF))
            self.cloud.detach(vm, disk)
            if disk.linked:
                disk.image.vm = None

        @precondition(lambda self: self.vms(RUNNING, POWEROFF))
        @rule(data=st.data())
        def terminate(self, data: st.DataObject) -> None:
            vm = self.pick(data, "vm", self.vms(RUNNING, POWEROFF))
            self.cloud.terminate(vm)
            self.gone(vm)

        def gone(self, vm: Vm) -> None:
            for disk in vm.disks.values():
                if disk.linked:
                    disk.image.vm = None
            del self.model.vms[vm.number]

        @precondition(lambda self: self.vms(RUNNING))
        @rule(data=st.data())
        def power_off(self, data: st.DataObject) -> None:
            self.cloud.stop(self.pick(data, "vm", self.vms(RUNNING)))

        @precondition(lambda self: self.vms(POWEROFF))
        @rule(data=st.data())
        def power_on(self, data: st.DataObject) -> None:
            self.cloud.start(self.pick(data, "vm", self.vms(POWEROFF)))

        @precondition(lambda self: self.disks(RUNNING))
        @rule(data=st.data())
        def write(self, data: st.DataObject) -> None:
            vm, disk = self.pick(data, "disk", self.disks(RUNNING))
            self.token += 1
            self.cloud.write(vm, disk, data.draw(st.integers(0, disk.volume.size * BLOCKS_IN_MIB - 1)), self.token)

        # --- disks ----------------------------------------------------------------------------------------

        @precondition(lambda self: self.disks(RUNNING, POWEROFF, wanted=lambda disk: disk.volume.size < _LARGEST))
        @rule(data=st.data(), more=st.sampled_from([1, 4]))
        def resize(self, data: st.DataObject, more: int) -> None:
            found = self.disks(RUNNING, POWEROFF, wanted=lambda disk: disk.volume.size < _LARGEST)
            vm, disk = self.pick(data, "disk", found)
            self.cloud.resize(vm, disk, disk.volume.size + more)

        def with_image(self, *states: str) -> list[tuple[Vm, Disk]]:
            """oned refuses snapshots and images of volatile disks."""
            return self.disks(*states, wanted=lambda disk: disk.image is not None)

        @precondition(lambda self: self.with_image(RUNNING, POWEROFF))
        @rule(data=st.data())
        def snapshot(self, data: st.DataObject) -> None:
            vm, disk = self.pick(data, "disk", self.with_image(RUNNING, POWEROFF))
            if len(disk.volume.snapshots) < _MOST_SNAPSHOTS:
                self.cloud.snapshot(vm, disk)

        def with_snapshots(self, *states: str) -> list[tuple[Vm, Disk]]:
            return self.disks(*states, wanted=lambda disk: bool(disk.volume.snapshots))

        @precondition(lambda self: self.with_snapshots(RUNNING, POWEROFF))
        @rule(data=st.data())
        def delete_snapshot(self, data: st.DataObject) -> None:
            vm, disk = self.pick(data, "disk", self.with_snapshots(RUNNING, POWEROFF))
            self.cloud.unsnapshot(vm, disk, self.pick(data, "snapshot", sorted(disk.volume.snapshots)))

        @precondition(lambda self: self.with_snapshots(POWEROFF))
        @rule(data=st.data())
        def revert(self, data: st.DataObject) -> None:
            vm, disk = self.pick(data, "disk", self.with_snapshots(POWEROFF))
            self.cloud.revert(vm, disk, self.pick(data, "snapshot", sorted(disk.volume.snapshots)))

        @precondition(lambda self: self.with_image(RUNNING, POWEROFF) and len(self.model.images) < _MOST_IMAGES)
        @rule(data=st.data(), persistent=st.booleans())
        def save_as(self, data: st.DataObject, persistent: bool) -> None:
            vm, disk = self.pick(data, "disk", self.with_image(RUNNING, POWEROFF))
            snapshot = self.pick(data, "snapshot", [-1, *sorted(disk.volume.snapshots)])
            kept = disk.volume.snapshots.get(snapshot, disk.volume)
            name = f"one-image-{self.model.next_image}"
            image = self.new_image(lambda _: Volume(name, disk.volume.size, dict(kept.blocks)), persistent)
            self.cloud.save_as(vm, disk, image, snapshot)
            self.model.images[image.number] = image

        # --- moving ---------------------------------------------------------------------------------------

        @precondition(lambda self: self.vms(POWEROFF))
        @rule(data=st.data())
        def migrate(self, data: st.DataObject) -> None:
            vm = self.pick(data, "vm", self.vms(POWEROFF))
            host, datastore = self.pick(data, "host", self.hosts()), self.pick(data, "datastore", SYSTEMS)
            if (host, datastore) != (vm.host, vm.datastore):
                self.cloud.migrate(vm, host, datastore)

        @precondition(lambda self: self.vms(RUNNING))
        @rule(data=st.data(), works=st.booleans())
        def migrate_live(self, data: st.DataObject, works: bool) -> None:
            vm = self.pick(data, "vm", self.vms(RUNNING))
            self.cloud.migrate_live(vm, self.pick(data, "host", [h for h in self.hosts() if h != vm.host]), works)

        @precondition(lambda self: self.vms(RUNNING, POWEROFF))
        @rule(data=st.data())
        def undeploy(self, data: st.DataObject) -> None:
            self.cloud.undeploy(self.pick(data, "vm", self.vms(RUNNING, POWEROFF)))

        @precondition(lambda self: self.vms(UNDEPLOYED))
        @rule(data=st.data())
        def redeploy(self, data: st.DataObject) -> None:
            vm = self.pick(data, "vm", self.vms(UNDEPLOYED))
            self.cloud.redeploy(vm, self.pick(data, "host", self.hosts()), self.pick(data, "datastore", SYSTEMS))

        # --- failures -------------------------------------------------------------------------------------

        @rule(seconds=st.sampled_from([0.3, 1.5]))
        def controller_restarts(self, seconds: float) -> None:
            site.controller.faults.go_down(seconds)

        @precondition(lambda self: self.vms(RUNNING))
        @rule(data=st.data())
        def host_dies(self, data: st.DataObject) -> None:
            """A host is fenced: its VMs start elsewhere, then it comes back."""
            dead = self.pick(data, "host", sorted({vm.host for vm in self.vms(RUNNING)}))
            safe = self.pick(data, "safe", [host for host in self.hosts() if host != dead])
            fleeing = [vm for vm in self.vms(RUNNING) if vm.host == dead]
            self.cloud.host_dies(dead)
            for vm in fleeing:
                self.cloud.flee(vm, safe)
            self.cloud.host_is_back(dead)
            guests.start(dead)

        # --- comparing ------------------------------------------------------------------------------------

        @invariant()
        def everything_is_as_the_model_says(self) -> None:
            with self.telling():
                _require_none(compare(site, self.model))

        @contextmanager
        def telling(self) -> Iterator[None]:
            """Keep what went wrong, with all calls that led to it."""
            try:
                yield
            except BaseException as error:
                steps = "".join(f"  {line}\n" for line in self.cloud.trace)
                Histories.failure = Histories.failure or f"{steps}{type(error).__name__}: {error}"
                raise

        def teardown(self) -> None:
            if not hasattr(self, "cloud"):
                return
            try:
                if not Histories.failure:
                    self._end_all()
            finally:
                self.cloud.close()

        def _end_all(self) -> None:
            for vm in list(self.model.vms.values()):
                if vm.state == UNDEPLOYED:
                    self.cloud.redeploy(vm, self.hosts()[0], vm.datastore)
                self.cloud.terminate(vm)
                self.gone(vm)
            for image in list(self.model.images.values()):
                self.cloud.remove_image(image)
            with self.telling():
                _require_none(quiet(site))
                after = look(site)
                _require_none([f"{key}: {self.before.get(key)} before, {after.get(key)} after"
                               for key in self.before.keys() | after.keys() if self.before.get(key) != after.get(key)])

    return Histories


def _require_none(problems: list[str]) -> None:
    assert not problems, "; ".join(problems)


def compare(site: Site, model: Model) -> list[str]:
    """Return every difference between the site and the model, in words."""
    wrong: list[str] = []
    wanted = model.volumes()
    with site.cluster.lock:
        there = {definition.name: definition for definition in site.cluster.sorted_definitions()}
        wrong += [f"{name} is lost" for name in wanted.keys() - there.keys()]
        wrong += [f"{name} is left over" for name in there.keys() - wanted.keys()]
        for name in sorted(wanted.keys() & there.keys()):
            wrong += _volume(site, wanted[name])
        homes = {(name, node) for name in there for node in site.attached(name)}
        needed = {(name, host) for name, host in model.homes() if name in there and host not in site.holders(name)}
    tied = {(name, node) for name in there for node in _tiebreakers(site, name)}
    wrong += [f"{name} is not attached on {host}" for name, host in sorted(needed - homes - tied)]
    wrong += [f"{name} is still attached on {host}" for name, host in sorted(homes - needed)]
    links = {
        (owner, path): text[3:] for (kind, owner, path), text in look(site).items()
        if kind == "file" and text.startswith("-> ")
    }
    for key in sorted(links.keys() | model.links().keys()):
        if links.get(key) != model.links().get(key):
            wrong.append(f"{key[1]} on {key[0]} points to {links.get(key)}, not to {model.links().get(key)}")
    return wrong


def _tiebreakers(site: Site, name: str) -> list[str]:
    found = site.definition(name)
    return [r.node for r in found.resources.values() if "TIE_BREAKER" in r.flags] if found else []


def _volume(site: Site, volume: Volume) -> list[str]:
    wrong = []
    definition = site.definition(volume.name)
    assert definition
    size = definition.volumes[0].size // 1024
    if size < volume.size:
        wrong.append(f"{volume.name} has {size} MiB instead of {volume.size}")
    if len(site.holders(volume.name)) < 2:
        wrong.append(f"{volume.name} has only the replicas {site.holders(volume.name)}")
    half = {"Aux/one/STATE", "Aux/one/RUN"} & definition.props.keys()
    if half or definition.flags:
        wrong.append(f"{volume.name} is not complete: {sorted(half)} {list(definition.flags)}")
    snapshots = {snapshot.name for snapshot in definition.snapshots.values()}
    if snapshots != {f"snapshot-{number}" for number in volume.snapshots}:
        wrong.append(f"{volume.name} has the snapshots {sorted(snapshots)}, not {sorted(volume.snapshots)}")
    found = differing(volume.blocks, site.read(volume.name, 1 << 30))
    if found is not None:
        wrong.append(f"block {found} of {volume.name} has other bytes than it should")
    return wrong
