"""Live migration by premigrate, postmigrate and failmigrate: which hosts have a VM's disks, and may write, when."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Optional

import pytest
from lab.controller import drbd_events, satellites
from lab.controller.answers import ERROR
from lab.controller.faults import Fault
from lab.matrix.effects import Saboteur
from lab.matrix.looking import LOCKS, is_held
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_nothing
from lab.site import Site
from linstor_un.naming import by_res
from site_support import cp, datablock, device, done, failed, marks, opened
from test_backups import call as backup
from test_backups import document as backup_document
from test_moving import BASE, one_directory
from test_moving_directories import fill, listing, own_files, run
from test_saveas import cpds

pytestmark = pytest.mark.slow

SITE = {"hosts": ("node1", "node2", "node3", "node4"), "pools": {"thin": "LVM_THIN"}}
OWN, IMAGE, CDROM = "one-vm-7-disk-0", "one-image-5", "one-image-6"
# A disk of its own, a persistent image, a CDROM that others read as well.
DISKS = (
    D.DiskDocument(0, 16, kind="fs", datastore=101),
    D.DiskDocument(1, 8, 5, clone=False, more={"PERSISTENT": "YES"}),
    D.DiskDocument(2, 8, 6, clone=False, kind="CDROM", more={"SAVE": "NO", "READONLY": "YES"}),
)
MIGRATE, RUNNING = 4, 3
TWO = "DrbdOptions/Net/allow-two-primaries"
DIRECTORY = f"{BASE}/101/7"


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 and node4 have none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


def vm(site: Site, *hosts: str, state: int = MIGRATE, datastore: int = 101) -> None:
    site.documents.put(D.vm(7, DISKS, hosts=hosts, lcm_state=state, datastore=datastore))


def running(site: Site, host: str = "node3", datastore: int = 101) -> None:
    """Let VM 7 run on a host, with its three disks and files in its directory."""
    datablock(site, 5)
    cp(site, 6)
    vm(site, host, state=1, datastore=datastore)
    done(site.oned.tm("mkimage", 16, "raw", site.disk_word(host, 7, 0, datastore), 7, datastore))
    for disk, image in ((1, 5), (2, 6)):
        done(site.oned.tm("ln", site.source_word(image), site.disk_word(host, 7, disk, datastore), 7, 100))
    run(site, host, 'printf NVRAM >"$1/nvram" && mkdir "$1/vtpm" && echo x >"$1/vtpm/state"', f"{BASE}/{datastore}/7")


def call(
    site: Site, action: str, source: str, target: str, datastore: int = 101, caller: str = "", old: bool = False
) -> Outcome:
    """Call as oned does; `old` is the form of 5.8."""
    document = base64.b64encode(D.vm(7, DISKS, hosts=[target], lcm_state=MIGRATE, datastore=datastore).encode())
    words = [source, target, f"/var/lib/one//datastores/{datastore}/7", 7, datastore]
    more = ([document.decode()] if old else []) + ([caller] if caller else [])
    return site.oned.tm(action, *words, *more, stdin="" if old else document.decode() + "\n")


def quiet(outcome: Outcome) -> None:
    read_nothing(done(outcome))
    assert outcome.stderr == ""


def both_write(site: Site, name: str) -> set[str]:
    """The pairs of nodes that may write to a volume at once, for LINSTOR and for DRBD."""
    found = site.definition(name)
    assert found
    said = {" ".join(nodes).lower() for nodes, props in found.pairs.items() if props.get(TWO) == "yes"}
    held = {
        " ".join(sorted((node, peer))).lower()
        for node, resource in found.resources.items() for peer in resource.two_primaries
    }  # fmt: skip
    assert said == held, "LINSTOR and DRBD differ"
    return said


def where(site: Site, name: str) -> set[str]:
    """The hosts that have a volume's device because a VM is, or will be, there."""
    return {*site.attached(name), *(host for host in site.hosts.names if any(
        site.link(host, 7, disk) == by_res(name) for disk in range(3)
    ))}  # fmt: skip


def is_only_on(site: Site, host: str, *, directory: bool = True) -> None:
    """Everything of the VM is on one host, and nothing of a migration is left."""
    for disk, name in enumerate((OWN, IMAGE, CDROM)):
        assert where(site, name) == {host} and not both_write(site, name), name
        assert site.link(host, 7, disk) == by_res(name)
        assert "MIGRATION" not in marks(site, name) and len(site.holders(name)) == 2
    assert marks(site, CDROM) == {"IMAGE_ID": "6"}
    for other in site.hosts.names:
        found = site.hosts.run(other, ["ls", DIRECTORY], check=False).stdout.split()
        assert not directory or sorted(found) == (
            ["disk.0", "disk.1", "disk.2", "nvram", "vtpm"] if other == host else []
        ), other  # fmt: skip


