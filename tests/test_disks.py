"""A VM's disks, by the scripts as oned calls them: definitions, bytes, attachments and links afterwards."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

import pytest
from hazard_support import flags
from lab.controller.faults import Fault
from lab.hosts.machine import until
from lab.matrix.looking import LOCKS, is_held
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_nothing
from lab.site import Site
from linstor_un.naming import by_res
from site_support import (
    DATA,
    MIB,
    cp,
    datablock,
    device,
    done,
    failed,
    identity,
    incoming,
    kind_of,
    leave_half_made,
    marks,
    meanwhile,
    opened,
    padded,
    source,
    whole,
)

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "thick": "LVM", "zfs": "ZFS_THIN"}}
IMAGE, DISK = "one-image-5", "one-vm-7-disk-0"
CDROM = D.DiskDocument(0, size=8, image=5, clone=False, kind="CDROM", more={"SAVE": "NO"})
PERSISTENT = D.DiskDocument(0, size=8, image=5, clone=False)
CLONED = D.DiskDocument(0, size=16, image=5)
HOTPLUG, STOPPING = 17, 10
STOP, RECREATE = 9, 14
VOLATILE = D.DiskDocument(0, size=16, kind="fs")


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


def vm(site: Site, *disks: D.DiskDocument, number: int = 7, state: int = 3) -> None:
    site.documents.put(D.vm(number, disks, state=state))


def quiet(outcome: Outcome) -> None:
    """Succeed with nothing said: every line of a TM action would be taken for something else."""
    read_nothing(done(outcome))
    assert outcome.stderr == ""


def clone(site: Site, host: str = "node3", disk: int = 0) -> Outcome:
    return site.oned.tm("clone", site.source_word(5), site.disk_word(host, 7, disk), 7, 100)


def ln(site: Site, host: str = "node3", number: int = 7) -> Outcome:
    return site.oned.tm("ln", site.source_word(5), site.disk_word(host, number, 0), number, 100)


def delete(site: Site, host: str = "node3", number: int = 7, datastore: int = 101) -> Outcome:
    return site.oned.tm("delete", site.disk_word(host, number, 0), number, datastore)


def mkimage(site: Site, format: str = "raw", host: str = "node3") -> Outcome:
    return site.oned.tm("mkimage", 16, format, site.disk_word(host, 7, 0), 7, 101)


def directory(site: Site, host: str, vm: int = 7) -> list[str]:
    """What is in a VM's directory, [] also when it is gone."""
    found = site.hosts.run(host, ["ls", "-A", f"/var/lib/one/datastores/101/{vm}"], check=False)
    return found.stdout.split()


def snapshots(site: Site, name: str) -> list[str]:
    found = site.definition(name)
    assert found
    return [snapshot.name for snapshot in found.snapshots.values()]


# --- clone --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["copy", "snapshot", "clone"])
def test_a_clone_is_as_large_as_the_disk_and_a_rerun_changes_nothing(site: Site, mode: str) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE=mode)
    cp(site)
    vm(site, CLONED)
    quiet(clone(site))

    bytes_of_disk = whole(site, DISK)
    assert len(bytes_of_disk) >= 16 * MIB and bytes_of_disk == padded(DATA, bytes_of_disk)
    assert marks(site, DISK) == {"VM_ID": "7", "DISK_ID": "0", "DS_ID": "101", "ORIGIN": IMAGE}
    assert marks(site, IMAGE) == {"IMAGE_ID": "5"} and not snapshots(site, IMAGE)
    assert site.attached(DISK) == ["node3"] and not site.attached(IMAGE)
    assert site.link("node3", 7, 0) == by_res(DISK)

    before = identity(site, DISK)
    site.hosts.run("node3", ["sh", "-c", 'printf "of the guest" >"$1"', "sh", by_res(DISK)])
    quiet(clone(site))
    site.hosts.run("node3", ["rm", "/var/lib/one/datastores/101/7/disk.0"])
    site.documents.put(D.vm(7, [CLONED], lcm_state=HOTPLUG))
    quiet(clone(site))
    assert identity(site, DISK) == before and site.read(DISK, 12) == b"of the guest"
    assert site.link("node3", 7, 0) == by_res(DISK) and site.read(IMAGE, len(DATA)) == DATA


