"""A VM's disk moved to a system datastore with other pools: its data comes along, and is never on too few nodes."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from lab.controller import satellites
from lab.controller.answers import ERROR
from lab.controller.drbd_kernel import up_to_date
from lab.controller.faults import Fault
from lab.controller.features import Version
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import Site
from linstor_un.naming import by_res
from site_support import cp, cut_off, done, failed, later, marks, opened
from test_moving import HOST_DEAD, IMAGE, PERSISTENT, RESUME, linked, mv, quiet, vm, volatile

pytestmark = pytest.mark.slow

POOLS = {"thin": "LVM_THIN", "fast": "LVM_THIN", "thick": "LVM"}
SITE = {"hosts": ("node1", "node2", "node3", "node4"), "pools": POOLS}
DISK = "one-vm-7-disk-0"
VOLATILE = D.DiskDocument(0, size=16, kind="fs", datastore=101)
SECOND = 102


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    site.cluster.prefer = lambda _: ["node1", "node2"]
    site.group("elsewhere", place_count=2, storage_pool_list=["fast"])
    second(site, RESOURCE_GROUP="elsewhere")
    yield
    site.cluster.prefer = lambda _: []
    site.cluster.stuck.clear()
    site.cluster.version = Version("1.33")
    site.cluster.work_seconds = 0.5


def second(site: Site, **attributes: object) -> None:
    """Set the attributes of the datastore that the VM moves to."""
    site.documents.put(D.datastore(SECOND, 1, LS_TIMEOUT=20, **attributes))  # type: ignore[arg-type]


def pools(site: Site, name: str = DISK) -> dict[str, str]:
    """Which pool each replica is in, by node."""
    found = site.definition(name)
    assert found
    return {one.node: one.volumes[0].pool for one in found.resources.values() if not one.diskless}


def mixing(site: Site) -> None:
    """Let replicas of one volume be in pools of different kinds, as an administrator may."""
    site.rest("POST", "/v1/controller/properties", {"override_props": {"AllowMixingStoragePoolDriver": "true"}})


def moved(site: Site, source: str = "node3", target: str = "node4") -> Outcome:
    vm(site, VOLATILE, hosts=(source, target))
    return mv(site, source, target, new=SECOND)


def test_data_of_which_a_part_is_cut_off_stays_where_it_is(site: Site) -> None:
    """Each replica calls itself up to date, and only one of them may be: that might go first."""
    volatile(site)
    cut_off(site, DISK, "node1", "node2")
    before = pools(site)
    assert "on node1 and node2 have no connection to each other" in failed(moved(site))
    assert pools(site) == before and site.link("node3", 7, 0) == by_res(DISK)


@pytest.mark.parametrize(
    ("target", "linstor"),
    [("node1", "1.33"), ("node3", "1.33"), ("node4", "1.33"), ("node1", "1.20"), ("node3", "1.27"), ("node4", "1.34")],
)
def test_a_disk_comes_to_the_pools_of_its_new_datastore(site: Site, target: str, linstor: str) -> None:
    site.cluster.version = Version(linstor)
    volatile(site)
    before = site.digest(DISK)
    assert set(pools(site).values()) == {"thin"}
    for _ in range(2):
        done(moved(site, target=target))
        assert sorted(pools(site).values()) == ["fast", "fast"] and site.digest(DISK) == before
        assert marks(site, DISK) == {"VM_ID": "7", "DISK_ID": "0", "DS_ID": str(SECOND), "ORIGIN": "volatile"}
        found = site.definition(DISK)
        assert found and found.group == "elsewhere"
        assert site.link(target, 7, 0, SECOND) == by_res(DISK)
        assert set(site.attached(DISK)) <= {target} and target in {*site.attached(DISK), *pools(site)}
    done(mv(site, target, "node3", old=SECOND))
    assert sorted(pools(site).values()) == ["thin", "thin"] and site.digest(DISK) == before


def test_there_are_always_as_many_replicas_with_all_data_as_before(site: Site) -> None:
    """A thick pool's replica has everything only after a while, and its last source must not go before."""
    volatile(site)
    mixing(site)
    site.cluster.work_seconds = 4.0
    second(site, STORAGE_POOL="thick", REPLICA_COUNT=2, NODE_LIST="node1,node3")
    before, fewest = site.digest(DISK), []

    class Watches(Fault):
        def hits(self, method: str, path: str) -> bool:
            found = site.definition(DISK)
            if found and super().hits(method, path):
                fewest.append(sum(up_to_date(one) for one in found.resources.values() if not one.deleting))
            return False

    site.controller.faults.add(Watches("drop", times=10**6))
    done(moved(site))
    assert min(fewest) == 2 and pools(site) == {"node1": "thick", "node3": "thick"} and site.digest(DISK) == before


