"""Images in a datastore, by the scripts as oned calls them: what is on LINSTOR and on the volumes afterwards."""

from __future__ import annotations

import os
import subprocess
from typing import Union

import pytest
from lab.controller import providers, satellites
from lab.controller.cluster import Cluster, Resource, Volume
from lab.controller.contents import content
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_mkfs, read_stat
from lab.site import Site
from linstor_un.naming import IMAGE_ID, STATE
from site_support import (
    DATA,
    INCOMING,
    MIB,
    cp,
    datablock,
    device,
    done,
    elsewhere,
    failed,
    identity,
    incoming,
    kind_of,
    leave_half_made,
    marks,
    opened,
    padded,
    rm,
    source,
    stored,
    whole,
)

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "other": "LVM_THIN"}}
NAME = "one-image-5"


def put(site: Site, path: str, size: int = 8, **more: Union[str, int]) -> Outcome:
    return site.oned.ds("cp", D.image("7.4.0", 5, path=path, size=size, **more), site.image_datastore)


def mkfs(site: Site, version: str = "7.4.0", format: str = "", fs: str = "") -> Outcome:
    return site.oned.ds("mkfs", D.image(version, 5, size=16, format=format, fs=fs), site.image_datastore)


def copy_of(site: Site, datastore: str = "", size: int = 8) -> Outcome:
    """Make image 6 a copy of image 5."""
    document = D.image("7.4.0", 6, path=source(5), size=size)
    return site.oned.ds("clone", document, datastore or site.image_datastore)


def mark(site: Site, name: str, **props: str) -> None:
    """Let somebody else than the driver mark a definition; without marks, take all off."""
    found = site.definition(name)
    assert found
    for key in list(found.props):
        if not props and key.startswith("Aux/one/"):
            del found.props[key]
    found.props.update({f"Aux/one/{key}": value for key, value in props.items()})


# --- stat ---------------------------------------------------------------------------------------------------------


def test_the_size_of_an_image_is_told_without_linstor(site: Site) -> None:
    path = incoming()
    assert read_stat(done(site.oned.ds("stat", D.image("7.4.0", 0, path=path), site.image_datastore))) == 3
    assert site.controller.faults.log == []


def test_the_size_of_what_must_not_be_read_is_not_told(site: Site) -> None:
    outcome = site.oned.ds("stat", D.image("7.4.0", 0, path="/etc/passwd"), site.image_datastore)
    assert "/etc/passwd" in failed(outcome, 2)


# --- cp -----------------------------------------------------------------------------------------------------------


def test_an_image_is_born_with_the_marks_of_its_registration(site: Site) -> None:
    assert stored(put(site, incoming(), REGTIME=1700000000)) == source(5)

    assert marks(site, NAME) == {"IMAGE_ID": "5", "ORIGIN": "1700000000"}
    assert len(site.holders(NAME)) == 2 and not site.attached(NAME)
    assert whole(site, NAME) == padded(DATA, whole(site, NAME))
    assert len(whole(site, NAME)) >= 8 * MIB


def test_an_image_that_is_there_is_not_written_again(site: Site) -> None:
    cp(site)
    before = identity(site, NAME)
    assert stored(put(site, incoming(b"something else" * MIB))) == source(5)

    assert identity(site, NAME) == before
    assert whole(site, NAME) == padded(DATA, whole(site, NAME))


def test_a_half_made_image_is_replaced(site: Site) -> None:
    cp(site)
    before = leave_half_made(site, NAME)
    cp(site)

    assert identity(site, NAME) != before
    assert marks(site, NAME) == {"IMAGE_ID": "5"}
    assert whole(site, NAME) == padded(DATA, whole(site, NAME))


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({}, "carries no mark of this driver"),
        ({"IMAGE_ID": "9"}, "is marked IMAGE_ID=9"),
        ({"ORIGIN": "1600000000"}, "is marked ORIGIN=1600000000"),
        ({"ORIGIN": "1600000000", "STATE": "creating"}, "is marked ORIGIN=1600000000"),
    ],
    ids=["unmarked", "another image", "another registration", "another one's, half-made"],
)
def test_what_belongs_to_somebody_else_is_left_alone(site: Site, others: dict[str, str], reason: str) -> None:
    name = datablock(site)
    mark(site, name, **others)
    before = identity(site, name)
    assert reason in failed(put(site, incoming(), REGTIME=1700000000))

    assert identity(site, name) == before and not any(whole(site, name))