def lost(site: Site, source: str, target: str, *names: str, age: int = 0) -> None:
    """Leave what a killed premigrate leaves: marked, attached, allowed, or only the first of it."""
    for name in names or (OWN, IMAGE):
        mark = {"Aux/one/MIGRATION": f"7/{source}/{target}/{int(time.time()) - age}"}
        site.rest("PUT", f"/v1/resource-definitions/{name}", {"override_props": mark})
        site.rest("POST", f"/v1/resource-definitions/{name}/resources/{target}/make-available", {"diskful": False})
        site.rest("PUT", f"/v1/resource-definitions/{name}/resource-connections/{source}/{target}",
                  {"override_props": {TWO: "yes"}})  # fmt: skip


# --- the whole way ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [False, True], ids=["since 5.10", "5.8"])
def test_a_vm_migrates_with_all_its_disks_and_files(site: Site, old: bool) -> None:
    running(site)
    before = listing(site, "node3")
    for _ in range(2):
        quiet(call(site, "premigrate", "node3", "node4", old=old))
        for name in (OWN, IMAGE):
            assert both_write(site, name) == {"node3 node4"} and where(site, name) == {"node3", "node4"}
        assert not both_write(site, CDROM) and where(site, CDROM) == {"node3", "node4"}
        assert listing(site, "node4") == listing(site, "node3") == before
        assert not own_files(site, "node3") and not own_files(site, "node4")
    for _ in range(2):
        quiet(call(site, "postmigrate", "node3", "node4", old=old))
        is_only_on(site, "node4")
        assert listing(site, "node4") == before and not own_files(site, "node4")


def test_a_vm_without_disks_takes_its_files_along(site: Site) -> None:
    """QEMU at the target opens its context image and NVRAM."""
    site.documents.put(D.vm(7, [], hosts=["node3"], lcm_state=MIGRATE))
    site.hosts.run("node3", ["mkdir", "-p", DIRECTORY])
    run(site, "node3", 'printf CONTEXT >"$1/disk.1" && printf NVRAM >"$1/nvram"', DIRECTORY)
    document = base64.b64encode(D.vm(7, [], hosts=["node4"], lcm_state=MIGRATE).encode()).decode()
    words = ["node3", "node4", "/var/lib/one//datastores/101/7", 7, 101]
    for action in ("premigrate", "postmigrate"):
        quiet(site.oned.tm(action, *words, stdin=f"{document}\n"))
        found = site.hosts.run("node4", ["cat", f"{DIRECTORY}/disk.1", f"{DIRECTORY}/nvram"])
        assert found.stdout == "CONTEXTNVRAM"
    assert site.hosts.run("node3", ["ls", DIRECTORY], check=False).returncode


def test_a_vm_migrates_between_hosts_with_replicas_and_keeps_both(site: Site) -> None:
    running(site, "node1")
    quiet(call(site, "premigrate", "node1", "node2"))
    assert both_write(site, OWN) == {"node1 node2"} and not site.attached(OWN)
    quiet(call(site, "postmigrate", "node1", "node2"))
    is_only_on(site, "node2")


def test_a_migration_that_failed_leaves_nothing_at_the_target(site: Site) -> None:
    running(site)
    before = listing(site, "node3")
    quiet(call(site, "premigrate", "node3", "node4"))
    for _ in range(2):
        quiet(call(site, "failmigrate", "node3", "node4"))
        is_only_on(site, "node3")
        assert listing(site, "node3") == before


def test_no_third_host_may_write_and_only_during_the_migration(site: Site) -> None:
    running(site)
    site.rest("POST", f"/v1/resource-definitions/{OWN}/resources/node4/make-available", {"diskful": False})
    quiet(call(site, "premigrate", "node3", "node1"))
    found = site.definition(OWN)
    assert found
    assert both_write(site, OWN) == {"node1 node3"}
    assert not found.resources["NODE4"].two_primaries and not found.resources["NODE2"].two_primaries
    quiet(call(site, "postmigrate", "node3", "node1"))
    assert not both_write(site, OWN)


def test_what_an_administrator_allowed_stays_allowed(site: Site) -> None:
    running(site, "node1")
    site.rest("PUT", f"/v1/resource-definitions/{OWN}", {"override_props": {TWO: "yes"}})
    quiet(call(site, "premigrate", "node1", "node2"))
    found = site.definition(OWN)
    assert found and "MIGRATION" not in marks(site, OWN)
    for action in ("failmigrate", "postmigrate"):
        quiet(call(site, action, "node1", "node2"))
        assert found.props[TWO] == "yes"


