"""A VM goes on from its memory on LINSTOR, once.

What counts as the memory is what libvirt calls a complete image of this very domain. It is made unusable as soon as the
VM runs, for its disks have gone on since.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Optional

from .. import domainxml, placement
from ..errors import DriverError, Exists, Failed, InUse, NotFound, Refused, Terminated
from ..inventory import Definition
from ..log import Relayed
from ..naming import DELETING, STATE, VM_ID, checkpoint_definition
from ..request.vms import RestoreRequest
from ..settings import Settings
from ..world import Controller, World
from . import attachments, removal, stock, volumes
from .virsh import Libvirt, Seen

# As fast as it was written; without a volume only another restore is waited for.
_SLOWEST_KIB = 5 * 1024
_LEAST_SECONDS = 600.0


def restore(world: World, request: RestoreRequest) -> Relayed:
    """Let a VM go on from its memory, on its host.

    A VM that is there already is a success: it is never started a second time. Memory that OpenNebula's own script
    saved is in a file, and is restored by its own script.
    """
    vm_id = request.directory.vm_id
    name = checkpoint_definition(vm_id)
    with world.locks.hold(name):
        settings = world.settings(request.datastore)
        libvirt = Libvirt(world, request.directory.host, request.deploy_id, vm_id)
        controller = world.connect(settings)
        found = controller.definitions([name]).get(name)
        device = _reach(world, controller, found, request, settings)
        seconds = _LEAST_SECONDS + (found.size or 0 if found else 0) / _SLOWEST_KIB
        seen = libvirt.settled(seconds, device, request.file)
        answer, unusable = Relayed(0, "", ""), False
        if seen.alive:
            _go_on(world, libvirt, seen, request)
        elif seen.file:
            # A save of this driver moves such a file aside: one that is there is newer than what LINSTOR has.
            answer = stock.run(world, request.stock)
        elif found is not None and device:
            _restore(world, libvirt, seen, request, found, device, seconds)
            unusable = True
        else:
            raise _nothing(request, name, found)
        if answer.code == 0 and found is not None:
            _drop(world, controller, request, settings, unusable)
        elif device:
            with suppress(DriverError):
                attachments.release(world, controller, name, request.directory.host)
    return answer


def _reach(
    world: World, controller: Controller, found: Optional[Definition], request: RestoreRequest, settings: Settings
) -> str:
    """Make the memory's device available on the host and return its path, "" where there is no memory to use."""
    if found is None:
        return ""
    other = placement.contradiction(found, _marks(request))
    if other:
        raise Exists(f"{found.name} is marked {other}, so it belongs to something else and is left alone")
    if _used(found) or found.size is None:
        return ""
    host = request.directory.host
    volume = volumes.existing(found, controller, settings)
    placement.require_together(found.name, volume.replicas)
    placement.require_connected(found.name, volume.replicas, host)
    elsewhere = [replica.node for replica in volume.replicas if replica.in_use and replica.node != host]
    if elsewhere:
        raise InUse(
            f"{found.name} is open on {', '.join(elsewhere)}, where the VM is being saved or restored; "
            f"look at `virsh list` there, and retry when it has ended"
        )
    attachments.attach(world, controller, volume, host)
    return volume.device(host)


def _go_on(world: World, libvirt: Libvirt, seen: Seen, request: RestoreRequest) -> None:
    """The VM is there. One that put itself to sleep is woken, as oned (>= 6.8) resumes it by `restore` as well."""
    state = seen.guest.state if seen.guest else ""
    if state == "pmsuspended":
        libvirt.wake()
    else:
        world.trail.info(f"VM {request.directory.vm_id} is on {request.directory.host} already, {state}")


def _restore(
    world: World, libvirt: Libvirt, seen: Seen, request: RestoreRequest, found: Definition, device: str, seconds: float
) -> None:
    vm_id, directory = request.directory.vm_id, request.directory.path
    if not domainxml.is_of(seen.image, request.deploy_id):
        reason = seen.broken or "it is another domain's"
        raise Refused(f"{found.name} does not hold the complete memory of VM {vm_id}: {reason}; {_boot(request)}")
    moved = domainxml.moved(seen.image, directory)
    # The driver before this one paused each VM to save it, and marked nothing.
    paused = VM_ID not in found.props
    try:
        libvirt.restore(device, directory, seconds, xml="" if moved == seen.image else moved, running=paused)
    except (Failed, Terminated) as failure:
        # A VM that runs must not be called failed: oned would start it again.
        if not libvirt.settled(seconds).alive:
            raise
        world.trail.warn(f"VM {vm_id} goes on, although its restore was interrupted: {failure}")


def _nothing(request: RestoreRequest, name: str, found: Optional[Definition]) -> DriverError:
    vm_id, host = request.directory.vm_id, request.directory.host
    if found is not None and _used(found):
        why = f"the memory of VM {vm_id} in {name} was used already, and its disks have gone on"
        return Refused(f"{why}; {_boot(request)}")
    why = f"the memory of VM {vm_id} is neither in {name} on LINSTOR nor in {request.file} on {host}"
    return NotFound(f"{why}; {_boot(request)}")


def _used(found: Definition) -> bool:
    return found.deleting or found.props.get(STATE) == DELETING


def _boot(request: RestoreRequest) -> str:
    place = request.directory
    return f"to boot the VM, `virsh create {place.path}/deployment.N` on {place.host}, and resume it again"


def _drop(
    world: World, controller: Controller, request: RestoreRequest, settings: Settings, unusable: bool
) -> None:
    """Remove the memory of a VM that has gone on. Whatever keeps it from going: the VM runs, so this is a success.

    Arguments: unusable, it can serve nobody any more, so that marks and openers need no look before.
    """
    name = checkpoint_definition(request.directory.vm_id)
    try:
        if unusable:
            with suppress(DriverError):
                return volumes.delete_when_closed(world, controller, name)
        removal.remove(world, controller, name, _marks(request), settings, unattended=True)
    except (Exception, Terminated) as error:
        world.trail.warn(f"left behind: {name}, which VM {request.directory.vm_id} does not need any more: {error}")


def _marks(request: RestoreRequest) -> dict[str, str]:
    return {VM_ID: str(request.directory.vm_id)}