@pytest.mark.parametrize("action", ["clone", "mkimage", "mkswap"])
def test_a_vm_that_is_started_over_gets_its_disk_anew(site: Site, action: str) -> None:
    """`recover --recreate` of a stopped VM deletes nothing; the links went to the front-end with its directory."""
    cp(site)
    disk = CLONED if action == "clone" else VOLATILE
    words = {"clone": [site.source_word(5)], "mkimage": [16, "raw"], "mkswap": [16]}[action]

    def make(host: str, *before: str) -> Outcome:
        site.documents.put(D.vm(7, [disk], hosts=[*before, host], actions=[RECREATE for _ in before]))
        return done(site.oned.tm(action, *words, site.disk_word(host, 7, 0), 7, 100))

    make("node3")
    fresh = whole(site, DISK)
    site.rest("POST", f"/v1/resource-definitions/{DISK}/snapshots", {"name": "snapshot-0"})
    site.hosts.run("node3", ["sh", "-c", 'printf "of the guest" >"$1"', "sh", by_res(DISK)])
    before = identity(site, DISK)
    site.documents.put(D.vm(7, [disk], lcm_state=STOPPING))
    done(site.oned.tm("mv", site.disk_word("node3", 7, 0), site.disk_word("frontend", 7, 0), 7, 100))

    assert "VM 7 had before it was started over" in make("node2", "node3").stderr
    assert identity(site, DISK) != before and not snapshots(site, DISK) and site.link("node2", 7, 0) == by_res(DISK)
    assert action == "mkswap" or whole(site, DISK) == fresh
    again = identity(site, DISK)
    assert not make("node2", "node3").stderr and identity(site, DISK) == again


@pytest.mark.parametrize("actions", [(), (STOP,)], ids=["a new one", "one that was stopped"])
def test_a_disk_that_is_there_is_not_made_anew_for_a_vm_that_was_not_started_over(
    site: Site, actions: tuple[int, ...]
) -> None:
    """A number that oned gives again, when its database is older than its disks, may be of a VM whose disk this is."""
    vm(site, VOLATILE)
    words = [16, "raw", site.disk_word("node3", 7, 0), 7, 101]
    quiet(site.oned.tm("mkimage", *words))
    site.hosts.run("node3", ["sh", "-c", 'printf "of a guest" >"$1"', "sh", by_res(DISK)])
    before = identity(site, DISK)
    site.hosts.run("node3", ["rm", "/var/lib/one/datastores/101/7/disk.0"])
    site.documents.put(D.vm(7, [VOLATILE], hosts=[*("node2" for _ in actions), "node3"], actions=actions))
    quiet(site.oned.tm("mkimage", *words))
    assert identity(site, DISK) == before and site.read(DISK, 10) == b"of a guest"


def test_a_disk_without_replicas_is_not_attached_as_an_empty_one(site: Site) -> None:
    """LINSTOR makes the first replica where a definition without any is to be made available."""
    vm(site, VOLATILE)
    quiet(site.oned.tm("mkimage", 16, "raw", site.disk_word("node3", 7, 0), 7, 101))
    found = site.definition(DISK)
    assert found
    for node in sorted(found.resources, key=lambda node: not found.resources[node].diskless):
        site.rest("DELETE", f"/v1/resource-definitions/{DISK}/resources/{node}")
    site.documents.put(D.vm(7, [VOLATILE], lcm_state=HOTPLUG))
    sentence = failed(site.oned.tm("mkimage", 16, "raw", site.disk_word("node3", 7, 0), 7, 101))
    assert f"{DISK} has no replica on an online node" in sentence
    assert not site.holders(DISK) and not site.attached(DISK)


@pytest.mark.parametrize("mode", ["copy", "snapshot"])
def test_a_half_made_clone_is_replaced(site: Site, mode: str) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE=mode)
    cp(site)
    vm(site, CLONED)
    done(clone(site))
    before = leave_half_made(site, DISK)
    if mode == "snapshot":
        # Killed before it removed its snapshot.
        site.rest("POST", f"/v1/resource-definitions/{IMAGE}/snapshots", {"name": DISK})
    done(clone(site))

    assert identity(site, DISK) != before and "STATE" not in marks(site, DISK)
    assert whole(site, DISK) == padded(DATA, whole(site, DISK))
    assert not snapshots(site, IMAGE)