def test_a_cdrom_that_another_vm_reads_stays_where_that_is(site: Site) -> None:
    running(site)
    for host, number in (("node3", 8), ("node4", 9)):
        site.documents.put(D.vm(number, [DISKS[2]], hosts=[host], lcm_state=1))
        done(site.oned.tm("ln", site.source_word(6), site.disk_word(host, number, 2), number, 100))
    quiet(call(site, "premigrate", "node3", "node4"))
    quiet(call(site, "failmigrate", "node3", "node4"))
    assert site.attached(CDROM) == ["node3", "node4"] and site.link("node4", 9, 2) == by_res(CDROM)
    quiet(call(site, "premigrate", "node3", "node4"))
    quiet(call(site, "postmigrate", "node3", "node4"))
    assert site.attached(CDROM) == ["node3", "node4"] and site.link("node3", 8, 2) == by_res(CDROM)


# --- all or none --------------------------------------------------------------------------------------------------


def test_premigrate_takes_back_what_it_did_when_a_later_disk_fails(site: Site) -> None:
    running(site)
    refusal = [{"ret_code": ERROR | 975, "message": "node4 is being evacuated"}]
    site.controller.faults.add(Fault("refuse", method="POST", path="one-image-6/.*make-available", entries=refusal))
    assert "node4 is being evacuated" in failed(call(site, "premigrate", "node3", "node4"))
    is_only_on(site, "node3")


def test_premigrate_takes_everything_back_when_the_files_do_not_arrive(site: Site) -> None:
    running(site)
    site.hosts.hide_tools("node4", "tar")
    try:
        assert "cannot copy" in failed(call(site, "premigrate", "node3", "node4"))
    finally:
        site.hosts.hide_tools("node4")
    is_only_on(site, "node3")


def test_a_disk_that_a_third_host_has_open_does_not_migrate(site: Site) -> None:
    running(site)
    with opened(site, "node1", by_res(OWN)):
        assert f"{OWN} is open on node1" in failed(call(site, "premigrate", "node3", "node4"))
    is_only_on(site, "node3")


def test_a_vm_does_not_migrate_to_a_replica_that_is_cut_off(site: Site) -> None:
    """Both satellites are online, and each replica calls itself up to date: the guest would go on with old blocks."""
    running(site, "node1")
    own = site.definition(OWN)
    assert own
    own.resources["NODE1"].broken.add("NODE2")
    said = failed(call(site, "premigrate", "node1", "node2"))
    assert f"the replica of {OWN} on node2 has no connection to that on node1, which may be newer" in said
    is_only_on(site, "node1")

    own.resources["NODE1"].broken.clear()
    quiet(call(site, "premigrate", "node1", "node2"))


def test_a_plain_file_does_not_migrate_while_its_vm_runs(site: Site) -> None:
    running(site)
    site.rest("DELETE", f"/v1/resource-definitions/{OWN}")
    message = failed(call(site, "premigrate", "node3", "node4"))
    assert f"{OWN}, the volume of disk 0, does not exist" in message and "plain file" in message
    assert where(site, IMAGE) == {"node3"} and not both_write(site, IMAGE)


def test_without_drbd_nothing_migrates_while_it_runs(site: Site) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    site.documents.put(D.vm(7, DISKS[:1], hosts=["node1"]))
    done(site.oned.tm("mkimage", 16, "raw", site.disk_word("node1", 7, 0), 7, 101))
    document = base64.b64encode(D.vm(7, DISKS[:1], hosts=["node2"], lcm_state=MIGRATE).encode()).decode()
    outcome = site.oned.tm("premigrate", "node1", "node2", f"{BASE}/101/7", 7, 101, stdin=document)
    assert "no DRBD in its layers" in failed(outcome)
    assert not site.link("node2", 7, 0)


def test_without_drbd_a_vm_that_stays_on_its_host_has_its_disks_in_the_other_datastore(site: Site) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=1)
    site.documents.put(D.datastore(102, 1, STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=1))
    site.documents.put(D.vm(7, DISKS[:1], hosts=["node1"]))
    done(site.oned.tm("mkimage", 16, "raw", site.disk_word("node1", 7, 0), 7, 101))
    document = D.vm(7, DISKS[:1], records=[("node1", 101), ("node1", 102)], lcm_state=MIGRATE, datastore=102)
    for action in ("premigrate", "failmigrate", "premigrate", "postmigrate"):
        words = ("node1", "node1", f"{BASE}/102/7", 7, 102)
        quiet(site.oned.tm(action, *words, stdin=base64.b64encode(document.encode()).decode()))
        wanted = "" if action == "failmigrate" else device(site, OWN, "node1")
        assert site.link("node1", 7, 0, 102) == wanted
    assert site.link("node1", 7, 0) == device(site, OWN, "node1") and marks(site, OWN)["DS_ID"] == "102"


# --- what was lost ------------------------------------------------------------------------------------------------


