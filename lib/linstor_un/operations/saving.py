"""A VM's disk is saved as an image: as it is, also while its VM runs, or as one of its snapshots has it.

    what is saved                       how
    a snapshot of the disk              restored beside it, and copied from there
    the disk, its VM does not run       copied
    the disk, its VM runs               a snapshot of one moment, for which the guest is kept quiet, then as above
    the same, pool without snapshots    copied while the guest is kept quiet

The image goes where its datastore says. With CLONE_MODE snapshot or clone it stays where the disk is, if that is all
the same to its datastore: the snapshot is then restored as the image itself, and no byte is copied. It is a volume of
its own in the end. What lies beside it until then is found by the half-made image, which is there first and goes last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple, Optional

from .. import placement
from ..errors import NotFound, Refused
from ..inventory import Definition, Pool, Snapshot
from ..naming import COPY_OF, disk_snapshot, image_number
from ..onexml import Image, Vm
from ..request.disks import CpdsRequest
from ..settings import require_placement
from ..units import Kib, Mib, bytes_from_kib, kib_from_mib, mib_from_kib
from ..world import Controller, World
from . import attachments, contents, copies, guest, images, restored, snapshots, two_primaries, vm_disks, volumes
from .contents import Device
from .volumes import Volume, Wanted

# HOTPLUG_SAVEAS; in the other states of saving the VM does not run.
_RUNNING = 26
# A guest is not kept quiet for longer than an hour, and not for longer than it takes at 50 MiB a second.
_QUIET_AT_MOST = 3600.0
_BYTES_A_SECOND = 50 << 20


class _Saving(NamedTuple):
    """What is saved, a disk or a snapshot of it, as what; and the VM with the host that it is or was on."""

    vm: Vm
    host: str
    definition: Definition
    source: Volume
    snapshot: Optional[Snapshot]
    wanted: Wanted

    @property
    def hot(self) -> bool:
        """The disk changes while it is saved."""
        return self.snapshot is None and self.vm.lcm_state == _RUNNING


class _Way(NamedTuple):
    """How a disk is saved: `without` is a pool that cannot take the snapshot which a running VM's disk needs.

    `shares` is whether the image may lie with the disk and share what the snapshot holds.
    """

    without: Optional[Pool] = None
    shares: bool = False


def cpds(world: World, request: CpdsRequest) -> str:
    """Save a VM's disk, or a snapshot of it, as the image that `mkfs` named; that one allocated nothing.

    oned sends the datastore of the disk's image, where it makes the new image as well. After a failure the image is
    good for nothing but its deletion. Raises Refused for an image that is being deleted: oned allows that while the
    disk waits to be saved, and its `rm` may be over already.
    """
    with world.locks.hold(request.target):
        vm = world.cloud.vm(request.disk.vm_id)
        image = _image(world, request)
        settings = world.settings(world.cloud.datastore(request.datastore_id))
        require_placement(settings)
        controller = world.connect(settings)
        disk = vm_disks.disk_of(vm, request.disk.disk_id)
        name = vm_disks.definition_of(disk, request.disk)
        found = controller.definitions([name, request.target])
        definition = found.get(name)
        if definition is None:
            raise NotFound(f"{name}, the volume of disk {disk.id} of VM {vm.id}, does not exist on LINSTOR")
        vm_disks.require_owned(definition, disk, request.disk)
        volumes.require_whole(definition)
        definition = two_primaries.end_lost_of(world, controller, definition, vm)
        source = volumes.existing(definition, controller, settings)
        snapshot = _snapshot(controller, name, request.snapshot_id)
        size = Kib(max((snapshot.size if snapshot else None) or source.size, kib_from_mib(image.size or Mib(0))))
        wanted = Wanted(request.target, size, settings, images.marks(image_number(request.target), image))
        host = _host(world, vm, request.disk.host)
        saving = _Saving(vm, host, definition, source, snapshot, wanted)
        way = _way(controller, saving)
        if not volumes.settle_name(world, controller, wanted, found.get(request.target)):
            volumes.complete(world, controller, request.target, _save(world, controller, saving, way))
    return ""


def _image(world: World, request: CpdsRequest) -> Image:
    image = world.cloud.image(image_number(request.target))
    if image.deleting:
        raise Refused(f"image {image.id} is being deleted, so disk {request.disk.disk_id} is not saved as it")
    return image


def _snapshot(controller: Controller, name: str, number: Optional[int]) -> Optional[Snapshot]:
    if number is None:
        return None
    wanted = disk_snapshot(number)
    found = snapshots.named(controller, name, wanted)
    if found is None or not found.usable:
        state = "has no" if found is None else "LINSTOR did not complete"
        raise NotFound(f"{name} {state} {wanted}, which is to be saved; look at `linstor snapshot list -r {name}`")
    return found


def _host(world: World, vm: Vm, named: str) -> str:
    """Return the host the VM is on, or was on last: oned names the front-end for a VM that is stopped or undeployed."""
    if world.front_end.host(named) is not None or not vm.history:
        return named
    return vm.history[-1].host


def _way(controller: Controller, saving: _Saving) -> _Way:
    """Return how the disk is saved. Raises InUse, Unsupported or Refused for one that cannot be read."""
    source, settings = saving.source, saving.wanted.settings
    if saving.snapshot is None and not saving.hot:
        copies.readable(source)
    else:
        # What is restored is read from any of its replicas, each of which comes from another one.
        placement.require_together(source.name, source.replicas)
        placement.require_joined(source.name, source.replicas)
    wishes = settings.clone_mode != "copy"
    if not saving.hot and not wishes:
        return _Way()
    holders = {(replica.node, replica.pool) for replica in source.replicas if replica.diskful}
    pools = [one for one in controller.pools(sorted({p for _, p in holders if p})) if (one.node, one.name) in holders]
    without = next((pool for pool in pools if not pool.snapshots), None)
    everywhere = not placement.cut_off(source.replicas)
    if saving.snapshot is not None:
        everywhere = {node for node, _ in holders} == set(saving.snapshot.nodes)
    if not wishes or without is not None or not everywhere:
        return _Way(without)
    group = controller.group(settings.resource_group) if settings.resource_group else None
    return _Way(None, placement.may_lie_with(settings, group, source.replicas, pools))


def _save(world: World, controller: Controller, saving: _Saving, way: _Way) -> Optional[Volume]:
    """Make and fill the image; returns it where its marks have to be set right."""
    quiet = way.without if saving.hot else None
    beside = way.shares or saving.snapshot is not None or (saving.hot and quiet is None)
    if beside:
        marks = {**saving.wanted.marks, COPY_OF: saving.source.name}
        saving = saving._replace(wanted=saving.wanted._replace(marks=marks))
    if way.shares:
        return _share(world, controller, saving)
    # Without DRBD only the replica on the VM's host has what the VM wrote.
    source = saving.source if beside else _of_host(saving.source, saving.host)
    target = volumes.create(world, controller, saving.wanted)
    if target is None:
        return None
    if quiet is not None:
        _copy_quiet(world, controller, saving, target, quiet)
        return None
    if beside:
        snapshot = _moment(world, controller, saving)
        source = restored.lend(world, controller, saving.definition, _then(saving), snapshot, saving.wanted)
    copies.fill(world, controller, _of_host(source, saving.host), target, saving.host)
    return None


def _share(world: World, controller: Controller, saving: _Saving) -> Volume:
    """Restore the snapshot as the image."""
    wanted = saving.wanted
    marks = volumes.birth_marks(world, controller, wanted)
    with world.undo.by(wanted.name, volumes.discard, world, controller, wanted.name):
        controller.define(wanted.name, wanted.settings, marks)
    snapshot = _moment(world, controller, saving)
    source = saving.definition._replace(size=_then(saving).size)
    return copies.restore(controller, source, snapshot, wanted, marks)


def _then(saving: _Saving) -> Volume:
    """Return the disk as large as it was when the snapshot was taken."""
    return saving.source._replace(size=(saving.snapshot.size if saving.snapshot else None) or saving.source.size)


def _moment(world: World, controller: Controller, saving: _Saving) -> str:
    """Return the snapshot that is to be saved; of the disk as it is one is taken, which goes again."""
    if saving.snapshot is not None:
        return saving.snapshot.name
    name, snapshot = saving.definition.name, saving.wanted.name
    label = f"snapshot {snapshot} of {name}"
    with world.undo.borrow(label, controller.delete_snapshot, name, snapshot):
        with _quiet(world, saving) if saving.hot else nullcontext():
            controller.snapshot(name, snapshot)
    return snapshot


def _of_host(volume: Volume, host: str) -> Volume:
    """Return a volume as it is read: without DRBD, from the VM's host alone, for the VM wrote nowhere else.

    Raises Refused when there is none.
    """
    if volume.replicated:
        return volume
    here = tuple(r for r in volume.replicas if r.node == host and r.diskful and r.usable)
    if not here:
        raise Refused(f"{volume.name} has no DRBD layer, and {host}, where its VM wrote to it, has no usable replica")
    return volume._replace(replicas=here)


def _quiet(world: World, saving: _Saving, seconds: float = guest.QUIET_SECONDS) -> AbstractContextManager[str]:
    return guest.quiet(world, saving.host, saving.vm.deploy_id, seconds)


def _copy_quiet(world: World, controller: Controller, saving: _Saving, target: Volume, pool: Pool) -> None:
    """Copy a disk while its guest is kept quiet, on its host: DRBD lets nobody else read what one node writes to.

    Raises TimedOut after an hour, or less for a small disk; the guest is let go by then in any case.
    """
    source, host = saving.source, saving.host
    size = bytes_from_kib(source.size)
    seconds = min(_QUIET_AT_MOST, guest.QUIET_SECONDS + size / _BYTES_A_SECOND)
    world.trail.warn(
        f"{source.name} is in pool {pool.name}, which cannot take snapshots: VM {saving.vm.id} waits while "
        f"{mib_from_kib(source.size)} MiB are copied, {seconds:.0f} s at most"
    )
    with _targets(world, controller, target, host) as places:
        began = world.clock.now()
        with _quiet(world, saving, seconds) as how:
            for node, path in places:
                end = Device(node, path, size, target.zero, target.name)
                contents.copy_device(world, Device(host, source.device(host), size), end, seconds)
        world.trail.info(f"VM {saving.vm.id} was {how} for {world.clock.now() - began:.0f} s")


@contextmanager
def _targets(world: World, controller: Controller, target: Volume, host: str) -> Iterator[list[tuple[str, str]]]:
    """Yield where a volume has to be written, node and device: on the host itself, or, without DRBD, each replica."""
    if not target.replicated:
        yield [(node, target.device(node)) for node in placement.holding(target.replicas)]
        return
    with attachments.borrowed(world, controller, target, host) as device:
        yield [(host, device)]
