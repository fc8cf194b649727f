"""Snapshots of VMs' disks, by the scripts as oned calls them: what they hold, what is left of them, what is refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from guest_support import format_disk, run
from lab.controller import satellites
from lab.controller.faults import Fault
from lab.controller.features import Version
from lab.guests import Domain, Guests
from lab.guests.written import check_files
from lab.hosts.machine import until
from lab.oned import documents as D
from lab.site import Site
from linstor_un.naming import by_res
from site_support import done, failed, leave_half_made, marks, meanwhile, opened
from snapshot_support import (
    CLONED,
    DISK,
    HOST,
    IMAGE,
    PERSISTENT,
    begins,
    by_somebody_else,
    delete,
    held,
    know,
    looked_at,
    make_vm,
    names,
    order,
    snapshot,
    snapshot_marks,
    write,
)

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "thick": "LVM", "zfs": "ZFS_THIN"}}
LINSTOR = ("1.20", "1.27", "1.31", "1.33", "1.34")


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


@pytest.fixture(params=LINSTOR)
def everywhere(site: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The site with each version of LINSTOR."""
    site.cluster.version = Version(request.param)
    site.reset()
    yield site
    site.cluster.version = Version("1.33")


# --- taking -------------------------------------------------------------------------------------------------------


def test_t25_a_snapshot_holds_the_bytes_of_then_and_is_marked_with_the_disks_size(everywhere: Site) -> None:
    site = everywhere
    # Its own disk or a persistent image, where it makes no difference which.
    disk = PERSISTENT if site.cluster.version.name in ("1.27", "1.34") else CLONED
    name = make_vm(site, disk)
    before = marks(site, name)
    for number, text in enumerate(("first", "other")):
        write(site, name, text)
        done(order(site, number, disk, date=1000 + number))
    write(site, name, "later")

    assert names(site, name) == ["snapshot-0", "snapshot-1"]
    assert [held(site, name, one, 5) for one in names(site, name)] == ["first", "other"]
    assert begins(site, name, 5) == "later"
    size = str(8 << 10)
    assert snapshot_marks(site, name) == {
        "0/DISK_SIZE": size, "0/DATE": "1000", "1/DISK_SIZE": size, "1/DATE": "1001",
    }  # fmt: skip
    assert before.items() <= marks(site, name).items()
    assert site.attached(name) == ["node3"] and site.holders(name) == ["node1", "node2"]


def test_a_rerun_of_the_same_order_keeps_its_snapshot(site: Site) -> None:
    make_vm(site)
    write(site, DISK, "first")
    done(order(site, 0))
    taken = snapshot(site, DISK, "snapshot-0").uuid
    write(site, DISK, "later")
    outcome = done(order(site, 0))
    assert "was taken by an interrupted run" in outcome.stderr
    assert snapshot(site, DISK, "snapshot-0").uuid == taken and held(site, DISK, "snapshot-0", 5) == "first"


@pytest.mark.parametrize("left", ["without marks", "of an older order", "failed"])
def test_what_is_left_of_something_else_is_not_taken_for_the_disk_of_now(site: Site, left: str) -> None:
    make_vm(site)
    write(site, DISK, "older")
    if left == "without marks":
        by_somebody_else(site, DISK, "snapshot-0")
    else:
        done(order(site, 0, date=999))
    if left == "failed":
        snapshot(site, DISK, "snapshot-0").flags = ["FAILED_DEPLOYMENT"]
    write(site, DISK, "today")
    outcome = done(order(site, 0, date=999 if left == "failed" else 1000))
    assert "replacing snapshot snapshot-0" in outcome.stderr
    assert held(site, DISK, "snapshot-0", 5) == "today" and names(site, DISK) == ["snapshot-0"]


def test_a_snapshot_that_linstor_still_takes_is_waited_for(site: Site) -> None:
    make_vm(site)
    done(order(site, 0))
    taken = snapshot(site, DISK, "snapshot-0")
    flags, taken.flags = taken.flags, []
    looks: list[int] = []

    class Settling(Fault):
        def hits(self, method: str, path: str) -> bool:
            if method == "GET" and path.endswith("view/snapshots"):
                looks.append(1)
                if len(looks) == 3:
                    taken.flags = flags
            return False

    site.controller.faults.add(Settling("drop"))
    done(order(site, 0))
    assert len(looks) == 3 and snapshot(site, DISK, "snapshot-0") is taken