def test_the_host_of_the_vm_gets_a_replica_where_the_datastore_prefers_it(site: Site) -> None:
    for target in ("node4", "node1"):
        volatile(site)
        second(site, STORAGE_POOL="fast", REPLICA_COUNT=2, PREFER_NODE="yes")
        done(moved(site, target=target))
        assert pools(site)[target] == "fast" and sorted(pools(site).values()) == ["fast", "fast"]
        assert not site.attached(DISK)
        done(site.oned.tm("delete", site.disk_word(target, 7, 0, SECOND), 7, 101))


def test_the_link_at_the_source_leads_to_the_device_until_the_disk_has_moved(site: Site) -> None:
    """The VM may be started again where it was when the move fails in the end. Three replicas need no tiebreaker."""
    volatile(site, "node1")
    second(site, STORAGE_POOL="fast", REPLICA_COUNT=3)
    refusal = [{"ret_code": ERROR | 975, "message": "not now"}]
    site.controller.faults.add(Fault("refuse", method="PUT", path=f"{DISK}$", entries=refusal))
    assert "not now" in failed(moved(site, "node1"), code=3)
    assert set(pools(site).values()) == {"fast"} and site.link("node1", 7, 0) == by_res(DISK)
    assert site.hosts.run("node1", ["head", "-c", "12", by_res(DISK)]).stdout == "of the guest"
    done(moved(site, "node1"))
    assert site.attached(DISK) in ([], ["node4"]) and not site.link("node1", 7, 0)


def test_only_the_nodes_of_the_new_datastore_get_replicas(site: Site) -> None:
    volatile(site)
    second(site, STORAGE_POOL="thin", NODE_LIST="node3,node4")
    done(moved(site))
    assert pools(site) == {"node3": "thin", "node4": "thin"}


def test_a_datastore_with_more_replicas_gets_more(site: Site) -> None:
    volatile(site)
    second(site, STORAGE_POOL="thin", REPLICA_COUNT=3)
    done(moved(site))
    assert len(pools(site)) == 3 and set(pools(site).values()) == {"thin"}


def test_a_disks_snapshots_stay_where_they_are_and_are_still_gone_back_to_and_deleted(site: Site) -> None:
    volatile(site, "node4")
    done(site.oned.tm("snap_create", site.disk_word("node4", 7, 0), 0, 7, 101))
    before = site.digest(DISK)
    site.hosts.run("node4", ["sh", "-c", 'printf "OF THE GUEST" >"$1"', "sh", by_res(DISK)])
    assert "its snapshots stay where they are" in done(moved(site, "node4", "node4")).stderr
    assert sorted(pools(site).values()) == ["fast", "fast"] and site.digest(DISK) != before
    vm(site, VOLATILE, state=0, hosts=("node4",))
    done(site.oned.tm("snap_revert", site.disk_word("node4", 7, 0, SECOND), 0, 7, SECOND))
    assert sorted(pools(site).values()) == ["fast", "fast"] and site.digest(DISK) == before
    done(site.oned.tm("snap_delete", site.disk_word("node4", 7, 0, SECOND), 0, 7, SECOND))
    found = site.definition(DISK)
    assert found and not found.snapshots
    done(site.oned.tm("delete", site.disk_word("node4", 7, 0, SECOND), 7, SECOND))
    assert not site.definition(DISK)


def test_a_disk_back_on_the_nodes_of_its_snapshot_in_another_pool_is_not_rolled_back_into_the_old_one(
    site: Site,
) -> None:
    volatile(site)
    done(site.oned.tm("snap_create", site.disk_word("node3", 7, 0), 0, 7, 101))
    before = site.digest(DISK)
    done(moved(site, target="node3"))
    site.cluster.prefer = lambda _: ["node1", "node2"]
    site.documents.put(D.datastore(103, 1, STORAGE_POOL="fast", NODE_LIST="node1,node2"))
    done(mv(site, "node3", "node3", old=SECOND, new=103))
    assert pools(site) == {"node1": "fast", "node2": "fast"}
    site.hosts.run("node3", ["sh", "-c", 'printf "OF THE GUEST" >"$1"', "sh", by_res(DISK)])
    vm(site, VOLATILE, state=0, hosts=("node3",))
    done(site.oned.tm("snap_revert", site.disk_word("node3", 7, 0, 103), 0, 7, 103))
    assert pools(site) == {"node1": "fast", "node2": "fast"} and site.digest(DISK) == before


