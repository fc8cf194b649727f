"""Replicas that DRBD has cut off from each other while LINSTOR reaches both: only what is current is copied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import Site
from linstor_un import placement
from linstor_un.errors import Refused
from linstor_un.inventory import Replica
from linstor_un.naming import by_res
from site_support import DATA, cp, cut_off, done, failed

IMAGE, DISK = "one-image-5", "one-vm-7-disk-0"
CLONED = D.DiskDocument(0, size=8, image=5)
SAVING = 26


def replica(node: str, *flags: str, open_: bool = False, online: bool = True, **sees: bool) -> Replica:
    device = "/dev/drbd1000"
    return Replica(node, frozenset(flags), ("DRBD", "STORAGE"), "thin", device, online, open_, sees=sees)


@pytest.mark.parametrize(
    ("replicas", "behind"),
    [
        ((replica("a", b=True), replica("b", a=True)), []),
        ((replica("a"), replica("b")), []),
        ((replica("a", b=True, c=False), replica("b", a=True, c=False), replica("c", a=False, b=False)), ["c"]),
        ((replica("a", b=False, t=True), replica("b"), replica("t", "DISKLESS", "TIE_BREAKER", b=False)), ["b"]),
        ((replica("a", b=False, open_=True), replica("b", c=True), replica("c", a=False)), ["b", "c"]),
        ((replica("a", b=False), replica("b", online=False)), []),
        ((replica("a", b=False), replica("b", "DELETE")), []),
    ],
    ids=["connected", "nothing told", "most", "with the tiebreaker", "where it is open", "silent", "going"],
)
def test_what_is_cut_off_from_most_nodes_or_from_where_it_is_open_is_behind(
    replicas: tuple[Replica, ...], behind: list[str]
) -> None:
    assert placement.behind(replicas) == behind
    placement.require_current("one", replicas)


@pytest.mark.parametrize(
    "replicas",
    [
        (replica("a", b=False), replica("b")),
        (replica("a"), replica("b", a=False)),
        (replica("a", b=False, open_=True), replica("b", open_=True)),
        (replica("a", b=False), replica("b"), replica("c", online=False)),
        (replica("a", b=False, c=True), replica("b", c=False), replica("c"), replica("d", online=False)),
        (replica("a", b=False, d=False), replica("b", c=False), replica("c", "DISKLESS"), replica("d", "DISKLESS")),
    ],
    ids=["told by one", "told by the other", "open on both", "one silent", "one of four silent", "each with a client"],
)
def test_where_nobody_knows_what_is_current_nothing_is_read(replicas: tuple[Replica, ...]) -> None:
    assert not placement.behind(replicas)
    with pytest.raises(Refused, match="one on a and b have no connection to each other, and one of them may be newer"):
        placement.require_current("one", replicas)


# --- the actions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


def no_tiebreaker(site: Site, name: str) -> None:
    found = site.definition(name)
    assert found
    for node in [node for node, one in found.resources.items() if one.diskless]:
        found.drop(node)


def clone(site: Site, host: str) -> Outcome:
    site.documents.put(D.vm(7, [CLONED], hosts=[host]))
    return site.oned.tm("clone", site.source_word(5), site.disk_word(host, 7, 0), 7, 100)


@pytest.mark.slow
@pytest.mark.usefixtures("placed_alike")
@pytest.mark.parametrize("mode", ["copy", "snapshot", "clone"])
def test_a_clone_is_read_where_most_nodes_see_each_other(site: Site, mode: str) -> None:
    """The VM's host would copy, and LINSTOR would make the disk's replica there from the one that is cut off."""
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE=mode)
    cp(site)
    cut_off(site, IMAGE, "node2", "node1", "node3")
    site.hosts.hide_tools("node2", "qemu-img")
    try:
        outcome = done(clone(site, "node2"))
    finally:
        site.hosts.hide_tools("node2")
    assert mode == "copy" or "the replicas of one-image-5 on node1 and node2 have no connection" in outcome.stderr
    assert site.read(DISK, len(DATA)) == DATA


@pytest.mark.slow
@pytest.mark.usefixtures("placed_alike")
@pytest.mark.parametrize("mode", ["snapshot", "clone"])
def test_linstor_makes_no_copy_of_replicas_of_which_one_is_cut_off(site: Site, mode: str) -> None:
    """It would make each of the copy's from another one; so the disk is copied, which cannot be done here."""
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE=mode)
    cp(site)
    cut_off(site, IMAGE, "node2", "node1", "node3")
    for host in site.hosts.names:
        site.hosts.hide_tools(host, "qemu-img")
    try:
        outcome = clone(site, "node2")
    finally:
        for host in site.hosts.names:
            site.hosts.hide_tools(host)
    assert outcome.code == 1 and "qemu-img" in outcome.stderr and not site.definition(DISK)


