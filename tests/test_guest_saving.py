"""Disks of real guests that run: saved as images, and grown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guest_support import disk_of, format_disk, run
from lab.controller.volumes import Content
from lab.guests import Domain, Guests, check_blocks, check_files
from lab.oned import documents as D
from lab.site import Site
from site_support import done, marks, source

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "thick": "LVM"}}
NAME, SAVED = "one-7", "one-image-9"


def save(site: Site, size: int = 64) -> str:
    """Save disk 0 of VM 7, which runs on node1, as image 9; returns what oned would log."""
    release = site.oned.release
    document = D.image(release, 9, size=size, format="save_as")
    site.documents.put(document, D.vm(7, [D.DiskDocument(0, size, 5)], lcm_state=26))
    done(site.oned.ds("mkfs", document, site.image_datastore))
    return str(done(site.oned.tm("cpds", site.disk_word("node1", 7, 0), source(9), -1, 7, 100)).stderr)


def saved(site: Site) -> Path:
    assert marks(site, SAVED) == {"IMAGE_ID": "9"} and len(site.holders(SAVED)) == 2
    return site.volumes.settled(Content(SAVED, 0))


@pytest.mark.parametrize("pool", ["thin", "thick"])
def test_a_running_guest_with_an_agent_is_saved_with_a_clean_file_system(
    site: Site, guests: Guests, pool: str
) -> None:
    """It is frozen for a snapshot, or, where the pool takes none, for the copy, and writes on afterwards."""
    site.datastores(STORAGE_POOL=pool, REPLICA_COUNT=2)
    format_disk(site, disk_of(site, 7))
    run(guests, "node1", Domain(NAME, 7, jobs=["files:vda"], agent=True))
    guests.await_words("node1", NAME, "wrote file 1")
    until_now = guests.console("node1", NAME)
    logged = save(site)
    assert ("was frozen for" in logged) == (pool == "thick")
    assert check_files(saved(site), until_now) >= 1
    guests.await_more("node1", NAME, "wrote file", 2)
    assert guests.state("node1", NAME) == "running"


def test_a_running_guest_without_an_agent_is_saved_as_it_was_at_one_moment(site: Site, guests: Guests) -> None:
    disk_of(site, 7)
    run(guests, "node1", Domain(NAME, 7, jobs=["write:vda"]))
    guests.await_words("node1", NAME, "wrote area 3 2 times")
    until_now = guests.console("node1", NAME)
    assert save(site) == ""
    assert min(check_blocks(saved(site), until_now)) >= 2 * 256
    guests.await_more("node1", NAME, "wrote area 3", 1)
    assert guests.reason("node1", NAME) == "running (unpaused)"


def test_a_running_guest_sees_its_disk_grow(site: Site, guests: Guests) -> None:
    """What oned does next, `virsh blockresize`, fails on a device that has not grown yet."""
    name = disk_of(site, 7)
    run(guests, "node1", Domain(NAME, 7, jobs=["write:vda"]))
    guests.await_words("node1", NAME, "wrote area 3 1 times")
    early = guests.virsh("node1", "blockresize", NAME, "vda", "128M", check=False)
    assert early.returncode and "Cannot grow" in early.stderr

    site.documents.put(D.vm(7, [D.DiskDocument(0, 64, 5)], lcm_state=62))
    done(site.oned.tm("resize", site.disk_word("node1", 7, 0), 128, 7, 100))
    guests.virsh("node1", "blockresize", NAME, "vda", "128M")
    told = guests.virsh("node1", "domblkinfo", NAME, "vda").stdout
    found = re.search(r"Capacity:\s+(\d+)", told)
    assert found and int(found[1]) >= 128 << 20
    guests.await_more("node1", NAME, "wrote area 3", 1)
    guests.virsh("node1", "suspend", NAME)
    check_blocks(site.volumes.settled(Content(name, 0)), guests.console("node1", NAME))