def test_a_lost_migration_is_taken_back_by_whatever_happens_to_the_disk_next(site: Site) -> None:
    running(site)
    lost(site, "node3", "node4")
    quiet(call(site, "premigrate", "node3", "node1"))
    for name in (OWN, IMAGE):
        assert both_write(site, name) == {"node1 node3"} and site.attached(name) == ["node3"]
    quiet(call(site, "failmigrate", "node3", "node1"))
    is_only_on(site, "node3")

    lost(site, "node3", "node4")
    site.documents.put(D.vm(7, DISKS, hosts=["node3", "node1"], lcm_state=8))
    for disk, store in ((0, 101), (1, 100)):
        words = [site.disk_word(host, 7, disk) for host in ("node3", "node1")]
        quiet(site.oned.tm("mv", *words, 7, store))
    for name in (OWN, IMAGE):
        assert not both_write(site, name) and not site.attached(name) and "MIGRATION" not in marks(site, name)


@pytest.mark.parametrize("action", ["mvds", "delete"])
def test_a_lost_migration_of_an_image_ends_with_its_vm(site: Site, action: str) -> None:
    running(site)
    lost(site, "node3", "node4", IMAGE)
    vm(site, "node3", state=11)
    word = site.disk_word("node3", 7, 1)
    quiet(site.oned.tm("mvds", word, by_res(IMAGE), 7, 100) if action == "mvds" else site.oned.tm(action, word, 7, 100))
    assert not both_write(site, IMAGE) and not site.attached(IMAGE) and marks(site, IMAGE) == {"IMAGE_ID": "5"}


ACTIONS = {
    "resize": 63, "snap_create": 51, "snap_delete": 53, "snap_revert": 52, "cpds": 27, "prebackup": 70,
}  # fmt: skip


def act(site: Site, action: str) -> Outcome:
    """Do an action that needs nothing of a migration with the VM's own disk."""
    word = site.disk_word("node3", 7, 0)
    if action == "cpds":
        return cpds(site)
    if action == "prebackup":
        return backup(site, action, backup_document(ACTIONS[action], disks=[DISKS[0]]), disks="0")
    return site.oned.tm(action, word, 24 if action == "resize" else 0, 7, 100)


@pytest.mark.parametrize("action", ACTIONS)
def test_any_action_on_a_disk_takes_back_what_a_lost_migration_left(site: Site, action: str) -> None:
    running(site)
    if action in ("snap_delete", "snap_revert"):
        done(act(site, "snap_create"))
    lost(site, "node3", "node4", OWN)
    vm(site, "node4", "node3", state=ACTIONS[action])
    done(act(site, action))
    assert not both_write(site, OWN) and site.attached(OWN) == ["node3"] and "MIGRATION" not in marks(site, OWN)


@pytest.mark.parametrize("why", ["both write", "oned waits for it"])
def test_an_action_that_needs_nothing_of_a_migration_goes_on_beside_it(site: Site, why: str) -> None:
    running(site)
    lost(site, "node3", "node4", OWN)
    vm(site, "node3", state=62 if why == "both write" else MIGRATE)
    with ExitStack() as held:
        for host in ("node3", "node4") if why == "both write" else ():
            held.enter_context(opened(site, host, by_res(OWN)))
        said = done(act(site, "resize")).stderr
    assert ("open on node3 and node4" in said) == (why == "both write")
    assert both_write(site, OWN) == {"node3 node4"} and "MIGRATION" in marks(site, OWN)
    assert site.attached(OWN) == ["node3", "node4"]


@pytest.mark.parametrize("action", ["mvds", "monitor"])
def test_two_primaries_whose_replicas_differ_are_left_as_they_are(site: Site, action: str) -> None:
    """Where two hosts wrote and lost each other, any change connects the replicas, and the older data wins."""
    running(site)
    lost(site, "node3", "node4", IMAGE, age=1000)
    found = site.definition(IMAGE)
    assert found
    found.resources["NODE1"].strayed = {"NODE2"}
    props = dict(found.props)

    def step() -> Outcome:
        vm(site, "node3", state=11)
        if action == "monitor":
            return site.oned.monitor(site.image_datastore)
        return site.oned.tm("mvds", site.disk_word("node3", 7, 1), by_res(IMAGE), 7, 100)

    said = done(step()).stderr if action == "monitor" else failed(step())
    assert "node1 is StandAlone" in said
    assert found.props == props and both_write(site, IMAGE) == {"node3 node4"} and site.link("node3", 7, 1)
    found.resources["NODE1"].strayed = set()
    done(step())
    assert not both_write(site, IMAGE) and "MIGRATION" not in marks(site, IMAGE)


@pytest.mark.parametrize("way", [("node3", "node4"), ("node4", "node3")], ids=["the same way", "the other way"])
def test_a_migration_that_fails_takes_back_what_a_killed_one_attached(site: Site, way: tuple[str, str]) -> None:
    running(site)
    for name in (OWN, IMAGE):
        site.rest("POST", f"/v1/resource-definitions/{name}/resources/node4/make-available", {"diskful": False})
    lost(site, *way)
    refusal = [{"ret_code": ERROR | 975, "message": "node4 is being evacuated"}]
    site.controller.faults.add(Fault("refuse", method="POST", path="one-image-6/.*make-available", entries=refusal))
    assert "node4 is being evacuated" in failed(call(site, "premigrate", "node3", "node4"))
    is_only_on(site, "node3")


