"""Attributes of datastores: each shows in where replicas land, or in where a volume is copied."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.controller import satellites
from lab.oned import documents
from lab.oned.answers import Outcome
from lab.oned.documents import DiskDocument
from lab.site import Site
from linstor_un import placement
from linstor_un.errors import BadRequest, Exists, InUse, Unreachable
from linstor_un.inventory import Definition, Replica
from linstor_un.naming import CREATING, IMAGE_ID, ORIGIN, RUN, STATE, VM_ID
from linstor_un.placement import Fate
from linstor_un.world import CloudHost

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "ssd": "ZFS_THIN"}}
DISK = "one-vm-7-disk-1"


def volatile(site: Site, host: str = "node1") -> Outcome:
    """Make VM 7's volatile disk 1 of 16 MiB on a host."""
    site.documents.put(documents.vm(7, [DiskDocument(1, size=16, kind="fs", datastore=101)], hosts=[host]))
    return site.oned.tm("mkimage", 16, "raw", site.disk_word(host, 7, 1), 7, 101)


def made(site: Site, host: str = "node1", **attributes: object) -> list[str]:
    """Return where the replicas of a volatile disk are, made with exactly these attributes."""
    site.datastores(**attributes)  # type: ignore[arg-type]
    outcome = volatile(site, host)
    assert outcome.success, outcome.user_message
    return site.holders(DISK)


def zones(site: Site, **zone_of: str) -> None:
    for node, zone in zone_of.items():
        site.rest("PUT", f"/v1/nodes/{node}", {"override_props": {"Aux/zone": zone}})


def occupy(site: Site, name: str, node: str) -> None:
    """Put a foreign volume on one node."""
    site.rest("POST", "/v1/resource-definitions", {"resource_definition": {"name": name}})
    site.rest("POST", f"/v1/resource-definitions/{name}/volume-definitions", {"volume_definition": {"size_kib": 4096}})
    resource = {"resource": {"node_name": node, "props": {"StorPoolName": "thin"}}}
    site.rest("POST", f"/v1/resource-definitions/{name}/resources", [resource])


@pytest.mark.parametrize(("name", "count"), [("REPLICA_COUNT", 1), ("AUTO_PLACE", 2), ("REPLICA_COUNT", 3)])
def test_replica_count_is_the_number_of_replicas(site: Site, name: str, count: int) -> None:
    assert len(made(site, STORAGE_POOL="thin", **{name: count})) == count


def test_resource_group_places_and_owns(site: Site) -> None:
    site.group("one-copy", place_count=1, storage_pool_list=["ssd"])
    assert len(made(site, RESOURCE_GROUP="one-copy")) == 1
    found = site.definition(DISK)
    assert found and found.group == "one-copy"


def test_replica_count_goes_before_the_groups(site: Site) -> None:
    assert len(made(site, RESOURCE_GROUP="opennebula", REPLICA_COUNT=3)) == 3


@pytest.mark.parametrize("pool", ["thin", "ssd"])
def test_storage_pool(site: Site, pool: str) -> None:
    made(site, REPLICA_COUNT=2, STORAGE_POOL=pool)
    found = site.definition(DISK)
    assert found and {r.props["StorPoolName"] for r in found.resources.values() if not r.diskless} == {pool}


def test_node_list_is_where_replicas_always_are(site: Site) -> None:
    assert made(site, NODE_LIST="node3 node2", STORAGE_POOL="thin") == ["node2", "node3"]


def test_node_list_is_topped_up_to_the_replica_count(site: Site) -> None:
    assert made(site, NODE_LIST="node3", REPLICA_COUNT=2, STORAGE_POOL="thin").count("node3") == 1
    assert len(site.holders(DISK)) == 2


def pools_of(site: Site) -> dict[str, str]:
    """Return the pool of each replica of VM 7's disk by node."""
    found = site.definition(DISK)
    assert found
    return {r.node: str(r.props["StorPoolName"]) for r in found.resources.values() if not r.diskless}


def test_node_list_leaves_the_pool_to_the_group(site: Site) -> None:
    """Where nobody names a pool LINSTOR takes DfltStorPool, whatever it is."""
    for node in ("node1", "node2", "node3"):
        site.cluster.add_pool(node, "DfltStorPool", "LVM_THIN", 1 << 40)
    site.group("ssds", place_count=2, storage_pool_list=["ssd"])
    made(site, NODE_LIST="Node1 node3", RESOURCE_GROUP="ssds")
    assert pools_of(site) == {"node1": "ssd", "node3": "ssd"}