def test_a_disk_that_was_restored_but_not_yet_marked_is_replaced_or_goes(site: Site) -> None:
    """Killed in between, it bears the marks of its image: here one that another VM had been lent."""
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE="snapshot")
    cp(site)
    vm(site, CLONED)
    for ending in (clone, delete):
        done(clone(site))
        leave_half_made(site, DISK)
        found = site.definition(DISK)
        assert found
        found.props.update({"Aux/one/IMAGE_ID": "5", "Aux/one/VM_ID": "9", "Aux/one/ORIGIN": "1700000000"})
        done(ending(site))
        if ending is clone:
            assert marks(site, DISK) == {"VM_ID": "7", "DISK_ID": "0", "DS_ID": "101", "ORIGIN": IMAGE}
    assert not site.definition(DISK)


def test_a_zfs_clone_keeps_its_origin_until_the_disk_goes(site: Site) -> None:
    site.datastores(STORAGE_POOL="zfs", REPLICA_COUNT=2, CLONE_MODE="snapshot")
    cp(site)
    vm(site, CLONED)
    # ZFS refuses: the snapshot has a dependent clone.
    refusal = Fault("refuse", method="DELETE", path=f"{IMAGE}/snapshots/{DISK}")
    site.controller.faults.add(refusal)
    done(clone(site))
    assert snapshots(site, IMAGE) == [DISK] and refusal.seen == 1
    assert whole(site, DISK) == padded(DATA, whole(site, DISK)) and "STATE" not in marks(site, DISK)

    found = site.definition(IMAGE)
    assert found
    node, other = (name.upper() for name in site.holders(IMAGE))
    found.resources[node].strayed = {other}
    assert "is StandAlone" in failed(delete(site, datastore=100)) and snapshots(site, IMAGE) == [DISK]
    found.resources[node].strayed = set()
    quiet(delete(site, datastore=100))
    assert not site.definition(DISK) and not snapshots(site, IMAGE)


def test_without_drbd_each_replica_gets_the_content(site: Site) -> None:
    cp(site)
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    vm(site, CLONED)
    quiet(clone(site, "node2"))

    assert "node2" in site.holders(DISK) and len(site.holders(DISK)) == 2
    for node in site.holders(DISK):
        assert whole(site, DISK, node) == padded(DATA, whole(site, DISK, node))
    assert site.link("node2", 7, 0) == device(site, DISK, "node2")


def test_somebody_elses_volume_is_not_taken_for_the_disk(site: Site) -> None:
    cp(site)
    vm(site, CLONED)
    done(clone(site))
    found = site.definition(DISK)
    assert found
    found.props["Aux/one/ORIGIN"] = "one-image-9"
    before, content = identity(site, DISK), site.digest(DISK)
    assert f"{DISK} exists already and is marked ORIGIN=one-image-9" in failed(clone(site))
    assert (identity(site, DISK), site.digest(DISK)) == (before, content)


def test_a_clone_of_nothing_and_one_for_a_vm_that_is_gone_make_nothing(site: Site) -> None:
    vm(site, CLONED)
    assert f"{IMAGE}, the image of disk 0, does not exist" in failed(clone(site))
    vm(site, CLONED, state=6)
    assert "VM 7 is being removed" in failed(clone(site))
    vm(site)
    assert "VM 7 has no disk 0" in failed(clone(site))
    assert not site.cluster.definitions and not directory(site, "node3")


@pytest.mark.parametrize("make", [clone, mkimage, ln], ids=["clone", "mkimage", "ln"])
def test_nothing_stays_of_a_disk_whose_vm_went_while_it_was_made(
    site: Site, make: Callable[[Site], Outcome]
) -> None:
    """oned runs DELETE beside a CLONE, and takes the VM for gone though DELETE gave up waiting for that."""
    cp(site)
    made = {clone: CLONED, mkimage: VOLATILE, ln: PERSISTENT}[make]
    vm(site, made)
    meanwhile(site, "POST", "make-available", lambda: vm(site, made, state=6))
    assert "VM 7 is being removed" in failed(make(site))
    assert not site.definition(DISK) and not site.attached(IMAGE)
    assert not directory(site, "node3") and marks(site, IMAGE) == {"IMAGE_ID": "5"}


