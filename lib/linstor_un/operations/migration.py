"""A running VM's disks lent to a second host for a live migration, and taken from the host that it is not on after it.

oned calls for the whole VM. Another driver that has the VM's directory calls for the disks of this one, does not look
how that ends, and never calls when the migration failed; the directory is its own then.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Callable, NamedTuple, Optional

from .. import placement
from ..errors import DriverError, Exists, Incomplete, InUse, NotFound, Unsupported
from ..inventory import DRBD, Definition
from ..naming import DS_ID, DefinitionName, DiskPlace, VmDirectory, by_res, disk_in
from ..onexml import Disk
from ..request.vms import MigrateRequest
from ..retry import until
from ..settings import Settings
from ..units import Kib
from ..world import Controller, World
from . import attachments, host_files, two_primaries, vm_directories, vm_disks, volumes
from .host_files import Link
from .relocation_goal import elsewhere
from .volumes import Volume

# QEMU at the source ends a moment after libvirt says that the VM has moved.
_CLOSING_SECONDS = 10.0


class Subject(NamedTuple):
    """A disk of this driver that migrates with its VM: where it will be, and what is behind it."""

    disk: Disk
    place: DiskPlace
    name: DefinitionName
    settings: Settings
    controller: Controller
    definition: Definition

    @property
    def link(self) -> Link:
        """Its link, which has the same path on both hosts."""
        return Link(by_res(self.name), self.place.path)


def premigrate(world: World, request: MigrateRequest) -> str:
    """Lend all disks to the target, or none, and give it the VM's directory.

    A host that is source and target (for another datastore) only gets links: LINSTOR's volumes stay where they are.
    Before 7.4 oned does not call `failmigrate` when this fails. Raises InUse for a disk that another host has open,
    Unsupported for one without DRBD, NotFound for one that is no volume.
    """
    target, directory = request.target, request.directory
    with world.locks.hold(*_exclusive(request)):
        subjects, missing = _subjects(world, request)
        if missing:
            raise NotFound(f"{missing[0]}; a plain file cannot migrate with a running VM")
        lent = [] if request.source == target else [(one, _require_migratable(one, request)) for one in subjects]
        for subject, _ in lent:
            _end_lost(world, subject, request)
        links = host_files.missing(world, target, _links(subjects, request))
        with ExitStack() as held:
            for subject, volume in lent:
                held.enter_context(world.locks.share(attachments.attachment_lock(subject.name, target)))
                _lend(world, subject, volume, request)
            if request.source != target and not request.caller:
                vm_directories.copy(world, directory._replace(host=request.source), directory)
            label, where = f"links in {directory.path} on {target}", (world, target, directory.path, links)
            with world.undo.by(label, host_files.unlink_all, *where):
                host_files.link_all(*where)
    return ""


def postmigrate(world: World, request: MigrateRequest) -> str:
    """Take the disks from the source, and remove the VM's directory there.

    The VM has moved whatever comes of this, and oned only logs it: each part is tried. Raises Incomplete.
    """
    directory, tried = request.directory, Attempts()
    with world.locks.hold(*_exclusive(request)):
        subjects, tried.failures = _subjects(world, request)
        for subject in subjects:
            tried.do(_finish, world, subject, request, request.source)
        tried.do(_change_links, host_files.link_all, world, subjects, request)
        if not request.caller and request.source != request.target:
            tried.do(_drop_directory, world, directory._replace(host=request.source), directory, tried.in_use)
    tried.tell()
    return ""


def failmigrate(world: World, request: MigrateRequest) -> str:
    """Take the disks from the target again, and remove what `premigrate` made there; each part is tried.

    Raises Incomplete.
    """
    directory, tried = request.directory, Attempts()
    with world.locks.hold(*_exclusive(request)):
        subjects, tried.failures = _subjects(world, request)
        for subject in subjects:
            tried.do(_finish, world, subject, request, request.target)
        if request.source == request.target:
            tried.do(_change_links, host_files.unlink_all, world, subjects, request)
        elif not request.caller:
            tried.do(_drop_directory, world, directory, directory._replace(host=request.source), tried.in_use)
    tried.tell()
    return ""


class Attempts:
    """Steps of which each is tried, whatever becomes of the others."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.in_use = False

    def do(self, step: Callable[..., Any], *arguments: Any) -> None:
        """Try one step."""
        try:
            step(*arguments)
        except DriverError as error:
            self.failures.append(str(error))
            self.in_use = self.in_use or isinstance(error, InUse)

    def tell(self) -> None:
        """Raise Incomplete with all that did not work."""
        if self.failures:
            raise Incomplete("; ".join(self.failures))


