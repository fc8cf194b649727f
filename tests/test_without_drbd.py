"""Volumes without DRBD: a replica has what was written on its own node, so what a VM wrote is on its host alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.controller import satellites
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import Site
from site_support import cp, datablock, device, done, failed, marks, meanwhile, source
from snapshot_support import CLONED, DISK, IMAGE, PERSISTENT, delete, know, make_vm, names, order, revert, snapshot
from test_export import export

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN"}}
WRITTEN = "of the VM"


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Each volume has a replica on node1 and one on node2."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    yield
    site.cluster.prefer = lambda _: []


def put(site: Site, name: str, text: str, host: str) -> None:
    """Write to a replica, as a VM on its host does."""
    script = 'printf %s "$2" | dd of="$1" conv=notrunc,fsync status=none'
    site.hosts.run(host, ["sh", "-c", script, "sh", device(site, name, host), text])


def begins(site: Site, name: str) -> dict[str, str]:
    """What each replica begins with."""
    return {node: site.read(name, len(WRITTEN), node).decode().strip("\0") for node in site.holders(name)}


def written_image(site: Site, host: str = "node2") -> None:
    """A persistent image that a VM wrote to on a host, and was taken from."""
    datablock(site)
    know(site, PERSISTENT, host=host)
    done(site.oned.tm("ln", site.source_word(5), site.disk_word(host, 7, 0), 7, 100))
    put(site, IMAGE, WRITTEN, host)
    done(site.oned.tm("mvds", site.disk_word(host, 7, 0), source(5), 7, 100))


def give(site: Site, host: str, vm: int = 8) -> Outcome:
    """Give another VM the image."""
    site.documents.put(D.vm(vm, [PERSISTENT], hosts=[host], lcm_state=1))
    return site.oned.tm("ln", site.source_word(5), site.disk_word(host, vm, 0), vm, 100)


# --- a persistent image ---------------------------------------------------------------------------------------------


def test_a_persistent_image_is_given_to_a_vm_only_where_another_one_wrote_to_it(site: Site) -> None:
    written_image(site)
    assert begins(site, IMAGE) == {"node1": "", "node2": WRITTEN}
    before = marks(site, IMAGE)

    assert "what a VM wrote to it is on node2 alone" in failed(give(site, "node1"))
    assert marks(site, IMAGE) == before and not site.link("node1", 8, 0)

    done(give(site, "node2"))
    assert site.link("node2", 8, 0) == device(site, IMAGE, "node2")


def test_an_image_that_no_vm_wrote_to_is_the_same_everywhere(site: Site) -> None:
    cp(site)
    done(give(site, "node1"))
    assert marks(site, IMAGE)["WRITTEN_ON"] == "node1"


@pytest.mark.parametrize("mode", ["copy", "snapshot", "clone"])
def test_a_copy_of_such_an_image_has_what_was_written_on_every_node(site: Site, mode: str) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2, CLONE_MODE=mode)
    written_image(site)
    document = D.image(site.oned.release, 6, size=8, path=source(5))
    done(site.oned.ds("clone", document, site.image_datastore))
    assert begins(site, "one-image-6") == {"node1": WRITTEN, "node2": WRITTEN}
    assert "WRITTEN_ON" not in marks(site, "one-image-6")

    site.documents.put(D.vm(7, [CLONED], hosts=["node1"], lcm_state=1))
    done(site.oned.tm("clone", site.source_word(5), site.disk_word("node1", 7, 0), 7, 100))
    assert begins(site, DISK) == {"node1": WRITTEN, "node2": WRITTEN}


def test_such_an_image_is_exported_from_where_it_was_written(site: Site) -> None:
    written_image(site)
    assert "ssh://node2:" in done(export(site)).stdout


def test_an_image_whose_written_replica_is_gone_is_not_taken_for_whole(site: Site) -> None:
    written_image(site)
    site.rest("DELETE", f"/v1/resource-definitions/{IMAGE}/resources/node2")
    document = D.image(site.oned.release, 6, size=8, path=source(5))
    assert "was on node2 alone" in failed(site.oned.ds("clone", document, site.image_datastore))
    assert site.definition("one-image-6") is None


# --- snapshots --------------------------------------------------------------------------------------------------------


def test_a_snapshot_without_what_the_vm_wrote_is_not_taken(site: Site) -> None:
    make_vm(site, host="node1")
    before = marks(site, DISK)
    satellites.go_offline(site.cluster, "node1")
    try:
        assert "node1, where its VM writes, is offline" in failed(order(site, 0, host="node1"))
    finally:
        satellites.come_back(site.cluster, "node1")
    assert names(site, DISK) == [] and marks(site, DISK) == before


def test_a_snapshot_that_missed_the_vms_host_goes_again(site: Site) -> None:
    make_vm(site, host="node1")
    before = marks(site, DISK)
    meanwhile(site, "POST", f"{DISK}/snapshots", lambda: satellites.go_offline(site.cluster, "node1"))
    try:
        assert "was not taken on node1" in failed(order(site, 0, host="node1"))
    finally:
        satellites.come_back(site.cluster, "node1")
    assert names(site, DISK) == [] and marks(site, DISK) == before


def test_a_disk_does_not_go_back_to_what_its_vm_never_wrote(site: Site) -> None:
    make_vm(site, host="node1")
    done(order(site, 0, host="node1"))
    put(site, DISK, WRITTEN, "node1")
    del snapshot(site, DISK, "snapshot-0").resources["NODE1"]
    know(site, CLONED, D.Snapshot(0, date=1000, size=8), host="node1", lcm_state=52)
    assert "snapshot-0 of one-vm-7-disk-0 was not taken on node1" in failed(revert(site, 0, "node1"))
    assert begins(site, DISK)["node1"] == WRITTEN
    done(delete(site, 0, "node1"))