def test_a_lost_migration_is_ended_whole_before_the_way_back_begins(site: Site) -> None:
    running(site)
    for name in (OWN, IMAGE):
        site.rest("POST", f"/v1/resource-definitions/{name}/resources/node4/make-available", {"diskful": False})
    lost(site, "node4", "node3")
    refusal = [{"ret_code": ERROR | 975, "message": "not now"}]
    # The first change takes the old mark off, the second would be the new one.
    site.controller.faults.add(Fault("refuse", at=2, method="PUT", path=f"{OWN}$", entries=refusal))
    assert "not now" in failed(call(site, "premigrate", "node3", "node4"))
    is_only_on(site, "node3")


def test_a_migration_that_fails_takes_no_replica_with_data_although_a_killed_one_was_there(site: Site) -> None:
    running(site, "node1")
    lost(site, "node1", "node2")
    refusal = [{"ret_code": ERROR | 975, "message": "not now"}]
    site.controller.faults.add(Fault("refuse", method="PUT", path=f"{IMAGE}/resource-conn", entries=refusal))
    assert "not now" in failed(call(site, "premigrate", "node1", "node2"))
    for name in (OWN, IMAGE):
        assert sorted(site.holders(name)) == ["node1", "node2"] and not both_write(site, name)
        assert "MIGRATION" not in marks(site, name)


def test_a_migration_that_fails_leaves_what_was_attached_before_any(site: Site) -> None:
    running(site)
    site.rest("POST", f"/v1/resource-definitions/{OWN}/resources/node4/make-available", {"diskful": False})
    refusal = [{"ret_code": ERROR | 975, "message": "not now"}]
    site.controller.faults.add(Fault("refuse", method="PUT", path=f"{OWN}/resource-conn", entries=refusal))
    assert "not now" in failed(call(site, "premigrate", "node3", "node4"))
    assert site.attached(OWN) == ["node3", "node4"] and "MIGRATION" not in marks(site, OWN)


def test_an_image_whose_last_migration_was_lost_is_given_to_the_next_vm(site: Site) -> None:
    datablock(site, 5)
    lost(site, "node1", "node4", IMAGE)
    site.documents.put(D.vm(7, [DISKS[1]], hosts=["node3"], lcm_state=1))
    done(site.oned.tm("ln", site.source_word(5), site.disk_word("node3", 7, 1), 7, 100))
    assert site.attached(IMAGE) == ["node3"] and not both_write(site, IMAGE) and "MIGRATION" not in marks(site, IMAGE)


def test_monitoring_ends_migrations_that_oned_knows_nothing_of_any_more(site: Site) -> None:
    running(site)
    lost(site, "node3", "node4", age=800)
    vm(site, "node3", state=RUNNING)
    done(site.oned.monitor(site.image_datastore))
    assert both_write(site, OWN) == {"node3 node4"}, "the lease is not over"
    lost(site, "node3", "node4", age=1000)
    vm(site, "node3", "node4", state=MIGRATE)
    done(site.oned.monitor(site.image_datastore))
    assert both_write(site, OWN) == {"node3 node4"}, "oned still waits for the migration"

    vm(site, "node3", state=RUNNING)
    with opened(site, "node3", by_res(OWN)), opened(site, "node4", by_res(OWN)):
        assert "open on node3 and node4" in done(site.oned.monitor(site.image_datastore)).stderr
        assert both_write(site, OWN) == {"node3 node4"} and not both_write(site, IMAGE)
    with opened(site, "node3", by_res(OWN)):
        done(site.oned.monitor(site.image_datastore))
    is_only_on(site, "node3")


def test_a_lease_ends_although_no_volume_could_be_placed(site: Site) -> None:
    running(site)
    lost(site, "node3", "node4", age=1000)
    vm(site, "node3", state=RUNNING)
    with site.cluster.lock:
        satellites.go_offline(site.cluster, "node1")
    try:
        site.datastores(STORAGE_POOL="thin", REPLICA_COUNT=4)
        outcome = site.oned.monitor(site.image_datastore)
    finally:
        with site.cluster.lock:
            satellites.come_back(site.cluster, "node1")
    assert "the capacity of datastore 100 is unknown" in failed(outcome)
    is_only_on(site, "node3")


def test_a_migration_whose_end_was_killed_is_finished_by_monitoring_where_the_vm_is(site: Site) -> None:
    running(site)
    quiet(call(site, "premigrate", "node3", "node4"))
    lost(site, "node3", "node4", age=1000)
    vm(site, "node3", "node4", state=RUNNING)
    with opened(site, "node4", by_res(OWN)), opened(site, "node4", by_res(IMAGE)):
        done(site.oned.monitor(site.image_datastore))
    for name in (OWN, IMAGE):
        assert site.attached(name) == ["node4"] and not both_write(site, name)


