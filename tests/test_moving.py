"""A VM's disks and its directory on their way between hosts and system datastores, as oned calls the scripts."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

import pytest
from lab.controller import drbd, drbd_events, satellites
from lab.controller.answers import ERROR
from lab.controller.cluster import Cluster, Resource
from lab.controller.faults import Fault
from lab.hosts import account
from lab.hosts.machine import until
from lab.matrix.looking import LOCKS
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_nothing
from lab.site import Site
from linstor_un.naming import by_res
from site_support import DATA, cp, datablock, device, done, failed, marks, meanwhile, opened, written_apart

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "thick": "LVM"}}
IMAGE, DISK = "one-image-5", "one-vm-7-disk-0"
PERSISTENT = D.DiskDocument(0, size=8, image=5, clone=False)
CDROM = D.DiskDocument(0, size=8, image=5, clone=False, kind="CDROM", more={"SAVE": "NO"})
VOLATILE = D.DiskDocument(0, size=16, kind="fs", datastore=101)
MIGRATE, STOP, UNDEPLOY, RESUME, HOST_DEAD = 8, 10, 30, 9, 60
FRONTEND = "frontend"
SECOND = 102
BASE = "/var/lib/one/datastores"


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    site.documents.put(D.datastore(SECOND, 1, RESOURCE_GROUP="opennebula"))
    yield
    site.cluster.prefer = lambda _: []


def vm(
    site: Site, *disks: D.DiskDocument, state: int = MIGRATE, hosts: tuple[str, ...] = ("node3",), number: int = 7
) -> None:
    """What oned says of the VM; the last host is where it is, or goes to."""
    site.documents.put(D.vm(number, disks, lcm_state=state, hosts=hosts))


def quiet(outcome: Outcome) -> None:
    read_nothing(done(outcome))
    assert outcome.stderr == ""


def mv(site: Site, source: str, target: str, old: int = 101, new: int = 101, disk: Optional[int] = 0) -> Outcome:
    """Move a disk, or with None the directory, from a host and datastore to others."""
    words = [f"{host}:/var/lib/one//datastores/{store}/7" for host, store in ((source, old), (target, new))]
    if disk is None:
        return site.oned.tm("mv", *words, 7, new)
    return site.oned.tm("mv", *(f"{word}/disk.{disk}" for word in words), 7, 100)


def volatile(site: Site, host: str = "node3") -> None:
    """Give VM 7 a disk of its own on a host, with bytes of its guest."""
    vm(site, VOLATILE, state=1, hosts=(host,))
    done(site.oned.tm("mkimage", 16, "raw", site.disk_word(host, 7, 0), 7, 101))
    written(site, DISK, host)


def written(site: Site, name: str, host: str) -> None:
    site.hosts.run(host, ["sh", "-c", 'printf "of the guest" >"$1"', "sh", by_res(name)])


def linked(site: Site, disk: D.DiskDocument, host: str = "node3", number: int = 7) -> None:
    """Give a VM image 5 itself on a host."""
    vm(site, disk, state=1, hosts=(host,), number=number)
    done(site.oned.tm("ln", site.source_word(5), site.disk_word(host, number, 0), number, 100))


def files(site: Site, host: str, datastore: int = 101, number: int = 7) -> list[str]:
    """What is in a VM's directory on a host or the front-end, "-" alone when the directory is not there."""
    path = f"{BASE}/{datastore}/{number}"
    if host == FRONTEND:
        return sorted(os.listdir(path)) if os.path.isdir(path) else ["-"]
    found = site.hosts.run(host, ["ls", "-A", path], check=False)
    return found.stdout.split() if not found.returncode else ["-"]


def frontend_link(disk: int = 0, datastore: int = 101) -> str:
    path = f"{BASE}/{datastore}/7/disk.{disk}"
    return os.readlink(path) if os.path.islink(path) else ""


@contextmanager
def one_directory(site: Site, *datastores: int) -> Iterator[None]:
    """Let all hosts have the same directory for system datastores, as a shared file system does."""
    for number in datastores:
        common = Path(f"/etc/lab-common-{number}")
        account.own_directory(common)
        for host in site.hosts.names:
            site.hosts.run(host, ["mkdir", "-p", f"{BASE}/{number}"])
            site.hosts.run(host, ["mount", "--bind", str(common), f"{BASE}/{number}"], user="root")
    try:
        yield
    finally:
        for number in datastores:
            site.hosts.run("node1", ["sh", "-c", f"rm -rf {BASE}/{number}/*"], user="root")
            for host in site.hosts.names:
                site.hosts.run(host, ["umount", f"{BASE}/{number}"], user="root")