@pytest.mark.parametrize("make", [clone, mkimage, ln], ids=["clone", "mkimage", "ln"])
def test_nothing_stays_of_a_disk_that_was_taken_off_its_vm_while_it_was_made(
    site: Site, make: Callable[[Site], Outcome]
) -> None:
    """`recover --failure` of a slow attachment stops no driver, and libvirt would get the disk yet."""
    cp(site)
    vm(site, {clone: CLONED, mkimage: VOLATILE, ln: PERSISTENT}[make])
    meanwhile(site, "POST", "make-available", lambda: vm(site))
    assert "VM 7 has no disk 0" in failed(make(site))
    assert not site.definition(DISK) and not site.attached(IMAGE)
    assert not directory(site, "node3") and marks(site, IMAGE) == {"IMAGE_ID": "5"}


@contextmanager
def let_go_meanwhile(site: Site, reading: str) -> Iterator[None]:
    """Let another action have the attachment on node3 until this one has read the replicas, and then be without it.

    Arguments: reading, a part of the path of what is read after the replicas.
    """
    site.controller.faults.clear()
    with open(LOCKS / f"linstor_un-attached-{IMAGE}-node3") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        until(lambda: any(reading in one["path"] for one in site.controller.faults.log), "the replicas to be read")
        site.rest("DELETE", f"/v1/resource-definitions/{IMAGE}/resources/node3")


def attached_for_vm_8(site: Site) -> None:
    """Let VM 8 on node3 have an image of one replica: no tiebreaker takes the place of what is let go."""
    site.cluster.prefer = lambda _: ["node1"]
    site.datastores(RESOURCE_GROUP="opennebula", REPLICA_COUNT=1)
    cp(site)
    vm(site, CDROM, number=8)
    quiet(ln(site, number=8))


def test_an_attachment_that_another_vm_let_go_meanwhile_is_made_again(site: Site) -> None:
    attached_for_vm_8(site)
    vm(site, CDROM)
    with let_go_meanwhile(site, f"{IMAGE}/resources"):
        running = site.oned.start_tm("ln", site.source_word(5), site.disk_word("node3", 7, 0), 7, 100)
    quiet(site.oned.finish(running))
    assert site.attached(IMAGE) == ["node3"]


def test_a_clone_reads_an_image_that_another_vm_let_go_meanwhile(site: Site) -> None:
    attached_for_vm_8(site)
    site.datastores(RESOURCE_GROUP="opennebula", REPLICA_COUNT=1, BRIDGE_LIST="node3")
    vm(site, CLONED)
    with let_go_meanwhile(site, f"{DISK}/resources"):
        running = site.oned.start_tm("clone", site.source_word(5), site.disk_word("node3", 7, 0), 7, 100)
    quiet(site.oned.finish(running))
    assert whole(site, DISK) == padded(DATA, whole(site, DISK))


def locked(site: Site, deed: Callable[[], Outcome], image: str, lock: str) -> set[bool]:
    """Tell whether a lock is held at each change that an action makes of an image."""
    held: set[bool] = set()

    class Looks(Fault):
        def hits(self, method: str, path: str) -> bool:
            if super().hits(method, path):
                held.add(is_held(LOCKS / f"linstor_un-{lock}"))
            return False

    site.controller.faults.add(Looks("drop", times=99, method="PUT|POST|DELETE", path=f"definitions/{image}(/|$)"))
    quiet(deed())
    site.controller.faults.clear()
    return held


@pytest.mark.parametrize(("document", "lock"), [(PERSISTENT, IMAGE), (CDROM, DISK)], ids=["persistent", "CDROM"])
def test_an_image_is_not_taken_from_its_vm_while_it_is_being_given(
    site: Site, document: D.DiskDocument, lock: str
) -> None:
    """A `delete` beside `ln` would find nothing, and what `ln` made would stay for a VM that is gone."""
    cp(site)
    vm(site, document)
    words = site.disk_word("node3", 7, 0), source(5), 7, 100
    assert locked(site, lambda: ln(site), IMAGE, lock) == {True}
    if document is PERSISTENT:
        assert locked(site, lambda: site.oned.tm("mvds", *words), IMAGE, lock) == {True}
        quiet(ln(site))
    assert locked(site, lambda: delete(site, datastore=100), IMAGE, lock) == {True}
    assert not site.attached(IMAGE) and not site.link("node3", 7, 0)


