"""A VM's disk is saved as an image, by the script as oned calls it: bytes, marks, and what lies about afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from guest_support import run
from lab.controller.server import Controller
from lab.controller.volumes import Content
from lab.guests import Domain, Guests
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_nothing
from lab.site import Site
from linstor_un.naming import by_res
from site_support import (
    DATA,
    cp,
    device,
    done,
    failed,
    identity,
    marks,
    meanwhile,
    opened,
    padded,
    source,
    whole,
    written_apart,
)

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "thick": "LVM"}}
DISK, SAVED = "one-vm-7-disk-0", "one-image-9"
RUNNING, POWEROFF, SUSPENDED, UNDEPLOYED, STOPPED = 26, 27, 28, 67, 68
CLONED = D.DiskDocument(0, size=8, image=5)
PERSISTENT = D.DiskDocument(0, size=8, image=5, clone=False)


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


def vm(site: Site, state: int, document: D.DiskDocument = CLONED, host: str = "node3") -> None:
    site.documents.put(D.vm(7, [document], hosts=[host], lcm_state=state))


def disk(site: Site, document: D.DiskDocument = CLONED, host: str = "node3") -> str:
    """Give VM 7 a disk of 8 MiB with DATA on a host; returns its definition's name."""
    vm(site, 1, document, host)
    cp(site)
    action = "clone" if document.clone else "ln"
    done(site.oned.tm(action, site.source_word(5), site.disk_word(host, 7, 0), 7, 100))
    return DISK if document.clone else "one-image-5"


def mkfs(site: Site, number: int = 9, size: int = 8) -> None:
    """Let oned ask for the name of the image, and know it from now on."""
    release = site.oned.release
    document = D.image(release, number, size=size, format="save_as", REGTIME=1700000000)
    done(site.oned.ds("mkfs", document, site.image_datastore))
    site.documents.put(D.image(release, number, size=size, source=source(number), REGTIME=1700000000))


def cpds(site: Site, host: str = "node3", snapshot: int = -1, number: int = 9) -> Outcome:
    mkfs(site, number)
    return site.oned.tm("cpds", site.disk_word(host, 7, 0), source(number), snapshot, 7, 100)


def rm(site: Site, number: int = 9) -> Outcome:
    document = D.image(site.oned.release, number, size=8, source=source(number))
    return site.oned.ds("rm", document, site.image_datastore)


def saved(site: Site, outcome: Outcome, data: bytes = DATA, quiet: bool = True) -> None:
    """The image is complete, holds the data, is as redundant as others, and is all that is new."""
    read_nothing(done(outcome))
    assert outcome.stderr == "" or not quiet
    assert whole(site, SAVED) == padded(data, whole(site, SAVED))
    assert marks(site, SAVED) == {"IMAGE_ID": "9", "ORIGIN": "1700000000"}
    assert len(site.holders(SAVED)) == 2 and not site.attached(SAVED)
    assert {one.name for one in site.cluster.definitions.values()} <= {"one-image-5", DISK, SAVED}


def snapshots(site: Site, name: str) -> list[str]:
    found = site.definition(name)
    assert found
    return sorted(snapshot.name for snapshot in found.snapshots.values())


def snapshot(site: Site, name: str, number: int) -> None:
    site.rest("POST", f"/v1/resource-definitions/{name}/snapshots", {"name": f"snapshot-{number}"})


def write(site: Site, name: str, text: bytes) -> bytes:
    """Let the guest write at the beginning of its disk; returns what the disk begins with from then on."""
    content = Content(name, 0)
    with site.volumes.settled(content).open("r+b") as file:
        file.write(text)
    return text + DATA[len(text) :]


def nothing_new(site: Site, *names: str) -> None:
    """Nothing of a failed attempt is left, and the disk's snapshots are those that it had."""
    assert {one.name for one in site.cluster.definitions.values()} == {"one-image-5", *names}
    for name in names:
        assert not [one for one in snapshots(site, name) if not one.startswith("snapshot-")]


# --- a VM that does not run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [POWEROFF, SUSPENDED], ids=["poweroff", "suspended"])
@pytest.mark.parametrize("document", [CLONED, PERSISTENT], ids=["clone", "persistent"])
def test_the_disk_of_a_vm_that_does_not_run_is_copied(site: Site, document: D.DiskDocument, state: int) -> None:
    name = disk(site, document)
    data = write(site, name, b"of the guest")
    vm(site, state, document)
    before = marks(site, name)
    saved(site, cpds(site), data)
    assert marks(site, name) == before and site.link("node3", 7, 0) == by_res(name)
    assert site.attached(name) == ["node3"] and not snapshots(site, name)