def test_an_old_linstor_keeps_a_disk_with_snapshots_where_they_are(site: Site) -> None:
    site.cluster.version = Version("1.27")
    volatile(site)
    done(site.oned.tm("snap_create", site.disk_word("node3", 7, 0), 0, 7, 101))
    refused(site, "has snapshots, and LINSTOR before 1.31 could not go back to them from another pool")
    done(site.oned.tm("snap_delete", site.disk_word("node3", 7, 0), 0, 7, 101))
    done(moved(site))
    assert sorted(pools(site).values()) == ["fast", "fast"]


def test_a_disk_with_snapshots_does_not_go_where_it_could_not_go_back_to_them(site: Site) -> None:
    volatile(site)
    mixing(site)
    done(site.oned.tm("snap_create", site.disk_word("node3", 7, 0), 0, 7, 101))
    second(site, STORAGE_POOL="thick", REPLICA_COUNT=2)
    refused(site, "has snapshots, and could not go back to them in pool thick of kind LVM")


def test_an_image_stays_in_the_pools_of_its_own_datastore(site: Site) -> None:
    cp(site)
    linked(site, PERSISTENT)
    # What its datastore says now is for new images.
    site.documents.put(D.datastore(100, STORAGE_POOL="fast", REPLICA_COUNT=2))
    vm(site, PERSISTENT, hosts=("node3", "node4"))
    quiet(mv(site, "node3", "node4", new=SECOND))
    assert set(pools(site, IMAGE).values()) == {"thin"} and marks(site, IMAGE)["DS_ID"] == str(SECOND)


def test_data_comes_along_from_the_front_end_too(site: Site) -> None:
    volatile(site)
    vm(site, VOLATILE, state=10, hosts=("node3",))
    quiet(mv(site, "node3", "frontend"))
    vm(site, VOLATILE, state=RESUME, hosts=("node3", "node4"))
    done(mv(site, "frontend", "node4", new=SECOND))
    assert sorted(pools(site).values()) == ["fast", "fast"] and site.attached(DISK) in (["node4"], [])
    assert site.read(DISK, 12) == b"of the guest"


# --- what cannot be done ------------------------------------------------------------------------------------------


def refused(site: Site, text: str) -> None:
    before = pools(site)
    assert text in failed(moved(site))
    found = site.definition(DISK)
    assert found and found.group == "opennebula"
    assert pools(site) == before and marks(site, DISK)["DS_ID"] == "101"
    assert site.link("node3", 7, 0) == by_res(DISK) and not site.link("node4", 7, 0, SECOND)


def test_without_a_node_to_spare_nothing_is_begun(site: Site) -> None:
    volatile(site)
    second(site, STORAGE_POOL="fast", REPLICA_COUNT=2, NODE_LIST="node1,node2")
    refused(site, "one more node is needed to keep 2 replicas")
    second(site, STORAGE_POOL="fast", REPLICA_COUNT=5)
    refused(site, "needs 5 replicas, and 4 online nodes have pool fast")


def test_pools_of_another_kind_are_refused_unless_linstor_may_mix_them(site: Site) -> None:
    volatile(site)
    second(site, STORAGE_POOL="thick", REPLICA_COUNT=2)
    refused(site, "only with its property AllowMixingStoragePoolDriver")
    mixing(site)
    done(moved(site))
    assert sorted(pools(site).values()) == ["thick", "thick"]


def test_a_disk_that_is_not_encrypted_does_not_pass_for_one_that_is(site: Site) -> None:
    volatile(site)
    for group in ("elsewhere", "opennebula"):
        second(site, RESOURCE_GROUP=group, ENCRYPTION="yes")
        refused(site, "is not encrypted, as the new datastore wants its disks")


def test_without_drbd_data_stays_where_it_is(site: Site) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=1)
    vm(site, VOLATILE, state=1, hosts=("node1",))
    done(site.oned.tm("mkimage", 16, "raw", site.disk_word("node1", 7, 0), 7, 101))
    second(site, STORAGE_POOL="fast", LAYER_LIST="storage", REPLICA_COUNT=1)
    assert "no DRBD in its layers" in failed(moved(site, "node1", "node1"))
    assert pools(site) == {"node1": "thin"}


def test_a_new_replica_that_does_not_get_all_data_goes_again(site: Site) -> None:
    volatile(site)
    second(site, RESOURCE_GROUP="elsewhere")
    site.cluster.stuck = {"NODE3", "NODE4"}
    message = failed(moved(site))
    assert "is not up to date after" in message
    site.cluster.stuck = set()
    assert pools(site) == {"node1": "thin", "node2": "thin"} and marks(site, DISK)["DS_ID"] == "101"


