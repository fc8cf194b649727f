"""A VM's memory written straight to a volume of LINSTOR: `one-vm-VM-checkpoint`.

The VM's domain on its host decides what a checkpoint is worth. As long as the domain is there, a checkpoint is what an
earlier run left, and goes. Once it is gone, a complete checkpoint is the VM, and nothing here removes it.
"""

from __future__ import annotations

import functools
from typing import Optional

from .. import domainxml, placement
from ..errors import DriverError, Exists, Failed, NotFound
from ..inventory import Definition
from ..naming import DELETING, DS_ID, RUN, STATE, VM_ID, checkpoint_definition
from ..request.vms import SaveRequest
from ..settings import Settings, require_placement
from ..units import Kib, kib_from_mib
from ..world import Controller, World
from . import attachments, removal, volumes
from .virsh import Guest, Libvirt
from .volumes import Volume, Wanted

# Memory is written at no less than 5 MiB a second, or nobody waits for it any more.
_SLOWEST_KIB = 5 * 1024
_LEAST_SECONDS = 600.0


def save(world: World, request: SaveRequest) -> str:
    """Save a VM's memory to LINSTOR and end the VM. After a failure the VM is what it was, running or paused.

    A rerun after a save whose answer was lost finds the VM gone and its memory complete: that is success.
    """
    host, vm_id = request.directory.host, request.directory.vm_id
    name = checkpoint_definition(vm_id)
    with world.locks.hold(name):
        settings = checkpoint_settings(world, request)
        libvirt = Libvirt(world, host, request.deploy_id, vm_id)
        seconds = _LEAST_SECONDS + kib_from_mib(request.memory) / _SLOWEST_KIB
        guest = libvirt.settled(seconds).guest
        controller = world.connect(settings)
        if guest is None or not guest.alive:
            _require_saved(world, controller, libvirt, request, settings)
            return ""
        wanted = Wanted(name, _size(request, guest, settings), settings, marks(request), host)
        volume = fresh(world, controller, wanted, functools.partial(_discard, libvirt, wanted))
        device = _borrow(world, controller, volume, host)
        seconds = _LEAST_SECONDS + wanted.size / _SLOWEST_KIB
        with world.undo.by(f"VM {vm_id}, whose memory is in {name}", _bring_back, libvirt, request, device, seconds):
            libvirt.save(device, request.file, seconds)
        _complete(world, controller, name)
    return ""


def checkpoint_settings(world: World, request: SaveRequest) -> Settings:
    """Return the system datastore's settings, as they are for a checkpoint.

    Without DRBD only the copy on the VM's host is written, so it is the only one.
    """
    settings = world.settings(request.datastore)
    require_placement(settings)
    nodes = sorted(settings.node_list, key=lambda node: node.lower() != request.directory.host.lower())
    count = 1 if placement.alone(settings) else settings.checkpoint_replica_count
    if count is None:
        return settings
    return settings._replace(replica_count=count, node_list=tuple(nodes[:count]))


def _size(request: SaveRequest, guest: Guest, settings: Settings) -> Kib:
    """Return the size of a volume that holds all of the VM's memory, and what QEMU and libvirt add to it.

    libvirt knows of memory that oned does not (RAW in the template), and oned of memory that may yet be plugged.
    """
    memory = max(kib_from_mib(request.memory), guest.memory)
    pages = -(-memory * settings.checkpoint_size_percent // 100)
    return Kib(-(-(pages + request.video) // 1024) * 1024 + kib_from_mib(settings.checkpoint_size_extra))


def marks(request: SaveRequest) -> dict[str, str]:
    """Return whose a checkpoint is."""
    return {VM_ID: str(request.directory.vm_id), DS_ID: str(request.directory.datastore_id)}


def fresh(
    world: World, controller: Controller, wanted: Wanted, take_back: Optional[volumes.TakeBack] = None
) -> Volume:
    """Create the checkpoint's volume. What has its name is stale, for the VM's memory is elsewhere.

    Arguments: take_back, instead of `volumes.discard`. Raises Exists when the name is somebody else's.
    """
    try:
        volume = volumes.create(world, controller, wanted, take_back)
    except Exists:
        # The driver before this one put no marks on checkpoints.
        volume = None
    if volume is None:
        world.trail.info(f"replacing {wanted.name}: the VM has gone on since, or was never saved in it")
        removal.remove(world, controller, wanted.name, wanted.marks, wanted.settings)
        volume = volumes.create(world, controller, wanted, take_back)
    if volume is None:
        raise Failed(f"{wanted.name} was made by somebody else at this moment; retry")
    return volume


def _borrow(world: World, controller: Controller, volume: Volume, host: str) -> str:
    """Reach the volume from the VM's host until its memory is written: it may go on elsewhere. Returns the device."""
    here = volume.on(host)
    there = here is not None and attachments.reaches(here)
    if volume.replicated and not (here is not None and there and here.diskful):
        label = f"attachment of {volume.name} on {host}"
        with world.undo.borrow(label, attachments.release, world, controller, volume.name, host):
            if not there:
                controller.attach(volume.name, host, volume.settings, volume.layers)
    return volume.device(host)


def _bring_back(libvirt: Libvirt, request: SaveRequest, device: str, seconds: float) -> None:
    """Let the VM be what it was: libvirt does that itself, unless the save was complete when this run failed."""
    guest = libvirt.look().guest
    if guest is not None and not guest.settled:
        libvirt.call_off()
    if not libvirt.settled(seconds).alive:
        libvirt.restore(device, request.directory.path, seconds)


def _discard(libvirt: Libvirt, wanted: Wanted, world: World, controller: Controller, name: str) -> None:
    """Take the volume back, complete or not, but never one that may be all there is of a VM."""
    if not libvirt.look().alive:
        raise Failed("the VM does not run, and its memory may be there; resume it, or repeat the save")
    removal.remove(world, controller, name, wanted.marks, wanted.settings)


def _complete(world: World, controller: Controller, name: str) -> None:
    """Say that the memory is complete. It is, whether or not this can be said: `restore` asks libvirt."""
    world.undo.give_back()
    try:
        controller.mark(name, {}, clear=[STATE, RUN])
    except DriverError as error:
        world.trail.warn(f"{name} is complete, but keeps the marks of a half-made one, which do no harm: {error}")


def _require_saved(
    world: World, controller: Controller, libvirt: Libvirt, request: SaveRequest, settings: Settings
) -> None:
    """Finish a save that was complete when its run ended. Raises NotFound when there is nothing to save any more."""
    name = checkpoint_definition(request.directory.vm_id)
    gone = f"VM {request.directory.vm_id} is not on {request.directory.host}"
    found = controller.definitions([name]).get(name)
    if found is None or _unwanted(found):
        raise NotFound(f"{gone}, so there is no memory to save; look at `virsh list --all` there")
    other = placement.contradiction(found, marks(request))
    if other:
        raise Exists(f"{gone}, and {name} is marked {other}, so it belongs to something else")
    device = _borrow(world, controller, volumes.existing(found, controller, settings), request.directory.host)
    seen = libvirt.look(device)
    if not domainxml.is_of(seen.image, request.deploy_id):
        reason = seen.broken or "it is another domain's"
        raise NotFound(f"{gone}, and {name} does not hold its complete memory: {reason}")
    world.trail.info(f"{gone}, and its complete memory is in {name}: it was saved before")
    _complete(world, controller, name)


def _unwanted(found: Definition) -> bool:
    return found.deleting or found.props.get(STATE) == DELETING