@pytest.mark.parametrize("state", [UNDEPLOYED, STOPPED], ids=["undeployed", "stopped"])
def test_t21_a_vm_that_is_nowhere_is_saved_from_a_host_that_has_the_data(site: Site, state: int) -> None:
    """oned names the front-end, which is no LINSTOR node and holds nothing."""
    name = disk(site)
    site.hosts.run("node3", ["rm", "/var/lib/one/datastores/101/7/disk.0"])
    for _ in range(2):
        site.rest("DELETE", f"/v1/resource-definitions/{name}/resources/node3")
    vm(site, state)
    saved(site, cpds(site, "frontend"))
    assert not site.attached(name)


def test_a_disk_that_grew_is_saved_as_large_as_it_is(site: Site) -> None:
    name = disk(site)
    site.rest("PUT", f"/v1/resource-definitions/{name}/volume-definitions/0", {"size_kib": 16 << 10})
    vm(site, POWEROFF)
    saved(site, cpds(site))
    found = site.definition(SAVED)
    assert found and found.volumes[0].size == 16 << 10


def test_an_image_is_never_smaller_than_oned_says(site: Site) -> None:
    disk(site)
    vm(site, POWEROFF)
    mkfs(site, size=12)
    saved(site, site.oned.tm("cpds", site.disk_word("node3", 7, 0), source(9), -1, 7, 100))
    found = site.definition(SAVED)
    assert found and found.volumes[0].size == 12 << 10


def test_a_disk_that_somebody_has_open_is_not_saved_as_if_it_were_quiet(site: Site) -> None:
    name = disk(site)
    vm(site, POWEROFF)
    with opened(site, "node3", by_res(name)):
        assert f"{name} is open for writing on node3" in failed(cpds(site))
    nothing_new(site, name)
    saved(site, cpds(site))


def test_nothing_old_is_left_on_an_image_in_a_thick_pool(site: Site) -> None:
    disk(site)
    site.datastores(STORAGE_POOL="thick", REPLICA_COUNT=2)
    vm(site, POWEROFF)
    site.volumes.dirty = True
    try:
        saved(site, cpds(site))
    finally:
        site.volumes.dirty = False


def test_without_drbd_the_replica_that_the_vm_wrote_to_is_saved(site: Site) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    name = disk(site, host="node2")
    with site.volumes.settled(Content(name, 0, "node2")).open("r+b") as file:
        file.write(b"of the guest")
    vm(site, POWEROFF, host="node2")
    read_nothing(done(cpds(site, "node2")))
    for node in site.holders(SAVED):
        assert whole(site, SAVED, node).startswith(b"of the guest")
    done(rm(site))
    vm(site, UNDEPLOYED, host="node2")
    site.hosts.kill("node2")
    site.cluster.node("node2").online = False  # type: ignore[union-attr]
    try:
        assert "node2, where its VM wrote to it" in failed(cpds(site, "frontend"))
    finally:
        site.hosts.start("node2")
        site.cluster.node("node2").online = True  # type: ignore[union-attr]
    nothing_new(site, name)


# --- a VM that runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [CLONED, PERSISTENT], ids=["clone", "persistent"])
def test_t20_a_running_vms_disk_is_saved_as_it_was_at_one_moment(
    site: Site, guests: Guests, document: D.DiskDocument
) -> None:
    """What the guest writes while the copy runs is not in it: the copy is of a snapshot."""
    name = disk(site, document)
    data = write(site, name, b"before")
    vm(site, RUNNING, document)

    meanwhile(site, "POST", "snapshot-restore-resource", lambda: write(site, name, b"after!"))
    with opened(site, "node3", by_res(name)):
        saved(site, cpds(site), data)
    assert not snapshots(site, name) and site.attached(name) == ["node3"]
    assert site.read(name, 6) == b"after!"
    assert guests


def test_without_drbd_a_running_vms_own_replica_is_saved(site: Site, guests: Guests) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    name = disk(site, host="node2")
    with site.volumes.settled(Content(name, 0, "node2")).open("r+b") as file:
        file.write(b"of the guest")
    vm(site, RUNNING, host="node2")
    with opened(site, "node2", device(site, name, "node2")):
        read_nothing(done(cpds(site, "node2")))
    for node in site.holders(SAVED):
        assert whole(site, SAVED, node).startswith(b"of the guest")
    assert not snapshots(site, name) and guests


