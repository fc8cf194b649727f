"""What VMs' images left on hosts that died: nobody waits for it, and only that goes when the hosts are back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable

import pytest
from lab.controller import drbd_events, satellites
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_nothing
from lab.site import Site
from linstor_un.naming import by_res
from site_support import datablock, done, failed, later, marks, written_apart

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "thick": "LVM"}}
IMAGE, OTHER = "one-image-5", "one-image-6"
PERSISTENT = D.DiskDocument(0, size=8, image=5, clone=False)
CDROM = D.DiskDocument(0, size=8, image=5, clone=False, kind="CDROM", more={"SAVE": "NO"})
ANOTHER = D.DiskDocument(0, size=8, image=6, clone=False)
MIGRATE, EPILOG, HOST_DEAD = 8, 11, 60
MIXED = 106
LEFT = "one-image-5 is let go of without node3"


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    site.documents.put(D.datastore(MIXED, 1, tm_mad="ssh"))
    yield
    site.cluster.prefer = lambda _: []


def quiet(outcome: Outcome) -> None:
    read_nothing(done(outcome))
    assert outcome.stderr == ""


def given(site: Site, host: str, vm: int = 7, disk: D.DiskDocument = PERSISTENT, store: int = 101) -> None:
    """Give a VM an image itself on a host."""
    site.documents.put(D.vm(vm, [disk], lcm_state=1, hosts=[host]))
    quiet(site.oned.tm("ln", site.source_word(disk.image or 0), site.disk_word(host, vm, 0, store), vm, 100))


def moved(site: Site, source: str, target: str, store: int = 101, state: int = MIGRATE) -> Outcome:
    """Move VM 7's disk from a host to another."""
    site.documents.put(D.vm(7, [PERSISTENT], lcm_state=state, hosts=[source, target]))
    words = [site.disk_word(host, 7, 0, store) for host in (source, target)]
    return site.oned.tm("mv", *words, 7, 100)


def deleted(site: Site, host: str, vm: int = 7, disk: D.DiskDocument = PERSISTENT) -> Outcome:
    """What `onevm recover --delete` does: the VM is gone, and nobody asks again."""
    site.documents.put(D.vm(vm, [disk], state=6, lcm_state=0, hosts=[host]))
    return site.oned.tm("delete", site.disk_word(host, vm, 0), vm, 100)


def given_back(site: Site, host: str, vm: int = 7) -> Outcome:
    site.documents.put(D.vm(vm, [PERSISTENT], lcm_state=EPILOG, hosts=[host]))
    return site.oned.tm("mvds", site.disk_word(host, vm, 0), by_res(IMAGE), vm, 100)


@contextmanager
def off(site: Site, host: str) -> Iterator[None]:
    """Let a machine be off while the block runs: ssh, LINSTOR and DRBD lose it."""
    site.hosts.stop(host)
    with site.cluster.lock:
        drbd_events.kill(site.cluster, host)
    try:
        yield
    finally:
        site.hosts.start(host)
        with site.cluster.lock:
            drbd_events.join(site.cluster, host)


@contextmanager
def silent(site: Site, host: str) -> Iterator[None]:
    """Let a host's satellite be stopped while the block runs."""
    with site.cluster.lock:
        satellites.go_offline(site.cluster, host)
    try:
        yield
    finally:
        with site.cluster.lock:
            satellites.come_back(site.cluster, host)


# --- what a lost host is tidied of --------------------------------------------------------------------------------


def test_the_link_of_another_image_with_the_same_number_stays(site: Site) -> None:
    for image in (5, 6):
        datablock(site, image)
    given(site, "node3")
    with off(site, "node3"):
        quiet(moved(site, "node3", "node1", state=HOST_DEAD))
        quiet(given_back(site, "node1"))
    assert marks(site, IMAGE) == {"IMAGE_ID": "5", "LOST_HOSTS": "node3:101/7/0"}
    given(site, "node3", disk=ANOTHER)
    given(site, "node1", vm=9)
    assert site.link("node3", 7, 0) == by_res(OTHER) and site.attached(OTHER) == ["node3"]
    assert not site.attached(IMAGE) and "LOST_HOSTS" not in marks(site, IMAGE)


def test_the_link_that_another_driver_carries_stays_on_a_host_that_was_lost_once(site: Site) -> None:
    datablock(site)
    given(site, "node3", store=MIXED)
    with off(site, "node3"):
        quiet(moved(site, "node3", "node1", MIXED, HOST_DEAD))
    # A live migration brought the VM back: its disk is as it was, and marked.
    assert site.link("node3", 7, 0, MIXED) == by_res(IMAGE) and site.attached(IMAGE) == ["node3"]
    quiet(moved(site, "node3", "node2", MIXED))
    assert site.link("node3", 7, 0, MIXED) == by_res(IMAGE) and not site.attached(IMAGE)
    assert marks(site, IMAGE) == {"IMAGE_ID": "5", "VM_ID": "7", "DISK_ID": "0", "DS_ID": str(MIXED)}


def test_a_file_at_the_place_of_a_lost_link_stays(site: Site) -> None:
    datablock(site)
    given(site, "node3")
    with off(site, "node3"):
        quiet(moved(site, "node3", "node1", state=HOST_DEAD))
    path = "/var/lib/one/datastores/101/7/disk.0"
    site.hosts.run("node3", ["sh", "-c", 'rm "$1" && echo file >"$1"', "sh", path])
    quiet(given_back(site, "node1"))
    assert site.hosts.run("node3", ["cat", path]).stdout == "file\n" and not site.attached(IMAGE)


