"""Snapshots of images that no VM has: deleted, gone back to, flattened, as oned's datastore driver calls it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.controller.faults import Fault
from lab.controller.features import Version
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import Site
from linstor_un.naming import by_res
from site_support import done, failed, marks, opened, source
from snapshot_support import (
    HOST,
    IMAGE,
    PERSISTENT,
    begins,
    by_somebody_else,
    make_vm,
    names,
    order,
    snapshot,
    snapshot_marks,
    write,
)

pytestmark = pytest.mark.slow

SITE = {"hosts": ("node1", "node2", "node3", "node4")}
NUMBERS = (0, 1, 2, 10)


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes, node1 and node2."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


@pytest.fixture(params=["1.27", "1.33"])
def both(site: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The site with a LINSTOR that rolls back to the newest only, and with one that rolls back to any."""
    site.cluster.version = Version(request.param)
    site.reset()
    yield site
    site.cluster.version = Version("1.33")


def history(site: Site) -> None:
    """Let image 5 have snapshots that a VM's disk had, and be left by that VM."""
    make_vm(site, PERSISTENT)
    for number in NUMBERS:
        write(site, IMAGE, f"state {number:2}")
        done(order(site, number, PERSISTENT, date=number))
    write(site, IMAGE, "state of now")
    done(site.oned.tm("mvds", site.disk_word(HOST, 7, 0), by_res(IMAGE), 7, 100))
    by_somebody_else(site, IMAGE, "nightly")
    by_somebody_else(site, IMAGE, "one-vm-70-disk-3")


def ds(site: Site, action: str, number: int) -> Outcome:
    document = D.image(site.oned.release, 5, source=source(5), size=8, target=number, snapshots=NUMBERS)
    return site.oned.ds(action, document, site.image_datastore)


def state(site: Site) -> str:
    return begins(site, IMAGE, 12).rstrip("\0")


def rolls_to_any(site: Site) -> bool:
    return site.cluster.version.has("rollback_by_restore")


def refuse_to_go_back(site: Site) -> None:
    """Let a flattening to snapshot 2 fail before the image holds any of it."""
    rolls = rolls_to_any(site)
    refused = "snapshot-rollback" if rolls else "snapshot-restore"
    site.controller.faults.add(Fault("refuse", method="POST", path=refused))
    failed(ds(site, "snap_flatten", 2), 3 if rolls else 1)


def resources(site: Site) -> dict[str, list[str]]:
    found = site.definition(IMAGE)
    assert found
    return {one.node: sorted(one.flags) for one in found.resources.values()}


def test_an_image_goes_back_to_any_snapshot_and_belongs_to_no_vm(both: Site) -> None:
    site = both
    history(site)
    before = (resources(site), names(site, IMAGE), marks(site, IMAGE))
    assert "VM_ID" not in marks(site, IMAGE)
    for number in (2, 10, 0):
        done(ds(site, "snap_revert", number))
        assert state(site) == f"state {number:2}"
        assert (resources(site), names(site, IMAGE), marks(site, IMAGE)) == before


def test_an_image_is_as_large_as_oned_thinks(site: Site) -> None:
    history(site)
    found = site.definition(IMAGE)
    assert found
    snapshot(site, IMAGE, "snapshot-1").sizes[0] = 6 << 10
    done(ds(site, "snap_revert", 1))
    assert [one.size for one in found.volumes.values()] == [8 << 10]


def test_a_snapshot_of_an_image_is_deleted_and_going_twice_is_no_error(both: Site) -> None:
    site = both
    history(site)
    for _ in range(2):
        done(ds(site, "snap_delete", 1))
        assert names(site, IMAGE) == ["nightly", "one-vm-70-disk-3", "snapshot-0", "snapshot-10", "snapshot-2"]
        assert {mark.split("/")[0] for mark in snapshot_marks(site, IMAGE)} == {"0", "2", "10"}
    assert state(site) == "state of now"


def test_an_image_in_use_is_not_touched(both: Site) -> None:
    site = both
    history(site)
    for action in ("snap_revert", "snap_flatten"):
        with opened(site, "node1", by_res(IMAGE)):
            assert f"{IMAGE} is open on node1" in failed(ds(site, action, 1))
    assert state(site) == "state of now" and len(names(site, IMAGE)) == 6


