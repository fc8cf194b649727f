"""How a history begins and ends, and what it may choose from; the rules are in `machine`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Optional

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from lab.guests import Guests
from lab.histories.cloud import Cloud
from lab.histories.comparing import compare
from lab.histories.model import BLOCKS_IN_MIB, Disk, Image, Model, Vm, Volume
from lab.matrix.looking import look, quiet
from lab.oned import documents
from lab.site import SYSTEM, Site

SYSTEMS = (SYSTEM, SYSTEM + 1)
MOST_VMS, MOST_IMAGES, MOST_DISKS, MOST_SNAPSHOTS, LARGEST = 3, 5, 3, 3, 24
# In MiB, of what is created without another size.
SIZE = 4


class Drawing(RuleBasedStateMachine):
    """A history of one site. What happened in all of them is kept in attributes of the class."""

    site: Site
    guests: Guests
    # The first history that ended differently than it should; what comes after it is hypothesis trying again.
    failure = ""
    left_over = False
    begun = 0
    steps = 0
    happened: Counter[str]

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """Begin with nothing but an image and a VM, so that there is something to go on with."""
        one = type(self)
        assert not one.failure, one.failure
        one.begun += 1
        self.site.reset()
        self.site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=60)
        self.site.documents.put(documents.datastore(SYSTEMS[1], 1, RESOURCE_GROUP="opennebula", LS_TIMEOUT=60))
        self.site.cluster.prefer = lambda _: []
        self.model = Model()
        self.cloud = Cloud(self.site, self.guests, self.model, self.telling)
        self.before = look(self.site)
        self.token = 0
        self.create_image(data.draw(st.booleans(), label="persistent"))
        self.deploy(data)

    def create_image(self, persistent: bool) -> None:
        """Make an empty image, and let somebody write to it."""
        image = self.new_image(lambda number: Volume(f"one-image-{number}", SIZE), persistent)
        self.cloud.make_image(image)
        self.model.images[image.number] = image
        self.token += 1
        self.cloud.scribble(image.volume, (self.token * 37) % (SIZE * BLOCKS_IN_MIB), self.token)

    def deploy(self, data: st.DataObject) -> None:
        """Let a new VM run."""
        vm = Vm(self.model.next_vm, self.pick(data, "host", self.hosts()), self.pick(data, "datastore", SYSTEMS))
        self.model.next_vm += 1
        for _ in range(self.pick(data, "disks", [1, 2])):
            disk = self.new_disk(data, vm)
            vm.disks[disk.number] = disk
        self.cloud.deploy(vm)
        self.model.vms[vm.number] = vm

    # --- choosing -----------------------------------------------------------------------------------------

    def pick(self, data: st.DataObject, what: str, among: list[Any]) -> Any:
        return data.draw(st.sampled_from(among), label=what)

    def vms(self, *states: str) -> list[Vm]:
        return [vm for vm in self.model.vms.values() if vm.state in states]

    def disks(self, *states: str, wanted: Optional[Callable[[Disk], bool]] = None) -> list[tuple[Vm, Disk]]:
        return [(vm, disk) for vm in self.vms(*states) for disk in vm.disks.values()
                if wanted is None or wanted(disk)]

    def growing(self, *states: str) -> list[tuple[Vm, Disk]]:
        return self.disks(*states, wanted=lambda disk: disk.volume.size < LARGEST)

    def with_image(self, *states: str) -> list[tuple[Vm, Disk]]:
        """oned refuses snapshots and images of volatile disks."""
        return self.disks(*states, wanted=lambda disk: disk.image is not None)

    def to_snapshot(self, *states: str) -> list[tuple[Vm, Disk]]:
        """LINSTOR takes no snapshots in thick pools."""
        return [] if "LVM" in self.site.pools.values() else self.with_image(*states)

    def with_snapshots(self, *states: str) -> list[tuple[Vm, Disk]]:
        return self.disks(*states, wanted=lambda disk: bool(disk.volume.snapshots))

    def free_images(self, persistent: Optional[bool] = None) -> list[Image]:
        return [image for image in self.model.images.values()
                if image.vm is None and persistent in (None, image.persistent)]

    def images_with_snapshots(self) -> list[Image]:
        return [image for image in self.free_images() if image.volume.snapshots]

    def hosts(self) -> list[str]:
        return list(self.site.hosts.names)

    def new_image(self, name_of: Callable[[int], Volume], persistent: bool) -> Image:
        number = self.model.next_image
        self.model.next_image += 1
        return Image(number, name_of(number), persistent)

    def new_disk(self, data: st.DataObject, vm: Vm) -> Disk:
        """Draw a disk: volatile, cloned, or a persistent image itself."""
        kinds = [*(["clone"] if self.free_images(False) else []),
                 *(["persistent"] if self.free_images(True) else []), "volatile"]
        kind = self.pick(data, "disk", kinds)
        number = vm.next_disk
        vm.next_disk += 1
        name = f"one-vm-{vm.number}-disk-{number}"
        if kind == "volatile":
            return Disk(number, Volume(name, SIZE))
        image = self.pick(data, "image", self.free_images(kind == "persistent"))
        if kind == "clone":
            size = image.volume.size + self.pick(data, "larger", [0, 4])
            return Disk(number, image.volume.copy_to(name, size), image)
        image.vm = vm.number
        return Disk(number, image.volume, image)

    def gone(self, vm: Vm) -> None:
        """Let a VM be forgotten, and its images be free."""
        for disk in vm.disks.values():
            if disk.linked:
                assert disk.image
                disk.image.vm = None
        del self.model.vms[vm.number]

    # --- comparing and ending -----------------------------------------------------------------------------

    def compare(self) -> None:
        """Raise AssertionError with all that is not as the model says."""
        with self.telling():
            require_none(compare(self.site, self.model, self.cloud.domains))

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Keep what went wrong, with all calls that led to it."""
        try:
            yield
        except BaseException as error:
            steps = "".join(f"  {line}\n" for line in self.cloud.trace)
            type(self).failure = type(self).failure or f"{steps}{type(error).__name__}: {error}"
            raise

    def teardown(self) -> None:
        if not hasattr(self, "cloud"):
            return
        try:
            if not type(self).failure:
                self._end_all()
        finally:
            type(self).happened.update(self.cloud.happened)
            self.cloud.close()

    def _end_all(self) -> None:
        """Remove everything; then there is what was there before."""
        for vm in list(self.model.vms.values()):
            self.cloud.terminate(vm)
            self.gone(vm)
        for image in list(self.model.images.values()):
            self.cloud.remove_image(image)
        with self.telling():
            require_none(quiet(self.site))
            after = look(self.site)
            differing = {key for key in self.before.keys() | after.keys() if self.before.get(key) != after.get(key)}
            left = [f"{key}: {self.before.get(key)} before, {after.get(key)} after"
                    for key in sorted(differing) if not self.cloud.is_of_dead_host(key)]
            type(self).left_over = bool(left)
            require_none(left)


def require_none(problems: list[str]) -> None:
    """Raise AssertionError with all problems when there are any."""
    assert not problems, "; ".join(problems)