def test_a_migration_that_began_meanwhile_is_not_taken_for_a_lost_one(site: Site) -> None:
    running(site)
    lost(site, "node3", "node4", OWN, age=1000)
    vm(site, "node3", state=RUNNING)
    began = {"override_props": {"Aux/one/MIGRATION": f"7/node3/node4/{int(time.time())}"}}
    address = f"/v1/resource-definitions/{OWN}"

    class Begins(Fault):
        def hits(self, method: str, path: str) -> bool:
            if super().hits(method, path) and "props=" not in path:
                site.rest("PUT", address, began)
            return False

    # Between the list of what is marked, and the look at the one definition.
    site.controller.faults.add(Begins("drop", at=2, method="GET", path="resource-definitions$"))
    done(site.oned.monitor(site.image_datastore))
    assert both_write(site, OWN) == {"node3 node4"} and "MIGRATION" in marks(site, OWN)


def test_monitoring_waits_while_a_migration_begins(site: Site) -> None:
    running(site)
    held: list[tuple[str, str, bool]] = []

    class Looks(Fault):
        def hits(self, method: str, path: str) -> bool:
            if super().hits(method, path):
                held.append((method, path.rpartition("/")[2], is_held(LOCKS / f"linstor_un-migration-{OWN}")))
            return False

    site.controller.faults.add(Looks("drop", times=9, method="PUT|POST", path=f"definitions/{OWN}(/|$)"))
    quiet(call(site, "premigrate", "node3", "node4"))
    assert held == [("PUT", OWN, True), ("POST", "make-available", True), ("PUT", "node4", True)]


def test_an_attachment_that_monitoring_took_when_a_migration_began_again_is_made_again(site: Site) -> None:
    running(site)
    faults = site.controller.faults
    before = len(faults.log)
    quiet(call(site, "premigrate", "node3", "node4"))
    paths = [entry["path"] for entry in faults.log[before:]]
    asked = [path for path in paths if "controller/version" not in path]
    quiet(call(site, "failmigrate", "node3", "node4"))
    lost(site, "node3", "node4", age=1000)
    vm(site, "node3", state=RUNNING)
    said: list[Outcome] = []
    # The replicas of its own disk are known by then, and those of the CDROM come next.
    last = next(number for number, path in enumerate(asked, 1) if path.endswith(f"{CDROM}/resources"))
    faults.before(faults.count + last, lambda: said.append(site.oned.monitor(site.image_datastore)))
    quiet(call(site, "premigrate", "node3", "node4"))
    done(said[0])
    for name in (OWN, IMAGE):
        assert both_write(site, name) == {"node3 node4"} and site.attached(name) == ["node3", "node4"]
        assert "MIGRATION" in marks(site, name)


# --- both have it open --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "staying"), [("postmigrate", "node3"), ("failmigrate", "node4")])
def test_two_primaries_are_not_taken_back_while_both_write(site: Site, action: str, staying: str) -> None:
    running(site)
    before = listing(site, "node3")
    quiet(call(site, "premigrate", "node3", "node4"))
    with opened(site, "node3", by_res(OWN)), opened(site, "node4", by_res(OWN)):
        message = failed(call(site, action, "node3", "node4"), 3)
        assert f"{OWN} is, or may be, open on node3 and node4" in message
        assert f"{DIRECTORY} stays on {staying}" in message
        assert both_write(site, OWN) == {"node3 node4"} and not both_write(site, IMAGE)
        assert listing(site, "node3") == listing(site, "node4") == before
    quiet(call(site, action, "node3", "node4"))
    is_only_on(site, "node4" if action == "postmigrate" else "node3")


def test_a_permission_that_drbd_kept_is_taken_back_in_the_end(site: Site) -> None:
    running(site)
    quiet(call(site, "premigrate", "node3", "node4"))
    found = site.definition(OWN)
    assert found
    address = f"/v1/resource-definitions/{OWN}/resource-connections/node3/node4"
    with opened(site, "node3", by_res(OWN)), opened(site, "node4", by_res(OWN)):
        with pytest.raises(RuntimeError):
            site.rest("PUT", address, {"delete_props": [TWO]})
    assert found.resources["NODE3"].two_primaries, "LINSTOR has forgotten what DRBD still allows"
    quiet(call(site, "postmigrate", "node3", "node4"))
    is_only_on(site, "node4")


def test_a_mark_stays_until_all_nodes_are_known_to_have_followed(site: Site) -> None:
    running(site)
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=10)
    quiet(call(site, "premigrate", "node3", "node4"))
    site.controller.faults.add(Fault("lose_answer", method="PUT", path=f"{OWN}$"))
    assert "not known whether all nodes followed" in failed(call(site, "postmigrate", "node3", "node4"), 3)
    assert "MIGRATION" in marks(site, OWN) and not both_write(site, IMAGE)
    quiet(call(site, "postmigrate", "node3", "node4"))
    is_only_on(site, "node4")


