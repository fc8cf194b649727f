"""oned's part of a history: documents, and calls of the driver's scripts in the order in which oned makes them."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from lab.controller import satellites
from lab.histories.model import BLOCK, POWEROFF, RUNNING, UNDEPLOYED, Disk, Image, Model, Vm, Volume, block
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import IMAGES, Site

FRONTEND = "frontend"
_ROOT = "/var/lib/one//datastores"
# LCM_STATE by what is done, and to whom: DISK_RESIZE and DISK_RESIZE_POWEROFF, ...
_LCM = {
    "prolog": 1, "running": 3, "epilog": 11, "hotplug": 17, "migrate": 4, "cold": 43, "unknown": 60,
    "undeploy": 30, "redeploy": 31, "revert": 52,
    ("snapshot", RUNNING): 57, ("snapshot", POWEROFF): 51, ("unsnapshot", RUNNING): 59, ("unsnapshot", POWEROFF): 53,
    ("resize", RUNNING): 62, ("resize", POWEROFF): 63, ("saveas", RUNNING): 26, ("saveas", POWEROFF): 27,
}  # fmt: skip
_STATES = {RUNNING: 3, POWEROFF: 8, UNDEPLOYED: 9}


class CallFailed(AssertionError):
    """A call that has to succeed did not."""


class Cloud:
    """The daemon over a site: every method does what one command of a user makes oned do."""

    def __init__(self, site: Site, model: Model, telling: Callable[[], AbstractContextManager[None]]) -> None:
        """Arguments: telling, a context that keeps what goes wrong in it."""
        self.site = site
        self.model = model
        self.trace: list[str] = []
        self._telling = telling
        self._guests: dict[tuple[int, int], subprocess.Popen[str]] = {}

    def close(self) -> None:
        """End all guests."""
        for process in self._guests.values():
            _end(process)
        self._guests.clear()

    # --- images -------------------------------------------------------------------------------------------

    def make_image(self, image: Image) -> None:
        """Create an empty datablock and let somebody write to it."""
        self._ds("mkfs", image)

    def clone_image(self, source: Image, image: Image) -> None:
        """Make an image a copy of another."""
        self._ds("clone", image, path=_source(source.volume.name))

    def remove_image(self, image: Image) -> None:
        """Delete an image."""
        self._ds("rm", image, source=_source(image.volume.name))

    def image_snapshot(self, action: str, image: Image, snapshot: int) -> None:
        """Delete, revert to or flatten to a snapshot of an image that no VM has."""
        self._ds(action, image, source=_source(image.volume.name), target=snapshot)

    def _ds(self, action: str, image: Image, path: str = "", source: str = "", target: int = -1) -> None:
        release = self.site.oned.release
        text = D.image(release, image.number, path=path, source=source, size=image.volume.size)
        text = text.replace("<TARGET_SNAPSHOT>-1<", f"<TARGET_SNAPSHOT>{target}<")
        numbers = "".join(
            f"<SNAPSHOT><ID>{number}</ID><SIZE>{kept.size}</SIZE></SNAPSHOT>"
            for number, kept in image.volume.snapshots.items()
        )
        text = text.replace("</SNAPSHOTS>", f"{numbers}</SNAPSHOTS>")
        self._done(f"{action} of image {image.number} {path or source}",
                   lambda: self.site.oned.ds(action, text, self.site.image_datastore))

    # --- VMs ----------------------------------------------------------------------------------------------

    def deploy(self, vm: Vm) -> None:
        """Give a new VM its disks and start it."""
        vm.records = [(vm.host, vm.datastore)]
        with self._during(vm, "prolog"):
            for disk in vm.disks.values():
                self._give(vm, disk)
        self.start(vm)

    def attach(self, vm: Vm, disk: Disk) -> None:
        """Give a VM one more disk."""
        vm.disks[disk.number] = disk
        with self._during(vm, "hotplug"):
            self._give(vm, disk)
        if vm.state == RUNNING:
            self._open(vm, disk)

    def detach(self, vm: Vm, disk: Disk) -> None:
        """Take a disk away from a VM."""
        self._close(vm, disk)
        with self._during(vm, "hotplug"):
            self._take(vm, disk)
        del vm.disks[disk.number]

    def terminate(self, vm: Vm) -> None:
        """Remove a VM."""
        self.stop(vm)
        with self._during(vm, "epilog"):
            for disk in vm.disks.values():
                self._take(vm, disk)
            self._tm("delete", self._directory(vm), vm.number, vm.datastore)
        self.site.documents.remove("VM", vm.number)

    def _give(self, vm: Vm, disk: Disk) -> None:
        word = self._word(vm, disk)
        if disk.image is None:
            self._tm("mkimage", disk.volume.size, "raw", word, vm.number, vm.datastore)
        else:
            action = "ln" if disk.linked else "clone"
            source = f"{FRONTEND}:{_source(disk.image.volume.name)}"
            self._tm(action, source, word, vm.number, IMAGES)

    def _take(self, vm: Vm, disk: Disk) -> None:
        word = self._word(vm, disk)
        if disk.linked:
            self._tm("mvds", word, _source(disk.volume.name), vm.number, IMAGES)
        else:
            self._tm("delete", word, vm.number, self._datastore(vm, disk))

    def start(self, vm: Vm) -> None:
        """Let the guest run: it holds its disks open."""
        vm.state = RUNNING
        self._publish(vm, "running")
        for disk in vm.disks.values():
            self._open(vm, disk)

    def stop(self, vm: Vm) -> None:
        """Power the guest off."""
        for disk in vm.disks.values():
            self._close(vm, disk)
        if vm.state == RUNNING:
            vm.state = POWEROFF
        self._publish(vm)

    def write(self, vm: Vm, disk: Disk, number: int, token: int) -> None:
        """Let the guest write a block, through the link in its directory."""
        self._write(vm.host, self._word(vm, disk).partition(":")[2], disk.volume, number, token)

    def scribble(self, volume: Volume, number: int, token: int) -> None:
        """Let somebody write a block of a volume that no VM has, where a replica is."""
        self._write(self.site.holders(volume.name)[0], _source(volume.name), volume, number, token)

    def _write(self, host: str, path: str, volume: Volume, number: int, token: int) -> None:
        argv = ["dd", f"of={path}", f"bs={BLOCK}", f"seek={number}", "count=1", "iflag=fullblock",
                "conv=notrunc,fsync", "status=none"]
        command = self.site.hosts.entering(host, argv)
        self.trace.append(f"block {number} of {volume.name} is written on {host}")
        with self._telling():
            done = subprocess.run(command, input=block(token), capture_output=True, check=False)
            if done.returncode:
                raise CallFailed(done.stderr.decode())
        volume.blocks[number] = token

    # --- failures -----------------------------------------------------------------------------------------

    def host_dies(self, host: str) -> None:
        """Fence a host: it has no power, LINSTOR and oned know it."""
        self.trace.append(f"{host} dies")
        for vm in self.model.vms.values():
            if vm.host == host:
                for disk in vm.disks.values():
                    self._close(vm, disk)
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

    # --- disks --------------------------------------------------------------------------------------------

    def resize(self, vm: Vm, disk: Disk, size: int) -> None:
        """Grow a disk to `size` MiB."""
        with self._during(vm, ("resize", vm.state)):
            self._tm("resize", self._word(vm, disk), size, vm.number, self._datastore(vm, disk))
        disk.volume.size = size
        self._publish(vm)

    def snapshot(self, vm: Vm, disk: Disk) -> None:
        """Take a snapshot of a disk, of a running VM live."""
        number = disk.volume.take()
        action = "snap_create_live" if vm.state == RUNNING else "snap_create"
        with self._during(vm, ("snapshot", vm.state)):
            self._tm(action, self._word(vm, disk), number, vm.number, self._datastore(vm, disk))

    def unsnapshot(self, vm: Vm, disk: Disk, number: int) -> None:
        """Delete a snapshot of a disk."""
        with self._during(vm, ("unsnapshot", vm.state)):
            self._tm("snap_delete", self._word(vm, disk), number, vm.number, self._datastore(vm, disk))
        del disk.volume.snapshots[number]

    def revert(self, vm: Vm, disk: Disk, number: int) -> None:
        """Bring a disk back to a snapshot; from 6.8.3 on its size comes back as well."""
        kept = disk.volume.snapshots[number]
        with self._during(vm, "revert"):
            self._tm("snap_revert", self._word(vm, disk), number, vm.number, self._datastore(vm, disk))
        disk.volume.blocks = dict(kept.blocks)
        if self.site.oned.release.number >= (6, 8, 3):
            disk.volume.size = kept.size
        self._publish(vm)

    def save_as(self, vm: Vm, disk: Disk, image: Image, snapshot: int) -> None:
        """Make a disk, or one of its snapshots, an image."""
        text = D.image(self.site.oned.release, image.number, size=image.volume.size, format="save_as")
        self._done("mkfs save_as", lambda: self.site.oned.ds("mkfs", text, self.site.image_datastore))
        self.site.documents.put(D.image(self.site.oned.release, image.number, size=image.volume.size,
                                        source=_source(image.volume.name)))
        with self._during(vm, ("saveas", vm.state)):
            source = _source(image.volume.name)
            self._tm("cpds", self._word(vm, disk), source, snapshot, vm.number, self._datastore(vm, disk))

    # --- moving -------------------------------------------------------------------------------------------

    def migrate(self, vm: Vm, host: str, datastore: int) -> None:
        """Move a VM that is powered off."""
        old = (vm.host, vm.datastore)
        self._move(vm, old, (host, datastore), "cold")

    def flee(self, vm: Vm, host: str) -> None:
        """Move a VM away from a host that is dead."""
        for disk in vm.disks.values():
            self._close(vm, disk)
        self._move(vm, (vm.host, vm.datastore), (host, vm.datastore), "unknown")
        self.start(vm)

    def undeploy(self, vm: Vm) -> None:
        """Take a VM off its host."""
        self.stop(vm)
        here = (vm.host, vm.datastore)
        self._move(vm, here, (FRONTEND, vm.datastore), "undeploy")
        vm.state = UNDEPLOYED
        self._publish(vm)

    def redeploy(self, vm: Vm, host: str, datastore: int) -> None:
        """Bring an undeployed VM back on a host."""
        self._move(vm, (FRONTEND, vm.datastore), (host, datastore), "redeploy")
        self.start(vm)

    def _move(self, vm: Vm, old: tuple[str, int], new: tuple[str, int], what: str) -> None:
        if new[0] != FRONTEND:
            vm.records.append(new)
        with self._during(vm, what):
            for disk in vm.disks.values():
                words = (f"{_place(vm, *old)}/disk.{disk.number}", f"{_place(vm, *new)}/disk.{disk.number}")
                dsid = IMAGES if disk.image else new[1]
                self._tm("mv", *words, vm.number, dsid)
            self._tm("mv", _place(vm, *old), _place(vm, *new), vm.number, new[1])
        if new[0] != FRONTEND:
            vm.host, vm.datastore = new
            vm.state = POWEROFF
        self._publish(vm)

    def migrate_live(self, vm: Vm, host: str, works: bool) -> None:
        """Move a running VM; with `works` False the guest does not get there, and stays where it was."""
        here, there = (vm.host, vm.datastore), (host, vm.datastore)
        path = _place(vm, *there).partition(":")[2]
        words = (vm.host, host, path, vm.number, vm.datastore)
        vm.records.append(there)
        with self._during(vm, "migrate"):
            document = base64.b64encode(self._document(vm, "migrate").encode()).decode()
            self._tm("premigrate", *words, stdin=document)
            if works:
                old = {disk.number: self._guests.pop((vm.number, disk.number)) for disk in vm.disks.values()}
                vm.host = host
                for disk in vm.disks.values():
                    self._open(vm, disk)
                for process in old.values():
                    _end(process)
            else:
                vm.records.pop()
            self._tm("postmigrate" if works else "failmigrate", *words, stdin=document)
        self._publish(vm, "running")
        assert (vm.host, vm.datastore) == (there if works else here)

    # --- oned's documents and calls -----------------------------------------------------------------------

    def _datastore(self, vm: Vm, disk: Disk) -> int:
        return vm.datastore if disk.image is None else IMAGES

    def _directory(self, vm: Vm) -> str:
        return _place(vm, vm.host, vm.datastore)

    def _word(self, vm: Vm, disk: Disk) -> str:
        return f"{self._directory(vm)}/disk.{disk.number}"

    @contextmanager
    def _during(self, vm: Vm, what: object) -> Iterator[None]:
        self._publish(vm, what)
        yield

    def _publish(self, vm: Vm, what: object = "") -> None:
        self.site.documents.put(self._document(vm, what))

    def _document(self, vm: Vm, what: object) -> str:
        disks = [
            D.DiskDocument(
                disk.number, disk.volume.size, disk.image.number if disk.image else None, clone=not disk.linked,
                kind="BLOCK" if disk.image else "fs", datastore=self._datastore(vm, disk),
                more={"PERSISTENT": "YES"} if disk.linked else {},
            )
            for disk in vm.disks.values()
        ]
        state = 3 if what else _STATES[vm.state]
        return D.vm(vm.number, disks, records=vm.records, state=state, lcm_state=_LCM[what] if what else 0)  # type: ignore[index]

    def _tm(self, action: str, *words: object, stdin: str = "") -> None:
        texts = [str(word) for word in words]
        self._done(f"{action} {' '.join(texts)}", lambda: self.site.oned.tm(action, *texts, stdin=stdin))

    def _done(self, what: str, call: Callable[[], Outcome]) -> None:
        self.trace.append(what)
        with self._telling():
            outcome = call()
            if not outcome.success:
                raise CallFailed(f"exit code {outcome.code}: {outcome.stderr.strip()}")

    # --- guests -------------------------------------------------------------------------------------------

    def _open(self, vm: Vm, disk: Disk) -> None:
        path = self._word(vm, disk).partition(":")[2]
        argv = ["sh", "-c", 'exec 9<>"$1" && echo open && read -r end', "sh", path]
        process = subprocess.Popen(
            self.site.hosts.entering(vm.host, argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        with self._telling():
            if process.stdout.readline() != "open\n":
                raise CallFailed(f"the guest of VM {vm.number} cannot open disk {disk.number} on {vm.host}")
        self._guests[vm.number, disk.number] = process

    def _close(self, vm: Vm, disk: Disk) -> None:
        process = self._guests.pop((vm.number, disk.number), None)
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin and process.stdout
    process.stdin.close()
    process.wait()
    process.stdout.close()


def _place(vm: Vm, host: str, datastore: int) -> str:
    return f"{host}:{_ROOT}/{datastore}/{vm.number}"


def _source(name: str) -> str:
    return f"/dev/drbd/by-res/{name}/0"