@pytest.mark.parametrize("live", [False, True])
def test_a_pool_without_snapshots_is_refused_before_anything_happens(site: Site, live: bool) -> None:
    site.datastores(STORAGE_POOL="thick", REPLICA_COUNT=2)
    make_vm(site)
    site.controller.faults.log.clear()
    said = failed(order(site, 0, live=live))
    assert f"{DISK} is in pool thick of kind LVM on node1, which cannot take snapshots" in said
    assert {entry["method"] for entry in site.controller.faults.log} == {"GET"}


def test_a_disk_that_is_incomplete_or_somebody_elses_gets_no_snapshot(site: Site) -> None:
    make_vm(site)
    leave_half_made(site, DISK)
    assert "is not complete (STATE=creating)" in failed(order(site, 0))
    found = site.definition(DISK)
    assert found
    found.props.update({"Aux/one/STATE": "reverting"})
    assert "is half-way back to a snapshot" in failed(order(site, 0))
    del found.props["Aux/one/STATE"]
    found.flags.append("DELETE")
    assert "still being deleted" in failed(order(site, 0))
    found.flags.remove("DELETE")
    found.props["Aux/one/VM_ID"] = "9"
    assert "is marked VM_ID=9" in failed(order(site, 0))
    site.rest("DELETE", f"/v1/resource-definitions/{DISK}")
    assert f"{DISK} does not exist" in failed(order(site, 0))


def test_a_snapshot_of_replicas_that_are_all_behind_is_not_taken(site: Site) -> None:
    make_vm(site)
    before = marks(site, DISK)
    site.rest("DELETE", f"/v1/resource-definitions/{DISK}/resources/node2")
    site.cluster.stuck = {"NODE2"}
    site.rest("POST", f"/v1/resource-definitions/{DISK}/resources", [{"resource": {"node_name": "node2"}}])
    satellites.go_offline(site.cluster, "node1")
    try:
        assert "no replica of one-vm-7-disk-0 on an online node is up to date" in failed(order(site, 0))
    finally:
        site.cluster.stuck = set()
        satellites.come_back(site.cluster, "node1")
    assert names(site, DISK) == [] and marks(site, DISK) == before


def test_a_disk_whose_replicas_differ_gets_no_snapshot_and_no_mark(site: Site) -> None:
    make_vm(site)
    found = site.definition(DISK)
    assert found
    found.resources["NODE1"].strayed = {"NODE2"}
    site.controller.faults.log.clear()
    assert "have differing data" in failed(order(site, 0))
    assert "have differing data" in failed(delete(site, 0))
    assert {entry["method"] for entry in site.controller.faults.log} == {"GET"}


def test_a_refused_snapshot_leaves_no_mark(site: Site) -> None:
    make_vm(site)
    refusal = {"ret_code": -4611686018427387904 | 979, "message": "Cannot create snapshot, not all UpToDate"}
    site.controller.faults.add(Fault("refuse", method="POST", path="/snapshots", entries=[refusal]))
    assert "not all UpToDate" in failed(order(site, 0))
    assert not snapshot_marks(site, DISK) and not names(site, DISK)


def test_t24_a_running_vms_snapshot_is_of_a_moment_when_its_guest_cannot_write(site: Site, guests: Guests) -> None:
    make_vm(site)
    run(guests, "node3", Domain("one-7", 7))
    seen: list[str] = []
    meanwhile(site, "POST", f"/{DISK}/snapshots$", lambda: seen.append(guests.reason("node3", "one-7")))
    done(order(site, 0, live=True))
    assert seen == ["paused (user)"] and guests.reason("node3", "one-7") == "running (unpaused)"
    assert names(site, DISK) == ["snapshot-0"]

    guests.stop("node3")
    assert "cannot keep the guest one-7 quiet on node3" in failed(order(site, 1, live=True))
    assert names(site, DISK) == ["snapshot-0"]
    assert {mark.split("/")[0] for mark in snapshot_marks(site, DISK)} == {"0"}