# --- a disk from host to host -------------------------------------------------------------------------------------


def test_a_vms_own_disk_is_brought_to_another_host_and_moving_it_again_changes_nothing(site: Site) -> None:
    volatile(site, "node3")
    vm(site, VOLATILE, hosts=("node3", "node1"))
    for _ in range(2):
        quiet(mv(site, "node3", "node1"))
        assert not site.attached(DISK) and site.holders(DISK) == ["node1", "node2"]
        assert site.link("node1", 7, 0) == by_res(DISK) and not site.link("node3", 7, 0)
        assert marks(site, DISK) == {"VM_ID": "7", "DISK_ID": "0", "DS_ID": "101", "ORIGIN": "volatile"}
    vm(site, VOLATILE, hosts=("node3", "node1", "node3"))
    quiet(mv(site, "node1", "node3"))
    assert site.attached(DISK) == ["node3"] and site.link("node3", 7, 0) == by_res(DISK)
    assert site.read(DISK, 12) == b"of the guest"


def test_a_persistent_image_is_brought_to_another_host(site: Site) -> None:
    cp(site)
    linked(site, PERSISTENT)
    written(site, IMAGE, "node3")
    vm(site, PERSISTENT, hosts=("node3", "node2"))
    quiet(mv(site, "node3", "node2"))
    assert not site.attached(IMAGE) and site.link("node2", 7, 0) == by_res(IMAGE) and not site.link("node3", 7, 0)
    assert marks(site, IMAGE) == {"IMAGE_ID": "5", "VM_ID": "7", "DISK_ID": "0", "DS_ID": "101"}
    assert site.read(IMAGE, 12) == b"of the guest"


def test_an_image_that_another_vm_reads_stays_on_its_host(site: Site) -> None:
    cp(site)
    for number in (7, 8):
        linked(site, CDROM, number=number)
    vm(site, CDROM, hosts=("node3", "node1"))
    quiet(mv(site, "node3", "node1"))
    assert site.attached(IMAGE) == ["node3"] and site.link("node3", 8, 0) == by_res(IMAGE)
    assert site.link("node1", 7, 0) == by_res(IMAGE) and not site.link("node3", 7, 0)
    assert marks(site, IMAGE) == {"IMAGE_ID": "5"}


def test_another_reader_is_seen_where_opennebula_keeps_its_datastores_elsewhere(site: Site) -> None:
    config = Path("/var/lib/one/config")
    before, elsewhere = config.read_text(), "/var/lib/one/elsewhere/datastores"
    cp(site)
    try:
        config.write_text(before.replace("/var/lib/one//datastores", "/var/lib/one/elsewhere//datastores"))
        for number in (7, 8):
            vm(site, CDROM, state=1, number=number)
            word = f"node3:{elsewhere}/101/{number}/disk.0"
            done(site.oned.tm("ln", site.source_word(5), word, number, 100))
        vm(site, CDROM, hosts=("node3", "node1"))
        words = [f"{host}:{elsewhere}/101/7/disk.0" for host in ("node3", "node1")]
        quiet(site.oned.tm("mv", *words, 7, 100))
        assert site.attached(IMAGE) == ["node3"]
        quiet(site.oned.tm("delete", f"node3:{elsewhere}/101/8/disk.0", 8, 100))
        assert not site.attached(IMAGE)
    finally:
        config.write_text(before)
        for host in site.hosts.names:
            site.hosts.run(host, ["rm", "-rf", "/var/lib/one/elsewhere"])


@pytest.mark.parametrize(("said", "stays"), [("linstor_un", False), ("ssh", True)])
def test_a_probes_mark_goes_where_the_old_driver_made_it_and_another_drivers_stays(
    site: Site, said: str, stays: bool
) -> None:
    """With it the host answers for the disks of this datastore, by a script of the driver that it names."""
    mark = f"{BASE}/101/.monitor"
    for host in ("node3", "node1"):
        site.hosts.run(host, ["mkdir", "-p", f"{BASE}/101"])
        site.hosts.run(host, ["sh", "-c", 'echo "$1" >"$2"', "sh", said, mark])
    volatile(site)
    vm(site, VOLATILE, hosts=("node3", "node1"))
    for disk in (0, None):
        quiet(mv(site, "node3", "node1", disk=disk))
    for host in ("node3", "node1"):
        assert (site.hosts.run(host, ["cat", mark], check=False).returncode == 0) == stays