@pytest.mark.parametrize("document", [PERSISTENT, CDROM], ids=["persistent", "CDROM"])
def test_a_host_that_is_the_front_end_lets_go_of_an_image(site: Site, document: D.DiskDocument) -> None:
    cp(site)
    vm(site, document)
    done(ln(site))
    etc = Path("/etc/one/oned.conf")
    etc.parent.mkdir(exist_ok=True)
    etc.write_text('HOSTNAME = "node3"\n')
    try:
        quiet(delete(site, datastore=100))
    finally:
        etc.unlink()
    assert not site.attached(IMAGE) and marks(site, IMAGE) == {"IMAGE_ID": "5"}


def test_kernels_are_refused_before_anybody_is_asked(site: Site) -> None:
    target, asked = "node3:/var/lib/one//datastores/101/7/kernel", len(site.xmlrpc.calls)
    assert "FILE" in failed(site.oned.tm("clone", site.source_word(5), target, 7, 100), 2)
    assert site.controller.faults.log == [] and len(site.xmlrpc.calls) == asked


# --- ln and mvds --------------------------------------------------------------------------------------------------


def test_a_persistent_image_is_lent_to_its_vm_and_given_back(site: Site) -> None:
    name = cp(site)
    vm(site, PERSISTENT)
    for _ in range(2):
        quiet(ln(site))
        assert site.attached(name) == ["node3"] and site.link("node3", 7, 0) == by_res(name)
        assert marks(site, name) == {"IMAGE_ID": "5", "VM_ID": "7", "DISK_ID": "0", "DS_ID": "101"}
    site.hosts.run("node3", ["sh", "-c", 'printf "of the guest" >"$1"', "sh", by_res(name)])

    for _ in range(2):
        quiet(site.oned.tm("mvds", site.disk_word("node3", 7, 0), source(5), 7, 100))
        assert not site.attached(name) and not site.link("node3", 7, 0)
        assert marks(site, name) == {"IMAGE_ID": "5"} and len(site.holders(name)) == 2
    assert site.read(name, 12) == b"of the guest"


def test_a_persistent_image_used_where_it_has_a_replica_keeps_that(site: Site) -> None:
    name = datablock(site)
    vm(site, PERSISTENT)
    done(ln(site, "node1"))
    assert site.holders(name) == ["node1", "node2"] and not site.attached(name)
    done(site.oned.tm("mvds", site.disk_word("node1", 7, 0), source(5), 7, 100))
    assert site.holders(name) == ["node1", "node2"] and not site.link("node1", 7, 0)


def test_an_open_image_is_not_taken_from_its_host(site: Site) -> None:
    name = datablock(site)
    vm(site, PERSISTENT)
    done(ln(site))
    for mode in ("<>", "<"):
        with opened(site, "node3", by_res(name), mode):
            message = failed(site.oned.tm("mvds", site.disk_word("node3", 7, 0), source(5), 7, 100))
        assert f"{name} is open on node3" in message
        # All as it was: LINSTOR does not see a reader, and would let the resource go half-way.
        assert site.attached(name) == ["node3"]
        assert not {"DELETE", "DRBD_DELETE"} & set(flags(site.cluster, name, "node3"))
        assert site.link("node3", 7, 0) == by_res(name) and marks(site, name)["VM_ID"] == "7"
    quiet(site.oned.tm("mvds", site.disk_word("node3", 7, 0), source(5), 7, 100))
    assert not site.attached(name) and marks(site, name) == {"IMAGE_ID": "5"}


@pytest.mark.parametrize("action", ["mvds", "delete"])
def test_without_drbd_an_open_image_is_not_taken_from_its_host(site: Site, action: str) -> None:
    """LINSTOR does not see who has it open there: the next VM would write to it beside this one."""
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    name = datablock(site)
    vm(site, PERSISTENT)
    done(ln(site, "node1"))
    words = (action, site.disk_word("node1", 7, 0), *([source(5)] if action == "mvds" else []), 7, 100)
    here = device(site, name, "node1")
    with opened(site, "node1", here):
        assert f"{name} is open on node1" in failed(site.oned.tm(*words))
    assert site.link("node1", 7, 0) == here and marks(site, name)["VM_ID"] == "7"
    quiet(site.oned.tm(*words))
    assert not site.link("node1", 7, 0) and marks(site, name) == {"IMAGE_ID": "5", "WRITTEN_ON": "node1"}


