"""The VMs of a history that run: libvirt's domains, with disks that come and go."""

from __future__ import annotations

from lab.guests import Domain, Guests
from lab.guests.domain import pluggable
from lab.histories.model import Disk, Vm

_ROOT = "/var/lib/one//datastores"


class Domains:
    """What OpenNebula's own scripts make libvirt do on the VMs' hosts. All of it raises RuntimeError."""

    def __init__(self, guests: Guests) -> None:
        self._guests = guests

    def close(self) -> None:
        """End all of them."""
        self._guests.clear()

    def running(self) -> set[tuple[str, str]]:
        """Return (domain, host) of each that runs."""
        return {
            (name, host)
            for host in self._guests.hosts.names
            for name in self._guests.virsh(host, "list", "--name", "--state-running").stdout.split()
        }

    def boot(self, vm: Vm) -> None:
        """Start a VM with all its disks."""
        domain = Domain(vm.name, vm.number, sorted(vm.disks), datastore=vm.datastore, pluggable=True)
        self._guests.create(vm.host, domain)

    def end(self, vm: Vm) -> None:
        """Power a VM off."""
        self._virsh(vm, "destroy")

    def plug(self, vm: Vm, disk: Disk) -> None:
        """Give a running VM a disk."""
        path = f"{_ROOT}/{vm.datastore}/{vm.number}/disk.{disk.number}"
        words = ["--targetbus", "scsi", "--sourcetype", "block", "--driver", "qemu", "--subdriver", "raw"]
        self._virsh(vm, "attach-disk", path, pluggable(disk.number), *words, "--cache", "none", "--live")

    def unplug(self, vm: Vm, disk: Disk) -> None:
        """Take a disk from a running VM."""
        self._virsh(vm, "detach-disk", pluggable(disk.number), "--live")

    def grow(self, vm: Vm, disk: Disk) -> None:
        """Let a running VM see the size of a disk that has grown."""
        self._virsh(vm, "blockresize", pluggable(disk.number), f"{disk.volume.size}MiB")

    def migrate(self, vm: Vm, host: str) -> None:
        """Bring a running VM to another host."""
        done = self._guests.migrate(vm.name, vm.host, host)
        if done.returncode:
            raise RuntimeError(f"{vm.name} does not migrate to {host}: {done.stderr.strip()}")

    def write_memory(self, vm: Vm, text: str) -> None:
        """Let a running VM know something that is saved with its memory and with nothing else."""
        self._virsh(vm, "desc", "--live", "--new-desc", text)

    def read_memory(self, vm: Vm) -> str:
        """Return what a running VM knows."""
        return self._virsh(vm, "desc", "--live")

    def _virsh(self, vm: Vm, command: str, *words: str) -> str:
        return self._guests.virsh(vm.host, command, vm.name, *words).stdout.strip()
