"""A VM's disk grows: on LINSTOR, and until its host sees it."""

from __future__ import annotations

from .. import placement
from ..errors import Failed, Refused
from ..inventory import Definition
from ..request.disks import ResizeRequest
from ..units import Kib, bytes_from_kib, kib_from_mib, mib_from_kib
from ..world import Command, Controller, World
from . import two_primaries, vm_disks, volumes
from .volumes import Volume

# DISK_RESIZE_UNDEPLOYED: oned names the VM's last host, where nothing is attached any more.
_UNDEPLOYED = 64
# The kernel's own number: opening the device asks DRBD, which refuses where another node is primary.
_SEEN = """sectors() {
  real=$(readlink -f -- "$1") && [ -b "$real" ] || return
  cat "/sys/dev/block/$(printf '%d:%d' "0x$(stat -c %t -- "$real")" "0x$(stat -c %T -- "$real")")/size"
}
left=$3
until [ "$(($(sectors "$1" || echo 0) * 512))" -ge "$2" ]; do
  [ "$left" -gt 0 ] || exit 1
  left=$((left - 1))
  sleep 0.2
done
"""
_LOOKS_A_SECOND = 5
_LOGIN_SECONDS = 30.0


def resize(world: World, request: ResizeRequest) -> str:
    """Let a VM's disk grow; done when the VM's host sees the new size.

    oned calls it for a running VM before `virsh blockresize`, which fails on a device that is still too small (62),
    for one that is powered off (63) and for one that is undeployed (64). The same size is success, as after a
    failure in between. Raises Refused for a smaller size, NotEnoughSpace, Failed when the host does not see it.
    """
    place, size = request.disk, kib_from_mib(request.size)
    vm = world.cloud.vm(place.vm_id)
    disk = vm_disks.disk_of(vm, place.disk_id)
    name = vm_disks.definition_of(disk, place)
    with world.locks.hold(name):
        settings = vm_disks.settings_of(world, place, request.datastore_id, disk)
        controller = world.connect(settings)
        definition = volumes.defined(controller, name)
        vm_disks.require_owned(definition, disk, place)
        two_primaries.end_lost_of(world, controller, definition, vm)
        volume = volumes.existing(definition, controller, settings)
        placement.require_together(name, volume.replicas)
        _grow(world, controller, definition, volume, size)
        if vm.lcm_state != _UNDEPLOYED:
            _await(world, volume, place.host, size)
    return ""


def _grow(world: World, controller: Controller, definition: Definition, volume: Volume, size: Kib) -> None:
    if size < volume.size:
        raise Refused(
            f"{volume.name} has {mib_from_kib(volume.size)} MiB and never shrinks; ask for more than that, "
            f"not for {mib_from_kib(size)} MiB"
        )
    if size > volume.size:
        with world.undo.by(f"the size of {volume.name}", _keep, controller, volume):
            controller.resize(definition, volume.replicas, size)


def _keep(controller: Controller, volume: Volume) -> None:
    """Nothing takes a growth back: say so if there was one."""
    now = controller.definitions([volume.name]).get(volume.name)
    if now is not None and now.size is not None and now.size > volume.size:
        raise Failed(f"it is {mib_from_kib(now.size)} MiB now and never shrinks; repeat the resize")


def _await(world: World, volume: Volume, host: str, size: Kib) -> None:
    """Wait until a host sees a size, where the volume is attached there; without a device nobody reads a size.

    LINSTOR answers when all nodes have it; after a lost answer they may still be at work.
    """
    if volume.on(host) is None:
        return
    device, seconds = volume.device(host), volume.settings.timeout / 5
    words = [device, str(bytes_from_kib(size)), str(int(seconds * _LOOKS_A_SECOND))]
    command = Command(world.front_end.host(host), ["sh", "-c", _SEEN, "sh", *words])
    doing = f"look at the size of {device}"
    if world.hosts.run(command, seconds=seconds * 2 + _LOGIN_SECONDS, accept=(0, 1), doing=doing).code:
        raise Failed(
            f"{volume.name} is {mib_from_kib(size)} MiB on LINSTOR, but {host} did not see that within {seconds:g} s; "
            f"look at `linstor resource list -r {volume.name}` and repeat the resize"
        )