def test_a_loop_device_that_became_another_volumes_keeps_no_image_on_its_host(site: Site) -> None:
    """Their numbers change when a host starts anew, and the links of before lead to them still."""
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    name, other = datablock(site), datablock(site, 6)
    vm(site, PERSISTENT)
    done(ln(site, "node1"))
    number = site.hosts.run("node1", ["readlink", "-f", device(site, other, "node1")]).stdout.strip()
    assert number.startswith("/dev/loop")
    site.hosts.run("node1", ["ln", "-sfn", number, "/var/lib/one/datastores/101/7/disk.0"])
    with opened(site, "node1", number):
        quiet(site.oned.tm("mvds", site.disk_word("node1", 7, 0), source(5), 7, 100))
    assert not site.link("node1", 7, 0) and marks(site, name) == {"IMAGE_ID": "5", "WRITTEN_ON": "node1"}


def test_two_vms_share_a_cdrom_on_one_host(site: Site) -> None:
    name = cp(site)
    for number in (7, 8):
        vm(site, CDROM, number=number)
        quiet(ln(site, number=number))
        assert marks(site, name) == {"IMAGE_ID": "5"}

    quiet(delete(site, number=7, datastore=100))
    assert not site.link("node3", 7, 0) and site.link("node3", 8, 0) == by_res(name)
    assert site.attached(name) == ["node3"]
    quiet(delete(site, number=7, datastore=100))
    assert site.attached(name) == ["node3"]

    quiet(delete(site, number=8, datastore=100))
    assert not site.attached(name) and not site.link("node3", 8, 0)
    assert len(site.holders(name)) == 2 and site.read(name, len(DATA)) == DATA


def test_an_image_that_is_not_there_is_not_linked(site: Site) -> None:
    vm(site, PERSISTENT)
    assert f"{IMAGE}, the image of disk 0, does not exist" in failed(ln(site))
    assert not site.link("node3", 7, 0)


# --- mkimage and mkswap -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("format", "fs"), [("raw", "ext4"), ("raw", ""), ("qcow2", "")])
def test_a_volatile_disk_has_the_file_system_that_was_asked_for(site: Site, format: str, fs: str) -> None:
    vm(site, D.DiskDocument(0, size=16, kind="fs", more={"FS": fs} if fs else {}))
    outcome = done(mkimage(site, format))
    read_nothing(outcome)
    assert ("made raw" in outcome.stderr) == (format == "qcow2")

    assert kind_of(site, DISK) == fs and (fs or not any(whole(site, DISK)))
    assert marks(site, DISK) == {"VM_ID": "7", "DISK_ID": "0", "DS_ID": "101", "ORIGIN": "volatile"}
    assert site.attached(DISK) == ["node3"] and site.link("node3", 7, 0) == by_res(DISK)
    before, content = identity(site, DISK), site.digest(DISK)
    done(mkimage(site, format))
    assert (identity(site, DISK), site.digest(DISK)) == (before, content)


@pytest.mark.parametrize("layers", ["drbd storage", "storage"])
def test_a_volatile_disk_of_a_thick_pool_has_nothing_of_its_former_owner(site: Site, layers: str) -> None:
    site.datastores(STORAGE_POOL="thick", LAYER_LIST=layers, REPLICA_COUNT=2)
    vm(site, VOLATILE)
    site.volumes.dirty = True
    try:
        quiet(mkimage(site))
    finally:
        site.volumes.dirty = False
    nodes = [""] if "drbd" in layers else site.holders(DISK)
    assert nodes and not any(any(whole(site, DISK, node)) for node in nodes)


def test_a_half_made_volatile_disk_is_replaced(site: Site) -> None:
    vm(site, VOLATILE)
    done(mkimage(site))
    before = leave_half_made(site, DISK)
    done(mkimage(site))
    assert identity(site, DISK) != before and not any(whole(site, DISK))
    assert "STATE" not in marks(site, DISK)


def test_a_swap_disk_is_swap_space(site: Site) -> None:
    vm(site, D.DiskDocument(0, size=16, kind="swap"))
    for _ in range(2):
        quiet(site.oned.tm("mkswap", 16, site.disk_word("node1", 7, 0), 7, 101))
    assert kind_of(site, DISK) == "swap" and len(whole(site, DISK)) >= 16 * MIB
    assert site.link("node1", 7, 0) == by_res(DISK)