@pytest.mark.parametrize("layers", ["drbd storage", "storage"])
def test_a_running_vms_disk_in_a_pool_without_snapshots_is_copied_while_its_guest_waits(
    site: Site, guests: Guests, layers: str
) -> None:
    site.datastores(STORAGE_POOL="thick", LAYER_LIST=layers, REPLICA_COUNT=2)
    name = disk(site, host="node2")
    run(guests, "node2", Domain("one-7", 7))
    vm(site, RUNNING, host="node2")
    seen: list[str] = []
    meanwhile(site, "PUT", f"/{SAVED}$", lambda: seen.append(guests.reason("node2", "one-7")))
    outcome = done(cpds(site, "node2"))
    assert f"{name} is in pool thick, which cannot take snapshots: VM 7 waits while 8 MiB are copied" in outcome.stderr
    assert "VM 7 was suspended for" in outcome.stderr and guests.reason("node2", "one-7") == "running (unpaused)"
    assert seen == ["running (unpaused)"] and not snapshots(site, name)
    for node in [""] if "drbd" in layers else site.holders(SAVED):
        assert whole(site, SAVED, node) == padded(DATA, whole(site, SAVED, node))
    assert marks(site, SAVED) == {"IMAGE_ID": "9", "ORIGIN": "1700000000"}


def test_a_guest_that_cannot_be_kept_quiet_is_not_saved(site: Site, guests: Guests) -> None:
    """Without libvirt nobody knows whether the guest writes."""
    name = disk(site)
    vm(site, RUNNING)
    guests.stop("node3")
    assert "cannot keep the guest one-7 quiet on node3" in failed(cpds(site))
    nothing_new(site, name)


def test_t22_two_disks_of_one_image_are_saved_side_by_side(site: Site, guests: Guests) -> None:
    """Each has a snapshot and a volume of its own beside it, named by what is made: none takes the other's away."""
    name = disk(site, CLONED)
    data = write(site, name, b"one disk, two images")
    vm(site, RUNNING)
    for number in (9, 10):
        mkfs(site, number)
    words = [("cpds", site.disk_word("node3", 7, 0), source(number), "-1", "7", "100") for number in (9, 10)]
    running = [site.oned.start_tm(*each) for each in words]
    for one in running:
        read_nothing(done(site.oned.finish(one, 120.0)))
    for saved_one in (SAVED, "one-image-10"):
        assert whole(site, saved_one) == padded(data, whole(site, saved_one))
    assert not snapshots(site, name) and not site.definition(f"{SAVED}-restored") and guests


# --- a snapshot -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [RUNNING, POWEROFF], ids=["running", "poweroff"])
def test_a_snapshot_of_a_disk_is_saved_whatever_the_disk_has_now(site: Site, state: int) -> None:
    """It needs no quiet guest: what it holds does not change."""
    name = disk(site)
    data = {}
    for number in (9, 10, 2):
        data[number] = write(site, name, f"snapshot {number:02} ".encode())
        snapshot(site, name, number)
    write(site, name, b"something else")
    vm(site, state)
    for number in (10, 2):
        with opened(site, "node3", by_res(name)):
            saved(site, cpds(site, snapshot=number), data[number])
        assert snapshots(site, name) == ["snapshot-10", "snapshot-2", "snapshot-9"]
        done(rm(site))


def test_a_snapshot_is_saved_as_large_as_the_disk_was(site: Site) -> None:
    name = disk(site)
    snapshot(site, name, 0)
    site.rest("PUT", f"/v1/resource-definitions/{name}/volume-definitions/0", {"size_kib": 16 << 10})
    vm(site, POWEROFF)
    saved(site, cpds(site, snapshot=0))
    found = site.definition(SAVED)
    assert found and found.volumes[0].size == 8 << 10


def test_a_snapshot_that_is_not_there_is_told(site: Site) -> None:
    name = disk(site)
    vm(site, POWEROFF)
    assert f"{name} has no snapshot-3, which is to be saved" in failed(cpds(site, snapshot=3))
    nothing_new(site, name)


