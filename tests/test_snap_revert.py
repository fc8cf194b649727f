"""A VM's disk goes back to a snapshot: the right bytes, and everything else as it was, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.controller import satellites
from lab.controller.faults import Fault
from lab.controller.features import RELEASES, Version
from lab.hosts.machine import until
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import Site
from linstor_un.naming import by_res
from site_support import MIB, done, failed, later, leave_half_made, marks, opened
from snapshot_support import (
    CLONED,
    DISK,
    HOST,
    IMAGE,
    PERSISTENT,
    begins,
    by_somebody_else,
    delete,
    know,
    make_vm,
    names,
    order,
    revert,
    snapshot,
    snapshot_marks,
    write,
)

pytestmark = pytest.mark.slow

SITE = {
    "pools": {"thin": "LVM_THIN", "zfs": "ZFS_THIN"},
    "hosts": ("node1", "node2", "node3", "node4"),
}
LINSTOR = ("1.20", "1.27", "1.31", "1.33", "1.34")
FAR = 5 * MIB
NUMBERS = (8, 9, 10)


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes, node1 and node2."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


def with_linstor(site: Site, version: str) -> Site:
    site.cluster.version = Version(version)
    site.reset()
    return site


@pytest.fixture(params=LINSTOR)
def everywhere(site: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The site with each version of LINSTOR."""
    yield with_linstor(site, request.param)
    site.cluster.version = Version("1.33")


@pytest.fixture
def old(site: Site) -> Iterator[Site]:
    """The site with a LINSTOR that rolls back to the newest snapshot only."""
    yield with_linstor(site, "1.27")
    site.cluster.version = Version("1.33")


@pytest.fixture(params=["1.27", "1.33"])
def both(site: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """The site with either way of rolling back."""
    yield with_linstor(site, request.param)
    site.cluster.version = Version("1.33")


def history(site: Site, disk: D.DiskDocument = CLONED) -> str:
    """Let a disk have snapshots 8, 9 and 10 with "state 8" and so on, and "state N" far in, and go on from there."""
    name = make_vm(site, disk)
    for number in NUMBERS:
        write(site, name, f"state {number:2}")
        done(order(site, number, disk, date=number))
        write(site, name, f"state {number:2}", at=FAR + number)
    write(site, name, "state of now")
    know(site, disk, *(D.Snapshot(number, date=number, size=disk.size) for number in NUMBERS), lcm_state=52)
    return name


def holds(site: Site, name: str, number: int) -> bool:
    """Whether a volume is as it was when snapshot `number` was taken, to its last byte."""
    expected = bytearray(16 * MIB)
    expected[:12] = f"state {number:2}\0\0\0\0".encode()
    for earlier in NUMBERS:
        if earlier < number:
            expected[FAR + earlier : FAR + earlier + 8] = f"state {earlier:2}".encode()
    found = site.read(name, 16 * MIB)
    return found == bytes(expected[: len(found)])


def look(site: Site, name: str = DISK) -> dict[str, object]:
    """Everything of a disk but its bytes."""
    found = site.definition(name)
    assert found
    flags = {one.node: sorted(one.flags) for one in found.resources.values()}
    return {
        "marks": marks(site, name), "resources": flags, "snapshots": names(site, name), "layers": found.layers,
        "link": site.link(HOST, 7, 0), "sizes": [one.size for one in found.volumes.values()],
        "all": sorted(site.cluster.definitions),
    }  # fmt: skip


def words(outcome: Outcome) -> str:
    return outcome.stderr


@pytest.mark.parametrize(("release", "rest"), [("1.31.2", "1.25.1"), ("1.32.1", "1.26.0")])
def test_a_rollback_that_is_known_to_lose_volumes_is_not_asked_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, release: str, rest: str
) -> None:
    """The replicas stay what they were: a rollback of these releases would have made new ones."""
    monkeypatch.setitem(RELEASES, "1.31", (release, rest))
    with_linstor(site, "1.31")
    try:
        name = history(site)
        definition = site.definition(name)
        assert definition
        before = {node: one.uuid for node, one in definition.resources.items() if not one.diskless}
        assert words(done(revert(site, 9))) == "" and holds(site, name, 9)
        assert {node: one.uuid for node, one in definition.resources.items() if not one.diskless} == before
    finally:
        site.cluster.version = Version("1.33")


# --- back to any ------------------------------------------------------------------------------------------------------


def test_d11_t23_any_snapshot_is_gone_back_to_and_all_else_stays(everywhere: Site) -> None:
    site = everywhere
    # Its own disk or a persistent image, where it makes no difference which.
    name = history(site, PERSISTENT if site.cluster.version.name in ("1.27", "1.34") else CLONED)
    before = look(site, name)
    for number in (9, 10, 8, 8):
        assert words(done(revert(site, number))) == ""
        assert holds(site, name, number), number
        assert look(site, name) == before
        write(site, name, "something else", at=FAR)