@pytest.mark.parametrize(
    ("path", "more", "code", "reason"),
    [
        ("/etc/passwd", {}, 2, "/etc/passwd"),
        ("/var/tmp/nosuch", {}, 2, "/var/tmp/nosuch"),
        ("", {"MD5": "0" * 32}, 1, "hash does not match"),
        ("", {"size": 2}, 1, "greater SIZE"),
        ("", {"size": 1 << 20}, 1, NAME),
        ("", {"kind": 3}, 2, "kernel"),
    ],
    ids=["forbidden", "missing", "checksum", "too large", "no room for the volume", "a kernel"],
)
def test_a_failed_registration_leaves_nothing(
    site: Site, path: str, more: dict[str, Union[str, int]], code: int, reason: str
) -> None:
    values = dict(more)
    template = {"MD5": str(values.pop("MD5"))} if "MD5" in values else {}
    document = D.image("7.4.0", 5, path=path or incoming(), template=template, **{"size": 8, **values})
    outcome = site.oned.ds("cp", document, site.image_datastore)

    assert reason.lower() in failed(outcome, code).lower()
    assert not site.cluster.definitions


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_a_pool_that_gets_full_in_the_middle_is_told_and_leaves_nothing(site: Site, form: str) -> None:
    """Raw bytes go through the page cache of the host, which takes them all; qcow2 is staged and converted."""
    path = incoming()
    if form != "raw":
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, path, f"{path}.{form}"], check=True)
        path = f"{path}.{form}"
        os.chmod(path, 0o644)
    before = set(INCOMING.iterdir())
    site.volumes.leave_room("", MIB)
    try:
        message = failed(put(site, path))
    finally:
        site.volumes.leave_all_room("")
    assert NAME in message
    assert not site.cluster.definitions
    assert set(INCOMING.iterdir()) == before


# --- mkfs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "format", "fs", "found"),
    [
        ("7.4.0", "", "", ""),
        ("7.4.0", "qcow2", "", ""),
        ("7.4.0", "raw", "ext4", "ext4"),
        ("7.4.0", "", "xfs", "xfs"),
        ("5.12.0", "", "ext4", "ext4"),
        ("5.12.0", "raw", "", ""),
        ("5.12.0", "", "swap", "swap"),
    ],
)
def test_an_empty_image_has_the_file_system_that_was_asked_for(
    site: Site, version: str, format: str, fs: str, found: str
) -> None:
    if fs == "xfs":
        # xfs wants 300 MiB at least.
        document = D.image(version, 5, size=320, format=format, fs=fs)
        outcome = site.oned.ds("mkfs", document, site.image_datastore)
    else:
        outcome = mkfs(site, version, format, fs)
    assert read_mkfs(done(outcome)).source == source(5)

    assert marks(site, NAME) == {"IMAGE_ID": "5"}
    assert kind_of(site, NAME) == found
    assert found or not any(whole(site, NAME))


def test_a_file_system_that_is_not_supported_is_refused_before_anything_is_made(site: Site) -> None:
    assert "ext4" in failed(mkfs(site, fs="zfs"), 2)
    assert not site.cluster.definitions and site.controller.faults.log == []


@pytest.mark.parametrize("version", ["5.12.0", "7.4.0"])
def test_a_disk_to_be_saved_only_gets_a_name(site: Site, version: str) -> None:
    assert read_mkfs(done(mkfs(site, version, format="save_as"))).source == source(5)
    assert not site.cluster.definitions and site.controller.faults.log == []


def test_an_empty_image_that_is_there_keeps_its_content_and_a_half_made_one_goes(site: Site) -> None:
    done(mkfs(site, fs="ext4"))
    before, content = identity(site, NAME), site.digest(NAME)
    done(mkfs(site, fs="ext4"))
    assert (identity(site, NAME), site.digest(NAME)) == (before, content)

    leave_half_made(site, NAME)
    done(mkfs(site))
    assert identity(site, NAME) != before
    assert marks(site, NAME) == {"IMAGE_ID": "5"} and not any(whole(site, NAME))


# --- clone --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["copy", "snapshot", "clone"])
def test_a_copy_of_an_image_is_an_image_of_its_own(site: Site, mode: str) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE=mode)
    done(put(site, incoming(), REGTIME=1700000000))
    assert stored(copy_of(site, size=16)) == source(6)

    copy = whole(site, "one-image-6")
    assert len(copy) >= 16 * MIB and copy == padded(DATA, copy)
    assert marks(site, "one-image-6") == {"IMAGE_ID": "6"}
    assert marks(site, NAME) == {"IMAGE_ID": "5", "ORIGIN": "1700000000"}
    found = site.definition(NAME)
    assert found and not found.snapshots and not site.attached("one-image-6") and not site.attached(NAME)

    before = identity(site, "one-image-6")
    assert stored(copy_of(site, size=16)) == source(6)
    assert identity(site, "one-image-6") == before
    done(rm(site))
    assert whole(site, "one-image-6") == copy


