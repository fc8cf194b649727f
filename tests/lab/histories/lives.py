"""VMs that come, run, are saved, move and go: what oned calls for each command, and what libvirt does then."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from lab.controller import satellites
from lab.guests import Guests
from lab.histories.calls import FRONTEND, CallFailed, Calls, place, source
from lab.histories.domains import Domains
from lab.histories.model import POWEROFF, RUNNING, SAVED, STOPPED, SUSPENDED, UNDEPLOYED, Disk, Model, Vm
from lab.matrix.looking import Key
from lab.oned import documents as D
from lab.site import IMAGES, Site


class Lives(Calls):
    """What happens to whole VMs, and to hosts with them."""

    def __init__(
        self, site: Site, guests: Guests, model: Model, telling: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__(site, model, telling)
        self.domains = Domains(guests)
        self._guests = guests
        self._dead: set[str] = set()

    def close(self) -> None:
        """End all guests."""
        self.domains.close()

    # --- coming and going ---------------------------------------------------------------------------------

    def deploy(self, vm: Vm) -> None:
        """Give a new VM its disks and start it."""
        vm.records = [(vm.host, vm.datastore)]
        with self._during(vm, "prolog"):
            for disk in vm.disks.values():
                self._give(vm, disk)
        self.start(vm)

    def terminate(self, vm: Vm) -> None:
        """Remove a VM; the front-end has what a stored one has of a directory."""
        if vm.state == RUNNING:
            self.stop(vm)
        with self._during(vm, "epilog"):
            for disk in vm.disks.values():
                self._take(vm, disk)
            self._tm("delete", self._directory(vm), vm.number, vm.datastore)
        self.site.documents.remove("VM", vm.number)

    def _give(self, vm: Vm, disk: Disk) -> None:
        word = self._word(vm, disk)
        if disk.swap:
            self._tm("mkswap", disk.volume.size, word, vm.number, vm.datastore)
        elif disk.image is None:
            self._tm("mkimage", disk.volume.size, "raw", word, vm.number, vm.datastore)
        else:
            action = "ln" if disk.linked else "clone"
            self._tm(action, f"{FRONTEND}:{source(disk.image.volume.name)}", word, vm.number, IMAGES)

    def _take(self, vm: Vm, disk: Disk) -> None:
        word = self._word(vm, disk)
        if disk.linked:
            self._tm("mvds", word, source(disk.volume.name), vm.number, IMAGES)
        else:
            self._tm("delete", word, vm.number, self._datastore(vm, disk))
        disk.lost.clear()

    # --- running ------------------------------------------------------------------------------------------

    def start(self, vm: Vm) -> None:
        """Boot a VM on its host."""
        self._happens(f"{vm.name} boots on {vm.host}", lambda: self.domains.boot(vm))
        vm.state = RUNNING
        self._publish(vm)

    def stop(self, vm: Vm) -> None:
        """Power a VM off."""
        self._happens(f"{vm.name} is powered off", lambda: self.domains.end(vm))
        vm.state = POWEROFF
        self._publish(vm)

    def suspend(self, vm: Vm) -> None:
        """Save a running VM; its disks stay on its host."""
        self._save(vm, "save_suspend")

    def resume(self, vm: Vm) -> None:
        """Let a suspended VM go on."""
        vm.records.append((vm.host, vm.datastore))
        self._restore(vm, "boot_suspended")

    def put_away(self, vm: Vm) -> None:
        """Stop a VM, as OpenNebula calls it: its memory is saved, and no host has it any more."""
        if vm.state == RUNNING:
            self._save(vm, "save_stop")
        self._move(vm, (FRONTEND, vm.datastore), "mv_stop")
        vm.state = STOPPED
        self._publish(vm)

    def take_out(self, vm: Vm, host: str, datastore: int) -> None:
        """Let a stopped VM go on."""
        vm.records.append((host, datastore))
        self._move(vm, (host, datastore), "mv_stopped")
        self._restore(vm, "boot_stopped")

    def _save(self, vm: Vm, what: str) -> None:
        vm.memory = f"{what} after {self.count} calls"
        self._happens(f"{vm.name} knows: {vm.memory}", lambda: self.domains.write_memory(vm, vm.memory))
        with self._during(vm, what):
            self._vmm(vm, "save_linstor_un", vm.name, self._checkpoint(vm), vm.host)
            vm.state = SUSPENDED

    def _restore(self, vm: Vm, what: str) -> None:
        with self._during(vm, what):
            self._vmm(vm, "restore_linstor_un", self._checkpoint(vm), vm.host, vm.name)
            vm.state = RUNNING
        self._happens(f"{vm.name} is asked what it knows", lambda: self._require_memory(vm))

    def _require_memory(self, vm: Vm) -> None:
        known = self.domains.read_memory(vm)
        if known != vm.memory:
            raise CallFailed(f"{vm.name} goes on from memory in which it knows {known!r} instead of {vm.memory!r}")

    def _checkpoint(self, vm: Vm) -> str:
        return f"{self._directory(vm).partition(':')[2]}/checkpoint"

    # --- moving -------------------------------------------------------------------------------------------

    def migrate(self, vm: Vm, host: str, datastore: int) -> None:
        """Move a VM: one that is powered off or suspended as it is, one that runs by saving and restoring it."""
        what: object = ("mv", vm.state)
        vm.records.append((host, datastore))
        if vm.state == RUNNING:
            what = "mv_saved"
            self._save(vm, "save_migrate")
        self._move(vm, (host, datastore), what)
        if what == "mv_saved":
            self._restore(vm, "boot_migrate")

    def migrate_live(self, vm: Vm, host: str, works: bool) -> None:
        """Move a running VM; with `works` False the guest does not get there, and stays where it was."""
        there = (host, vm.datastore)
        words = (vm.host, host, place(vm, *there).partition(":")[2], vm.number, vm.datastore)
        vm.records.append(there)
        with self._during(vm, "migrate"):
            document = self._encoded(vm, "migrate")
            self._tm("premigrate", *words, stdin=document)
            if works:
                self._happens(f"{vm.name} migrates to {host}", lambda: self.domains.migrate(vm, host))
                vm.host = host
            else:
                vm.records.pop()
            self._tm("postmigrate" if works else "failmigrate", *words, stdin=document)

    def undeploy(self, vm: Vm) -> None:
        """Take a VM off its host, without memory."""
        if vm.state == RUNNING:
            self.stop(vm)
        self._move(vm, (FRONTEND, vm.datastore), "mv_undeploy")
        vm.state = UNDEPLOYED
        self._publish(vm)

    def redeploy(self, vm: Vm, host: str, datastore: int) -> None:
        """Bring an undeployed VM back on a host."""
        vm.records.append((host, datastore))
        self._move(vm, (host, datastore), "mv_undeployed")
        self.start(vm)

    def flee(self, vm: Vm, host: str) -> None:
        """Let a VM whose host is dead start elsewhere."""
        for disk in vm.disks.values():
            disk.lost.add((vm.host, vm.datastore))
        vm.records.append((host, vm.datastore))
        self._move(vm, (host, vm.datastore), "lost")
        self.start(vm)

    def _move(self, vm: Vm, new: tuple[str, int], what: object) -> None:
        old = self._directory(vm)
        with self._during(vm, what):
            for disk in vm.disks.values():
                words = (f"{directory}/disk.{disk.number}" for directory in (old, place(vm, *new)))
                self._tm("mv", *words, vm.number, IMAGES if disk.image else new[1])
                if what == "lost":
                    disk.lost.discard(new)
                else:
                    disk.lost.clear()
            self._tm("mv", old, place(vm, *new), vm.number, new[1])
            if new[0] != FRONTEND:
                vm.host, vm.datastore = new
                vm.state = SUSPENDED if vm.state in SAVED else POWEROFF

    # --- failures -----------------------------------------------------------------------------------------

    def host_dies(self, host: str) -> None:
        """Fence a host: it has no power, LINSTOR and oned know it."""
        self._note("host failure", f"{host} dies")
        self._dead.add(host)
        self.site.hosts.kill(host)
        with self.site.cluster.lock:
            satellites.go_offline(self.site.cluster, host)
        self.site.documents.put(D.host(self.site.hosts.names.index(host), host, state=3))

    def host_is_back(self, host: str) -> None:
        """Boot a host that was fenced; its satellite and its monitoring are back."""
        self.trace.append(f"{host} is back")
        self.site.hosts.start(host)
        with self.site.cluster.lock:
            satellites.come_back(self.site.cluster, host)
        self.site.documents.put(D.host(self.site.hosts.names.index(host), host))
        self._guests.start(host)

    def is_of_dead_host(self, key: Key) -> bool:
        """Return whether something is OpenNebula's own in a VM's directory of a host that died: nobody removes it."""
        kind, host, path = key
        return kind == "file" and host in self._dead and path.endswith("/deployment.0")

    def controller_restarts(self, seconds: float) -> None:
        """Let LINSTOR's controller not answer for so long."""
        self._note("controller restart", f"the controller is away for {seconds} s")
        self.site.controller.faults.go_down(seconds)