def _ours(request: MigrateRequest) -> list[tuple[Disk, DiskPlace]]:
    """Return the VM's disks that are this driver's; releases that do not name a volatile disk's driver are old."""
    directory = request.directory
    mads = {vm_disks.TM_MAD} if request.caller else {vm_disks.TM_MAD, ""}
    return [
        (disk, disk_in(directory, disk.id))
        for disk in request.vm.disks
        if disk.tm_mad in mads
    ]


def _exclusive(request: MigrateRequest) -> list[str]:
    """Return the definitions to lock: those that are this VM's alone."""
    return [vm_disks.definition_of(disk, place) for disk, place in _ours(request) if not vm_disks.shared(disk)]


def _subjects(world: World, request: MigrateRequest) -> tuple[list[Subject], list[str]]:
    """Return the disks with what is behind them, and a sentence for each that has nothing."""
    subjects, missing = [], []
    asked: dict[int, dict[str, Definition]] = {}
    disks = [(disk, place, _settings(world, disk, place)) for disk, place in _ours(request)]
    names = [vm_disks.definition_of(disk, place) for disk, place, _ in disks]
    for (disk, place, settings), name in zip(disks, names):
        controller = world.connect(settings)
        if id(controller) not in asked:
            asked[id(controller)] = controller.definitions(names)
        definition = asked[id(controller)].get(name)
        if definition is None:
            missing.append(f"{name}, the volume of disk {disk.id}, does not exist on LINSTOR")
        else:
            subjects.append(Subject(disk, place, name, settings, controller, definition))
    return subjects, missing


def _settings(world: World, disk: Disk, place: DiskPlace) -> Settings:
    datastore_id = place.datastore_id if disk.datastore_id is None else disk.datastore_id
    return vm_disks.settings_of(world, place, datastore_id, disk)


def _links(subjects: Sequence[Subject], request: MigrateRequest) -> list[Link]:
    """Return the disks' links at the target. Only a VM that stays on its host may have disks without DRBD there.

    Raises Unsupported and Refused as `Volume.device` does.
    """
    links = []
    for subject in subjects:
        device = subject.link.device
        if request.source == request.target and DRBD not in subject.definition.layers:
            device = volumes.existing(subject.definition, subject.controller, subject.settings).device(request.target)
        links.append(Link(device, subject.place.path))
    return links


def _change_links(
    change: Callable[[World, str, str, Sequence[Link]], None],
    world: World,
    subjects: Sequence[Subject],
    request: MigrateRequest,
) -> None:
    """Make or remove the disks' links at the target."""
    change(world, request.target, request.directory.path, _links(subjects, request))


def _require_migratable(subject: Subject, request: MigrateRequest) -> Volume:
    volume = volumes.existing(subject.definition, subject.controller, subject.settings)
    other = placement.contradiction(subject.definition, vm_disks.owner(subject.disk, subject.place))
    if other:
        raise Exists(f"{volume.name} is marked {other}, so it belongs to something else and is left alone")
    placement.require_together(volume.name, volume.replicas)
    placement.require_connected(volume.name, volume.replicas, request.target)
    if not volume.replicated:
        raise Unsupported(f"{volume.name} has no DRBD in its layers, so two hosts cannot have it: power the VM off")
    placement.require_reachable(volume.name, volume.replicas)
    users = [replica.node for replica in volume.replicas if replica.in_use and replica.node != request.source]
    if users:
        raise InUse(f"{volume.name} is open on {', '.join(users)}, so it cannot migrate from {request.source}")
    return volume