def test_a_snapshot_of_somebody_else_is_the_newest(old: Site) -> None:
    site = old
    history(site)
    by_somebody_else(site, DISK, "nightly")
    before = look(site)
    done(revert(site, 10))
    assert holds(site, DISK, 10) and look(site) == before


@pytest.mark.parametrize("layers", ["storage", "drbd luks storage"])
def test_layers_that_linstor_would_forget_are_still_known(both: Site, layers: str) -> None:
    site = both
    site.cluster.passphrase, site.cluster.unlocked = "secret", True
    site.datastores(STORAGE_POOL="thin", LAYER_LIST=layers, REPLICA_COUNT=2)
    host = "node1" if layers == "storage" else HOST
    make_vm(site, host=host)
    node = host if layers == "storage" else ""
    device = site.link(host, 7, 0)

    def write_here(text: str) -> None:
        script = 'printf %s "$2" | dd of="$1" conv=notrunc,fsync status=none'
        site.hosts.run(host, ["sh", "-c", script, "sh", device, text])

    for number in (0, 1):
        write_here(f"state {number}")
        done(order(site, number, host=host))
    write_here("state 2")
    found = site.definition(DISK)
    assert found
    stack = [list(one.layers) for one in found.resources.values()]
    for number in (0, 1):
        done(revert(site, number, host=host))
        assert site.read(DISK, 7, node).decode() == f"state {number}"
        assert found.layers == layers.upper().split()
        assert [list(one.layers) for one in found.resources.values()] == stack
        assert site.link(host, 7, 0) == device


def test_d10_what_is_only_for_the_time_of_a_revert_is_gone(old: Site) -> None:
    site = old
    history(site)
    before = look(site)
    for number in (8, 9):
        done(revert(site, number))
        assert look(site) == before and holds(site, DISK, number)


def test_somebody_elses_volume_is_not_taken_for_the_one_that_is_restored(old: Site) -> None:
    site = old
    history(site)
    site.rest("POST", "/v1/resource-definitions", {"resource_definition": {"name": f"{DISK}-restored"}})
    before, content = look(site), site.digest(DISK)
    assert f"{DISK}-restored" in failed(revert(site, 8))
    assert (look(site), site.digest(DISK)) == (before, content)


def test_a_replica_without_the_snapshot_is_not_lost(both: Site) -> None:
    site = both
    history(site)
    address = f"/v1/resource-definitions/{DISK}/resources"
    site.rest("POST", address, [{"resource": {"node_name": "node4", "props": {"StorPoolName": "thin"}}}])
    before = look(site)
    assert site.holders(DISK) == ["node1", "node2", "node4"]
    done(revert(site, 10))
    assert holds(site, DISK, 10) and look(site) == before


# --- what stays of today ------------------------------------------------------------------------------------------


def test_the_marks_of_a_former_vm_do_not_come_back(both: Site) -> None:
    site = both
    name = history(site, PERSISTENT)
    found = site.definition(name)
    assert found
    for one in found.snapshots.values():
        one.definition_props.update({"Aux/one/VM_ID": "3", "Aux/one/DISK_ID": "5", "Aux/one/DS_ID": "999"})
    # This one was deleted meanwhile.
    snapshot(site, name, "snapshot-10").definition_props["Aux/one/SNAPSHOT_4/DISK_SIZE"] = "8192"
    before = look(site, name)
    done(revert(site, 10))
    assert look(site, name) == before

    # Rolled back by somebody who leaves it at that, or by a run that was killed.
    if site.cluster.version.name == "1.33":
        site.rest("POST", f"/v1/resource-definitions/{name}/snapshot-rollback/snapshot-10", {})
        assert marks(site, name)["VM_ID"] == "3" and "SNAPSHOT_4/DISK_SIZE" in marks(site, name)
        done(revert(site, 10))
        assert look(site, name) == before


def test_the_tiebreaker_is_linstors_own_again_and_the_vm_has_its_attachment(everywhere: Site) -> None:
    site = everywhere
    history(site)
    before = look(site)["resources"]
    assert before[HOST] == ["DISKLESS", "DRBD_DISKLESS"]  # type: ignore[index]
    done(revert(site, 10))
    assert look(site)["resources"] == before

    # A VM that is where a replica is leaves the tiebreaker to LINSTOR.
    site.reset()
    make_vm(site, host="node1")
    done(order(site, 0, host="node1"))
    before = look(site)["resources"]
    assert [node for node, flags in before.items() if "TIE_BREAKER" in flags]  # type: ignore[attr-defined]
    done(revert(site, 0, host="node1"))
    assert look(site)["resources"] == before

    if site.cluster.version.has("rollback_by_restore"):
        site.rest("POST", f"/v1/resource-definitions/{DISK}/snapshot-rollback/snapshot-0", {})
        assert not [node for node, flags in look(site)["resources"].items() if "TIE_BREAKER" in flags]  # type: ignore[attr-defined]
        done(revert(site, 0, host="node1"))
        assert look(site)["resources"] == before


