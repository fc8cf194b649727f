"""What the demo tells, chapter by chapter: the life of a VM and of its disks."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab import demo_small
from lab.hosts import facts
from lab.oned import answers, documents
from lab.oned.answers import Outcome
from lab.oned.documents import DiskDocument
from lab.showing import Screen, Wrong, short
from lab.site import IMAGES, MIB, SYSTEM, VAR, Site

VERSION = "7.4.0"
SYSTEM_IMAGE, DATA_IMAGE, SAVED_IMAGE = 5, 6, 8
SYSTEM_MIB, DISK_MIB, GROWN_MIB, DATA_MIB, VOLATILE_MIB, SWAP_MIB = 96, 128, 160, 32, 64, 32
VM, HOST, NEXT_HOST = 7, "node3", "node1"
DIRECTORY = f"/var/lib/one/datastores/{SYSTEM}/{VM}"


class Story:
    """The chapters, in their order; each raises Wrong when something is not as it must be."""

    def __init__(self, site: Site, screen: Screen) -> None:
        self.site = site
        self.screen = screen
        self.oned = site.oned
        self.host = HOST
        self.system_sum = ""
        self.guest_sum = ""
        self.before: dict[str, int] = {}

    def tell(self) -> None:
        """Tell all chapters."""
        self.empty()
        self.image_comes_in()
        self.empty_image()
        self.vm_gets_disks()
        self.guest_works()
        self.monitoring()
        self.disk_goes_back()
        self.disk_is_saved()
        self.disk_grows()
        self.vm_moves()
        self.vm_goes()
        self.images_go()

    def empty(self) -> None:
        self.screen.chapter("An empty datastore")
        outcome = self._show(self.oned.monitor(self.site.image_datastore))
        self.before = answers.read_monitor(outcome)
        self.screen.note("three pools of 8 GiB; every volume gets two replicas")

    def image_comes_in(self) -> None:
        self.screen.chapter(f"An image comes in: a qcow2 of {SYSTEM_MIB} MiB, kept as raw bytes on two nodes")
        path = Path("/var/tmp/system.qcow2")
        self.system_sum = _make_qcow2(path, SYSTEM_MIB)
        self.screen.note(f"{path.name} takes {path.stat().st_size // 1024} KiB; unpacked its hash is {self.system_sum}")
        image = documents.image(VERSION, SYSTEM_IMAGE, path=str(path), size=SYSTEM_MIB)
        size = answers.read_stat(self._show(self.oned.ds("stat", image, self.site.image_datastore)))
        self.screen.check(size == SYSTEM_MIB, f"stat tells {SYSTEM_MIB} MiB")
        answers.read_cp(self._show(self.oned.ds("cp", image, self.site.image_datastore)))
        self._volumes()
        self._same(f"one-image-{SYSTEM_IMAGE}", SYSTEM_MIB, self.system_sum, "the volume holds the image")

    def empty_image(self) -> None:
        self.screen.chapter("An empty image with a file system, to be one VM's for good")
        image = documents.image(VERSION, DATA_IMAGE, size=DATA_MIB, format="raw", fs="ext4")
        answers.read_mkfs(self._show(self.oned.ds("mkfs", image, self.site.image_datastore)))
        self._volumes()
        start = self.site.read(f"one-image-{DATA_IMAGE}", 2048)
        self.screen.check(start[1080:1082] == b"\x53\xef", "the volume holds an ext4 file system")

    def vm_gets_disks(self) -> None:
        self.screen.chapter(f"VM {VM} starts on {HOST}: a clone, the image of its own, a volatile disk, swap, context")
        self._vm_document(lcm_state=1)
        context = VAR / "vms" / str(VM) / "context.sh"
        context.parent.mkdir(parents=True, exist_ok=True)
        context.write_text("HOSTNAME=demo\n")
        self._transfer(
            f"CLONE linstor_un {self.site.source_word(SYSTEM_IMAGE)} {self._disk(0)} {VM} {IMAGES}",
            f"LN linstor_un {self.site.source_word(DATA_IMAGE)} {self._disk(1)} {VM} {IMAGES}",
            f"MKIMAGE linstor_un {VOLATILE_MIB} raw {self._disk(2)} {VM} {SYSTEM}",
            f"MKSWAP linstor_un {SWAP_MIB} {self._disk(3)} {VM} {SYSTEM}",
            f"CONTEXT linstor_un {context} {self._disk(4)} {VM} {SYSTEM}",
        )
        self._volumes()
        self.screen.output(self._on_host("ls", "-l", "--time-style=+", DIRECTORY).splitlines()[1:])
        found = self._on_host("sh", "-c", f"head -c {SYSTEM_MIB * MIB} {DIRECTORY}/disk.0 | sha256sum").split()[0]
        self.screen.check(found == self.system_sum, f"disk.0 on {HOST} reads as the image: {short(found)}")
        rest = self.site.volumes.settled(self.site.contents(self._definition(0))[0])
        self.screen.check(
            facts.is_zero_from(rest, SYSTEM_MIB * MIB),
            f"disk.0 has {DISK_MIB} MiB as the VM asks, zeroes after the image, and takes"
            f" {facts.allocated(rest) // MIB} MiB of the pool",
        )
        swap = self._on_host("sh", "-c", f"head -c 4096 {DIRECTORY}/disk.3 | tail -c 10")
        self.screen.check(swap == "SWAPSPACE2", "disk.3 holds swap space")

    def guest_works(self) -> None:
        self.screen.chapter("The guest writes on its own image")
        script = f"head -c {8 * MIB} /dev/urandom | tee {DIRECTORY}/disk.1 | sha256sum; sync {DIRECTORY}/disk.1"
        self.guest_sum = self._on_host("sh", "-c", script).split()[0]
        self.screen.note(f"8 MiB with hash {self.guest_sum}")

    def monitoring(self) -> None:
        self.screen.chapter("oned asks for capacity, and for what the VMs' disks take")
        with demo_small.monitord() as received:
            outcome = self._show(self.oned.monitor(self.site.system_datastore, vm_disks=True))
            answers.read_monitor(outcome)
            texts = received()
        self.screen.output(texts)
        wanted = f"DISK_SIZE=[ID=0,SIZE={DISK_MIB}]"
        self.screen.check(any(wanted in text for text in texts), "monitord was told the size of each disk")

    def disk_goes_back(self) -> None:
        self.screen.chapter("disk.0 gets a snapshot, the guest spoils the disk, and it goes back to the snapshot")
        snapshot = documents.Snapshot(0, size=DISK_MIB)
        self._vm_document(lcm_state=51, snapshots=[snapshot])
        self._show(self.oned.tm("snap_create", self._disk(0), 0, VM, IMAGES))
        self._on_host("sh", "-c", f"yes spoiled | head -c {8 * MIB} | dd of={DIRECTORY}/disk.0 conv=notrunc,fsync")
        spoiled = self._on_host("head", "-c", "8", f"{DIRECTORY}/disk.0").strip()
        self.screen.check(spoiled == "spoiled", "disk.0 is spoiled")
        self._vm_document(lcm_state=52, snapshots=[snapshot])
        self._show(self.oned.tm("snap_revert", self._disk(0), 0, VM, IMAGES))
        self._same(f"one-vm-{VM}-disk-0", SYSTEM_MIB, self.system_sum, "disk.0 is what it was")
        self._vm_document(lcm_state=53, snapshots=[snapshot])
        self._show(self.oned.tm("snap_delete", self._disk(0), 0, VM, IMAGES))

    def disk_is_saved(self) -> None:
        self.screen.chapter("disk.0 is saved as an image of its own")
        image = documents.image(VERSION, SAVED_IMAGE, size=DISK_MIB, format="save_as")
        source = answers.read_mkfs(self._show(self.oned.ds("mkfs", image, self.site.image_datastore))).source
        self.site.documents.put(documents.image(VERSION, SAVED_IMAGE, size=DISK_MIB, source=source))
        self._vm_document(lcm_state=27)
        self._show(self.oned.tm("cpds", self._disk(0), source, -1, VM, IMAGES))
        self._volumes()
        self._same(f"one-image-{SAVED_IMAGE}", SYSTEM_MIB, self.system_sum, "the new image holds what disk.0 holds")

    def disk_grows(self) -> None:
        self.screen.chapter(f"disk.0 grows to {GROWN_MIB} MiB")
        self._vm_document(lcm_state=63)
        self._show(self.oned.tm("resize", self._disk(0), GROWN_MIB, VM, IMAGES))
        size = int(self._on_host("wc", "-c", f"{DIRECTORY}/disk.0").split()[0])
        self.screen.check(size >= GROWN_MIB * MIB, f"{self.host} sees {size // MIB} MiB")

    def vm_moves(self) -> None:
        self.screen.chapter(f"The VM moves to {NEXT_HOST}, with its disks and its directory")
        self._vm_document(lcm_state=8, hosts=[HOST, NEXT_HOST])
        there = {number: self.site.disk_word(NEXT_HOST, VM, number) for number in (0, 1, 2, 3)}
        self._transfer(
            *(f"MV linstor_un {self._disk(number)} {word} {VM} {IMAGES}" for number, word in there.items()),
            f"MV linstor_un {self._directory()} {self._directory(NEXT_HOST)} {VM} {SYSTEM}",
        )
        left = self._gone(HOST)
        self.host = NEXT_HOST
        self._volumes()
        self.screen.output(self._on_host("ls", "-l", "--time-style=+", DIRECTORY).splitlines()[1:])
        self.screen.check(left, f"the VM's directory is gone on {HOST}")
        found = self._on_host("sh", "-c", f"head -c {SYSTEM_MIB * MIB} {DIRECTORY}/disk.0 | sha256sum").split()[0]
        self.screen.check(found == self.system_sum, f"disk.0 on {NEXT_HOST} reads as before: {short(found)}")

    def vm_goes(self) -> None:
        self.screen.chapter("The VM ends: its own disks go, the persistent image stays")
        self._vm_document(lcm_state=11)
        self._transfer(
            f"MVDS linstor_un {self._disk(1)} /dev/drbd/by-res/one-image-{DATA_IMAGE}/0 {VM} {IMAGES}",
            *(f"DELETE linstor_un {self._disk(number)} {VM} {SYSTEM}" for number in (0, 2, 3, 4)),
            f"DELETE linstor_un {self._directory()} {VM} {SYSTEM}",
        )
        self._volumes()
        names = [item.name for item in self.site.cluster.sorted_definitions()]
        images = [f"one-image-{number}" for number in (SYSTEM_IMAGE, DATA_IMAGE, SAVED_IMAGE)]
        self.screen.check(names == images, "only the images are left on LINSTOR")
        self.screen.check(self._gone(self.host), f"the VM's directory is gone on {self.host}")
        self._same(images[0], SYSTEM_MIB, self.system_sum, "the image is what it was")
        self._same(images[1], 8, self.guest_sum, "the persistent image keeps what the guest wrote")

    def images_go(self) -> None:
        self.screen.chapter("The images are removed")
        for number in (SYSTEM_IMAGE, DATA_IMAGE, SAVED_IMAGE):
            source = f"/dev/drbd/by-res/one-image-{number}/0"
            image = documents.image(VERSION, number, source=source, size=SYSTEM_MIB)
            self._show(self.oned.ds("rm", image, self.site.image_datastore))
        after = answers.read_monitor(self._show(self.oned.monitor(self.site.image_datastore)))
        self.screen.check(not self.site.cluster.definitions, "nothing is left on LINSTOR")
        self.screen.check(after == self.before, "the datastore has the capacity that it had at the start")

    # --- the words and the looks ----------------------------------------------------------------------------

    def _disk(self, number: int) -> str:
        return self.site.disk_word(self.host, VM, number)

    def _directory(self, host: str = "") -> str:
        return f"{host or self.host}:/var/lib/one//datastores/{SYSTEM}/{VM}"

    def _gone(self, host: str) -> bool:
        return self.site.hosts.run(host, ["test", "-e", DIRECTORY], check=False).returncode == 1

    def _definition(self, disk: int) -> object:
        return self.site.definition(f"one-vm-{VM}-disk-{disk}")

    def _vm_document(
        self, lcm_state: int, hosts: Sequence[str] = (), snapshots: Sequence[documents.Snapshot] = ()
    ) -> None:
        disks = [
            DiskDocument(0, DISK_MIB, SYSTEM_IMAGE),
            DiskDocument(1, DATA_MIB, DATA_IMAGE, clone=False),
            DiskDocument(2, VOLATILE_MIB, kind="fs", datastore=SYSTEM, more={"FORMAT": "raw", "FS": "ext4"}),
            DiskDocument(3, SWAP_MIB, kind="swap", datastore=SYSTEM),
        ]
        self.site.documents.put(
            documents.vm(
                VM, disks, hosts=hosts or [self.host], datastore=SYSTEM, context=4, lcm_state=lcm_state,
                snapshots=snapshots,
            )
        )

    def _transfer(self, *lines: str) -> None:
        transfer = self.oned.transfer("\n".join(lines))
        for outcome in transfer.outcomes:
            self._show(outcome)
        if transfer.failure:
            raise Wrong(transfer.failure)

    def _show(self, outcome: Outcome) -> Outcome:
        self.screen.call(outcome)
        if not outcome.success:
            raise Wrong(f"exit code {outcome.code}: {outcome.stderr.strip()}")
        return outcome

    def _on_host(self, *argv: str) -> str:
        return str(self.site.hosts.run(self.host, argv).stdout)

    def _same(self, name: str, mib: int, wanted: str, what: str) -> None:
        found = hashlib.sha256(self.site.read(name, mib * MIB)).hexdigest()
        self.screen.check(found == wanted, f"{what}: {short(found)}")

    def _volumes(self) -> None:
        nodes = self.site.hosts.names
        rows: list[Sequence[str]] = [("on LINSTOR", "MiB", *nodes, "belongs to")]
        for item in self.site.cluster.sorted_definitions():
            cells = [_role(item.resources.get(node.upper())) for node in nodes]
            rows.append((item.name, str(item.volumes[0].size // 1024), *cells, _owner(item.props)))
        self.screen.table(rows)


def _role(resource: object) -> str:
    flags = getattr(resource, "flags", None)
    if flags is None:
        return "-"
    return "tiebreaker" if "TIE_BREAKER" in flags else "attached" if "DRBD_DISKLESS" in flags else "replica"


def _owner(props: dict[str, str]) -> str:
    marks = {key[len("Aux/one/") :]: value for key, value in props.items() if key.startswith("Aux/one/")}
    parts = [f"image {marks['IMAGE_ID']}"] if "IMAGE_ID" in marks else []
    parts += [f"VM {marks['VM_ID']} disk {marks['DISK_ID']}"] if "VM_ID" in marks else []
    return ", ".join(parts)


def _make_qcow2(path: Path, mib: int) -> str:
    """Make a compressed qcow2 with data, holes and zeroes in it; return the hash of what it unpacks to."""
    with tempfile.NamedTemporaryFile() as raw:
        raw.truncate(mib * MIB)
        for start in range(0, mib, 12):
            raw.seek(start * MIB)
            raw.write(facts.pattern(f"demo {start}", 3 * MIB))
        raw.flush()
        command = ["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw.name, str(path)]
        subprocess.run(command, check=True, capture_output=True)
        path.chmod(0o644)
        return facts.sha256(Path(raw.name))
