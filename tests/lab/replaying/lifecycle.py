"""What recorded calls of the hypervisor driver do to guests, and when a guest cannot be running any more."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.sax.saxutils import quoteattr

from lab.oned.recordings import Call
from lab.replaying import effects, facts, virsh
from lab.replaying.facts import Disk, Vm
from lab.replaying.guests import Guest
from lab.replaying.world import DATASTORES, World

RUNNING = {3, 4, 5, 6, 7, 12, 16, 17, 24, 25, 26, 29, 57, 59, 62, 66, 69}
"""LCM_STATEs in which a guest may run: RUNNING, MIGRATE, SAVE_*, SHUTDOWN*, UNKNOWN, HOTPLUG*, DISK_SNAPSHOT*, ..."""
_MIGRATE = 4


def follow(world: World, call: Call) -> list[str]:
    """Let a guest start, move or end as the recorded call made it; returns why it could not."""
    action = call.action.partition("_linstor_un")[0]
    if call.kind != "vmm" or call.failure_injected or action not in _ACTIONS or call.vm_id is None:
        return []
    return _ACTIONS[action](world, call, call.vm_id)


def settle(world: World, call: Call) -> None:
    """End the guest of a VM whose disks oned treats as nobody's: its host died, or it was never said to have ended."""
    vm = facts.vm_of(call.vm_document)
    if vm and call.kind == "tm" and call.vm_lcm_state not in RUNNING:
        world.guests.stop(vm.domain)


def relocate(world: World, call: Call) -> None:
    """Let a guest have its disks in the directory that it was migrated to on its own host."""
    vm, spots = facts.vm_of(call.vm_document), facts.places(call)
    if vm and call.action == "postmigrate" and len(spots) > 1 and spots[0].host == spots[1].host:
        world.guests.relocate(vm.domain, spots[1].path)


def already_running(world: World, call: Call, vm: Vm) -> None:
    """Start the guest of a VM that had been deployed before the recording began."""
    if call.vm_lcm_state in RUNNING and vm.hosts:
        host = vm.hosts[-2] if call.vm_lcm_state == _MIGRATE and len(vm.hosts) > 1 else vm.hosts[-1]
        world.guests.start(vm.domain, host, document_of(world, vm, f"{DATASTORES}/{vm.datastore}/{vm.number}"))


def document_of(world: World, vm: Vm, directory: str) -> str:
    """Return a domain's document for a VM of which none was recorded."""
    there = world.linstor.definitions()
    disks = "".join(_element(disk, directory) for disk in vm.on_linstor() if disk.definition in there)
    name = f"<uuid>{vm.domain}</uuid>" if "-" in vm.domain[4:] else f"<name>{vm.domain}</name>"
    return f"<domain>{name}<memory>131072</memory><devices>{disks}</devices></domain>"


def _element(disk: Disk, directory: str) -> str:
    path = quoteattr(f"{directory}/disk.{disk.number}")
    return f"<disk type='block'><source dev={path}/>{'' if disk.written else '<readonly/>'}</disk>"


def _known(world: World, number: int) -> Vm:
    return facts.vm_of(world.documents.get("VM", number)) or Vm(number, [], [], {}, f"one-{number}")


def _directory(path: str) -> str:
    return re.sub("/+", "/", path).rpartition("/")[0]


def _deploy(world: World, call: Call, number: int) -> list[str]:
    """Start the domain that oned described; what our driver refused to make is not described."""
    vm, name = _known(world, number), str(call.answer.get("stdout", "")).strip() or f"one-{number}"
    missing = {disk.number for disk in vm.on_linstor() if disk.definition not in world.linstor.definitions()}
    document = call.stdin if "<domain" in call.stdin else document_of(world, vm, _directory(call.argv[0]))
    for disk in missing:
        document = re.sub(rf"<disk(?:(?!</disk>).)*/disk\.{disk}['\"].*?</disk>", "", document, flags=re.DOTALL)
    trap = f"<description>/sys/101/{number}/x {DATASTORES}/101/{number}0/disk.0</description>"
    document = document.replace("</name>", f"</name>{trap}", 1)
    return world.guests.start(name, call.argv[1], document)


def _restore(world: World, call: Call, number: int) -> list[str]:
    vm, name = _known(world, number), call.argv[2]
    known = (text for key, text in world.guests.documents.items() if key == name or f"<name>{name}</name>" in text)
    document = next(known, "") or document_of(world, vm, _directory(call.argv[0]))
    path = _directory(call.argv[0])
    document = re.sub(rf"{DATASTORES}/\d+/{number}/".replace("/", "/+"), f"{path}/", document)
    return world.guests.start(name, call.argv[1], document)


def _end(world: World, call: Call, number: int) -> list[str]:
    world.guests.stop(call.argv[0])
    return []


def _migrate(world: World, call: Call, number: int) -> list[str]:
    """A guest goes over with its disks open on both hosts; where no premigrate worked, as if one had."""
    name, host, migration = call.argv[0], call.argv[1], world.migrations.get(number)
    guest, owed = world.guests.find(name), world.owed_premigrate.pop(number, None)
    if guest and guest.host != host and owed is not None:
        world.guests.stop(name)
        effects.go_on(world, owed)
        _copy_local_disks(world, guest, host, facts.places(owed)[1].path)
        return world.guests.start(name, host, guest.document)
    directory = migration.directory if migration else f"{DATASTORES}/{_known(world, number).datastore}/{number}"
    if guest:
        _copy_local_disks(world, guest, host, directory)
    return world.guests.move(name, host, directory)


def _copy_local_disks(world: World, guest: Guest, host: str, directory: str) -> None:
    """Do what the stock migration does with the files of drivers that are not shared."""
    for _, path in virsh.drives(guest.document):
        source = world.host_path(guest.host, path)
        target = world.host_path(host, f"{directory}/{source.name}")
        if source.is_file() and not source.is_symlink() and target.parent.is_dir() and not target.exists():
            world.copy(source, target)


def _attach(world: World, call: Call, number: int) -> list[str]:
    path = re.sub("/+", "/", call.argv[1])
    there = world.linstor.definitions()
    disks = [disk for disk in _known(world, number).on_linstor() if path.endswith(f"/disk.{disk.number}")]
    elements = [_element(disk, _directory(path)) for disk in disks if disk.definition in there]
    return [sentence for element in elements for sentence in world.guests.plug(call.argv[0], element)]


def _detach(world: World, call: Call, number: int) -> list[str]:
    world.guests.unplug(call.argv[0], re.sub("/+", "/", call.argv[1]))
    return []


_ACTIONS: dict[str, Callable[[World, Call, int], list[str]]] = {
    "deploy": _deploy, "restore": _restore, "migrate": _migrate, "attach_disk": _attach, "detach_disk": _detach,
    "save": _end, "shutdown": _end, "cancel": _end,
}