def test_a_disk_that_is_open_at_the_source_stays_there_and_nowhere_else(site: Site) -> None:
    volatile(site, "node3")
    site.cluster.prefer = lambda _: ["node4"]
    vm(site, VOLATILE, hosts=("node3", "node1"))
    with opened(site, "node3", by_res(DISK)):
        message = failed(mv(site, "node3", "node1", new=SECOND))
    assert DISK in message and "in use" in message
    assert site.attached(DISK) == ["node3"] and site.link("node3", 7, 0) == by_res(DISK)
    assert files(site, "node1", SECOND) == ["-"] and marks(site, DISK)["DS_ID"] == "101"


def test_a_disk_is_attached_at_its_destination_before_it_leaves_the_source(site: Site) -> None:
    datablock(site)
    linked(site, PERSISTENT, "node1")
    vm(site, PERSISTENT, hosts=("node1", "node3"))
    refusal = [{"ret_code": ERROR | 975, "message": "node3 is being evacuated"}]
    site.controller.faults.add(Fault("refuse", method="POST", path="node3/make-available", entries=refusal))
    assert "node3 is being evacuated" in failed(mv(site, "node1", "node3"))
    assert site.link("node1", 7, 0) == by_res(IMAGE) and not site.link("node3", 7, 0) and not site.attached(IMAGE)
    quiet(mv(site, "node1", "node3"))
    assert site.attached(IMAGE) == ["node3"]


def test_a_destination_that_cannot_be_reached_leaves_everything_as_it_was(site: Site) -> None:
    volatile(site, "node3")
    vm(site, VOLATILE, hosts=("node3", "node1"))
    site.hosts.stop("node1")
    try:
        assert "node1 cannot be reached" in failed(mv(site, "node3", "node1"))
    finally:
        site.hosts.start("node1")
    assert site.attached(DISK) == ["node3"] and site.link("node3", 7, 0) == by_res(DISK)


def test_a_disk_is_not_moved_once_its_vm_is_being_removed(site: Site) -> None:
    """oned runs DELETE beside `mv`: who gets the lock second finds that out."""
    volatile(site, "node3")
    vm(site, VOLATILE, hosts=("node3", "node1"))
    site.xmlrpc.calls.clear()
    with open(LOCKS / f"linstor_un-{DISK}") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        words = (f"{host}:/var/lib/one//datastores/101/7/disk.0" for host in ("node3", "node1"))
        running = site.oned.start_tm("mv", *words, 7, 100)
        until(lambda: "one.datastore.info" in dict(site.xmlrpc.calls), "the VM to be known")
        vm(site, VOLATILE, state=23, hosts=("node3", "node1"))
    assert "VM 7 is being removed" in failed(site.oned.finish(running))
    assert site.attached(DISK) == ["node3"] and site.link("node3", 7, 0) == by_res(DISK)


def test_a_disk_is_not_moved_to_a_replica_that_is_cut_off(site: Site) -> None:
    """Both satellites are online, and each replica calls itself up to date."""
    volatile(site, "node1")
    vm(site, VOLATILE, hosts=("node1", "node2"))
    found = site.definition(DISK)
    assert found
    found.resources["NODE2"].broken.add("NODE1")
    assert "on node2 has no connection to that on node1" in failed(mv(site, "node1", "node2"))
    assert site.link("node1", 7, 0) == by_res(DISK) and not site.link("node2", 7, 0)

    found.resources["NODE2"].broken.clear()
    quiet(mv(site, "node1", "node2"))
    assert site.link("node2", 7, 0) == by_res(DISK) and not site.link("node1", 7, 0)


def test_only_what_is_the_vms_is_moved(site: Site) -> None:
    volatile(site, "node3")
    found = site.definition(DISK)
    assert found
    found.props["Aux/one/VM_ID"] = "9"
    vm(site, VOLATILE, hosts=("node3", "node1"))
    assert "is marked VM_ID=9" in failed(mv(site, "node3", "node1"))
    vm(site, VOLATILE, state=23)
    assert "VM 7 is being removed" in failed(mv(site, "node3", "node1"))
    vm(site, hosts=("node3", "node1"))
    assert "VM 7 has no disk 0" in failed(mv(site, "node3", "node1"))
    assert site.attached(DISK) == ["node3"] and site.link("node3", 7, 0) == by_res(DISK)