@pytest.mark.parametrize(("release", "size"), [("6.8.2", 12), ("6.8.3", 8), ("7.4.0", 8)])
def test_the_size_is_what_oned_will_take_it_for(site: Site, release: str, size: int) -> None:
    history(site)
    grown = D.DiskDocument(0, size=12, image=5)
    know(site, grown, *(D.Snapshot(number, date=number, size=8) for number in NUMBERS), lcm_state=63)
    done(site.oned.tm("resize", site.disk_word(HOST, 7, 0), 12, 7, 100))
    write(site, DISK, "at the end", at=11 * MIB)
    version = site.frontend.remotes / "VERSION"
    kept = version.read_text()
    version.write_text(f"{release}\n")
    try:
        done(revert(site, 9))
    finally:
        version.write_text(kept)
    found = site.definition(DISK)
    assert found
    assert [one.size for one in found.volumes.values()] == [size << 10]
    assert holds(site, DISK, 9)


def test_a_grown_disk_of_an_old_linstor_stays_as_large_and_ends_in_zeroes(old: Site) -> None:
    site = old
    history(site)
    grown = D.DiskDocument(0, size=12, image=5)
    know(site, grown, *(D.Snapshot(number, date=number, size=8) for number in NUMBERS), lcm_state=63)
    done(site.oned.tm("resize", site.disk_word(HOST, 7, 0), 12, 7, 100))
    write(site, DISK, "at the end", at=11 * MIB)
    before = look(site)
    done(revert(site, 10))
    assert look(site) == before and holds(site, DISK, 10) and len(site.read(DISK, 16 * MIB)) >= 12 * MIB


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["<>", "<"], ids=["writer", "reader"])
@pytest.mark.parametrize("node", [HOST, "node1"])
def test_an_open_disk_is_not_reverted(both: Site, node: str, mode: str) -> None:
    site = both
    history(site)
    before, content = look(site), site.digest(DISK)
    with opened(site, node, by_res(DISK), mode):
        assert f"{DISK} is open on {node}" in failed(revert(site, 9))
        assert look(site) == before
    assert site.digest(DISK) == content


def test_behind_a_silent_satellite_a_disk_counts_as_open(both: Site) -> None:
    site = both
    history(site)
    before, content = look(site), site.digest(DISK)
    satellites.go_offline(site.cluster, "node2")
    assert f"{DISK} may be open on node2" in failed(revert(site, 10))
    assert (look(site), site.digest(DISK)) == (before, content)


def test_a_satellite_that_is_back_in_a_moment_is_waited_for(both: Site) -> None:
    site = both
    history(site)
    before = look(site)
    satellites.go_offline(site.cluster, "node2")
    with later(1.5, satellites.come_back, site.cluster, "node2"):
        done(revert(site, 10))
    assert holds(site, DISK, 10) and look(site) == before


def test_what_is_not_there_or_not_whole_is_refused_and_nothing_changes(both: Site) -> None:
    site = both
    history(site)
    before, content = look(site), site.digest(DISK)
    assert f"{DISK} has no snapshot snapshot-7" in failed(revert(site, 7))
    snapshot(site, DISK, "snapshot-9").flags = ["FAILED_DEPLOYMENT"]
    assert "failed when it was taken" in failed(revert(site, 9))
    found = site.definition(DISK)
    assert found
    found.resources["NODE1"].strayed = {"NODE2"}
    assert "have differing data" in failed(revert(site, 10))
    found.resources["NODE1"].strayed = set()
    found.props["Aux/one/VM_ID"] = "9"
    assert "is marked VM_ID=9" in failed(revert(site, 10))
    found.props["Aux/one/VM_ID"] = "7"
    assert (look(site), site.digest(DISK)) == (before, content)
    leave_half_made(site, DISK)
    assert "is not complete" in failed(revert(site, 10))


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lose_answer", "drop"])
def test_a_lost_answer_of_a_rollback_is_no_failure(both: Site, kind: str) -> None:
    site = both
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=10)
    history(site)
    before = look(site)
    site.controller.faults.add(Fault(kind, method="POST", path="snapshot-rollback"))
    done(revert(site, 10))
    assert holds(site, DISK, 10) and look(site) == before


def test_a_rollback_that_never_answers_is_one_sentence(site: Site) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=1)
    history(site)
    site.controller.faults.add(Fault("hang", method="POST", path="snapshot-rollback", times=9))
    said = failed(revert(site, 9), 3)
    assert f"left behind: content and marks of {DISK} (they may be those of snapshot-9 already; revert again)" in said