@pytest.mark.slow
@pytest.mark.usefixtures("placed_alike")
@pytest.mark.parametrize("mode", ["copy", "snapshot", "clone"])
def test_nothing_is_cloned_from_replicas_of_which_one_may_be_newer(site: Site, mode: str) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE=mode)
    cp(site)
    no_tiebreaker(site, IMAGE)
    cut_off(site, IMAGE, "node1", "node2")
    assert "one-image-5 on node1 and node2 have no connection to each other" in failed(clone(site, "node3"))
    assert not site.definition(DISK) and not site.attached(IMAGE)


@pytest.mark.slow
@pytest.mark.usefixtures("placed_alike")
def test_an_image_is_not_given_to_a_vm_where_its_replica_may_be_older(site: Site) -> None:
    """A CDROM, which nobody writes, may be read anywhere."""
    cp(site)
    no_tiebreaker(site, IMAGE)
    cut_off(site, IMAGE, "node1", "node2")
    words = ["ln", site.source_word(5), site.disk_word("node2", 7, 0), 7, 100]
    site.documents.put(D.vm(7, [D.DiskDocument(0, size=8, image=5, clone=False)], hosts=["node2"]))
    assert "one-image-5 on node2 has no connection to that on node1" in failed(site.oned.tm(*words))
    assert not site.link("node2", 7, 0)
    site.documents.put(D.vm(7, [D.DiskDocument(0, size=8, image=5, clone=False, kind="CDROM")], hosts=["node2"]))
    done(site.oned.tm(*words))
    assert site.link("node2", 7, 0) == by_res(IMAGE)


@pytest.mark.slow
@pytest.mark.usefixtures("placed_alike")
def test_where_every_host_that_may_copy_is_cut_off_the_sentence_says_what_to_wait_for(site: Site) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", BRIDGE_LIST="node2")
    cp(site)
    cut_off(site, IMAGE, "node2", "node1", "node3")
    sentence = failed(clone(site, "node3"))
    assert "DRBD has cut off each of the hosts node2" in sentence and "drbdadm status" in sentence and IMAGE in sentence
    assert not site.definition(DISK) and not site.attached(IMAGE)


@pytest.mark.slow
@pytest.mark.usefixtures("placed_alike")
def test_an_image_is_exported_from_where_most_nodes_see_each_other(site: Site) -> None:
    cp(site)
    cut_off(site, IMAGE, "node1", "node2", "node3")
    document = D.image(site.oned.release, 5, size=8, source=by_res(IMAGE))
    assert "ssh://node2:" in done(site.oned.ds("export", document, site.image_datastore)).stdout


@pytest.mark.slow
@pytest.mark.usefixtures("placed_alike")
def test_a_running_vms_disk_is_not_saved_while_one_replica_may_be_newer(site: Site) -> None:
    cp(site)
    done(clone(site, "node3"))
    no_tiebreaker(site, DISK)
    cut_off(site, DISK, "node1", "node2")
    site.documents.put(D.vm(7, [CLONED], lcm_state=SAVING, hosts=["node3"]), D.image("7.4.0", 6, size=8))
    words = [site.disk_word("node3", 7, 0), by_res("one-image-6"), -1, 7, 100]
    assert "one-vm-7-disk-0 on node1 and node2 have no connection to each other" in failed(site.oned.tm("cpds", *words))
    assert not site.definition("one-image-6")
