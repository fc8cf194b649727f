"""A VM's disk grows, by the script as oned calls it: on LINSTOR, on all replicas, and as its host sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from lab.controller import satellites
from lab.controller.answers import ERROR
from lab.controller.faults import Fault
from lab.hosts import LoopVolumes
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_nothing
from lab.site import Site
from linstor_un.naming import by_res
from site_support import DATA, MIB, cp, device, done, failed, marks, opened, padded, whole, written_apart

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "thick": "LVM"}}
DISK = "one-vm-7-disk-0"
RUNNING, POWEROFF, UNDEPLOYED = 62, 63, 64
CLONED = D.DiskDocument(0, size=8, image=5)
PERSISTENT = D.DiskDocument(0, size=8, image=5, clone=False)
VOLATILE = D.DiskDocument(0, size=8, kind="fs", datastore=101)


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


def vm(site: Site, disk: D.DiskDocument, state: int = RUNNING, host: str = "node3") -> None:
    site.documents.put(D.vm(7, [disk], hosts=[host], lcm_state=state))


def disk(site: Site, document: D.DiskDocument = CLONED, host: str = "node3") -> str:
    """Give VM 7 a disk of 8 MiB on a host; returns its definition's name."""
    place = site.disk_word(host, 7, 0)
    vm(site, document, 1, host)
    if document.image is None:
        done(site.oned.tm("mkimage", 8, "raw", place, 7, 101))
    else:
        cp(site)
        done(site.oned.tm("clone" if document.clone else "ln", site.source_word(5), place, 7, 100))
    vm(site, document, RUNNING, host)
    return DISK if document.clone else "one-image-5"


def resize(site: Site, size: int = 16, host: str = "node3") -> Outcome:
    return site.oned.tm("resize", site.disk_word(host, 7, 0), size, 7, 100)


def grown(outcome: Outcome) -> None:
    """Succeed with nothing said."""
    read_nothing(done(outcome))
    assert outcome.stderr == ""


def asked(site: Site, name: str) -> int:
    """The size on LINSTOR, in MiB."""
    found = site.definition(name)
    assert found
    return found.volumes[0].size // 1024


def seen(site: Site, host: str, path: str) -> int:
    """The size of a device on a host, in MiB."""
    return int(site.hosts.run(host, ["/usr/sbin/blockdev", "--getsize64", path]).stdout) // MIB


@pytest.mark.parametrize("document", [CLONED, PERSISTENT, VOLATILE], ids=["clone", "persistent", "volatile"])
def test_a_disk_grows_where_its_vm_is_and_keeps_its_bytes(site: Site, document: D.DiskDocument) -> None:
    name = disk(site, document)
    before = marks(site, name)
    grown(resize(site))
    assert asked(site, name) == 16 and seen(site, "node3", by_res(name)) >= 16
    if document.image:
        assert whole(site, name) == padded(DATA, whole(site, name))
    assert site.holders(name) == ["node1", "node2"] and site.attached(name) == ["node3"]
    assert marks(site, name) == before


def test_a_persistent_image_grows_on_the_controllers_of_its_own_datastore(site: Site) -> None:
    name = disk(site, PERSISTENT)
    site.documents.put(D.datastore(101, 1, RESOURCE_GROUP="opennebula", LS_CONTROLLERS="127.0.0.1:1"))
    grown(resize(site))
    assert asked(site, name) == 16


def test_a_running_vms_open_disk_grows(site: Site) -> None:
    name = disk(site)
    with opened(site, "node3", by_res(name)):
        grown(resize(site))
    assert seen(site, "node3", by_res(name)) >= 16


def test_t26_the_same_size_is_success_and_a_smaller_one_is_refused_in_words(site: Site) -> None:
    name = disk(site)
    for _ in range(2):
        grown(resize(site, 16))
    message = failed(resize(site, 15))
    assert f"{name} has 16 MiB and never shrinks" in message and "15 MiB" in message
    assert asked(site, name) == 16 and site.read(name, len(DATA)) == DATA


def test_t26_a_disk_with_snapshots_grows_and_its_snapshots_stay(site: Site) -> None:
    name = disk(site)
    site.rest("POST", f"/v1/resource-definitions/{name}/snapshots", {"name": "snapshot-0"})
    grown(resize(site))
    found = site.definition(name)
    assert found and asked(site, name) == 16 and [one.name for one in found.snapshots.values()] == ["snapshot-0"]


def test_t26_it_is_done_when_the_host_sees_the_size(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    name = disk(site)
    growing = LoopVolumes.resize
    late: list[threading.Timer] = []

    def later(volumes: LoopVolumes, *words: object) -> None:
        late.append(threading.Timer(1.0, growing, (volumes, *words)))
        late[-1].start()

    monkeypatch.setattr(LoopVolumes, "resize", later)
    outcome = resize(site)
    assert late and seen(site, "node3", by_res(name)) >= 16
    grown(outcome)
    for timer in late:
        timer.join()


def test_a_host_that_does_not_see_the_size_is_named_and_a_rerun_finishes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=5)
    name = disk(site)
    with monkeypatch.context() as patch:
        patch.setattr(LoopVolumes, "resize", lambda *_: None)
        for _ in range(2):
            message = resize(site).user_message
            assert f"{name} is 16 MiB on LINSTOR, but node3 did not see that within 1 s" in message
    found = site.definition(name)
    assert found
    for content in site.contents(found):
        site.volumes.resize(content, 16 * MIB)
    grown(resize(site))


