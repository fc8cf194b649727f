"""A VM's disks and its directory brought to another host or system datastore while the VM does not run.

oned asks disk by disk, and then for the directory; a repeated transfer asks for all of them again. The datastore of the
directory decides what is done with a disk's link: another driver carries the links with the directory, which it moves
afterwards, or has one directory for all hosts, so that only the device is brought to the VM.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple, Optional

from .. import placement
from ..errors import Exists, Failed, InUse, NotFound, Refused, Uncertain, Unsupported
from ..inventory import Definition
from ..naming import DiskPlace, checkpoint_definition
from ..onexml import Disk, Vm
from ..request.disks import MvRequest
from ..retry import until
from ..world import Controller, World
from . import attachments, host_files, lost_hosts, relocation, two_primaries, vm_directories, vm_disks, volumes
from .relocation_goal import alike, elsewhere
from .volumes import Volume

# UNKNOWN, PROLOG_MIGRATE_UNKNOWN and its failure: oned has given the source up, and its fencing hook has ended it.
_LOST = {16, 60, 61}
# PROLOG_MIGRATE of a VM that was running, powered off or suspended, and the failures: from host to host.
_MIGRATING = {8, 38, 43, 44, 45, 46} | _LOST
# PROLOG_RESUME, PROLOG_UNDEPLOY and the failures: from the front-end to a host.
_FETCHING = {9, 49, 31, 50}
# EPILOG_STOP, EPILOG_UNDEPLOY and the failures: from a host to the front-end.
_STORING = {10, 41, 30, 42}
# LINSTOR notices within some ten seconds that a node is dead.
_DYING_SECONDS = 30.0


class Ends(NamedTuple):
    """The hosts at both ends of a move, None where there is nothing to attach or to let go.

    The front-end keeps the directory of a stopped VM, but no devices; a dead host (`lost`) is not asked for anything.
    """

    origin: Optional[str]
    destination: Optional[str]
    lost: bool


class Subject(NamedTuple):
    """A disk that is moved, and what is behind it."""

    disk: Disk
    source: DiskPlace
    target: DiskPlace
    ends: Ends
    definition: Definition
    volume: Volume

    @property
    def device(self) -> str:
        """The path that links lead to: the same on all hosts under DRBD, else of the only host that has it."""
        return self.volume.device(self.ends.destination or self.source.host)


def mv(world: World, request: MvRequest) -> str:
    """Move a VM's disk, or its directory; what was moved already stays as it is.

    Raises InUse while the disk is open at the source, Unsupported for one that the destination cannot reach.
    """
    vm = world.cloud.vm(request.target.vm_id)
    _require_staying(vm)
    ends = _ends(world, request, vm)
    if request.source_disk is None or request.target_disk is None:
        _move_directory(world, request, ends)
        return ""
    disk = vm_disks.disk_of(vm, request.target_disk.disk_id)
    name = vm_disks.definition_of(disk, request.target_disk)
    settings = vm_disks.settings_of(world, request.target_disk, request.datastore_id, disk)
    with nullcontext() if vm_disks.shared(disk) else world.locks.hold(name):
        # oned does not stop a move to remove the VM: who had the lock may have been that DELETE, which is not repeated.
        _require_staying(world.cloud.vm(vm.id))
        controller = world.connect(settings)
        found = controller.definitions([name]).get(name)
        if found is None:
            _require_file(world, name, disk, ends, request.source_disk, request.target_disk)
            return ""
        volume = volumes.existing(found, controller, settings)
        subject = Subject(disk, request.source_disk, request.target_disk, ends, found, volume)
        _require_movable(world, controller, subject, vm)
        hosts = {request.source.host, request.target.host}
        two_primaries.end_lost(world, controller, found, hosts, {request.source.host} if ends.lost else ())
        _move_disk(world, controller, _bring_data(world, controller, subject))
        if not ends.lost:
            lost_hosts.clear(world, controller, found, request.target_disk, request.source_disk)
    return ""


def _require_staying(vm: Vm) -> None:
    if vm_disks.going(vm):
        raise Refused(f"VM {vm.id} is being removed, so nothing of it is moved")


def _ends(world: World, request: MvRequest, vm: Vm) -> Ends:
    """Tell hosts from the front-end; one that is a host as well is what oned's state of the VM says."""
    lost = vm.lcm_state in _LOST
    stored = world.front_end.host(request.source.host) is None and vm.lcm_state not in _MIGRATING | _STORING
    storing = world.front_end.host(request.target.host) is None and vm.lcm_state not in _MIGRATING | _FETCHING
    return Ends(
        None if lost or stored else request.source.host,
        None if storing else request.target.host,
        lost,
    )