# --- an image that shares what the disk has -------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["running", "poweroff", "snapshot", "larger"])
def test_an_image_that_may_lie_with_the_disk_is_restored_and_not_copied(site: Site, guests: Guests, what: str) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE="snapshot")
    name = disk(site)
    data = write(site, name, b"of the guest")
    if what == "snapshot":
        snapshot(site, name, 0)
        write(site, name, b"written later")
    vm(site, RUNNING if what == "running" else POWEROFF)
    mkfs(site, size=12 if what == "larger" else 8)
    for node in site.hosts.names:
        site.hosts.hide_tools(node, "qemu-img")
    try:
        words = (site.disk_word("node3", 7, 0), source(9), 0 if what == "snapshot" else -1, 7, 100)
        saved(site, site.oned.tm("cpds", *words), data)
    finally:
        for node in site.hosts.names:
            site.hosts.hide_tools(node)
    assert site.holders(SAVED) == site.holders(name) and guests
    assert snapshots(site, name) == (["snapshot-0"] if what == "snapshot" else [])
    found = site.definition(SAVED)
    assert found and found.volumes[0].size == (12 if what == "larger" else 8) << 10


def test_an_image_whose_datastore_has_other_rules_is_copied(site: Site, guests: Guests) -> None:
    site.datastores(STORAGE_POOL="thin", REPLICA_COUNT=2)
    name = disk(site)
    data = write(site, name, b"of the guest")
    vm(site, RUNNING)
    for rules in ({"STORAGE_POOL": "thick", "REPLICA_COUNT": 2}, {"STORAGE_POOL": "thin", "REPLICA_COUNT": 3}):
        site.datastores(CLONE_MODE="snapshot", **rules)
        read_nothing(done(cpds(site)))
        assert whole(site, SAVED) == padded(data, whole(site, SAVED))
        found = site.definition(SAVED)
        assert found and guests and not snapshots(site, name)
        holders = [resource for resource in found.resources.values() if not resource.diskless]
        assert {resource.volumes[0].pool for resource in holders} == {rules["STORAGE_POOL"]}
        assert len(site.holders(SAVED)) == rules["REPLICA_COUNT"]
        done(rm(site))


@pytest.mark.parametrize("then", ["again", "rm"])
@pytest.mark.parametrize("killing", ["snapshots$", "snapshot-restore-resource", f"/{SAVED}$"])
def test_a_killed_restore_is_found_by_the_next_run_and_by_the_removal_of_the_image(
    site: Site, killing: str, then: str
) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE="snapshot")
    name = disk(site, PERSISTENT)
    vm(site, POWEROFF, PERSISTENT)
    mkfs(site)
    running = site.oned.start_tm("cpds", site.disk_word("node3", 7, 0), source(9), "-1", "7", "100")
    meanwhile(site, "POST|PUT", killing, running.kill)
    site.oned.finish(running, 120.0)
    site.controller.faults.clear()
    assert marks(site, SAVED)["STATE"] == "creating"
    if then == "again":
        saved(site, cpds(site), quiet=False)
    else:
        done(rm(site))
        nothing_new(site)
    assert not snapshots(site, name)


def test_a_killed_copy_is_not_cleared_away_where_its_sources_replicas_differ(site: Site) -> None:
    """To delete the snapshot would make DRBD connect them, and the older data would win."""
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE="snapshot")
    name = disk(site, PERSISTENT)
    vm(site, POWEROFF, PERSISTENT)
    mkfs(site)
    running = site.oned.start_tm("cpds", site.disk_word("node3", 7, 0), source(9), "-1", "7", "100")
    meanwhile(site, "POST", "snapshot-restore-resource", running.kill)
    site.oned.finish(running, 120.0)
    site.controller.faults.clear()
    kept = snapshots(site, name)
    written_apart(site, name, "node1", "node2")
    for outcome in (rm(site), cpds(site)):
        assert "have differing data" in failed(outcome)
        assert kept and snapshots(site, name) == kept


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_an_image_that_is_being_deleted_is_not_made(site: Site) -> None:
    """oned lets it be deleted while its disk waits to be saved; then its `rm` is over, and nobody would remove it."""
    name = disk(site)
    vm(site, POWEROFF)
    mkfs(site)
    deleted = D.image(site.oned.release, 9, size=8, source=source(9)).replace("<STATE>4<", "<STATE>7<")
    words = ("cpds", site.disk_word("node3", 7, 0), source(9), -1, 7, 100)
    site.documents.put(deleted)
    assert "image 9 is being deleted" in failed(site.oned.tm(*words))
    site.documents.remove("IMAGE", 9)
    assert "image 9" in failed(site.oned.tm(*words))
    nothing_new(site, name)