def test_a_host_that_linstor_does_not_reach_is_left_behind_with_a_word(site: Site) -> None:
    volatile(site, "node3")
    vm(site, VOLATILE, hosts=("node3", "node1"))
    with site.cluster.lock:
        satellites.go_offline(site.cluster, "node3")
    outcome = done(mv(site, "node3", "node1"))
    assert f"left behind: attachment of {DISK} on node3" in outcome.stderr
    assert site.link("node1", 7, 0) == by_res(DISK) and not site.link("node3", 7, 0)
    with site.cluster.lock:
        satellites.come_back(site.cluster, "node3")
    assert not site.attached(DISK)


@pytest.mark.parametrize("back", ["node1", "node2"])
def test_without_drbd_a_disk_only_comes_back_to_the_host_that_has_what_was_written(site: Site, back: str) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    vm(site, VOLATILE, state=1, hosts=("node1",))
    done(site.oned.tm("mkimage", 16, "raw", site.disk_word("node1", 7, 0), 7, 101))
    assert site.holders(DISK) == ["node1", "node2"]
    vm(site, VOLATILE, hosts=("node1", "node2"))
    assert "what the VM wrote is on node1 alone" in failed(mv(site, "node1", "node2"))
    assert site.link("node1", 7, 0) == device(site, DISK, "node1")

    vm(site, VOLATILE, state=STOP, hosts=("node1",))
    quiet(mv(site, "node1", FRONTEND))
    vm(site, VOLATILE, state=RESUME, hosts=("node1", back))
    if back == "node1":
        quiet(mv(site, FRONTEND, back))
        assert site.link("node1", 7, 0) == device(site, DISK, "node1")
    else:
        assert "what the VM wrote is on node1 alone" in failed(mv(site, FRONTEND, back))
        assert not site.link("node2", 7, 0)


# --- to the front-end and back ------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [STOP, UNDEPLOY])
def test_a_stopped_vms_disk_is_attached_nowhere_until_it_is_resumed(site: Site, state: int) -> None:
    volatile(site, "node3")
    vm(site, VOLATILE, state=state, hosts=("node3",))
    for _ in range(2):
        quiet(mv(site, "node3", FRONTEND))
        assert not site.attached(DISK) and not site.link("node3", 7, 0) and frontend_link() == by_res(DISK)
    vm(site, VOLATILE, state=state - 1 if state == STOP else 31, hosts=("node3", "node3"))
    for _ in range(2):
        quiet(mv(site, FRONTEND, "node3", new=SECOND))
        assert site.attached(DISK) == ["node3"] and site.link("node3", 7, 0, SECOND) == by_res(DISK)
        assert not frontend_link() and marks(site, DISK)["DS_ID"] == str(SECOND)
    assert site.read(DISK, 12) == b"of the guest"


def test_a_stopped_vms_disks_go_from_the_front_end(site: Site) -> None:
    volatile(site, "node3")
    vm(site, VOLATILE, state=STOP)
    quiet(mv(site, "node3", FRONTEND))
    vm(site, VOLATILE, state=11)
    quiet(site.oned.tm("delete", site.disk_word(FRONTEND, 7, 0), 7, 101))
    assert not site.definition(DISK) and not frontend_link()


@pytest.mark.parametrize("state", [STOP, UNDEPLOY])
def test_a_host_that_is_the_front_end_lets_go_of_a_stopped_vms_disk(site: Site, state: int) -> None:
    """oned calls it by one name, whether it is meant as host or as front-end; only the state of the VM tells."""
    volatile(site, "node3")
    etc = Path("/etc/one/oned.conf")
    etc.parent.mkdir(exist_ok=True)
    etc.write_text('HOSTNAME = "node3"\n')
    try:
        vm(site, VOLATILE, state=state, hosts=("node3",))
        for _ in range(2):
            quiet(mv(site, "node3", "node3"))
            assert not site.attached(DISK) and frontend_link() == by_res(DISK)
        vm(site, VOLATILE, state=state - 1 if state == STOP else 31, hosts=("node3", "node1"))
        quiet(mv(site, "node3", "node1"))
        assert site.attached(DISK) == [] and site.link("node1", 7, 0) == by_res(DISK) and not frontend_link()
    finally:
        etc.unlink()


