"""The core of a life under every release of OpenNebula and LINSTOR that the driver is made for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.hosts import LabUnavailable
from lab.oned import documents as D
from lab.oned.answers import read_monitor, read_nothing, read_stat
from lab.oned.release import ErrorDialect
from lab.site import Site
from linstor_un.naming import by_res
from site_support import DATA, MIB, cp, datablock, done, incoming, kind_of, marks, padded, rm, whole

pytestmark = pytest.mark.slow

OPENNEBULA = ("5.12.0", "6.0.0", "6.6.0", "6.6.2-stdin", "6.8.0", "6.10.0", "7.4.0")
LINSTOR = ("1.20", "1.27", "1.31", "1.33", "1.34")
# Each release of either at least once, the oldest with the oldest; the rest of the grid is slow.
ALWAYS = set(zip(OPENNEBULA, ("1.20", "1.20", "1.27", "1.31", "1.33", "1.33", "1.34")))
GRID = [
    pytest.param((one, linstor), id=f"{one} on {linstor}", marks=() if (one, linstor) in ALWAYS else pytest.mark.slow)
    for one in OPENNEBULA
    for linstor in LINSTOR
]
IMAGE, DATABLOCK = "one-image-5", "one-image-6"
DISKS = [
    D.DiskDocument(0, size=16, image=5),
    D.DiskDocument(1, size=8, image=6, clone=False),
    D.DiskDocument(2, size=8, kind="fs", more={"FS": "ext4"}),
]


@pytest.fixture(params=GRID, scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A site of its own for each pair: the releases are what it is installed with."""
    one, linstor = request.param
    try:
        made = Site(one, linstor, hosts=("node1", "node2", "node3"))
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    with made:
        made.cluster.prefer = lambda _: ["node1", "node2"]
        yield made


def test_images_and_disks_come_and_go(site: Site) -> None:
    path = incoming()
    answer = site.oned.ds("stat", D.image(site.oned.release, 5, path=path), site.image_datastore)
    assert read_stat(done(answer)) == 3
    cp(site, 5)
    datablock(site, 6)
    site.documents.put(D.vm(7, DISKS, hosts=("node3",)))

    words = [site.disk_word("node3", 7, disk.number) for disk in DISKS]
    for action in (
        ("clone", site.source_word(5), words[0], 7, 100),
        ("ln", site.source_word(6), words[1], 7, 100),
        ("mkimage", 8, "raw", words[2], 7, 101),
    ):
        read_nothing(done(site.oned.tm(*action)))

    names = ["one-vm-7-disk-0", DATABLOCK, "one-vm-7-disk-2"]
    for number, name in enumerate(names):
        assert site.link("node3", 7, number) == by_res(name)
        assert site.holders(name) == ["node1", "node2"] and site.attached(name) == ["node3"]
        assert marks(site, name).items() >= {"VM_ID": "7", "DISK_ID": str(number), "DS_ID": "101"}.items()
        assert not {"STATE", "RUN"} & set(marks(site, name))
    disk = whole(site, names[0])
    assert len(disk) >= 16 * MIB and disk == padded(DATA, disk)
    assert kind_of(site, names[2]) == "ext4"
    assert read_monitor(done(site.oned.monitor(site.image_datastore)))["TOTAL_MB"] > 0

    for number, word in enumerate(words):
        read_nothing(done(site.oned.tm("delete", word, 7, 101 if number == 2 else 100)))
    assert sorted(site.cluster.definitions) == [IMAGE.upper(), DATABLOCK.upper()]
    for image in (5, 6):
        assert done(rm(site, image)).stdout == ""
    assert not site.cluster.definitions


def test_a_failure_reaches_the_user_as_one_sentence(site: Site) -> None:
    site.documents.put(D.vm(7, DISKS))
    outcome = site.oned.tm("clone", site.source_word(5), site.disk_word("node1", 7, 0), 7, 100)
    assert outcome.code == 1
    assert outcome.user_message.startswith(f"clone: {IMAGE}, the image of disk 0, does not exist on LINSTOR")
    assert ("8<" in outcome.stderr) == (site.oned.release.error_dialect is ErrorDialect.BLOCK)