def _require_file(world: World, name: str, disk: Disk, ends: Ends, *places: DiskPlace) -> None:
    """Raise NotFound unless a disk without a volume is a plain file, which is moved with its directory.

    A VM that was undeployed from another driver's system datastore hands its volatile disks over so.
    """
    reachable = places[1:] if ends.lost else places
    if disk.clone is False or not any(host_files.is_file(world, place.host, place.path) for place in reachable):
        raise NotFound(f"{name}, the volume of disk {disk.id}, does not exist on LINSTOR, and there is no file of it")


def _require_movable(world: World, controller: Controller, subject: Subject, vm: Vm) -> None:
    definition, volume, ends = subject.definition, subject.volume, subject.ends
    other = placement.contradiction(definition, vm_disks.owner(subject.disk, subject.target))
    if other:
        raise Exists(f"{definition.name} is marked {other}, so it belongs to something else and is left alone")
    placement.require_together(volume.name, volume.replicas)
    if ends.destination is None:
        return
    placement.require_reachable(volume.name, volume.replicas)
    if ends.lost:
        _require_dead(world, controller, volume, subject.source.host)
    else:
        placement.require_connected(volume.name, volume.replicas, ends.destination)
    last = subject.source.host if ends.origin or ends.lost else vm_disks.host_before(vm)
    if not volume.replicated and ends.destination != last:
        raise Unsupported(
            f"{volume.name} has no DRBD in its layers, so what the VM wrote is on {last} alone and cannot be used on "
            f"{ends.destination}; choose {last} again"
        )


def _require_dead(world: World, controller: Controller, volume: Volume, host: str) -> None:
    """Raise InUse when the host that oned gave up still has the disk open, as its LINSTOR satellite says, or may have.

    It was not fenced then: the VM would run twice.
    """

    def closed() -> Optional[bool]:
        now = volumes.look(controller, volume.name, volume.settings, volume.size).on(host)
        return None if now and now.online and now.in_use is not False else True

    here = volume.on(host)
    if volume.replicated and here and here.online and not until(world.clock, _DYING_SECONDS, closed):
        raise InUse(f"{volume.name} is still open on {host}, whose LINSTOR satellite answers; fence {host} and retry")


def _bring_data(world: World, controller: Controller, subject: Subject) -> Subject:
    """Let a VM's own disk be where its new datastore places disks; an image stays where its own places it.

    Below another driver's datastore a disk is placed by its image's.
    """
    source, target, volume = subject.source, subject.target, subject.volume
    if subject.disk.clone is False or source.datastore_id == target.datastore_id:
        return subject
    if world.cloud.datastore(target.datastore_id).tm_mad != vm_disks.TM_MAD:
        return subject
    former = world.cloud.datastore(source.datastore_id)
    if former.tm_mad == vm_disks.TM_MAD and alike(world.settings(former), volume.settings):
        return subject
    if subject.ends.lost:
        where = elsewhere(controller, volume)
        if where:
            world.trail.warn(f"{volume.name} does not come to {where} while {source.host}, which may have a replica of "
                             f"it, is away; it comes with a later move to another datastore")  # fmt: skip
        return subject
    origin, destination, _ = subject.ends
    brought = relocation.bring(world, controller, subject.definition, volume, origin or "", destination or "")
    return subject._replace(volume=brought)


