"""LINSTOR's own clone before 1.32: it has its source's marks until it is marked, and may take long to be complete."""

from __future__ import annotations

import os
from typing import Callable

import pytest
from lab.controller.faults import Fault
from lab.controller.features import Version
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.oned.process import Running
from lab.site import Site
from site_support import DATA, cp, done, failed, identity, marks, meanwhile

pytestmark = pytest.mark.slow

SITE = {"linstor": "1.31"}
IMAGE, DISK = "one-image-5", "one-vm-7-disk-0"
OWN = {"VM_ID": "7", "DISK_ID": "0", "DS_ID": "101", "ORIGIN": IMAGE}
STATUS = f"{IMAGE}/clone/{DISK}$"


def furnish(site: Site, **attributes: str) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE="clone", **attributes)
    cp(site)
    site.documents.put(D.vm(7, [D.DiskDocument(0, size=8, image=5)]))


def words(site: Site) -> tuple[object, ...]:
    return ("clone", site.source_word(5), site.disk_word("node1", 7, 0), 7, 100)


def clone(site: Site) -> Outcome:
    return site.oned.tm(*words(site))


def interrupted(site: Site, method: str, at: str, deed: Callable[[Running], object]) -> Running:
    """Start a clone, to which something is done when it makes such a request."""
    there: list[Running] = []
    meanwhile(site, method, at, lambda: deed(there[0]))
    there.append(site.oned.start_tm(*(str(word) for word in words(site))))
    return there[0]


def terminate(running: Running) -> None:
    os.kill(running.script, 15)


def as_wanted(site: Site) -> None:
    assert marks(site, DISK) == OWN and site.read(DISK, len(DATA)) == DATA and site.link("node1", 7, 0)
    assert marks(site, IMAGE) == {"IMAGE_ID": "5"} and site.read(IMAGE, len(DATA)) == DATA


def left_unmarked(site: Site) -> None:
    """Leave what a run leaves that is killed right after its request."""
    address = f"/v1/resource-definitions/{IMAGE}/clone"
    site.rest("POST", address, {"name": DISK})
    assert marks(site, DISK) == marks(site, IMAGE)


@pytest.mark.parametrize("method, at", [("GET", STATUS), ("PUT", f"{DISK}$")], ids=["waiting", "marking"])
def test_a_clone_that_is_ended_leaves_nothing(site: Site, method: str, at: str) -> None:
    furnish(site)
    outcome = site.oned.finish(interrupted(site, method, at, terminate))
    assert "stopped by SIGTERM" in failed(outcome)
    assert not site.definition(DISK)
    done(clone(site))
    as_wanted(site)


@pytest.mark.parametrize("at", [STATUS, f"resource-definitions/{DISK}$"], ids=["waiting", "marking"])
def test_what_a_killed_clone_left_is_replaced(site: Site, at: str) -> None:
    furnish(site)
    interrupted(site, "GET" if at == STATUS else "PUT", at, Running.kill).wait(60)
    before = identity(site, DISK)
    done(clone(site))
    assert identity(site, DISK) != before
    as_wanted(site)


def test_an_unmarked_clone_of_the_image_is_replaced(site: Site) -> None:
    furnish(site)
    left_unmarked(site)
    before = identity(site, DISK)
    done(clone(site))
    assert identity(site, DISK) != before
    as_wanted(site)


@pytest.mark.parametrize("other", ["marked", "of another", "restored", "of an image that changed"])
def test_a_clone_that_somebody_else_made_stays(site: Site, other: str) -> None:
    furnish(site)
    left_unmarked(site)
    found = site.definition(DISK)
    assert found
    if other == "marked":
        found.props["Aux/one/VM_ID"] = "9"
    elif other == "of another":
        found.props["cloned-from"] = "one-image-6"
    elif other == "of an image that changed":
        found.props["Aux/one/IMAGE_ID"] = "6"
    else:
        del found.props["cloned-from"]
    before = dict(found.props)
    assert "exists already" in failed(clone(site))
    assert site.definition(DISK) is found and found.props == before


def test_where_clones_are_born_marked_an_unmarked_one_is_somebody_elses(site: Site) -> None:
    furnish(site)
    left_unmarked(site)
    site.cluster.version = Version("1.33")
    try:
        assert "exists already" in failed(clone(site))
    finally:
        site.cluster.version = Version("1.31")


def test_a_clone_whose_answer_is_lost_is_marked(site: Site) -> None:
    furnish(site)
    site.controller.faults.add(Fault("lose_answer", method="POST", path=f"{IMAGE}/clone$"))
    done(clone(site))
    as_wanted(site)


@pytest.mark.parametrize("method, at", [("GET", STATUS), ("PUT", f"{DISK}$")], ids=["waiting", "marking"])
def test_a_refusal_after_the_clone_was_made_takes_it_back(site: Site, method: str, at: str) -> None:
    """What is refused then is not the clone."""
    furnish(site)
    refusal = Fault("refuse", method=method, path=at)
    site.controller.faults.add(refusal)
    failed(clone(site))
    assert refusal.seen and not site.definition(DISK)
    done(clone(site))
    as_wanted(site)
