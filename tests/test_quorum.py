"""What a volume does without quorum: LINSTOR's io-error makes a guest's disks read-only, so writers wait instead."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hazard_support import naive
from lab.controller import drbd_events, drbd_kernel
from lab.controller.cluster import Cluster
from lab.oned import documents as D
from lab.site import Site
from linstor_un.naming import AUTO_QUORUM, ON_NO_QUORUM
from site_support import cp, done
from test_controller_contract import SIZE, VERSIONS, Stage, simulated

QUORUM = "DrbdOptions/Resource/quorum"


@pytest.fixture(params=VERSIONS)
def drbd(request: pytest.FixtureRequest) -> Iterator[Stage]:
    yield from simulated(request.param, "LVM_THIN", ("DRBD", "STORAGE"))


def cluster(stage: Stage) -> Cluster:
    assert stage.simulator
    return stage.simulator.cluster


def waits(stage: Stage, name: str) -> bool:
    """Tell whether a writer of a volume waits when its node loses all others; it has quorum until then."""
    lab = cluster(stage)
    one = lab.definition(name)
    assert one
    owner, *others = sorted(one.resources.values(), key=lambda resource: resource.diskless)
    assert drbd_kernel.has_quorum(lab, owner)
    for other in sorted(others, key=lambda resource: not resource.diskless):
        drbd_events.cut(lab, other.node)
    assert not drbd_kernel.has_quorum(lab, owner)
    suspended = drbd_kernel.suspends(lab, one)
    for other in others:
        drbd_events.join(lab, other.node)
    return suspended


def group_says(stage: Stage, value: str) -> None:
    lab = cluster(stage)
    assert naive(lab, "POST", "resource-groups", {"name": "other", "select_filter": {"place_count": 2}})[0] == 201
    assert naive(lab, "PUT", "resource-groups/other", {"override_props": {AUTO_QUORUM: value}})[0] == 200


def test_a_writer_waits_for_the_quorum_and_gets_no_error(drbd: Stage) -> None:
    naive_one, ours = drbd.volume("naive"), drbd.volume("ours", marks=drbd.lin.quorum(drbd.settings))
    assert not waits(drbd, naive_one) and waits(drbd, ours)
    # LINSTOR decides about quorum anew after each change of the resources.
    holder = min(drbd.holders(ours))
    drbd.lin.attach(ours, "node3", drbd.settings, ("DRBD", "STORAGE"))
    drbd.lin.release(ours, "node3")
    assert naive(cluster(drbd), "DELETE", f"resource-definitions/{ours}/resources/{holder}")[0] == 200
    drbd.lin.place(ours, drbd.settings)
    assert waits(drbd, ours)
    assert cluster(drbd).effective(cluster(drbd).definitions[ours.upper()], QUORUM) == "majority"


@pytest.mark.parametrize(("choice", "waiting"), [("suspend-io", True), ("io-error", False), ("linstor", True)])
def test_the_datastore_chooses_and_linstors_own_rule_may_stay(drbd: Stage, choice: str, waiting: bool) -> None:
    """The controller's own rule is to wait, here."""
    key = ON_NO_QUORUM if cluster(drbd).version.has("auto_quorum_deprecated") else AUTO_QUORUM
    cluster(drbd).props[key] = "suspend-io"
    marks = drbd.lin.quorum(drbd.settings._replace(on_no_quorum=choice))
    assert waits(drbd, drbd.volume("a", marks=marks)) is waiting
    assert QUORUM not in marks and (choice == "linstor") == (not marks)


@pytest.mark.parametrize("where", ["group", "controller"])
@pytest.mark.parametrize("drbd", ["1.20", "1.27"], indirect=True)
def test_a_quorum_that_an_administrator_switched_off_stays_off(drbd: Stage, where: str) -> None:
    """LINSTOR from 1.31 on has no such switch: there the quorum itself is never touched."""
    lab = cluster(drbd)
    settings = drbd.settings
    if where == "group":
        group_says(drbd, "disabled")
        lab.props[AUTO_QUORUM] = "io-error"
        settings = settings._replace(resource_group="other")
    else:
        lab.props[AUTO_QUORUM] = "disabled"
    name = drbd.name("a")
    drbd.lin.define(name, settings, drbd.lin.quorum(settings))
    drbd.lin.add_volume(name, SIZE)
    drbd.lin.place(name, settings)
    assert lab.effective(lab.definitions[name.upper()], QUORUM) is None
    assert lab.definitions[name.upper()].props[ON_NO_QUORUM] == "suspend-io"


def test_a_stack_without_drbd_has_no_quorum(drbd: Stage) -> None:
    assert drbd.lin.quorum(drbd.settings._replace(layer_list=("STORAGE",))) == {}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["copy", "snapshot", "clone"])
def test_images_and_disks_are_born_waiting_for_their_quorum(site: Site, mode: str) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE=mode)
    old = cp(site, 4)
    found = site.definition(old)
    assert found and found.props[ON_NO_QUORUM] == "suspend-io"
    # As the driver before this one made them. It stays so: an administrator may have his reasons.
    del found.props[ON_NO_QUORUM]

    site.documents.put(D.vm(7, [D.DiskDocument(0, size=8, image=4), D.DiskDocument(1, size=8, kind="fs")]))
    done(site.oned.tm("clone", site.source_word(4), site.disk_word("node1", 7, 0), 7, 100))
    done(site.oned.tm("mkimage", 8, "raw", site.disk_word("node1", 7, 1), 7, 101))
    for name in ("one-vm-7-disk-0", "one-vm-7-disk-1"):
        made = site.definition(name)
        assert made and drbd_kernel.suspends(site.cluster, made)
    assert not drbd_kernel.suspends(site.cluster, found)


@pytest.mark.slow
def test_a_disk_restored_from_an_image_with_another_rule_has_its_own(site: Site) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", ON_NO_QUORUM="io-error")
    cp(site, 4)
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE="snapshot")
    site.documents.put(D.vm(7, [D.DiskDocument(0, size=8, image=4)]))
    done(site.oned.tm("clone", site.source_word(4), site.disk_word("node1", 7, 0), 7, 100))
    made = site.definition("one-vm-7-disk-0")
    assert made and made.props[ON_NO_QUORUM] == "suspend-io"