def test_the_images_of_a_node_list_lie_in_the_groups_pool(site: Site) -> None:
    site.datastores(NODE_LIST="node1 node3", RESOURCE_GROUP="opennebula")
    source = Path("/var/tmp/source")
    source.write_bytes(bytes(8 << 20))
    for image, action, path in ((5, "mkfs", ""), (6, "cp", str(source))):
        outcome = site.oned.ds(action, documents.image("7.4.0", image, size=8, path=path), site.image_datastore)
        assert outcome.success, outcome.user_message
        assert site.holders(f"one-image-{image}") == ["node1", "node3"]


def test_on_node_list_a_group_is_asked_for_once(site: Site) -> None:
    asked = []
    for attributes in ({"STORAGE_POOL": "thin"}, {"RESOURCE_GROUP": "opennebula"}):
        site.controller.faults.log.clear()
        made(site, NODE_LIST="node1 node3", **attributes)
        asked.append([entry["path"] for entry in site.controller.faults.log])
        site.oned.tm("delete", site.disk_word("node1", 7, 1), 7, 101)
    assert len(asked[1]) == len(asked[0]) + 1 and asked[1].count("/v1/resource-groups/opennebula") == 1


def test_on_node_list_a_group_without_pools_takes_the_one_that_all_nodes_have(site: Site) -> None:
    site.group("any", place_count=2)
    del site.cluster.nodes["NODE1"].pools["SSD"]
    site.cluster.nodes["NODE3"].pools["SSD"].total *= 2
    made(site, NODE_LIST="node1 node3", RESOURCE_GROUP="any")
    assert pools_of(site) == {"node1": "thin", "node3": "thin"}


def test_on_node_list_a_group_without_pools_takes_the_one_with_most_room(site: Site) -> None:
    site.group("any", place_count=2)
    for node in ("NODE1", "NODE3"):
        site.cluster.nodes[node].pools["THIN"].total *= 2
    made(site, NODE_LIST="node1 node3", RESOURCE_GROUP="any")
    assert pools_of(site) == {"node1": "thin", "node3": "thin"}


@pytest.mark.parametrize("kind, pool", [("LVM_THIN", "thin"), ("ZFS_THIN", "ssd")])
@pytest.mark.parametrize("where", ["group", "datastore"])
def test_on_node_list_the_kinds_of_pools_count(site: Site, where: str, kind: str, pool: str) -> None:
    site.group("kinds", place_count=2, **({"provider_list": [kind]} if where == "group" else {}))
    attributes = {"PROVIDERS": kind} if where == "datastore" else {}
    made(site, NODE_LIST="node1 node3", RESOURCE_GROUP="kinds", **attributes)
    assert set(pools_of(site).values()) == {pool}


def test_a_node_of_node_list_without_a_pool_is_named_and_nothing_is_left(site: Site) -> None:
    site.datastores(NODE_LIST="node1 node3", RESOURCE_GROUP="DfltRscGrp", PROVIDERS="zfs_thin")
    del site.cluster.nodes["NODE3"].pools["SSD"]
    outcome = volatile(site)
    assert "node node3 has no storage pool of ZFS_THIN" in outcome.user_message
    assert site.definition(DISK) is None


def test_node_list_is_topped_up_to_the_groups_count(site: Site) -> None:
    site.group("three", place_count=3, storage_pool_list=["thin"])
    assert made(site, NODE_LIST="node3", RESOURCE_GROUP="three") == ["node1", "node2", "node3"]
    site.oned.tm("delete", site.disk_word("node1", 7, 1), 7, 101)
    assert made(site, NODE_LIST="node3", RESOURCE_GROUP="three", REPLICA_COUNT=1) == ["node3"]


def test_on_node_list_a_groups_layers_count(site: Site) -> None:
    site.rest("POST", "/v1/encryption/passphrase", {"new_passphrase": "secret"})
    site.group("luks", place_count=2, storage_pool_list=["thin"], layer_stack=["DRBD", "LUKS", "STORAGE"])
    made(site, NODE_LIST="node1 node3", RESOURCE_GROUP="luks")
    found = site.definition(DISK)
    assert found and {tuple(r.layers) for r in found.resources.values() if not r.diskless} == {
        ("DRBD", "LUKS", "STORAGE")
    }


def test_layer_list_without_drbd_places_where_the_vm_is(site: Site) -> None:
    assert made(site, "node3", LAYER_LIST="storage", REPLICA_COUNT=1, STORAGE_POOL="thin") == ["node3"]
    found = site.definition(DISK)
    assert found and found.resources["NODE3"].layers == ["STORAGE"]


def test_a_groups_own_stack_without_drbd_puts_a_replica_where_the_vm_is(site: Site) -> None:
    site.group("bare", place_count=1, storage_pool_list=["thin"], layer_stack=["STORAGE"])
    assert "node3" in made(site, "node3", RESOURCE_GROUP="bare")
    assert site.link("node3", 7, 1).startswith("/dev/loop")