def test_what_a_rollback_leaves_in_disorder_is_named(site: Site) -> None:
    make_vm(site, host="node1")
    done(order(site, 0, host="node1"))
    snapshot(site, DISK, "snapshot-0").definition_props["Aux/one/VM_ID"] = "3"
    site.controller.faults.add(Fault("refuse", method="DELETE", path=f"/{DISK}/resources/"))
    site.controller.faults.add(Fault("refuse", method="PUT", path=f"/{DISK}$", times=9))
    said = failed(revert(site, 0, host="node1"), 3)
    assert f"content and marks of {DISK} (they may be those of snapshot-0 already" in said
    assert f"cannot mark {DISK}" in said and marks(site, DISK)["VM_ID"] == "3"
    site.controller.faults.clear()


def test_a_rollback_that_answers_404_although_it_was_done_is_done(site: Site) -> None:
    history(site)
    before = look(site)
    # The node gets no attachment back: the driver attaches it itself.
    node = site.cluster.node(HOST)
    assert node
    layers = node.layers

    class Late(Fault):
        """LINSTOR cannot provide the volume on its former node at the end of the rollback."""

        def hits(self, method: str, path: str) -> bool:
            if "snapshot-rollback" in path:
                node.layers = tuple(layer for layer in layers if layer != "DRBD")
            elif method == "POST" and path.endswith("make-available"):
                node.layers = layers
            return False

    site.controller.faults.log.clear()
    site.controller.faults.add(Late("drop"))
    done(revert(site, 10))
    statuses = [one["status"] for one in site.controller.faults.log if "snapshot-rollback" in one["path"]]
    assert statuses == [404] and holds(site, DISK, 10) and look(site) == before


def test_a_failed_copy_leaves_the_disk_as_it_was(old: Site) -> None:
    site = old
    history(site)
    before, content = look(site), site.digest(DISK)
    site.hosts.hide_tools("node1", "qemu-img")
    site.hosts.hide_tools("node2", "qemu-img")
    try:
        said = failed(revert(site, 9))
    finally:
        site.hosts.hide_tools("node1")
        site.hosts.hide_tools("node2")
    assert "qemu-img" in said
    assert (look(site), site.digest(DISK)) == (before, content)


def kill_in_the_middle(site: Site) -> None:
    """Kill a revert to snapshot 9 when its temporary volume is about to get its content."""
    hanging = Fault("hang", method="POST", path="snapshot-restore-resource")
    site.controller.faults.add(hanging)
    running = site.oned.start_tm("snap_revert", site.disk_word(HOST, 7, 0), 9, 7, 100)
    until(lambda: hanging.seen, "the revert to restore", 60.0)
    running.kill()
    site.controller.faults.clear()


def test_an_interrupted_copy_is_used_by_nobody_until_a_rerun_has_finished_it(old: Site) -> None:
    site = old
    name = history(site, PERSISTENT)
    before = look(site, name)
    kill_in_the_middle(site)
    assert not site.link(HOST, 7, 0) and marks(site, name)["STATE"] == "reverting"
    write(site, name, "half of it")

    assert "half-way back to a snapshot" in failed(order(site, 11, PERSISTENT))
    site.documents.put(D.vm(8, [D.DiskDocument(0, size=8, image=5)], hosts=["node1"]))
    word = site.disk_word("node1", 8, 0)
    assert "half-way back to a snapshot" in failed(site.oned.tm("ln", site.source_word(5), word, 8, 100))
    assert "half-way back to a snapshot" in failed(site.oned.tm("clone", site.source_word(5), word, 8, 100))

    know(site, PERSISTENT, *(D.Snapshot(number, date=number, size=8) for number in NUMBERS), lcm_state=52)
    site.hosts.hide_tools("node1", "qemu-img")
    site.hosts.hide_tools("node2", "qemu-img")
    try:
        assert "qemu-img" in failed(revert(site, 9))
    finally:
        site.hosts.hide_tools("node1")
        site.hosts.hide_tools("node2")
    # It fell back to what was before the first run.
    assert begins(site, name, 12) == "state of now" and look(site, name) == before
    done(revert(site, 9))
    assert holds(site, name, 9) and look(site, name) == before


def test_a_disk_whose_revert_was_interrupted_goes_with_all_that_was_made_for_it(old: Site) -> None:
    site = old
    history(site)
    kill_in_the_middle(site)
    done(site.oned.tm("delete", site.disk_word(HOST, 7, 0), 7, 100))
    assert sorted(site.cluster.definitions) == [IMAGE.upper()]


def test_snapshots_can_be_deleted_after_a_revert(both: Site) -> None:
    site = both
    history(site)
    done(revert(site, 9))
    for number in (9, 8, 10):
        done(delete(site, number))
    assert holds(site, DISK, 9) and not names(site, DISK) and not snapshot_marks(site, DISK)