def test_d12_flattening_keeps_what_the_target_holds_and_deletes_only_ours(both: Site) -> None:
    site = both
    history(site)
    before = {key: value for key, value in marks(site, IMAGE).items() if not key.startswith("SNAPSHOT")}
    for _ in range(2):
        done(ds(site, "snap_flatten", 2))
        assert state(site) == "state  2" and names(site, IMAGE) == ["nightly", "one-vm-70-disk-3"]
        assert marks(site, IMAGE) == {**before, "FLATTENED": "2"}

    # What was flattened once does not excuse a target that is missing later.
    make_vm(site, PERSISTENT)
    done(order(site, 0, PERSISTENT))
    assert "FLATTENED" not in marks(site, IMAGE)


@pytest.mark.parametrize("target", [7, 3])
def test_d12_without_the_target_nothing_is_deleted(both: Site, target: int) -> None:
    site = both
    history(site)
    by_somebody_else(site, IMAGE, "snapshot-3")
    snapshot(site, IMAGE, "snapshot-3").flags = ["FAILED_DEPLOYMENT"]
    before = names(site, IMAGE)
    failed(ds(site, "snap_flatten", target))
    assert names(site, IMAGE) == before and state(site) == "state of now"


def test_d12_a_revert_that_fails_deletes_nothing(both: Site) -> None:
    site = both
    history(site)
    before = names(site, IMAGE)
    refuse_to_go_back(site)
    assert names(site, IMAGE) == before and state(site) == "state of now"
    assert "FLATTENED" not in marks(site, IMAGE)


def test_an_image_that_never_got_back_to_its_target_is_not_taken_for_flattened(both: Site) -> None:
    site = both
    history(site)
    refuse_to_go_back(site)
    # An administrator deletes it by hand: nothing is left to go back to.
    site.rest("DELETE", f"/v1/resource-definitions/{IMAGE}/snapshots/snapshot-2")
    assert "has no snapshot snapshot-2" in failed(ds(site, "snap_flatten", 2))
    assert {"snapshot-0", "snapshot-1", "snapshot-10"} <= set(names(site, IMAGE)) and state(site) == "state of now"


def test_a_flattening_that_fails_behind_its_target_is_finished_by_a_rerun(both: Site) -> None:
    site = both
    history(site)
    # The last effect: all snapshots are gone, and their marks stay.
    site.controller.faults.add(Fault("refuse", method="PUT", path=f"/{IMAGE}$", at=2 if rolls_to_any(site) else 3))
    failed(ds(site, "snap_flatten", 2), 3)
    before = marks(site, IMAGE)
    assert before["FLATTENED"] == "2" and snapshot_marks(site, IMAGE) and "snapshot-2" not in names(site, IMAGE)
    found = site.definition(IMAGE)
    assert found
    found.resources["NODE1"].strayed = {"NODE2"}
    assert "node1 is StandAlone" in failed(ds(site, "snap_flatten", 2)) and marks(site, IMAGE) == before
    found.resources["NODE1"].strayed = set()
    done(ds(site, "snap_flatten", 2))
    assert state(site) == "state  2" and not snapshot_marks(site, IMAGE)


def test_an_interrupted_flattening_is_finished_by_a_rerun(both: Site) -> None:
    site = both
    history(site)
    site.controller.faults.add(Fault("refuse", method="DELETE", path="snapshots/snapshot-1$"))
    failed(ds(site, "snap_flatten", 2), 3)
    # The target goes last: a rerun goes back to it first, whatever was written meanwhile.
    assert set(names(site, IMAGE)) >= {"snapshot-2", "snapshot-1"}
    done(ds(site, "snap_flatten", 2))
    assert state(site) == "state  2" and names(site, IMAGE) == ["nightly", "one-vm-70-disk-3"]


def test_a_snapshot_of_somebody_elses_image_stays(site: Site) -> None:
    history(site)
    found = site.definition(IMAGE)
    assert found
    found.props["Aux/one/IMAGE_ID"] = "6"
    for action in ("snap_delete", "snap_revert", "snap_flatten"):
        assert "is marked IMAGE_ID=6" in failed(ds(site, action, 1))
    assert len(names(site, IMAGE)) == 6


def test_an_image_that_is_gone_has_no_snapshots(site: Site) -> None:
    make_vm(site, PERSISTENT)
    site.rest("DELETE", f"/v1/resource-definitions/{IMAGE}")
    done(ds(site, "snap_delete", 1))
    assert f"{IMAGE} does not exist" in failed(ds(site, "snap_revert", 1))
    assert f"{IMAGE} does not exist" in failed(ds(site, "snap_flatten", 1))