# --- context ------------------------------------------------------------------------------------------------------


def test_the_context_image_is_made_by_opennebulas_own_script(site: Site) -> None:
    vm(site)
    script = incoming(b"NETWORK=YES\n", "context.sh")
    for _ in range(2):
        done(site.oned.tm("context", f"{script}:context.sh", site.disk_word("node3", 7, 1), 7, 101))
    path = "/var/lib/one/datastores/101/7/disk.1"
    medium = site.hosts.run("node3", ["cat", path], text=False).stdout
    assert b"NETWORK=YES\n" in medium
    assert not site.cluster.definitions


# --- delete -------------------------------------------------------------------------------------------------------


def test_a_vms_own_disk_goes_and_going_twice_is_no_error(site: Site) -> None:
    vm(site, VOLATILE)
    done(mkimage(site))
    for _ in range(2):
        quiet(delete(site))
        assert not site.cluster.definitions and not site.link("node3", 7, 0)


def test_a_disk_goes_with_everybodys_snapshots_and_going_twice_is_no_error(site: Site) -> None:
    vm(site, VOLATILE)
    done(mkimage(site))
    for snapshot in ("snapshot-0", "nightly", "one-vm-8-disk-0"):
        site.rest("POST", f"/v1/resource-definitions/{DISK}/snapshots", {"name": snapshot})
    site.hosts.run("node3", ["rm", "/var/lib/one/datastores/101/7/disk.0"])
    for _ in range(2):
        quiet(delete(site))
        assert not site.cluster.definitions


def test_a_disk_that_was_never_made_goes(site: Site) -> None:
    vm(site, CLONED)
    quiet(delete(site, datastore=100))
    vm(site, PERSISTENT)
    quiet(delete(site, datastore=100))


def test_a_linked_image_is_only_let_go(site: Site) -> None:
    name = cp(site)
    vm(site, PERSISTENT)
    done(ln(site))
    quiet(delete(site, datastore=100))
    assert not site.link("node3", 7, 0) and not site.attached(name)
    assert marks(site, name) == {"IMAGE_ID": "5"} and site.read(name, len(DATA)) == DATA


def test_a_disk_that_is_open_stays_with_its_link(site: Site) -> None:
    vm(site, VOLATILE)
    done(mkimage(site))
    with opened(site, "node3", by_res(DISK)):
        assert f"{DISK} is open on node3" in failed(delete(site))
        assert site.attached(DISK) == ["node3"] and site.link("node3", 7, 0) == by_res(DISK)
    quiet(delete(site))
    assert not site.cluster.definitions


def test_another_vms_disk_is_not_removed(site: Site) -> None:
    vm(site, VOLATILE)
    done(mkimage(site))
    found = site.definition(DISK)
    assert found
    found.props["Aux/one/VM_ID"] = "9"
    assert "is marked VM_ID=9" in failed(delete(site))
    assert len(site.holders(DISK)) == 2
    assert "belongs to VM 7" in failed(site.oned.tm("delete", site.disk_word("node3", 7, 0), 9, 101), 2)


def test_a_vms_directory_goes_and_what_its_links_lead_to_stays(site: Site) -> None:
    cp(site)
    vm(site, PERSISTENT)
    done(ln(site))
    fill = 'cd "$1" && touch deployment.0 .hidden /var/tmp/stays && ln -s /var/tmp away'
    site.hosts.run("node3", ["sh", "-c", fill, "sh", "/var/lib/one/datastores/101/7"])
    for _ in range(2):
        quiet(site.oned.tm("delete", "node3:/var/lib/one//datastores/101/7", 7, 101))
        assert not directory(site, "node3")
    assert site.attached(IMAGE) == ["node3"] and site.read(IMAGE, len(DATA)) == DATA
    site.hosts.run("node3", ["test", "-e", "/var/tmp/stays"])


def test_only_the_vms_directory_is_removed(site: Site) -> None:
    base = "/var/lib/one/datastores/101"
    site.hosts.run("node3", ["mkdir", "-p", f"{base}/7", f"{base}/8"])
    for path in (base, f"{base}/7/..", f"{base}/8", f"{base}/7/disk.0/x"):
        failed(site.oned.tm("delete", f"node3:{path}", 7, 101), 2)
    assert site.hosts.run("node3", ["ls", base]).stdout.split() == ["7", "8"]