def test_the_size_is_seen_without_opening_the_device(site: Site) -> None:
    """A device that another node has open for writing cannot be opened, and `blockdev` would fail on it."""
    name = disk(site)
    vm(site, CLONED, POWEROFF)
    with opened(site, "node1", by_res(name)):
        found = site.definition(name)
        assert found
        site.volumes.only_open_on(site.contents(found)[0], "node1")
        try:
            assert site.hosts.run("node3", ["/usr/sbin/blockdev", "--getsize64", by_res(name)], check=False).returncode
            grown(resize(site))
        finally:
            site.volumes.only_open_on(site.contents(found)[0])


def test_an_undeployed_vms_disk_grows_though_its_last_host_is_gone(site: Site) -> None:
    name = disk(site, host="node1")
    vm(site, CLONED, UNDEPLOYED, "node1")
    site.hosts.kill("node1")
    try:
        outcome = resize(site, host="node1")
    finally:
        site.hosts.start("node1")
    grown(outcome)
    assert asked(site, name) == 16 and outcome.ended.seconds < 30


def test_a_powered_off_vms_disk_that_is_attached_nowhere_grows(site: Site) -> None:
    name = disk(site)
    vm(site, CLONED, POWEROFF)
    for _ in range(2):
        # First it becomes the tiebreaker.
        site.rest("DELETE", f"/v1/resource-definitions/{name}/resources/node3")
    grown(resize(site))
    assert asked(site, name) == 16


def test_without_drbd_all_replicas_grow_and_the_vms_host_sees_it(site: Site) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    name = disk(site, host="node2")
    grown(resize(site, host="node2"))
    assert asked(site, name) == 16
    for node in site.holders(name):
        assert seen(site, node, device(site, name, node)) >= 16
        assert whole(site, name, node) == padded(DATA, whole(site, name, node))


def test_linstors_reason_for_not_growing_is_told(site: Site) -> None:
    name = disk(site)
    with site.cluster.lock:
        satellites.go_offline(site.cluster, "node2")
    try:
        message = failed(resize(site))
    finally:
        with site.cluster.lock:
            satellites.come_back(site.cluster, "node2")
    assert f"cannot grow {name} to 16 MiB: Cannot resize volume" in message and "non-UpToDate" in message
    assert asked(site, name) == 8
    grown(resize(site))


def test_a_disk_does_not_grow_beyond_its_pool(site: Site) -> None:
    name = disk(site)
    message = failed(resize(site, 1 << 30))
    assert "do not fit into pool thin on node" in message and asked(site, name) == 8


def test_a_disk_whose_replicas_differ_does_not_grow(site: Site) -> None:
    """LINSTOR would make the nodes look at the volume again, and the older data would win."""
    name = disk(site)
    written_apart(site, name, "node1", "node2")
    site.controller.faults.log.clear()
    assert "StandAlone" in failed(resize(site))
    assert {entry["method"] for entry in site.controller.faults.log} == {"GET"} and asked(site, name) == 8


def test_somebody_elses_volume_does_not_grow(site: Site) -> None:
    name = disk(site)
    found = site.definition(name)
    assert found
    found.props["Aux/one/VM_ID"] = "9"
    assert f"{name} is marked VM_ID=9" in failed(resize(site)) and asked(site, name) == 8
    site.rest("DELETE", f"/v1/resource-definitions/{name}")
    assert f"{name} does not exist on LINSTOR" in failed(resize(site))
    vm(site, D.DiskDocument(3, size=8, image=5))
    assert "VM 7 has no disk 0" in failed(resize(site))


@pytest.mark.parametrize("kind", ["refuse", "lose_answer"])
def test_a_growth_is_what_linstor_has_afterwards_and_not_what_it_answered(site: Site, kind: str) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=20)
    name = disk(site)
    entries = [{"ret_code": ERROR | 998, "message": "lvextend failed"}]
    site.controller.faults.add(Fault(kind, method="PUT", path="volume-definitions/0", entries=entries))
    outcome = resize(site)
    if kind == "lose_answer":
        grown(outcome)
    else:
        assert "lvextend failed" in failed(outcome)
    assert asked(site, name) == (16 if kind == "lose_answer" else 8)
    grown(resize(site))


def test_a_host_that_cannot_be_asked_leaves_the_growth_named(site: Site) -> None:
    name = disk(site)
    site.hosts.kill("node3")
    try:
        message = failed(resize(site), 3)
    finally:
        site.hosts.start("node3")
    assert "node3 cannot be reached" in message
    assert f"left behind: the size of {name} (it is 16 MiB now and never shrinks; repeat the resize)" in message