def test_an_image_that_is_still_read_at_the_source_is_not_cut_off(site: Site) -> None:
    running(site)
    quiet(call(site, "premigrate", "node3", "node4"))
    with opened(site, "node3", by_res(CDROM), "<"):
        message = failed(call(site, "postmigrate", "node3", "node4"), 3)
        assert f"{CDROM} is still read on node3" in message and f"{DIRECTORY} stays on node3" in message
        assert site.attached(CDROM) == ["node3", "node4"] and not both_write(site, OWN)
    quiet(call(site, "postmigrate", "node3", "node4"))
    is_only_on(site, "node4")


def test_a_satellite_that_does_not_answer_counts_as_an_opener(site: Site) -> None:
    running(site)
    quiet(call(site, "premigrate", "node3", "node4"))
    with opened(site, "node4", by_res(OWN)):
        with site.cluster.lock:
            satellites.go_offline(site.cluster, "node3")
        assert f"{OWN} is, or may be, open on node3 and node4" in failed(call(site, "postmigrate", "node3", "node4"), 3)
        with site.cluster.lock:
            satellites.come_back(site.cluster, "node3")
        assert both_write(site, OWN) == {"node3 node4"}
        quiet(call(site, "postmigrate", "node3", "node4"))
    is_only_on(site, "node4")


def test_each_part_of_the_end_is_tried_although_another_fails(site: Site) -> None:
    running(site)
    quiet(call(site, "premigrate", "node3", "node4"))
    refusal = [{"ret_code": ERROR | 975, "message": "not now"}]
    site.controller.faults.add(Fault("refuse", method="DELETE", path=f"{OWN}/", entries=refusal))
    assert "not now" in failed(call(site, "postmigrate", "node3", "node4"), 3)
    assert site.attached(OWN) == ["node3", "node4"] and not both_write(site, OWN)
    assert "MIGRATION" in marks(site, OWN), "nobody would find the attachment"
    assert where(site, IMAGE) == {"node4"}
    assert site.hosts.run("node3", ["ls", DIRECTORY], check=False).returncode
    quiet(call(site, "postmigrate", "node3", "node4"))
    is_only_on(site, "node4")


# --- directories --------------------------------------------------------------------------------------------------


def test_t1_a_directory_that_hosts_share_is_not_removed_before_the_migration(site: Site) -> None:
    with one_directory(site, 101):
        running(site)
        before = fill(site, "node3")
        quiet(call(site, "premigrate", "node3", "node4"))
        assert listing(site, "node3") == before and site.link("node3", 7, 0) == by_res(OWN)
        refusal = [{"ret_code": ERROR | 975, "message": "not now"}]
        site.controller.faults.add(Fault("refuse", method="PUT", path=f"{IMAGE}/resource-conn", entries=refusal))
        failed(call(site, "premigrate", "node3", "node1"))
        assert listing(site, "node3") == before and site.link("node3", 7, 0) == by_res(OWN)


def test_t1_links_that_hosts_share_stay_when_a_migration_is_called_off(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.oned, "env", site.oned.env)
    with one_directory(site, 101):
        running(site)
        before = listing(site, "node3")
        saboteur = Saboteur(site)
        quiet(call(site, "premigrate", "node3", "node4"))
        last = saboteur.effects()[-1]
        quiet(call(site, "failmigrate", "node3", "node4"))
        # The driver is ended while it makes links, and takes back what it made.
        saboteur.aim(last, "term")
        assert call(site, "premigrate", "node3", "node4").code
        assert listing(site, "node3") == before and site.link("node3", 7, 0) == by_res(OWN)
    saboteur.clear()


@pytest.mark.parametrize("action", ["postmigrate", "failmigrate"])
def test_t2_a_directory_that_hosts_share_is_not_removed_after_the_migration(site: Site, action: str) -> None:
    with one_directory(site, 101):
        running(site)
        before = fill(site, "node3")
        quiet(call(site, "premigrate", "node3", "node4"))
        quiet(call(site, action, "node3", "node4"))
        assert listing(site, "node3") == before and site.link("node4", 7, 0) == by_res(OWN)
        assert not both_write(site, OWN) and not own_files(site, "node3")


def test_premigrate_does_not_remove_what_is_at_the_target(site: Site) -> None:
    running(site)
    run(site, "node4", 'mkdir -p "$1" && echo z >"$1/of-others"', DIRECTORY)
    quiet(call(site, "premigrate", "node3", "node4"))
    assert "of-others" in site.hosts.run("node4", ["ls", DIRECTORY]).stdout