def test_providers(site: Site) -> None:
    made(site, RESOURCE_GROUP="DfltRscGrp", PROVIDERS="zfs_thin", REPLICA_COUNT=2)
    found = site.definition(DISK)
    assert found and {r.props["StorPoolName"] for r in found.resources.values() if not r.diskless} == {"ssd"}


def test_replicas_on_same(site: Site) -> None:
    zones(site, node1="a", node2="b", node3="b")
    assert made(site, REPLICAS_ON_SAME="zone", REPLICA_COUNT=2, STORAGE_POOL="thin") == ["node2", "node3"]


def test_replicas_on_different(site: Site) -> None:
    zones(site, node1="a", node2="a", node3="b")
    assert "node3" in made(site, REPLICAS_ON_DIFFERENT="Aux/zone", REPLICA_COUNT=2, STORAGE_POOL="thin")


def test_do_not_place_with(site: Site) -> None:
    occupy(site, "database", "node1")
    attributes = {"REPLICA_COUNT": 2, "STORAGE_POOL": "thin"}
    assert made(site, DO_NOT_PLACE_WITH="database", **attributes) == ["node2", "node3"]


def test_do_not_place_with_regex(site: Site) -> None:
    occupy(site, "database-7", "node2")
    attributes = {"REPLICA_COUNT": 2, "STORAGE_POOL": "thin"}
    assert made(site, DO_NOT_PLACE_WITH_REGEX="^database-[0-9]+$", **attributes) == ["node1", "node3"]


def test_prefer_node_puts_a_replica_where_the_vm_is(site: Site) -> None:
    for host in ("node1", "node2", "node3"):
        holders = made(site, host, PREFER_NODE="yes", RESOURCE_GROUP="opennebula")
        assert host in holders and len(holders) == 2
        site.oned.tm("delete", site.disk_word(host, 7, 1), 7, 101)


def test_prefer_node_is_a_wish_only(site: Site) -> None:
    del site.cluster.nodes["NODE3"].pools["THIN"]
    assert made(site, "node3", PREFER_NODE="yes", RESOURCE_GROUP="opennebula") == ["node1", "node2"]
    assert site.link("node3", 7, 1) == f"/dev/drbd/by-res/{DISK}/0"


def test_diskless_pool_is_where_attachments_are(site: Site) -> None:
    site.cluster.add_pool("node3", "lent", "DISKLESS", 1 << 40)
    made(site, "node3", NODE_LIST="node1", STORAGE_POOL="thin", DISKLESS_POOL="lent")
    found = site.definition(DISK)
    assert found and found.resources["NODE3"].props["StorPoolName"] == "lent"


def test_encryption_puts_luks_below_drbd(site: Site) -> None:
    site.rest("POST", "/v1/encryption/passphrase", {"new_passphrase": "secret"})
    made(site, ENCRYPTION="yes", REPLICA_COUNT=2, STORAGE_POOL="thin")
    found = site.definition(DISK)
    assert found and {tuple(r.layers) for r in found.resources.values() if not r.diskless} == {
        ("DRBD", "LUKS", "STORAGE")
    }


def test_encryption_without_a_passphrase_says_what_to_do_and_leaves_nothing(site: Site) -> None:
    site.datastores(ENCRYPTION="yes", REPLICA_COUNT=2, STORAGE_POOL="thin")
    outcome = volatile(site)
    assert outcome.code == 1 and "linstor encryption create-passphrase" in outcome.user_message
    assert site.definition(DISK) is None


def test_bridge_list_is_where_copies_run(site: Site) -> None:
    """node3 holds no replica: it borrows the volume for the copy, and gives it back."""
    attributes = {"NODE_LIST": "node1 node2", "STORAGE_POOL": "thin"}
    site.datastores(BRIDGE_LIST="node3", **attributes)
    site.hosts.hide_tools("node1", "mkfs.ext4")
    site.hosts.hide_tools("node2", "mkfs.ext4")
    try:
        outcome = site.oned.ds("mkfs", documents.image("7.4.0", 5, size=16, fs="ext4"), site.image_datastore)
    finally:
        site.hosts.hide_tools("node1")
        site.hosts.hide_tools("node2")
    assert outcome.success, outcome.user_message
    assert site.attached("one-image-5") == []
    assert site.read("one-image-5", 1082)[1080:] == b"\x53\xef"


def test_an_unknown_bridge_is_named(site: Site) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", BRIDGE_LIST="nobody")
    outcome = site.oned.ds("mkfs", documents.image("7.4.0", 5, size=16, fs="ext4"), site.image_datastore)
    assert not outcome.success and "BRIDGE_LIST 'nobody'" in outcome.user_message
    assert site.definition("one-image-5") is None