def _end_lost(world: World, subject: Subject, request: MigrateRequest) -> None:
    """End a migration that was lost before; a repeated call finds its own, and goes on."""
    lost = two_primaries.of(subject.definition)
    if lost and lost[:3] != (request.vm.id, request.source, request.target):
        two_primaries.end(world, subject.controller, subject.name, {request.source})


def _lend(world: World, subject: Subject, volume: Volume, request: MigrateRequest) -> None:
    """Attach a disk on the target as well; QEMU opens the disks that are written to on both hosts for a while."""
    source, target, disk, controller = request.source, request.target, subject.disk, subject.controller
    with world.locks.hold(two_primaries.lock(subject.name)):
        keep = {source, target}
        lost = two_primaries.of(subject.definition)
        if lost:
            # It was ended since, by this run or by monitoring, or it is a killed run's, which attached the target.
            volume = volumes.existing(subject.definition, controller, subject.settings)
            keep -= {lost.source, lost.target} - {source}
        begun = vm_disks.written(disk) and two_primaries.begin(
            world, controller, subject.definition, request.vm.id, source, target, keep
        )
        attachments.attach(world, controller, volume, target, vm_disks.shared(disk))
        if begun:
            controller.allow_two_primaries(subject.name, source, target)


def _finish(world: World, subject: Subject, request: MigrateRequest, leaving: str) -> None:
    """Let one host have a disk again. Arguments: leaving, the host that the VM is not on."""
    name, controller, hosts = subject.name, subject.controller, {request.source, request.target}
    if len(hosts) == 2:
        let_go = partial(_let_go, world, subject, leaving)
        marked = two_primaries.of(subject.definition)
        if not marked or not two_primaries.end_when_closed(world, controller, name, hosts, let_go):
            let_go()
    if leaving == request.source and not vm_disks.shared(subject.disk):
        marks = vm_disks.marks(subject.place)
        if subject.definition.props.get(DS_ID) != marks[DS_ID]:
            volume = volumes.look(controller, name, subject.settings, subject.definition.size or Kib(0))
            placement.require_together(name, volume.replicas)
            _tell_elsewhere(world, subject, volume)
            controller.mark(name, marks)


def _tell_elsewhere(world: World, subject: Subject, volume: Volume) -> None:
    """A disk that runs into another datastore stays in its pools: only a VM that is off takes its data along."""
    where = ""
    if subject.disk.clone is not False:
        with suppress(DriverError):
            where = elsewhere(subject.controller, volume)
    if where:
        world.trail.warn(
            f"{subject.name} stays out of {where} of its new datastore; it comes there when the VM is moved to that "
            f"datastore while it is off"
        )


def _let_go(world: World, subject: Subject, host: str) -> None:
    """Release a disk's attachment; an image that others may read there only when nobody does. Raises InUse."""
    name, link = subject.name, subject.link

    def closed() -> Optional[bool]:
        return None if host_files.opened(world, host, link.device) else True

    with world.locks.share(attachments.attachment_lock(name, host)) as held:
        if vm_disks.shared(subject.disk):
            if host_files.linked(world, host, link.device, but=link.path):
                return
            if not until(world.clock, _CLOSING_SECONDS, closed):
                raise InUse(f"{name} is still read on {host}, where LINSTOR would cut the reader off")
        if held.alone():
            attachments.release(world, subject.controller, name, host)


def _drop_directory(world: World, leaving: VmDirectory, staying: VmDirectory, in_use: bool) -> None:
    if in_use:
        raise InUse(f"{leaving.path} stays on {leaving.host}, where the VM may still run")
    vm_directories.drop(world, leaving, staying)