def test_a_failed_copy_leaves_nothing_and_the_disk_as_it_was(site: Site, guests: Guests) -> None:
    name = disk(site)
    vm(site, RUNNING)
    for node in site.hosts.names:
        site.hosts.hide_tools(node, "qemu-img")
    try:
        assert "qemu-img" in failed(cpds(site))
    finally:
        for node in site.hosts.names:
            site.hosts.hide_tools(node)
    nothing_new(site, name)
    assert site.attached(name) == ["node3"] and site.read(name, len(DATA)) == DATA and guests


@pytest.mark.parametrize("leftover", ["target", "snapshot", "restored", "restored unmarked"])
@pytest.mark.parametrize("then", ["again", "rm"])
def test_t22_what_a_killed_run_left_is_found_by_the_next_and_by_the_removal_of_the_image(
    site: Site, guests: Guests, leftover: str, then: str
) -> None:
    name = disk(site)
    vm(site, RUNNING)
    killing = {
        "target": ("POST", f"{name}/snapshots$"),
        "snapshot": ("POST", "/v1/resource-definitions$"),
        "restored": ("PUT", "/none$"),
        "restored unmarked": ("PUT", f"/{SAVED}-restored$"),
    }[leftover]
    if leftover == "restored":
        killing = ("DELETE", f"/{SAVED}-restored$")
    mkfs(site)
    running = site.oned.start_tm("cpds", site.disk_word("node3", 7, 0), source(9), "-1", "7", "100")
    meanwhile(site, *killing, running.kill)
    site.oned.finish(running, 120.0)
    site.controller.faults.clear()
    assert site.definition(SAVED) and marks(site, SAVED)["STATE"] == "creating"

    if then == "again":
        saved(site, cpds(site), quiet=False)
    else:
        done(rm(site))
        nothing_new(site, name)
    assert not snapshots(site, name) and guests


def test_somebody_elses_volume_of_a_like_name_is_left_alone(site: Site, guests: Guests) -> None:
    name = disk(site)
    vm(site, RUNNING)
    site.rest("POST", "/v1/resource-definitions", {"resource_definition": {"name": f"{SAVED}-restored"}})
    foreign = identity(site, f"{SAVED}-restored")
    assert "exist" in failed(cpds(site)) and identity(site, f"{SAVED}-restored") == foreign
    nothing_new(site, name, f"{SAVED}-restored")
    done(rm(site))
    assert identity(site, f"{SAVED}-restored") == foreign and guests


def test_somebody_elses_disk_is_not_saved(site: Site) -> None:
    name = disk(site)
    vm(site, POWEROFF)
    found = site.definition(name)
    assert found
    found.props["Aux/one/VM_ID"] = "9"
    assert f"{name} is marked VM_ID=9" in failed(cpds(site))
    mkfs(site, 5)
    refusal = failed(site.oned.tm("cpds", site.disk_word("node3", 7, 0), "/dev/drbd/by-res/payroll/0", -1, 7, 100), 2)
    assert "'payroll' is no image's definition" in refusal
    nothing_new(site, name)


def test_a_complete_image_is_kept_by_a_second_run(site: Site) -> None:
    disk(site)
    vm(site, POWEROFF)
    saved(site, cpds(site))
    before = identity(site, SAVED)
    write(site, DISK, b"later")
    saved(site, cpds(site))
    assert identity(site, SAVED) == before


def test_a_disk_whose_replicas_differ_is_not_saved(site: Site, guests: Guests) -> None:
    name = disk(site)
    written_apart(site, name, "node1", "node2")
    for state in (RUNNING, POWEROFF):
        vm(site, state)
        site.controller.faults.log.clear()
        assert "StandAlone" in failed(cpds(site))
        assert {entry["method"] for entry in site.controller.faults.log} == {"GET"}
    nothing_new(site, name)
    assert guests


def test_d9_the_datastores_own_controllers_are_asked_and_no_others(site: Site) -> None:
    other = Controller(site.cluster)
    other.start("127.0.0.1", 4370)
    try:
        disk(site)
        vm(site, POWEROFF)
        site.datastores(RESOURCE_GROUP="opennebula", LS_CONTROLLERS="127.0.0.1:4370")
        site.controller.faults.log.clear()
        saved(site, cpds(site))
        assert other.faults.log and site.controller.faults.log == []
    finally:
        other.stop()