# --- a dead host --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [16, 60, 61])
def test_a_dead_host_is_not_contacted_and_linstor_does_not_wait_for_it(site: Site, state: int) -> None:
    volatile(site, "node3")
    vm(site, VOLATILE, state=state, hosts=("node3", "node1"))
    site.hosts.kill("node3")
    with site.cluster.lock:
        drbd_events.kill(site.cluster, "node3")
    site.controller.faults.log.clear()
    try:
        for disk in (0, None):
            begin = time.monotonic()
            quiet(mv(site, "node3", "node1", disk=disk))
            assert time.monotonic() - begin < 8
        assert site.link("node1", 7, 0) == by_res(DISK) and site.read(DISK, 12) == b"of the guest"
        assert not [entry for entry in site.controller.faults.log if entry["method"] not in ("GET", "PUT")]
    finally:
        with site.cluster.lock:
            drbd_events.join(site.cluster, "node3")
        site.hosts.start("node3")


def lose(site: Site, host: str, old: int = 101, new: int = 101) -> None:
    """Let a host die, move VM 7's disk away from it, and let the host come back."""
    site.hosts.kill(host)
    with site.cluster.lock:
        drbd_events.kill(site.cluster, host)
    try:
        quiet(mv(site, host, "node1", old=old, new=new))
    finally:
        with site.cluster.lock:
            drbd_events.join(site.cluster, host)
        site.hosts.start(host)


def test_what_a_disk_left_on_a_host_that_died_goes_when_the_host_is_back_and_the_disk_moves_on(site: Site) -> None:
    volatile(site, "node3")
    vm(site, VOLATILE, state=HOST_DEAD, hosts=("node3", "node1"))
    lose(site, "node3")
    assert site.link("node3", 7, 0) and site.attached(DISK) == ["node3"]
    vm(site, VOLATILE, hosts=("node1", "node2"))
    quiet(mv(site, "node1", "node2"))
    assert not site.link("node3", 7, 0) and not site.attached(DISK)
    assert "LOST_HOSTS" not in marks(site, DISK) and site.link("node2", 7, 0) == by_res(DISK)
    assert files(site, "node3") == []


def test_what_a_disk_left_on_a_host_that_died_goes_with_the_disk(site: Site) -> None:
    volatile(site, "node3")
    vm(site, VOLATILE, state=HOST_DEAD, hosts=("node3", "node1"))
    lose(site, "node3")
    vm(site, VOLATILE, state=11, hosts=("node3", "node1"))
    quiet(site.oned.tm("delete", site.disk_word("node1", 7, 0), 7, 101))
    assert not site.definition(DISK) and files(site, "node3") == []


def test_an_image_is_let_go_of_on_a_host_that_died_with_its_vm(site: Site) -> None:
    datablock(site)
    linked(site, PERSISTENT)
    vm(site, PERSISTENT, state=HOST_DEAD, hosts=("node3", "node1"))
    lose(site, "node3")
    vm(site, PERSISTENT, state=11, hosts=("node3", "node1"))
    quiet(site.oned.tm("mvds", site.disk_word("node1", 7, 0), by_res(IMAGE), 7, 100))
    assert not site.attached(IMAGE) and not site.link("node3", 7, 0)
    assert set(marks(site, IMAGE)) == {"IMAGE_ID"}


def test_a_host_that_is_still_away_stays_marked(site: Site) -> None:
    volatile(site, "node3")
    vm(site, VOLATILE, state=HOST_DEAD, hosts=("node3", "node1"))
    lose(site, "node3")
    with site.cluster.lock:
        satellites.go_offline(site.cluster, "node3")
    vm(site, VOLATILE, hosts=("node1", "node2"))
    quiet(mv(site, "node1", "node2"))
    assert marks(site, DISK)["LOST_HOSTS"] == "node3:101/7/0"
    with site.cluster.lock:
        satellites.come_back(site.cluster, "node3")


def test_a_host_that_was_given_up_but_still_has_the_disk_open_keeps_it(site: Site) -> None:
    volatile(site, "node1")
    vm(site, VOLATILE, state=HOST_DEAD, hosts=("node1", "node3"))
    with opened(site, "node1", by_res(DISK)):
        message = failed(mv(site, "node1", "node3"))
    assert f"{DISK} is still open on node1" in message and "fence node1" in message
    assert not site.link("node3", 7, 0) and not site.attached(DISK)


