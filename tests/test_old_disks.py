"""Disks of the driver before this one, which set its marks before it copied: half of one is never taken for a disk."""

from __future__ import annotations

import pytest
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import Site
from linstor_un.naming import by_res
from site_support import DATA, cp, done, failed, identity, marks

pytestmark = pytest.mark.slow

IMAGE, DISK = "one-image-5", "one-vm-7-disk-0"
ACTIONS = pytest.mark.parametrize("action", ["clone", "mkimage"])


def call(site: Site, action: str) -> Outcome:
    if action == "clone":
        return site.oned.tm("clone", site.source_word(5), site.disk_word("node1", 7, 0), 7, 100)
    return site.oned.tm("mkimage", 8, "raw", site.disk_word("node1", 7, 0), 7, 101)


def know(site: Site, action: str, lcm_state: int = 1) -> None:
    disk = D.DiskDocument(0, size=8, image=5) if action == "clone" else D.DiskDocument(0, size=8, kind="fs")
    site.documents.put(D.vm(7, [disk], lcm_state=lcm_state))


def old_disk(site: Site, action: str) -> str:
    """A disk with the old driver's marks, not its content; returns what tells it from another."""
    cp(site)
    know(site, action)
    done(call(site, action))
    found = site.definition(DISK)
    assert found
    del found.props["Aux/one/ORIGIN"]
    site.hosts.run("node1", ["sh", "-c", 'printf "half of it" >"$1"', "sh", by_res(DISK)])
    return str(identity(site, DISK))


@ACTIONS
def test_in_prolog_it_is_made_anew(site: Site, action: str) -> None:
    before = old_disk(site, action)
    done(call(site, action))
    assert str(identity(site, DISK)) != before and "ORIGIN" in marks(site, DISK)
    assert site.read(DISK, 10) == (DATA[:10] if action == "clone" else bytes(10))


@ACTIONS
@pytest.mark.parametrize("state", [3, 17, 33], ids=["running", "hotplug", "hotplug prolog"])
def test_where_a_guest_may_have_written_it_stays(site: Site, action: str, state: int) -> None:
    before = old_disk(site, action)
    know(site, action, state)
    assert "is of the driver before this one" in failed(call(site, action))
    assert str(identity(site, DISK)) == before and site.read(DISK, 10) == b"half of it"


def test_with_snapshots_it_stays(site: Site) -> None:
    before = old_disk(site, "clone")
    site.rest("POST", f"/v1/resource-definitions/{DISK}/snapshots", {"name": "snapshot-0"})
    assert "is of the driver before this one" in failed(call(site, "clone"))
    assert str(identity(site, DISK)) == before and site.read(DISK, 10) == b"half of it"


def test_the_snapshot_that_it_was_cloned_from_goes_with_it(site: Site) -> None:
    """It was cloned with CLONE_MODE=snapshot, and the mode was changed since."""
    old_disk(site, "clone")
    for name in (DISK, "one-vm-8-disk-0"):
        site.rest("POST", f"/v1/resource-definitions/{IMAGE}/snapshots", {"name": name})
    done(site.oned.tm("delete", site.disk_word("node1", 7, 0), 7, 101))
    image = site.definition(IMAGE)
    assert image and not site.definition(DISK)
    assert [one.name for one in image.snapshots.values()] == ["one-vm-8-disk-0"]
