"""A VM's memory on LINSTOR where oned.conf does not know of it: hooks of OpenNebula's own `save` and `restore`.

They run on the VM's host. The stock scripts write and read a file there; between the two it is on LINSTOR. At every
moment the memory is whole in one of the two places, so whatever fails here is no failure of the save: the file stays.
"""

from __future__ import annotations

from .. import placement
from ..errors import DriverError, Exists, NotFound, Refused
from ..naming import DELETING, STATE, VM_ID, checkpoint_definition
from ..request.vms import RestoreRequest, SaveRequest
from ..units import Bytes, Kib
from ..world import Command, World
from . import attachments, checkpoint_save, contents, removal, volumes
from .volumes import Wanted

_SECONDS = 60.0
# Memory is copied at no less than 5 MiB a second, or nobody waits for it any more.
_SLOWEST = 5 << 20
_LEAST_SECONDS = 600.0
_SIZE = 'if [ -f "$1" ]; then stat -c %s -- "$1"; fi'
# The file has its name when all of it is on the disk; then the volume must not be restored as well.
_FETCH = """set -e
dd if="$1" of="$2.new" bs=1M iflag=fullblock conv=sparse,fsync status=none
mv -f -- "$2.new" "$2"
dd if=/dev/zero of="$1" bs=4096 count=1 conv=notrunc,fsync status=none
"""


def keep(world: World, request: SaveRequest) -> str:
    """Bring the memory that the stock `save` has just written to a file to LINSTOR, and remove the file."""
    host, name = request.directory.host, checkpoint_definition(request.directory.vm_id)
    world = _here(world, host)
    with world.locks.hold(name):
        settings = checkpoint_save.checkpoint_settings(world, request)
        size = _size(world, host, request.file)
        if not size:
            raise NotFound(f"the stock script has left no memory in {request.file} on {host}")
        controller = world.connect(settings)
        wanted = Wanted(name, Kib(-(-size // 1024)), settings, checkpoint_save.marks(request), host)
        volume = checkpoint_save.fresh(world, controller, wanted)
        with attachments.borrowed(world, controller, volume, host) as device:
            target = contents.Device(host, device, size, volume.zero, name)
            contents.copy_device(world, contents.Device(host, request.file, size), target)
        volumes.complete(world, controller, name)
        _run(world, host, ["rm", "-f", "--", request.file], _SECONDS, f"remove {request.file}")
    return ""


def fetch(world: World, request: RestoreRequest) -> str:
    """Bring the memory back to the file that the stock `restore` is about to read; nothing where there is one."""
    host, name = request.directory.host, checkpoint_definition(request.directory.vm_id)
    world = _here(world, host)
    with world.locks.hold(name):
        if _size(world, host, request.file):
            return ""
        settings = world.settings(request.datastore)
        controller = world.connect(settings)
        found = controller.definitions([name]).get(name)
        if found is None:
            raise NotFound(f"the memory of VM {request.directory.vm_id} is not in {name} on LINSTOR")
        marks = {VM_ID: str(request.directory.vm_id)}
        other = placement.contradiction(found, marks)
        if other:
            raise Exists(f"{name} is marked {other}, so it belongs to something else")
        if found.props.get(STATE) == DELETING:
            raise Refused(f"the memory in {name} was used already, and the VM's disks have gone on")
        volume = volumes.existing(found, controller, settings)
        placement.require_together(name, volume.replicas)
        with attachments.borrowed(world, controller, volume, host) as device:
            argv = ["sh", "-c", _FETCH, "sh", device, request.file]
            seconds = _LEAST_SECONDS + volume.size * 1024 / _SLOWEST
            _run(world, host, argv, seconds, f"copy {name} to {request.file}")
        world.undo.give_back()
        try:
            removal.remove(world, controller, name, marks, settings, unattended=True)
        except DriverError as error:
            world.trail.warn(f"left behind: {name}, which is in {request.file} on {host} now: {error}")
    return ""


def _here(world: World, host: str) -> World:
    """Return the world with this machine known by OpenNebula's name for it: hooks run on the VM's host."""
    return world._replace(front_end=world.front_end._replace(names=world.front_end.names | {host}))


def _size(world: World, host: str, file: str) -> Bytes:
    """Return the size of a file, 0 when there is none."""
    said = _run(world, host, ["sh", "-c", _SIZE, "sh", file], _SECONDS, f"look at {file}")
    return Bytes(int(said) if said.isdigit() else 0)


def _run(world: World, host: str, argv: list[str], seconds: float, doing: str) -> str:
    return world.hosts.run(Command(world.front_end.host(host), argv), seconds=seconds, doing=doing).stdout.strip()
