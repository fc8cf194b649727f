"""Traps that whole actions have to avoid, on real hosts and bytes: see docs/hazards.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Callable

import pytest
from hazard_support import diskful, flags, naive
from lab.controller import satellites
from lab.controller.faults import Fault
from lab.controller.volumes import Content
from lab.hosts.machine import until
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import Site
from site_support import device, opened, written_apart

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "thick": "LVM"}}
MIB = 1 << 20
DATA = os.urandom(MIB) + bytes(MIB) + os.urandom(MIB)
PATH = Path("/var/tmp/image.raw")


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


def cp(site: Site, image: int) -> None:
    PATH.write_bytes(DATA)
    PATH.chmod(0o644)
    done(site.oned.ds("cp", D.image("7.4.0", image, path=str(PATH), size=8), site.image_datastore))


def datablock(site: Site, image: int) -> str:
    done(site.oned.ds("mkfs", D.image("7.4.0", image, size=8), site.image_datastore))
    return f"one-image-{image}"


def rm(site: Site, image: int) -> Outcome:
    source = f"/dev/drbd/by-res/one-image-{image}/0"
    return site.oned.ds("rm", D.image("7.4.0", image, size=8, source=source), site.image_datastore)


def vm(site: Site, number: int, *disks: D.DiskDocument) -> None:
    site.documents.put(D.vm(number, disks))


def clone(site: Site, host: str, image: int = 5) -> Outcome:
    return site.oned.tm("clone", site.source_word(image), site.disk_word(host, 7, 0), 7, 100)


def done(outcome: Outcome) -> Outcome:
    assert outcome.success, outcome.stderr
    return outcome


def failed(outcome: Outcome) -> str:
    assert not outcome.success
    return outcome.user_message


def elsewhere(site: Site, name: str) -> str:
    """A host without a replica."""
    return next(host for host in site.hosts.names if host not in site.holders(name))


def offline(site: Site, node: str) -> None:
    with site.cluster.lock:
        satellites.go_offline(site.cluster, node)


def online(site: Site, node: str) -> None:
    with site.cluster.lock:
        satellites.come_back(site.cluster, node)


def kind_of(site: Site, name: str) -> str:
    """What blkid finds on a volume."""
    blkid = ["/usr/sbin/blkid", "-p", "-s", "TYPE", "-o", "value", by_res(name)]
    found = site.hosts.run(site.holders(name)[0], blkid, check=False)
    assert found.returncode in (0, 2), found.stderr
    return str(found.stdout).strip()


def by_res(name: str) -> str:
    return f"/dev/drbd/by-res/{name}/0"


# --- openers ----------------------------------------------------------------------------------------------------


def test_without_drbd_an_open_volume_is_not_deleted(site: Site) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=1)
    names = [datablock(site, image) for image in (5, 6)]
    holders = [site.holders(name)[0] for name in names]
    with opened(site, holders[0], device(site, names[0], holders[0]), "<>"):
        assert naive(site.cluster, "DELETE", f"resource-definitions/{names[0]}")[0] == 200
        assert not site.definition(names[0])

    with opened(site, holders[1], device(site, names[1], holders[1]), "<>"):
        assert f"open on {holders[1]}" in failed(rm(site, 6))
        assert site.holders(names[1]) == [holders[1]]
    done(rm(site, 6))
    assert not site.definition(names[1])


def test_without_drbd_nothing_is_deleted_before_a_restarted_controller_knows_its_devices(site: Site) -> None:
    """For two seconds it calls all nodes online, shows a state of every resource, and no device of any."""
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=1)
    name = datablock(site, 5)
    node = site.holders(name)[0]
    found = site.definition(name)
    assert found
    volume = found.resources[node.upper()].volumes[0]
    path = device(site, name, node)
    volume.device = ""
    assert f"{name} may be open on {node}, where LINSTOR has no device of it now" in failed(rm(site, 5))

    volume.device = path
    with opened(site, node, path, "<>"):
        site.controller.faults.add(Fault("restart", seconds=0.3))
        assert f"{name} is open on {node}" in failed(rm(site, 5))
    done(rm(site, 5))
    assert not site.definition(name)


def test_an_opener_behind_a_stopped_satellite_is_not_forgotten(site: Site) -> None:
    names = [datablock(site, image) for image in (5, 6)]
    node = site.holders(names[0])[0]
    assert node in site.holders(names[1])
    with opened(site, node, by_res(names[0]), "<>"), opened(site, node, by_res(names[1]), "<>"):
        offline(site, node)
        assert naive(site.cluster, "DELETE", f"resource-definitions/{names[0]}")[0] == 200
        assert node in failed(rm(site, 6))
        online(site, node)
        kept = site.definition(names[1])
        assert kept and "DELETE" not in kept.flags and len(site.holders(names[1])) == 2
    doomed = site.definition(names[0])
    assert not doomed or "DELETE" in doomed.flags


def test_a_reader_that_linstor_does_not_see_keeps_its_device(site: Site) -> None:
    site.datastores(STORAGE_POOL="thin", REPLICA_COUNT=1)
    names = [datablock(site, image) for image in (5, 6)]
    node = elsewhere(site, names[0])
    for number in (7, 8):
        vm(site, number, D.DiskDocument(0, size=8, image=5, kind="CDROM", clone=False),
           D.DiskDocument(1, size=8, image=6, kind="CDROM", clone=False))
        for disk, image in ((0, 5), (1, 6)):
            done(site.oned.tm("ln", site.source_word(image), site.disk_word(node, number, disk), number, 100))
    with opened(site, node, by_res(names[0]), "<"), opened(site, node, by_res(names[1]), "<"):
        assert naive(site.cluster, "DELETE", f"resource-definitions/{names[0]}/resources/{node}")[0] == 500
        assert "DRBD_DELETE" in flags(site.cluster, names[0], node)

        done(site.oned.tm("delete", site.disk_word(node, 7, 1), 7, 100))
        assert "DRBD_DELETE" not in flags(site.cluster, names[1], node)
        assert node in site.attached(names[1])
    done(site.oned.tm("delete", site.disk_word(node, 8, 1), 8, 100))
    assert not site.attached(names[1])


def test_an_image_that_is_lent_to_a_reader_is_not_removed(site: Site) -> None:
    site.datastores(STORAGE_POOL="thin", REPLICA_COUNT=1)
    names = [datablock(site, image) for image in (5, 6)]
    node = elsewhere(site, names[0])
    for name in names:
        site.rest("POST", f"/v1/resource-definitions/{name}/resources/{node}/make-available", {"diskful": False})
    with opened(site, node, by_res(names[0]), "<"), opened(site, node, by_res(names[1]), "<"):
        assert naive(site.cluster, "DELETE", f"resource-definitions/{names[0]}")[0] == 500
        assert "DRBD_DELETE" in flags(site.cluster, names[0], node) or "DELETE" in flags(site.cluster, names[0], node)

        assert f"{names[1]} is open on {node}" in failed(rm(site, 6))
        kept = site.definition(names[1])
        assert kept and not kept.flags and not {"DELETE", "DRBD_DELETE"} & set(flags(site.cluster, names[1], node))
    done(rm(site, 6))
    assert not site.definition(names[1])


def test_an_image_that_is_written_to_is_not_copied(site: Site) -> None:
    cp(site, 5)
    vm(site, 7, D.DiskDocument(0, size=8, image=5))
    writer, other = site.holders("one-image-5")
    with opened(site, writer, by_res("one-image-5"), "<>"):
        site.volumes.only_open_on(Content("one-image-5", 0), writer)
        read = site.hosts.run(other, ["dd", f"if={by_res('one-image-5')}", "of=/dev/null"], check=False)
        site.volumes.only_open_on(Content("one-image-5", 0))
        assert read.returncode
        assert f"open for writing on {writer}" in failed(clone(site, other))
    assert not site.definition("one-vm-7-disk-0")


def test_nothing_touches_a_volume_whose_replicas_differ(site: Site) -> None:
    name = datablock(site, 5)
    old, new = site.holders(name)
    written_apart(site, name, old, new)
    definition = site.definition(name)
    assert definition and definition.resources[new.upper()].volumes[0].state == "Outdated"
    # LINSTOR takes it without a word; DRBD then connects them, and the older data wins.
    mark = {"override_props": {"Aux/one/NAIVE": "1"}}
    assert naive(site.cluster, "PUT", f"resource-definitions/{name}", mark)[0] == 200
    props = dict(definition.props)

    vm(site, 7, D.DiskDocument(0, size=8, image=5), D.DiskDocument(1, size=8, image=5, clone=False))
    assert f"{new} is StandAlone" in failed(site.oned.tm("ln", site.source_word(5), site.disk_word(new, 7, 1), 7, 100))
    for host in (new, old, "frontend"):
        word = site.disk_word(host, 7, 1)
        assert f"{new} is StandAlone" in failed(site.oned.tm("mvds", word, f"/dev/drbd/by-res/{name}/0", 7, 100))
        assert f"{new} is StandAlone" in failed(site.oned.tm("delete", word, 7, 100))
    for mode in ("copy", "snapshot", "clone"):
        site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE=mode)
        assert f"{new} is StandAlone" in failed(clone(site, new))
    assert not definition.snapshots
    assert definition.props == props and not site.link(new, 7, 1) and not site.definition("one-vm-7-disk-0")


def test_a_disk_comes_back_at_once_to_the_host_that_it_left(site: Site) -> None:
    name = datablock(site, 5)
    host = elsewhere(site, name)
    vm(site, 7, D.DiskDocument(0, size=8, image=5, clone=False))
    for _ in range(2):
        done(site.oned.tm("ln", site.source_word(5), site.disk_word(host, 7, 0), 7, 100))
        assert site.attached(name) == [host] and site.link(host, 7, 0) == by_res(name)
        site.controller.faults.log.clear()
        site.controller.faults.add(Fault("late", method="DELETE", path=f"{name}/resources/{host}$", seconds=1))
        done(site.oned.tm("mvds", site.disk_word(host, 7, 0), by_res(name), 7, 100))
        # It was answered before the action ended, not only asked for.
        assert [entry["status"] for entry in site.controller.faults.log if entry["method"] == "DELETE"] == [200]
        assert not site.attached(name) and not site.link(host, 7, 0)


@pytest.mark.parametrize("action", ["mvds", "delete"])
def test_a_vm_that_goes_leaves_an_image_whose_replicas_differ_as_it_is(site: Site, action: str) -> None:
    name = datablock(site, 5)
    host = elsewhere(site, name)
    vm(site, 7, D.DiskDocument(0, size=8, image=5, clone=False))
    done(site.oned.tm("ln", site.source_word(5), site.disk_word(host, 7, 0), 7, 100))
    definition = site.definition(name)
    assert definition
    definition.resources["NODE1"].strayed = {"NODE2"}
    props = dict(definition.props)
    words = (action, site.disk_word(host, 7, 0), *([by_res(name)] if action == "mvds" else []), 7, 100)
    assert "node1 is StandAlone" in failed(site.oned.tm(*words))
    assert definition.props == props and site.attached(name) == [host] and site.link(host, 7, 0) == by_res(name)

    definition.resources["NODE1"].strayed = set()
    done(site.oned.tm(*words))
    assert not site.attached(name) and not site.link(host, 7, 0) and "Aux/one/VM_ID" not in definition.props


@contextmanager
def copied_on(site: Site, host: str) -> Iterator[None]:
    """Let a copy of image 5 for VM 8 have it borrowed on a host."""
    site.datastores(RESOURCE_GROUP="opennebula", BRIDGE_LIST=host)
    vm(site, 8, D.DiskDocument(0, size=8, image=5))
    hanging = Fault("hang", method="POST", path="one-vm-8-disk-0/resources/.*/make-available")
    site.controller.faults.add(hanging)
    running = site.oned.start_tm("clone", site.source_word(5), site.disk_word(host, 8, 0), 8, 100)
    try:
        until(lambda: hanging.seen, "the copy", 60.0)
        yield
    finally:
        running.kill()
        site.controller.faults.clear()


@contextmanager
def linked_on(site: Site, host: str) -> Iterator[None]:
    """Let VM 8 have a link to image 5 on a host."""
    vm(site, 8, D.DiskDocument(0, size=8, image=5, clone=False))
    done(site.oned.tm("ln", site.source_word(5), site.disk_word(host, 8, 0), 8, 100))
    yield


@pytest.mark.parametrize("kept", [copied_on, linked_on], ids=["by a copy", "by another VM"])
@pytest.mark.parametrize("action", ["mvds", "delete"])
def test_an_image_whose_replicas_differ_is_left_as_it_is_where_somebody_else_keeps_it(
    site: Site, action: str, kept: Callable[[Site, str], AbstractContextManager[None]]
) -> None:
    """It is not released there, so that the marks are the only change."""
    name = datablock(site, 5)
    host = elsewhere(site, name)
    disk = D.DiskDocument(0, size=8, image=5, clone=False, more={"PERSISTENT": "YES"})
    vm(site, 7, disk)
    done(site.oned.tm("ln", site.source_word(5), site.disk_word(host, 7, 0), 7, 100))
    definition = site.definition(name)
    assert definition
    words = (action, site.disk_word(host, 7, 0), *([by_res(name)] if action == "mvds" else []), 7, 100)
    with kept(site, host):
        definition.resources["NODE1"].strayed = {"NODE2"}
        props = dict(definition.props)
        assert "node1 is StandAlone" in failed(site.oned.tm(*words))
        assert definition.props == props and site.link(host, 7, 0) == by_res(name)

        definition.resources["NODE1"].strayed = set()
        done(site.oned.tm(*words))
        assert site.attached(name) == [host] and not site.link(host, 7, 0)
        assert "Aux/one/VM_ID" not in definition.props


def test_an_image_that_stays_because_it_is_open_is_not_marked_when_its_replicas_differ(site: Site) -> None:
    definition = site.definition(datablock(site, 5))
    assert definition
    with opened(site, "node1", by_res("one-image-5"), "<>"):
        definition.resources["NODE1"].strayed = {"NODE2"}
        props = dict(definition.props)
        assert "open on node1" in failed(rm(site, 5)) and definition.props == props
        definition.resources["NODE1"].strayed = set()
        assert "open on node1" in failed(rm(site, 5)) and definition.props == {**props, "Aux/one/STATE": "deleting"}


def test_a_vm_goes_from_a_cdrom_whose_replicas_differ_when_nothing_of_it_changes(site: Site) -> None:
    name = datablock(site, 5)
    host = elsewhere(site, name)
    for number in (7, 8):
        vm(site, number, D.DiskDocument(0, size=8, image=5, clone=False, kind="CDROM"))
        done(site.oned.tm("ln", site.source_word(5), site.disk_word(host, number, 0), number, 100))
    definition = site.definition(name)
    assert definition
    definition.resources["NODE1"].strayed = {"NODE2"}
    done(site.oned.tm("delete", site.disk_word(host, 7, 0), 7, 100))
    assert not site.link(host, 7, 0) and site.link(host, 8, 0) == by_res(name) and site.attached(name) == [host]
    assert "node1 is StandAlone" in failed(site.oned.tm("delete", site.disk_word(host, 8, 0), 8, 100))


@pytest.mark.parametrize("mode", ["copy", "snapshot", "clone"])
def test_no_disk_has_the_data_of_both_sides(site: Site, mode: str) -> None:
    """LINSTOR takes snapshots of such a volume when each replica is up to date on its own."""
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE=mode)
    definition = site.definition(datablock(site, 5))
    assert definition
    definition.resources["NODE1"].strayed = {"NODE2"}
    naive(site.cluster, "POST", "resource-definitions/one-image-5/snapshots", {"name": "naive"})
    assert "SUCCESSFUL" in definition.snapshots["NAIVE"].flags
    vm(site, 7, D.DiskDocument(0, size=8, image=5))
    site.controller.faults.log.clear()
    assert "node1 is StandAlone" in failed(clone(site, "node1"))
    assert {entry["method"] for entry in site.controller.faults.log} == {"GET"}


# --- names and marks --------------------------------------------------------------------------------------------


def test_a_definition_that_is_being_deleted_is_not_used(site: Site) -> None:
    name = datablock(site, 5)
    gone, kept = site.holders(name)
    offline(site, gone)
    naive(site.cluster, "DELETE", f"resource-definitions/{name}")
    address = f"resource-definitions/{name}/resources/{kept}/make-available"
    assert naive(site.cluster, "POST", address, {"diskful": False})[0] == 200

    vm(site, 7, D.DiskDocument(0, size=8, image=5), D.DiskDocument(1, size=8, image=5, clone=False))
    failed(site.oned.tm("ln", site.source_word(5), site.disk_word(kept, 7, 1), 7, 100))
    assert not site.link(kept, 7, 1)
    assert "still being deleted" in failed(clone(site, kept))
    assert "still being deleted" in failed(site.oned.ds("mkfs", D.image("7.4.0", 5, size=8), site.image_datastore))
    online(site, gone)


@pytest.mark.parametrize("going", [11, 15, 23, 40], ids=["epilog", "resubmit", "delete", "epilog failed"])
def test_no_disk_is_made_for_a_vm_that_is_going(site: Site, going: int) -> None:
    datablock(site, 5)
    disk = D.DiskDocument(0, size=8, image=5)
    site.documents.put(D.vm(7, [disk], lcm_state=going))
    assert "is being removed" in failed(clone(site, "node1"))
    assert not site.definition("one-vm-7-disk-0") and not site.link("node1", 7, 0)


def test_a_disk_from_a_snapshot_has_its_own_marks_and_leaves_no_snapshot(site: Site) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE="snapshot")
    cp(site, 5)
    naive(site.cluster, "POST", "resource-definitions/one-image-5/snapshots", {"name": "snap"})
    marks = {"props": {"Aux/one/VM_ID": "9"}, "name": "naive"}
    naive(site.cluster, "POST", "resource-definitions", {"resource_definition": marks})
    for kind in ("snapshot-restore-volume-definition", "snapshot-restore-resource"):
        naive(site.cluster, "POST", f"resource-definitions/one-image-5/{kind}/snap", {"to_resource": "naive"})
    naive(site.cluster, "DELETE", "resource-definitions/one-image-5/snapshots/snap")
    restored = site.definition("naive")
    assert restored and restored.props["Aux/one/IMAGE_ID"] == "5"

    vm(site, 7, D.DiskDocument(0, size=8, image=5))
    done(clone(site, site.holders("one-image-5")[0]))
    made = site.definition("one-vm-7-disk-0")
    assert made and {key: value for key, value in made.props.items() if key.startswith("Aux/one/")} == {
        "Aux/one/VM_ID": "7", "Aux/one/DISK_ID": "0", "Aux/one/DS_ID": "101", "Aux/one/ORIGIN": "one-image-5"
    }
    assert site.read("one-vm-7-disk-0", len(DATA)) == DATA
    image = site.definition("one-image-5")
    assert image and not image.snapshots
    done(rm(site, 5))


# --- copies -----------------------------------------------------------------------------------------------------


def test_nothing_old_is_left_on_a_volume_that_was_somebody_elses(site: Site) -> None:
    site.volumes.dirty = True
    try:
        site.datastores(STORAGE_POOL="thick", REPLICA_COUNT=2)
        cp(site, 5)
        vm(site, 7, D.DiskDocument(0, size=8, image=5))
        node = site.holders("one-image-5")[0]
        site.group("dirty", place_count=1, storage_pool_list=["thick"])
        site.rest("POST", "/v1/resource-groups/dirty/spawn",
                  {"resource_definition_name": "naive", "volume_sizes": [8192]})
        host = site.holders("naive")[0]
        site.hosts.run(host, ["dd", f"of={by_res('naive')}", "bs=64k", "conv=sparse,notrunc"], input=DATA, text=False)
        assert b"somebody else" in site.read("naive", len(DATA))

        done(clone(site, node))
    finally:
        site.volumes.dirty = False
    for name in ("one-image-5", "one-vm-7-disk-0"):
        whole = site.read(name, 64 * MIB)
        # The volume is larger than what was asked for, and all of it can be read in the VM.
        assert len(whole) > 8 * MIB and whole == DATA.ljust(len(whole), b"\0")


def test_copying_leaves_no_attachment_on_the_bridge_host(site: Site) -> None:
    cp(site, 5)
    bridge = elsewhere(site, "one-image-5")
    naive(site.cluster, "POST", "resource-groups/opennebula/spawn",
          {"resource_definition_name": "naive", "volume_sizes": [8192]})
    naive(site.cluster, "POST", f"resource-definitions/naive/resources/{bridge}/make-available", {"diskful": False})
    assert site.attached("naive") == [bridge]

    site.datastores(RESOURCE_GROUP="opennebula", BRIDGE_LIST=bridge)
    cp(site, 6)
    vm(site, 7, D.DiskDocument(0, size=8, image=5))
    host = site.holders("one-image-5")[0]
    done(clone(site, host))
    for name in ("one-image-5", "one-image-6", "one-vm-7-disk-0"):
        assert not site.attached(name) and len(site.holders(name)) == 2
        assert site.read(name, len(DATA)) == DATA


def test_a_copy_that_fails_gives_back_what_it_attached(site: Site) -> None:
    cp(site, 5)
    bridge = elsewhere(site, "one-image-5")
    site.datastores(RESOURCE_GROUP="opennebula", BRIDGE_LIST=bridge)
    vm(site, 7, D.DiskDocument(0, size=8, image=5))
    site.hosts.hide_tools(bridge, "qemu-img")
    try:
        assert "qemu-img" in failed(clone(site, site.holders("one-image-5")[0]))
    finally:
        site.hosts.hide_tools(bridge)
    assert not site.definition("one-vm-7-disk-0") and not site.attached("one-image-5")
    assert len(site.holders("one-image-5")) == 2 and site.read("one-image-5", len(DATA)) == DATA


def test_one_replica_in_a_thick_pool_makes_a_volume_unknown(site: Site) -> None:
    site.rest("POST", "/v1/controller/properties", {"override_props": {"AllowMixingStoragePoolDriver": "true"}})
    site.datastores(STORAGE_POOL="thin thick", NODE_LIST="node1 node2")
    del site.cluster.nodes["NODE2"].pools["THIN"]
    vm(site, 7, D.DiskDocument(0, size=8, kind="fs"))
    site.volumes.dirty = True
    try:
        done(site.oned.tm("mkimage", 8, "raw", site.disk_word("node1", 7, 0), 7, 101))
    finally:
        site.volumes.dirty = False
    found = site.definition("one-vm-7-disk-0")
    assert found and [found.resources[node].props["StorPoolName"] for node in ("NODE1", "NODE2")] == ["thin", "thick"]
    assert not any(site.read("one-vm-7-disk-0", 64 * MIB))


def test_linstors_own_clone_has_as_many_replicas_as_its_source(site: Site) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE="clone")
    cp(site, 5)
    host = elsewhere(site, "one-image-5")
    naive(site.cluster, "POST", "resource-definitions/one-image-5/clone", {"name": "naive"})
    address = f"resource-definitions/naive/resources/{host}/make-available"
    assert naive(site.cluster, "POST", address, {"diskful": True})[0] == 200
    assert len(diskful(site.cluster, "naive")) == 3

    vm(site, 7, D.DiskDocument(0, size=8, image=5))
    done(clone(site, host))
    assert len(site.holders("one-vm-7-disk-0")) == 2 and site.attached("one-vm-7-disk-0") == [host]
    assert site.read("one-vm-7-disk-0", len(DATA)) == DATA


def test_a_clone_writes_properties_once_and_lists_nothing_whole(site: Site) -> None:
    cp(site, 5)
    vm(site, 7, D.DiskDocument(0, size=8, image=5))
    site.controller.faults.log.clear()
    done(clone(site, elsewhere(site, "one-image-5")))
    log = [entry for entry in site.controller.faults.log if not entry["path"].endswith("/version")]
    assert [entry["method"] for entry in log if entry["method"] in ("PUT", "PATCH")] == ["PUT"]
    # Nothing but letting go of what the copy needed comes after the mark of completeness.
    assert all(entry["method"] != "POST" for entry in log[[entry["method"] for entry in log].index("PUT") :])
    reads = [entry["path"] + "?" + entry["query"] for entry in log if entry["method"] == "GET"]
    assert all("one-image-5" in read or "one-vm-7-disk-0" in read or read.startswith("/v1/nodes") for read in reads)


# --- what a user sees -------------------------------------------------------------------------------------------


def test_a_file_system_that_was_asked_for_is_there_or_the_image_is_not(site: Site) -> None:
    name = datablock(site, 4)
    assert kind_of(site, name) == ""
    wanted = D.image("7.4.0", 5, size=16, fs="ext4")
    done(site.oned.ds("mkfs", wanted, site.image_datastore))
    assert kind_of(site, "one-image-5") == "ext4"

    for host in site.hosts.names:
        site.hosts.hide_tools(host, "mkfs.ext4", "mke2fs")
    try:
        message = failed(site.oned.ds("mkfs", D.image("7.4.0", 6, size=16, fs="ext4"), site.image_datastore))
    finally:
        for host in site.hosts.names:
            site.hosts.hide_tools(host)
    assert "mkfs.ext4" in message and not site.definition("one-image-6")


def test_tools_in_sbin_are_found_though_oneadmins_path_has_no_sbin(site: Site) -> None:
    vm(site, 7, D.DiskDocument(0, size=8, kind="swap"))
    found = site.hosts.run("node1", ["sh", "-c", "mkswap --version"], check=False)
    assert found.returncode == 127
    done(site.oned.tm("mkswap", 8, site.disk_word("node1", 7, 0), 7, 101))
    assert kind_of(site, "one-vm-7-disk-0") == "swap"


def test_a_volatile_disk_goes_without_a_word(site: Site) -> None:
    vm(site, 7, D.DiskDocument(0, size=8, kind="fs"))
    for words in (("mkimage", 8, "raw", site.disk_word("node1", 7, 0), 7, 101),
                  ("delete", site.disk_word("node1", 7, 0), 7, 101)):
        ended = done(site.oned.tm(*words)).ended
        assert (ended.stdout, ended.stderr) == (b"", b"")
    assert not site.definition("one-vm-7-disk-0") and not site.link("node1", 7, 0)


def test_a_volatile_disk_that_fails_in_the_end_leaves_neither_volume_nor_link(site: Site) -> None:
    vm(site, 7, D.DiskDocument(0, size=8, kind="fs"))
    site.controller.faults.add(Fault("refuse", method="PUT", path="one-vm-7-disk-0$", times=9))
    assert "one-vm-7-disk-0" in failed(site.oned.tm("mkimage", 8, "raw", site.disk_word("node1", 7, 0), 7, 101))
    assert not site.definition("one-vm-7-disk-0") and not site.link("node1", 7, 0)


def test_the_reason_of_a_failed_context_reaches_the_user(site: Site) -> None:
    vm(site, 7)
    outcome = site.oned.tm("context", "/var/tmp/nosuch:file", site.disk_word("node1", 7, 1), 7, 101)
    assert "nosuch" in failed(outcome)


def test_capacity_is_what_replicas_leave_also_while_satellites_are_slow(site: Site) -> None:
    site.controller.faults.add(Fault("late", path="size-info|storage-pools", seconds=2))
    said = dict(line.split("=") for line in done(site.oned.monitor(site.image_datastore)).stdout.split())
    pools = [site.cluster.pool(node, "thin") for node in site.hosts.names]
    raw = sum(pool.total for pool in pools if pool) // 1024
    assert 0 < int(said["TOTAL_MB"]) <= raw // 2


def test_a_controller_that_never_answers_ends_the_action(site: Site) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=2)
    site.controller.faults.add(Fault("hang", method="POST", path="spawn$"))
    outcome = site.oned.ds("mkfs", D.image("7.4.0", 5, size=8), site.image_datastore)
    assert "no answer within 2 s" in failed(outcome) and outcome.ended.seconds < 60
    assert not site.definition("one-image-5")


def test_a_host_that_never_answers_ends_the_action(site: Site) -> None:
    cp(site, 5)
    vm(site, 7, D.DiskDocument(0, size=8, image=5))
    host = elsewhere(site, "one-image-5")
    site.hosts.kill(host)
    try:
        outcome = clone(site, host)
    finally:
        site.hosts.start(host)
    assert host in failed(outcome) and outcome.ended.seconds < 120
    assert not site.definition("one-vm-7-disk-0")