# --- images of VMs that are deleted with their host ---------------------------------------------------------------


@pytest.mark.parametrize("let_go", [deleted, given_back])
def test_an_image_is_free_although_its_host_is_dead_and_the_host_is_tidied_when_it_is_back(
    site: Site, let_go: Callable[[Site, str], Outcome]
) -> None:
    datablock(site)
    given(site, "node3")
    with off(site, "node3"):
        outcome = done(let_go(site, "node3"))
        assert len(outcome.stderr.splitlines()) == 1 and LEFT in outcome.stderr and "WARN" in outcome.stderr
        assert marks(site, IMAGE) == {"IMAGE_ID": "5", "LOST_HOSTS": "node3:101/7/0"}
        # Whoever gets it meanwhile waits for nothing.
        given(site, "node1", vm=9)
        assert marks(site, IMAGE)["VM_ID"] == "9" and marks(site, IMAGE)["LOST_HOSTS"] == "node3:101/7/0"
    assert site.attached(IMAGE) == ["node3"] and site.link("node3", 7, 0) == by_res(IMAGE)
    quiet(given_back(site, "node1", vm=9))
    assert not site.attached(IMAGE) and not site.link("node3", 7, 0) and marks(site, IMAGE) == {"IMAGE_ID": "5"}


def test_a_vm_that_gets_an_image_lets_it_go_where_it_was_left(site: Site) -> None:
    datablock(site)
    given(site, "node3")
    with off(site, "node3"):
        done(deleted(site, "node3"))
    given(site, "node1", vm=9)
    assert not site.attached(IMAGE) and not site.link("node3", 7, 0) and "LOST_HOSTS" not in marks(site, IMAGE)


def test_without_drbd_the_link_on_a_dead_host_goes_as_well(site: Site) -> None:
    site.datastores(STORAGE_POOL="thick", LAYER_LIST="storage", REPLICA_COUNT=1)
    datablock(site)
    given(site, "node1")
    with off(site, "node1"):
        assert "WARN" in done(deleted(site, "node1")).stderr
    assert marks(site, IMAGE) == {"IMAGE_ID": "5", "LOST_HOSTS": "node1:101/7/0", "WRITTEN_ON": "node1"}
    assert site.link("node1", 7, 0)
    given(site, "node1", vm=9)
    assert not site.link("node1", 7, 0) and site.link("node1", 9, 0) and "LOST_HOSTS" not in marks(site, IMAGE)


def test_a_host_that_drbd_or_linstor_reaches_may_run_the_guest_and_keeps_the_image(site: Site) -> None:
    datablock(site)
    given(site, "node3")
    site.datastores(STORAGE_POOL="thick", LAYER_LIST="storage", REPLICA_COUNT=1)
    datablock(site, 6)
    given(site, "node1", 8, ANOTHER)
    before = [marks(site, name) for name in (IMAGE, OTHER)]
    site.hosts.stop("node1", "node3")
    try:
        with silent(site, "node3"):
            assert "host node3 cannot be reached" in failed(given_back(site, "node3"))
        assert "host node1 cannot be reached" in failed(deleted(site, "node1", 8, ANOTHER))
    finally:
        site.hosts.start("node1", "node3")
    assert [marks(site, name) for name in (IMAGE, OTHER)] == before and site.attached(IMAGE) == ["node3"]


def test_a_host_that_linstor_notices_a_moment_later_is_dead(site: Site) -> None:
    datablock(site)
    given(site, "node3")
    site.hosts.stop("node3")
    try:
        with later(3.0, drbd_events.kill, site.cluster, "node3"):
            assert LEFT in done(deleted(site, "node3")).stderr
    finally:
        site.hosts.start("node3")
        with site.cluster.lock:
            drbd_events.join(site.cluster, "node3")


def test_an_image_whose_replicas_differ_is_not_marked(site: Site) -> None:
    datablock(site)
    given(site, "node3")
    with off(site, "node3"):
        written_apart(site, IMAGE)
        before = marks(site, IMAGE)
        assert "StandAlone" in failed(deleted(site, "node3"))
        assert marks(site, IMAGE) == before


def test_all_of_a_vms_own_disks_go_although_their_host_is_dead(site: Site) -> None:
    """oned deletes one after the other, ends with the first that fails, and calls the VM gone."""
    disks = [D.DiskDocument(number, size=8, kind="fs", datastore=101) for number in (0, 1)]
    site.documents.put(D.vm(7, disks, lcm_state=1, hosts=["node3"]))
    for number in (0, 1):
        done(site.oned.tm("mkimage", 8, "raw", site.disk_word("node3", 7, number), 7, 101))
    site.documents.put(D.vm(7, disks, state=6, lcm_state=0, hosts=["node3"]))
    site.hosts.stop("node3")
    try:
        for number in (0, 1):
            outcome = done(site.oned.tm("delete", site.disk_word("node3", 7, number), 7, 101))
            assert f"left behind: link /var/lib/one/datastores/101/7/disk.{number} on node3" in outcome.stderr
    finally:
        site.hosts.start("node3")
    assert not site.cluster.definitions


def test_a_vm_goes_from_a_cdrom_although_its_host_is_dead(site: Site) -> None:
    """Its other disks come after it, and oned ends with the first that fails."""
    datablock(site)
    given(site, "node3", disk=CDROM)
    with off(site, "node3"):
        assert f"left behind: attachment of {IMAGE} on node3" in done(deleted(site, "node3", disk=CDROM)).stderr