def test_a_copy_may_be_in_another_datastore(site: Site) -> None:
    cp(site)
    other = D.datastore(102, STORAGE_POOL="other", REPLICA_COUNT=1)
    site.documents.put(other)
    assert stored(copy_of(site, other)) == source(6)

    copy = site.definition("one-image-6")
    assert copy and [r.volumes[0].pool for r in copy.resources.values() if not r.diskless] == ["other"]
    assert whole(site, "one-image-6") == padded(DATA, whole(site, "one-image-6"))


@pytest.mark.parametrize("mode", ["copy", "snapshot", "clone"])
def test_a_copy_of_nothing_is_an_error_that_leaves_nothing(site: Site, mode: str) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", CLONE_MODE=mode)
    assert f"{NAME}, the image to clone, does not exist" in failed(copy_of(site))
    assert not site.cluster.definitions


# --- rm -----------------------------------------------------------------------------------------------------------


def test_an_image_goes_with_its_snapshots_and_going_twice_is_no_error(site: Site) -> None:
    datablock(site)
    for snapshot in ("snapshot-0", "by-hand"):
        site.rest("POST", f"/v1/resource-definitions/{NAME}/snapshots", {"name": snapshot})
    for _ in range(2):
        assert done(rm(site)).stdout == ""
        assert not site.cluster.definitions


def test_a_half_made_image_goes(site: Site) -> None:
    datablock(site)
    leave_half_made(site, NAME)
    done(rm(site))
    assert not site.cluster.definitions


def test_an_image_that_was_killed_while_it_had_its_sources_marks_is_removed(site: Site) -> None:
    """Restoring a snapshot writes the source's marks over the target's, until they are set again."""
    datablock(site)
    leave_half_made(site, NAME)
    found = site.definition(NAME)
    assert found
    found.props.update({IMAGE_ID: "9", "Aux/one/VM_ID": "3"})
    done(rm(site))
    assert not site.cluster.definitions


def test_an_image_of_the_driver_before_this_one_goes_though_it_has_no_marks(site: Site) -> None:
    datablock(site)
    mark(site, NAME)
    done(rm(site))
    assert not site.cluster.definitions


def test_another_ones_image_is_not_removed(site: Site) -> None:
    datablock(site)
    mark(site, NAME, IMAGE_ID="9")
    assert "is marked IMAGE_ID=9" in failed(rm(site))
    found = site.definition(NAME)
    assert found and found.props[IMAGE_ID] == "9" and STATE not in found.props


@pytest.mark.parametrize("diskless", [False, True])
def test_an_open_image_stays_until_it_is_closed(site: Site, diskless: bool) -> None:
    datablock(site)
    node = elsewhere(site, NAME) if diskless else site.holders(NAME)[0]
    if diskless:
        site.rest("POST", f"/v1/resource-definitions/{NAME}/resources/{node}/make-available", {})
    with opened(site, node, device(site, NAME, node)):
        assert f"{NAME} is open on {node}" in failed(rm(site))
        assert len(site.holders(NAME)) == 2 and marks(site, NAME)["STATE"] == "deleting"
    done(rm(site))
    assert not site.cluster.definitions


def test_an_image_whose_removal_was_refused_is_made_anew_and_not_taken_as_it_is(site: Site) -> None:
    datablock(site)
    before, node = identity(site, NAME), site.holders(NAME)[0]
    with opened(site, node, device(site, NAME, node)):
        failed(rm(site))
    cp(site)
    assert identity(site, NAME) != before and marks(site, NAME) == {"IMAGE_ID": "5"}
    assert whole(site, NAME) == padded(DATA, whole(site, NAME))


@pytest.mark.parametrize("told", [True, False])
def test_a_volume_that_linstor_had_lost_track_of_is_not_taken_for_zeroes(
    site: Site, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """A controller that was killed may forget what it made last; made again, it is the old volume with its bytes."""
    make = satellites._create

    def take_over(cluster: Cluster, owner: Resource, volume: Volume, kind: str, size: int) -> None:
        make(cluster, owner, volume, kind, size)
        site.volumes.fill(content(owner, 0), "old", 8 * MIB)
        providers.write_chunks(volume, 0, size - 1)
        volume.allocated = providers.chunks_reported(volume)
        if not told:
            cluster.untold.add(owner.uuid)

    monkeypatch.setattr(satellites, "_create", take_over)
    name = datablock(site)
    assert not any(whole(site, name))
    name = cp(site, 6)
    assert whole(site, name) == padded(DATA, whole(site, name))
