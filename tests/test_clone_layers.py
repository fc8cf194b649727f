"""CLONE_MODE and the layers that a disk's datastore asks for: what was to be secret is never plain on a pool."""

from __future__ import annotations

from typing import Union

import pytest
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import SYSTEM, Site
from site_support import DATA, cp, done, marks

pytestmark = pytest.mark.slow

IMAGE, DISK = "one-image-5", "one-vm-7-disk-0"
SECRET = ("DRBD", "LUKS", "STORAGE")
OWN = {"VM_ID": "7", "DISK_ID": "0", "DS_ID": "101", "ORIGIN": IMAGE}
MODES = pytest.mark.parametrize("mode", ["snapshot", "clone"])


def furnish(site: Site, image: dict[str, str], **system: Union[str, int]) -> None:
    """An image whose datastore has these attributes, and a VM in a system datastore with others."""
    site.rest("POST", "/v1/encryption/passphrase", {"new_passphrase": "secret"})
    site.group("luks", place_count=2, storage_pool_list=["thin"], layer_stack=list(SECRET))
    site.datastores(RESOURCE_GROUP="opennebula", **image)
    cp(site)
    site.cluster.work_seconds = 0.0
    site.documents.put(D.datastore(SYSTEM, 1, **system), D.vm(7, [D.DiskDocument(0, size=8, image=5)]))


def clone(site: Site) -> Outcome:
    return done(site.oned.tm("clone", site.source_word(5), site.disk_word("node1", 7, 0), 7, 100))


def stacks(site: Site, name: str) -> set[tuple[str, ...]]:
    found = site.definition(name)
    assert found
    return {tuple(one.layers) for one in found.resources.values() if not one.diskless}


@MODES
@pytest.mark.parametrize(
    ("asked", "layers"),
    [
        ({"RESOURCE_GROUP": "opennebula", "ENCRYPTION": "yes"}, SECRET),
        ({"RESOURCE_GROUP": "luks"}, SECRET),
        ({"STORAGE_POOL": "thin", "REPLICA_COUNT": 1, "LAYER_LIST": "storage"}, ("STORAGE",)),
    ],
    ids=["encryption", "group", "layers"],
)
def test_a_disk_has_the_layers_that_its_datastore_asks_for(
    site: Site, mode: str, asked: dict[str, Union[str, int]], layers: tuple[str, ...]
) -> None:
    furnish(site, {}, CLONE_MODE=mode, **asked)
    outcome = clone(site)
    assert stacks(site, DISK) == {layers} and stacks(site, IMAGE) == {("DRBD", "STORAGE")}
    node = "" if "DRBD" in layers else site.holders(DISK)[0]
    assert marks(site, DISK) == OWN and site.read(DISK, len(DATA), node) == DATA
    assert f"CLONE_MODE={mode} would give it the layers of {IMAGE}" in outcome.stderr


@pytest.mark.parametrize("asked", [{"ENCRYPTION": "yes"}, {"LAYER_LIST": "drbd storage"}, {}])
def test_what_is_encrypted_stays_so_and_is_not_copied(site: Site, asked: dict[str, str]) -> None:
    furnish(site, {"ENCRYPTION": "yes"}, RESOURCE_GROUP="opennebula", CLONE_MODE="snapshot", **asked)
    assert clone(site).stderr == "" and stacks(site, DISK) == {SECRET}
    assert site.read(DISK, len(DATA)) == DATA