def _move_disk(world: World, controller: Controller, subject: Subject) -> None:
    """Attach at the destination before anything is let go at the source; what LINSTOR may refuse there comes last."""
    origin, destination, _ = subject.ends
    name, source = subject.volume.name, subject.source
    lock = attachments.attachment_lock
    with world.locks.share(lock(name, destination)) if destination else nullcontext():
        if destination is not None:
            attachments.attach(world, controller, subject.volume, destination, vm_disks.shared(subject.disk))
        _mark(world, controller, subject)
        with world.locks.share(lock(name, source.host)) as held:
            leaves = origin is not None and origin != destination
            if _links_here(world, subject):
                others = _relink(world, subject)
            else:
                others = leaves and host_files.linked(world, source.host, subject.device, source.path)
            if leaves and not others and held.alone():
                _release(world, controller, name, source.host)


def _links_here(world: World, subject: Subject) -> bool:
    """Return whether nobody else brings the link: other drivers bring nothing from a host that is dead.

    In another datastore of theirs there must be none: a plain `mv` of the directory, which may follow, would nest it.
    """
    target = subject.target.datastore_id
    alone = subject.ends.lost and target == subject.source.datastore_id
    return alone or world.cloud.datastore(target).tm_mad == vm_disks.TM_MAD


def _mark(world: World, controller: Controller, subject: Subject) -> None:
    """Let the marks name the system datastore that the disk is in from now on; a shared image carries none."""
    name, found, wanted = subject.volume.name, subject.definition.props, vm_disks.marks(subject.target)
    if subject.ends.lost:
        wanted.update(lost_hosts.marks(subject.definition, subject.source))
    if vm_disks.shared(subject.disk) or wanted.items() <= found.items():
        return
    before = {key: found[key] for key in wanted if key in found}
    with world.undo.by(f"marks of {name}", controller.mark, name, before, [key for key in wanted if key not in before]):
        controller.mark(name, wanted)


def _relink(world: World, subject: Subject) -> bool:
    """Bring the link to its new place; returns whether another VM at the source has one to the same device.

    The old link goes first: where hosts share the directory it is the new one. The front-end gets a link that leads
    nowhere, for the driver that may take the directory over from there.
    """
    source, target, device = subject.source, subject.target, subject.device
    others = False
    if not subject.ends.lost:
        back = (world, source.host, source.directory, device, source.path)
        with world.undo.by(f"no link {source.path} on {source.host}", host_files.link, *back):
            others = host_files.unlink(world, source.host, source.path, device, "link")
    made = (world, target.host, target.directory, [host_files.Link(device, target.path)])
    with world.undo.by(f"link {target.path} on {target.host}", host_files.unlink_all, *made):
        host_files.link(world, target.host, target.directory, device, target.path)
    return others


def _release(world: World, controller: Controller, name: str, origin: str) -> None:
    """Take the attachment off the source. Raises InUse; what LINSTOR finishes later is only told."""
    try:
        attachments.release(world, controller, name, origin)
    except (Failed, Uncertain) as error:
        world.trail.warn(f"left behind: attachment of {name} on {origin} ({error})")


def _move_directory(world: World, request: MvRequest, ends: Ends) -> None:
    """Move the directory with all that is in it; nothing is asked of a dead host, which keeps what is there.

    The memory of a suspended VM is a volume: it is attached anew where the VM is resumed.
    """
    if ends.lost:
        return
    vm_directories.move(world, request.source, request.target)
    if ends.origin is not None and ends.origin != ends.destination:
        settings = world.settings(world.cloud.datastore(request.target.datastore_id))
        _release(world, world.connect(settings), checkpoint_definition(request.target.vm_id), ends.origin)