def test_a_move_that_failed_half_way_goes_on_from_there(site: Site) -> None:
    volatile(site)
    before = site.digest(DISK)
    refusal = [{"ret_code": ERROR | 975, "message": "not now"}]
    # The first replica has been replaced then.
    site.controller.faults.add(Fault("refuse", at=2, method="DELETE", path=f"{DISK}/resources", entries=refusal))
    assert "retry the move, which goes on from there" in failed(moved(site), code=3)
    assert len(pools(site)) >= 2 and "fast" in pools(site).values() and site.digest(DISK) == before
    assert site.link("node3", 7, 0) == by_res(DISK) and marks(site, DISK)["DS_ID"] == "101"
    done(moved(site))
    assert sorted(pools(site).values()) == ["fast", "fast"] and site.digest(DISK) == before


def test_the_first_of_three_replicas_goes_back_when_nothing_old_has_gone(site: Site) -> None:
    volatile(site)
    refusal = [{"ret_code": ERROR | 975, "message": "not now"}]
    site.controller.faults.add(Fault("refuse", method="DELETE", path=f"{DISK}/resources", entries=refusal))
    assert "not now" in failed(moved(site))
    assert pools(site) == {"node1": "thin", "node2": "thin"}


def test_a_node_that_is_off_does_not_keep_a_disk_from_its_new_datastore_where_nothing_has_to_move(site: Site) -> None:
    volatile(site)
    second(site, STORAGE_POOL="thin", REPLICA_COUNT=2)
    with site.cluster.lock:
        satellites.go_offline(site.cluster, "node1")
    try:
        done(moved(site))
        assert marks(site, DISK)["DS_ID"] == str(SECOND) and pools(site) == {"node1": "thin", "node2": "thin"}
        second(site, RESOURCE_GROUP="elsewhere")
        vm(site, VOLATILE, hosts=("node4", "node4"))
        assert "while node1 is offline" in failed(mv(site, "node4", "node4", old=101, new=SECOND))
    finally:
        with site.cluster.lock:
            satellites.come_back(site.cluster, "node1")


def test_a_satellite_that_is_back_in_a_moment_does_not_keep_a_disk_where_it_is(site: Site) -> None:
    volatile(site)
    satellites.go_offline(site.cluster, "node1")
    with later(1.5, satellites.come_back, site.cluster, "node1"):
        done(moved(site))
    assert sorted(pools(site).values()) == ["fast", "fast"]


def test_a_replica_that_somebody_reads_is_not_taken_away(site: Site) -> None:
    volatile(site)
    with opened(site, "node1", by_res(DISK), "<"):
        assert f"{DISK} is open on node1" in failed(moved(site))
        assert pools(site) == {"node1": "thin", "node2": "thin"} and marks(site, DISK)["DS_ID"] == "101"
    done(moved(site))


def test_three_nodes_are_enough_for_two_replicas(site: Site) -> None:
    volatile(site)
    second(site, STORAGE_POOL="fast", REPLICA_COUNT=2)
    before = site.digest(DISK)
    with site.cluster.lock:
        satellites.go_offline(site.cluster, "node4")
    try:
        done(moved(site, "node1", "node1"))
    finally:
        with site.cluster.lock:
            satellites.come_back(site.cluster, "node4")
    assert sorted(pools(site).values()) == ["fast", "fast"] and site.digest(DISK) == before


def test_data_is_not_waited_for_when_the_host_is_dead_and_that_is_told(site: Site) -> None:
    volatile(site)
    vm(site, VOLATILE, state=HOST_DEAD, hosts=("node3", "node4"))
    assert f"{DISK} does not come to pool fast while node3" in done(mv(site, "node3", "node4", new=SECOND)).stderr
    assert set(pools(site).values()) == {"thin"} and marks(site, DISK)["DS_ID"] == str(SECOND)


def test_a_disk_that_runs_into_another_datastore_stays_in_its_pools_and_that_is_told(site: Site) -> None:
    volatile(site)
    site.documents.put(D.vm(7, [VOLATILE], hosts=["node4"], lcm_state=4))
    words = ("node3", "node4", f"/var/lib/one//datastores/{SECOND}/7", 7, SECOND)
    text = base64.b64encode(D.vm(7, [VOLATILE], hosts=["node4"], lcm_state=4).encode()).decode()
    done(site.oned.finish(site.oned.start_tm("premigrate", *words, stdin=text)))
    told = done(site.oned.finish(site.oned.start_tm("postmigrate", *words, stdin=text))).stderr
    assert f"{DISK} stays out of pool fast of its new datastore" in told
    assert set(pools(site).values()) == {"thin"} and marks(site, DISK)["DS_ID"] == str(SECOND)