# --- called by another driver -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "ssh"])
def test_t2_another_drivers_directory_is_never_touched(site: Site, shared: bool) -> None:
    mad, store = ("shared", 107) if shared else ("ssh", 106)
    site.documents.put(D.datastore(store, 1, tm_mad=mad))
    path = f"{BASE}/{store}/7"
    disks = (D.DiskDocument(0, 16, 5), *DISKS[1:], D.DiskDocument(3, 8, kind="fs", datastore=store, tm_mad=mad))
    with one_directory(site, *([store] if shared else [])):
        datablock(site, 5)
        cp(site, 6)
        site.documents.put(D.vm(7, disks, hosts=["node3"], datastore=store))
        for disk, action, image in ((0, "clone", 5), (1, "ln", 5), (2, "ln", 6)):
            done(site.oned.tm(action, site.source_word(image), site.disk_word("node3", 7, disk, store), 7, 100))
        run(site, "node3", 'echo volatile >"$1/disk.3"', path)
        before = listing(site, "node3", store)
        document = base64.b64encode(D.vm(7, disks, hosts=["node4"], lcm_state=MIGRATE, datastore=store).encode())
        words = ["node3", "node4", path, 7, store, mad]

        quiet(site.oned.tm("premigrate", *words, stdin=document.decode()))
        assert both_write(site, OWN) == both_write(site, IMAGE) == {"node3 node4"} and not both_write(site, CDROM)
        links = [site.link("node4", 7, disk, store) for disk in range(3)]
        assert links == [by_res(OWN), by_res(IMAGE), by_res(CDROM)]
        assert listing(site, "node3", store) == before
        assert shared or site.hosts.run("node4", ["ls", path]).stdout.split() == ["disk.0", "disk.1", "disk.2"]

        quiet(site.oned.tm("postmigrate", *words, stdin=document.decode()))
        for name in (OWN, IMAGE, CDROM):
            assert site.attached(name) == ["node4"] and not both_write(site, name)
        assert listing(site, "node3", store) == before
        assert [site.link("node4", 7, disk, store) for disk in range(3)] == links


def test_postmigrate_makes_the_links_of_another_datastore_on_the_same_host(site: Site) -> None:
    for number in (106, 109):
        site.documents.put(D.datastore(number, 1, tm_mad="ssh", RESOURCE_GROUP="opennebula"))
    running(site, datastore=106)
    changes = len(site.controller.faults.log)
    quiet(call(site, "postmigrate", "node3", "node3", 109, caller="ssh"))
    assert [site.link("node3", 7, disk, 109) for disk in range(3)] == [by_res(OWN), by_res(IMAGE), by_res(CDROM)]
    assert site.link("node3", 7, 0, 106) == by_res(OWN)
    assert marks(site, OWN)["DS_ID"] == marks(site, IMAGE)["DS_ID"] == "109"
    log = site.controller.faults.log[changes:]
    assert {entry["method"] for entry in log} == {"GET", "PUT"} and site.attached(OWN) == ["node3"]


def test_a_disk_whose_replicas_differ_is_not_marked_after_its_migration(site: Site) -> None:
    for number in (106, 109):
        site.documents.put(D.datastore(number, 1, tm_mad="ssh", RESOURCE_GROUP="opennebula"))
    running(site, datastore=106)
    found = site.definition(IMAGE)
    assert found
    found.resources["NODE1"].strayed = {"NODE2"}
    props = dict(found.props)
    assert "node1 is StandAlone" in failed(call(site, "postmigrate", "node3", "node3", 109, caller="ssh"), 3)
    assert found.props == props and marks(site, OWN)["DS_ID"] == "109"
    assert site.link("node3", 7, 1, 109) == by_res(IMAGE)


def test_a_premigrate_that_another_driver_did_not_heed_is_made_up_for_after_the_migration(site: Site) -> None:
    site.documents.put(D.datastore(106, 1, tm_mad="ssh", RESOURCE_GROUP="opennebula"))
    running(site, "node1", datastore=106)
    quiet(call(site, "postmigrate", "node1", "node2", 106, caller="ssh"))
    assert site.link("node2", 7, 0, 106) == by_res(OWN) and not site.attached(OWN)


# --- hosts that die -----------------------------------------------------------------------------------------------


def test_a_target_that_died_during_the_migration_is_told_of_and_waited_for_by_nobody(site: Site) -> None:
    running(site)
    quiet(call(site, "premigrate", "node3", "node4"))
    site.hosts.kill("node4")
    with site.cluster.lock:
        drbd_events.kill(site.cluster, "node4")
    try:
        message = failed(call(site, "failmigrate", "node3", "node4"), 3)
        assert "node4" in message and not both_write_said(site, OWN)
    finally:
        with site.cluster.lock:
            drbd_events.join(site.cluster, "node4")
        site.hosts.start("node4")
    call(site, "failmigrate", "node3", "node4")
    is_only_on(site, "node3")


def both_write_said(site: Site, name: str) -> Optional[str]:
    found = site.definition(name)
    assert found
    return next((props[TWO] for props in found.pairs.values() if TWO in props), None)