def test_only_a_host_that_linstor_has_online_copies(site: Site) -> None:
    """The nodes with the replicas are no hosts of OpenNebula, and its first host is unknown to LINSTOR."""
    site.datastores(NODE_LIST="node1 node2", STORAGE_POOL="thin")
    for number in (0, 1):
        site.documents.remove("HOST", number)
    site.documents.put(documents.host(9, "kvm9"))
    image = documents.image("7.4.0", 5, size=16, fs="ext4")
    outcome = site.oned.ds("mkfs", image, site.image_datastore)
    assert outcome.success, outcome.user_message
    assert site.read("one-image-5", 1082)[1080:] == b"\x53\xef" and site.attached("one-image-5") == []

    with site.cluster.lock:
        satellites.go_offline(site.cluster, "node3")
    outcome = site.oned.ds("mkfs", documents.image("7.4.0", 6, size=16, fs="ext4"), site.image_datastore)
    assert not outcome.success
    assert "none of the hosts kvm9 node3 is an online LINSTOR node" in outcome.user_message
    assert site.definition("one-image-6") is None


HOSTS = [CloudHost("a", True, 0.9), CloudHost("b", True, 0.1), CloudHost("c", True, 0.5), CloudHost("off", False, 0.0)]


def test_the_bridge_holds_most_then_is_preferred_then_idlest() -> None:
    candidates = placement.bridge_candidates(HOSTS, ())
    assert placement.bridge(candidates, [["a", "c"], ["a"]]).name == "a"
    assert placement.bridge(candidates, [["a", "c"]], prefer="c").name == "c"
    assert placement.bridge(candidates, [["off"]]).name == "b"


def test_a_host_that_is_off_never_copies() -> None:
    with pytest.raises(Unreachable, match="no host of BRIDGE_LIST 'off' is enabled"):
        placement.bridge_candidates(HOSTS, ["off"])
    with pytest.raises(BadRequest, match="names no host of OpenNebula"):
        placement.bridge_candidates(HOSTS, ["node9"])


def test_only_a_replica_whose_node_answers_holds_the_data() -> None:
    def resource(node: str, flags: str = "", online: bool = True) -> Replica:
        return Replica(node, frozenset(flags.split()), ("DRBD", "STORAGE"), "thin", "/dev/drbd1000", online, False)

    good = resource("good")
    others = [
        resource("tiebreaker", "DISKLESS DRBD_DISKLESS TIE_BREAKER"), resource("diskless", "DISKLESS DRBD_DISKLESS"),
        resource("inactive", "INACTIVE"), resource("evicted", "EVICTED DELETE"), resource("going", "DELETE"),
        resource("half gone", "DRBD_DELETE"), resource("silent", online=False),
    ]  # fmt: skip
    assert placement.holding([*others, good]) == ["good"]
    assert placement.unknown([*others, good]) == ["silent"]


def definition(flags: str = "", **marks: str) -> Definition:
    keys = {"vm": VM_ID, "image": IMAGE_ID, "origin": ORIGIN, "state": STATE, "run": RUN}
    props = {keys[key]: value for key, value in marks.items()}
    return Definition("one-image-5", frozenset(flags.split()), props, "g", ("DRBD", "STORAGE"), None)


def test_a_name_is_kept_replaced_or_left_alone() -> None:
    wanted = {IMAGE_ID: "5", ORIGIN: "1700000000"}
    assert placement.fate(None, wanted) is Fate.CREATE
    assert placement.fate(definition(image="5", origin="1700000000"), wanted) is Fate.KEEP
    assert placement.fate(definition(image="5", state=CREATING, run="r"), wanted) is Fate.REPLACE
    assert placement.fate(definition(image="9", state=CREATING, run="r"), wanted) is Fate.REPLACE, "restored marks"
    assert placement.fate(definition(image="5", state="deleting"), wanted) is Fate.REPLACE


@pytest.mark.parametrize(
    "found", [definition(), definition(image="6"), definition(image="5", origin="1"), definition(vm="5", image="9")]
)
def test_a_foreign_definition_is_left_alone(found: Definition) -> None:
    with pytest.raises(Exists, match="one-image-5 exists already"):
        placement.fate(found, {IMAGE_ID: "5", ORIGIN: "1700000000"})


def test_an_images_marks_alone_do_not_make_a_disk() -> None:
    with pytest.raises(Exists, match="is marked IMAGE_ID=5"):
        placement.fate(definition(image="5"), {VM_ID: "7"})


def test_a_definition_that_linstor_still_deletes_is_not_used() -> None:
    with pytest.raises(InUse, match="still being deleted"):
        placement.fate(definition("DELETE", image="5"), {IMAGE_ID: "5"})