def test_a_host_that_was_given_up_and_does_not_tell_yet_is_not_taken_for_closed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A satellite that answers again tells of its openers a moment later."""
    volatile(site, "node1")
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=1)
    vm(site, VOLATILE, state=HOST_DEAD, hosts=("node1", "node3"))
    looks, before = [0], []
    told = drbd.state

    def state(cluster: Cluster, one: Resource) -> dict[str, object]:
        looks[0] += one.node == "node1"
        return {} if one.node == "node1" and looks[0] < 12 else told(cluster, one)

    monkeypatch.setattr(drbd, "state", state)
    meanwhile(site, "POST", f"{DISK}/resources/node3/make-available", lambda: before.append(looks[0]))
    quiet(mv(site, "node1", "node3"))
    assert before[0] >= 12 and site.attached(DISK) == ["node3"]


def test_replicas_that_differ_after_a_partition_are_given_to_no_host(site: Site) -> None:
    volatile(site, "node1")
    written_apart(site, DISK, "node1", "node2")
    vm(site, VOLATILE, state=HOST_DEAD, hosts=("node1", "node3"))
    assert "StandAlone" in failed(mv(site, "node1", "node3"))
    assert not site.attached(DISK) and not site.link("node3", 7, 0)


# --- system datastores --------------------------------------------------------------------------------------------


def test_another_system_datastore_on_the_same_host_moves_link_and_mark_only(site: Site) -> None:
    volatile(site, "node3")
    vm(site, VOLATILE, hosts=("node3", "node3"))
    before = len(site.controller.faults.log)
    quiet(mv(site, "node3", "node3", new=SECOND))
    assert site.link("node3", 7, 0, SECOND) == by_res(DISK) and not site.link("node3", 7, 0)
    assert site.attached(DISK) == ["node3"] and marks(site, DISK)["DS_ID"] == str(SECOND)
    changes = [entry["method"] for entry in site.controller.faults.log[before:] if entry["method"] != "GET"]
    assert changes == ["PUT"]


@pytest.mark.parametrize("target", ["node1", "node3"], ids=["another host", "the same host"])
def test_the_mark_of_a_persistent_image_follows_its_vm(site: Site, target: str) -> None:
    datablock(site)
    linked(site, PERSISTENT)
    vm(site, PERSISTENT, hosts=("node3", target))
    quiet(mv(site, "node3", target, new=SECOND))
    assert marks(site, IMAGE) == {"IMAGE_ID": "5", "VM_ID": "7", "DISK_ID": "0", "DS_ID": str(SECOND)}


def test_hosts_that_share_their_directories_keep_the_link(site: Site) -> None:
    volatile(site, "node2")
    with one_directory(site, 101):
        vm(site, VOLATILE, state=1, hosts=("node3",))
        done(site.oned.tm("mkimage", 16, "raw", site.disk_word("node3", 7, 0), 7, 101))
        vm(site, VOLATILE, hosts=("node3", "node1"))
        for _ in range(2):
            quiet(mv(site, "node3", "node1"))
            assert site.link("node1", 7, 0) == site.link("node3", 7, 0) == by_res(DISK)
            assert not site.attached(DISK)


# --- other drivers' system datastores -----------------------------------------------------------------------------


def test_the_link_stays_for_the_driver_that_carries_the_directory(site: Site) -> None:
    site.documents.put(D.datastore(106, 1, tm_mad="ssh"))
    datablock(site)
    vm(site, PERSISTENT, state=1, hosts=("node3",))
    done(site.oned.tm("ln", site.source_word(5), site.disk_word("node3", 7, 0, 106), 7, 100))
    for state, source, target in (
        (MIGRATE, "node3", "node1"), (STOP, "node1", FRONTEND), (RESUME, FRONTEND, "node3"), (MIGRATE, "node3", "node3")
    ):  # fmt: skip
        vm(site, PERSISTENT, state=state, hosts=(source, target))
        for _ in range(2):
            quiet(mv(site, source, target, old=106, new=106))
            assert site.attached(IMAGE) == (["node3"] if target == "node3" else [])
            # Nobody carried the directory here: the link is where it was made, and nowhere else.
            assert site.link("node3", 7, 0, 106) == by_res(IMAGE)
            assert files(site, "node1", 106) == files(site, FRONTEND, 106) == ["-"]
    assert marks(site, IMAGE)["DS_ID"] == "106"


@pytest.mark.parametrize(("new", "made"), [(106, True), (107, False)], ids=["same datastore", "another"])
def test_the_link_is_made_where_another_driver_brings_nothing_from_a_dead_host(
    site: Site, new: int, made: bool
) -> None:
    for number in (106, 107):
        site.documents.put(D.datastore(number, 1, tm_mad="ssh"))
    datablock(site)
    vm(site, PERSISTENT, state=1, hosts=("node3",))
    done(site.oned.tm("ln", site.source_word(5), site.disk_word("node3", 7, 0, 106), 7, 100))
    vm(site, PERSISTENT, state=HOST_DEAD, hosts=("node3", "node1"))
    lose(site, "node3", old=106, new=new)
    assert site.link("node1", 7, 0, new) == (by_res(IMAGE) if made else "")
    assert site.link("node3", 7, 0, 106) == by_res(IMAGE)


def test_a_shared_directory_of_another_driver_is_not_touched(site: Site) -> None:
    for number in (107, 108):
        site.documents.put(D.datastore(number, 1, tm_mad="shared"))
    datablock(site)
    with one_directory(site, 107, 108):
        vm(site, PERSISTENT, state=1, hosts=("node3",))
        done(site.oned.tm("ln", site.source_word(5), site.disk_word("node3", 7, 0, 107), 7, 100))
        vm(site, PERSISTENT, hosts=("node3", "node1"))
        quiet(mv(site, "node3", "node1", old=107, new=108))
        assert site.link("node1", 7, 0, 107) == by_res(IMAGE) and not site.attached(IMAGE)
        # A plain `mv` of the directory follows, which would put it into one that is there already.
        assert files(site, "node1", 108) == ["-"]


def test_a_driver_that_takes_over_from_the_front_end_finds_the_links_there(site: Site) -> None:
    site.documents.put(D.datastore(106, 1, tm_mad="ssh"))
    datablock(site)
    linked(site, PERSISTENT)
    vm(site, PERSISTENT, state=UNDEPLOY)
    quiet(mv(site, "node3", FRONTEND))
    quiet(mv(site, "node3", FRONTEND, disk=None))
    vm(site, PERSISTENT, state=31, hosts=("node3", "node1"))
    quiet(mv(site, FRONTEND, "node1", new=106))
    assert frontend_link() == by_res(IMAGE) and files(site, "node1", 106) == ["-"]
    assert marks(site, IMAGE)["DS_ID"] == "106"


def test_a_file_that_another_driver_hands_over_goes_with_the_directory(site: Site) -> None:
    site.documents.put(D.datastore(106, 1, tm_mad="ssh"))
    account.own_directory(Path(f"{BASE}/106"))
    account.own_directory(Path(f"{BASE}/106/7"))
    Path(f"{BASE}/106/7/disk.0").write_bytes(DATA)
    os.chown(f"{BASE}/106/7/disk.0", account.UID, account.GID)
    vm(site, VOLATILE, state=31, hosts=("node3", "node1"))
    for _ in range(2):
        quiet(mv(site, FRONTEND, "node1", old=106))
        quiet(mv(site, FRONTEND, "node1", old=106, disk=None))
        found = site.hosts.run("node1", ["cat", f"{BASE}/101/7/disk.0"], text=False).stdout
        assert found == DATA and files(site, FRONTEND, 106) == ["-"]
    vm(site, VOLATILE, state=11, hosts=("node3", "node1"))
    quiet(site.oned.tm("delete", site.disk_word("node1", 7, 0), 7, 101))
    assert files(site, "node1") == [] and not site.cluster.definitions


def test_a_disk_that_is_nowhere_is_no_success(site: Site) -> None:
    vm(site, VOLATILE, hosts=("node3", "node1"))
    assert f"{DISK}, the volume of disk 0, does not exist" in failed(mv(site, "node3", "node1"))
    vm(site, PERSISTENT, hosts=("node3", "node1"))
    assert f"{IMAGE}, the volume of disk 0, does not exist" in failed(mv(site, "node3", "node1"))
    assert files(site, "node1") == ["-"]