def test_t24_the_file_system_in_a_snapshot_of_a_running_vm_is_clean(site: Site, guests: Guests) -> None:
    make_vm(site)
    format_disk(site, DISK, HOST)
    run(guests, HOST, Domain("one-7", 7, jobs=["files:vda"], agent=True))
    guests.await_words(HOST, "one-7", "wrote file 3")
    said: list[str] = []
    meanwhile(site, "POST", f"/{DISK}/snapshots$", lambda: said.append(guests.console(HOST, "one-7")))
    done(order(site, 0, live=True))
    with looked_at(site, DISK, "snapshot-0") as file:
        assert check_files(file, said[0]) >= 3
    guests.await_more(HOST, "one-7", "wrote file")


def test_t24_a_driver_that_is_killed_leaves_its_vm_running(site: Site, guests: Guests) -> None:
    make_vm(site)
    run(guests, HOST, Domain("one-7", 7))
    know(site, CLONED, D.Snapshot(0), lcm_state=57)
    hanging = Fault("hang", method="POST", path=f"/{DISK}/snapshots$")
    site.controller.faults.add(hanging)
    running = site.oned.start_tm("snap_create_live", site.disk_word(HOST, 7, 0), 0, 7, 100)
    until(lambda: hanging.seen, "the snapshot", 60.0)
    assert guests.reason(HOST, "one-7") == "paused (user)"
    running.kill()
    until(lambda: guests.state(HOST, "one-7") == "running", "the resumption", 60.0)


# --- deleting -----------------------------------------------------------------------------------------------------


def test_t18_deleting_a_snapshot_takes_its_marks_along_and_leaves_what_is_not_ours(everywhere: Site) -> None:
    site = everywhere
    make_vm(site)
    for number in (0, 1, 10):
        done(order(site, number))
    for foreign in ("snapshot-0x", "nightly", "one-vm-70-disk-3", "snapshot-01"):
        by_somebody_else(site, DISK, foreign)
    with opened(site, "node3", by_res(DISK)):
        for _ in range(2):
            done(delete(site, 0))
            assert names(site, DISK) == [
                "nightly", "one-vm-70-disk-3", "snapshot-01", "snapshot-0x", "snapshot-1", "snapshot-10",
            ]  # fmt: skip
            assert {mark.split("/")[0] for mark in snapshot_marks(site, DISK)} == {"1", "10"}


def test_d14_the_marks_go_after_the_snapshot_and_one_that_stays_stops_nothing(site: Site) -> None:
    make_vm(site)
    done(order(site, 0))
    site.controller.faults.add(Fault("refuse", method="DELETE", path="snapshots/snapshot-0"))
    failed(delete(site, 0))
    assert names(site, DISK) == ["snapshot-0"] and len(snapshot_marks(site, DISK)) == 2

    site.controller.faults.add(Fault("refuse", method="PUT", path=DISK))
    outcome = done(delete(site, 0))
    assert f"marks of {DISK} for snapshot-0 stay" in outcome.stderr and not names(site, DISK)
    # The rest goes with the next deletion of that number.
    done(delete(site, 0))
    assert not snapshot_marks(site, DISK)


def test_a_snapshot_of_a_disk_that_is_gone_is_gone(site: Site) -> None:
    make_vm(site)
    site.rest("DELETE", f"/v1/resource-definitions/{DISK}")
    done(delete(site, 0))


def test_a_snapshot_of_somebody_elses_disk_stays(site: Site) -> None:
    make_vm(site)
    done(order(site, 0))
    found = site.definition(DISK)
    assert found
    found.props["Aux/one/VM_ID"] = "9"
    assert "is marked VM_ID=9" in failed(delete(site, 0))
    assert names(site, DISK) == ["snapshot-0"]


def test_snapshots_of_a_persistent_image_stay_with_it(site: Site) -> None:
    make_vm(site, PERSISTENT)
    done(order(site, 0, PERSISTENT))
    done(site.oned.tm("mvds", site.disk_word("node3", 7, 0), by_res(IMAGE), 7, 100))
    assert names(site, IMAGE) == ["snapshot-0"]
    assert {key.split("/")[0] for key in marks(site, IMAGE)} == {"IMAGE_ID", "SNAPSHOT_0"}
