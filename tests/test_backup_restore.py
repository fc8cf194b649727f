"""A backup is written over the disks of a VM that is off, by the script as oned calls it: all of them or none."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Callable, Optional

import pytest
from lab.controller.faults import Fault
from lab.controller.volumes import Content
from lab.hosts import account
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_nothing
from lab.oned.process import Running
from lab.site import Site
from linstor_un.naming import by_res
from site_support import MIB, cp, done, failed, marks, meanwhile, opened, padded, whole

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "thick": "LVM"}}
RESTORE = 71
OWN, IMAGE = "one-vm-7-disk-0", "one-image-6"
DISKS = [
    D.DiskDocument(0, size=8, image=5),
    D.DiskDocument(1, size=8, image=6, clone=False, more={"PERSISTENT": "YES"}),
]
BACKUPS = Path("/var/lib/one/backups")
DIRECTORY = "/var/lib/one/datastores/101/7"


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    BACKUPS.mkdir(exist_ok=True)
    yield
    for file in BACKUPS.iterdir():
        file.unlink()
    site.cluster.prefer = lambda _: []


def deployed(site: Site, disks: Optional[list[D.DiskDocument]] = None) -> None:
    """Give VM 7, which is off, a disk of its own and a persistent image, each full of bytes of the guest."""
    site.documents.put(D.vm(7, disks or DISKS, hosts=["node3"], lcm_state=RESTORE))
    for image in (5, 6):
        cp(site, image)
    done(site.oned.tm("clone", site.source_word(5), site.disk_word("node3", 7, 0), 7, 100))
    done(site.oned.tm("ln", site.source_word(6), site.disk_word("node3", 7, 1), 7, 100))
    for name in (OWN, IMAGE):
        write(site, name, f"guest's {name}".encode().ljust(8 * MIB, b"x"))
    site.documents.put(
        D.image(site.oned.release, 53, kind=6, size=16, DATASTORE_ID=104),
        D.datastore(104, 3, tm_mad="-", ds_mad="rsync"),
    )


def write(site: Site, name: str, text: bytes) -> None:
    with site.volumes.settled(Content(name, 0)).open("r+b") as file:
        file.write(text)


def content(number: int) -> bytes:
    """What a disk's backup holds: mostly zeroes, where the disk has none."""
    return (f"backup of disk {number}".encode() + os.urandom(4096)).ljust(3 * MIB, b"\0") + os.urandom(MIB)


def backed_up(disks: Mapping[int, bytes], increment: int = -1, tpm: bool = False, form: str = "qcow2") -> None:
    """Let the backup datastore have image 53 with these bytes, padded to 8 MiB, of disks."""
    listing = {str(number): f"rsync://104//0:abc{number}//backups/7/disk.{number}.0" for number in disks}
    for number, data in disks.items():
        raw = BACKUPS / "raw"
        raw.write_bytes(data.ljust(8 * MIB, b"\0"))
        file = BACKUPS / hashlib.sha1(listing[str(number)].encode()).hexdigest()
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, raw, file], check=True)
        raw.unlink()
    if tpm:
        listing["tpm"] = "rsync://104//0:abc//backups/7/disk.tpm.0"
        with tarfile.open(BACKUPS / hashlib.sha1(listing["tpm"].encode()).hexdigest(), "w:gz") as archive:
            entry = tarfile.TarInfo("tpm/state")
            entry.size = 6
            archive.addfile(entry, io.BytesIO(b"sealed"))
    (BACKUPS / f"53.{increment}.json").write_text(json.dumps(listing))
    for file in BACKUPS.iterdir():
        file.chmod(0o644)


def start(site: Site, disk: int = -1, increment: int = -1) -> Running:
    return site.oned.start_tm("restore", "node3:/var/lib/one//datastores/101/7", 7, 53, increment, disk)


def restore(site: Site, disk: int = -1, increment: int = -1) -> Outcome:
    return site.oned.finish(start(site, disk, increment), 120.0)


def state(site: Site) -> dict[str, object]:
    """Everything of the VM that a failed restore has to leave as it was."""
    found: dict[str, object] = {name: (site.digest(name), marks(site, name)) for name in (OWN, IMAGE)}
    found["links"] = [site.link("node3", 7, number) for number in (0, 1)]
    found["definitions"] = sorted(one.name for one in site.cluster.definitions.values())
    found["snapshots"] = [name for one in site.cluster.definitions.values() for name in one.snapshots]
    found["files"] = site.hosts.run("node3", ["sh", "-c", f"find {DIRECTORY} /var/tmp | sort"]).stdout
    return found


# --- what a restored disk holds -------------------------------------------------------------------------------------


def test_every_disk_of_the_backup_is_written_over(site: Site) -> None:
    """Where the backup is zero the disk is zero afterwards: nothing of what was there shines through."""
    deployed(site)
    before, data = state(site), {number: content(number) for number in (0, 1)}
    backed_up(data)
    outcome = restore(site)
    read_nothing(done(outcome))
    assert outcome.stderr == ""
    after = state(site)
    for number, name in enumerate((OWN, IMAGE)):
        assert whole(site, name) == padded(data[number], whole(site, name))
        assert marks(site, name) == before[name][1]  # type: ignore[index]
        before.pop(name), after.pop(name)
    assert after == before and site.attached(OWN) == ["node3"] == site.attached(IMAGE)
    assert done(restore(site)).stderr == ""


def test_one_disk_at_an_older_point_of_the_chain_is_written_over(site: Site) -> None:
    deployed(site)
    data, other = content(1), site.digest(OWN)
    backed_up({0: b"", 1: b"newest"})
    backed_up({0: b"", 1: data}, increment=2)
    done(restore(site, disk=1, increment=2))
    assert whole(site, IMAGE) == padded(data, whole(site, IMAGE)) and site.digest(OWN) == other


def test_a_disk_that_grew_since_keeps_its_size_and_ends_in_zeroes(site: Site) -> None:
    disks = [D.DiskDocument(0, size=16, image=5), DISKS[1]]
    deployed(site, disks)
    data = content(0)
    backed_up({0: data})
    write(site, OWN, b"y" * len(whole(site, OWN)))
    done(restore(site, disk=0))
    found = site.definition(OWN)
    assert found and found.volumes[0].size == 16 << 10
    assert whole(site, OWN) == padded(data, whole(site, OWN))


def test_snapshots_of_the_disk_stay(site: Site) -> None:
    deployed(site)
    site.rest("POST", f"/v1/resource-definitions/{OWN}/snapshots", {"name": "snapshot-0"})
    backed_up({0: content(0)})
    done(restore(site, disk=0))
    found = site.definition(OWN)
    assert found and [one.name for one in found.snapshots.values()] == ["snapshot-0"]


def test_the_state_of_a_virtual_tpm_comes_back_with_disk_0(site: Site) -> None:
    deployed(site)
    site.hosts.run("node3", ["sh", "-c", f"mkdir {DIRECTORY}/tpm && echo new >{DIRECTORY}/tpm/state"])
    backed_up({0: content(0), 1: content(1)}, tpm=True)

    def sealed() -> str:
        return site.hosts.run("node3", ["sh", "-c", f"ls -A {DIRECTORY}; cat {DIRECTORY}/tpm/*"]).stdout

    before = sealed()
    done(restore(site, disk=1))
    assert sealed() == before
    site.controller.faults.add(Fault("refuse", method="DELETE", path="before-revert"))
    failed(restore(site))
    assert sealed() == before
    done(restore(site))
    assert sealed() == before.replace("new\n", "sealed")


# --- refusals -------------------------------------------------------------------------------------------------------


def refused(site: Site, sentence: str, **words: int) -> None:
    before = state(site)
    assert sentence in failed(restore(site, **words))
    assert state(site) == before


def test_what_is_no_backup_is_refused(site: Site) -> None:
    deployed(site)
    refused(site, "cannot list what backup 53 has")
    backed_up({0: b"", 1: b""})
    refused(site, "backup 53 has no disk 2", disk=2)
    (BACKUPS / "53.-1.json").write_text("<html>")
    refused(site, "the datastore's driver said '<html>'")
    (BACKUPS / "53.-1.json").write_text('{"0": "/etc/shadow"}')
    before = state(site)
    assert "is a file of the front-end" in failed(restore(site), code=2) and state(site) == before
    (BACKUPS / "53.-1.json").write_text('{"0": "rsync://104//;id"}')
    assert "characters that a rsync URL must not have" in failed(restore(site), code=2) and state(site) == before
    site.documents.put(D.image(site.oned.release, 53, kind=0, size=16, DATASTORE_ID=104))
    refused(site, "image 53 is no backup")


def test_a_disk_that_is_open_is_left_alone(site: Site) -> None:
    deployed(site)
    backed_up({0: content(0), 1: content(1)})
    before = state(site)
    with opened(site, "node3", by_res(IMAGE), "<"):
        assert f"{IMAGE} is open on node3" in failed(restore(site))
    assert state(site) == before


def test_without_snapshots_there_is_nothing_to_fall_back_to(site: Site) -> None:
    site.datastores(STORAGE_POOL="thick", REPLICA_COUNT=2)
    deployed(site)
    backed_up({0: content(0), 1: content(1)})
    refused(site, "which cannot take snapshots")


def test_a_disk_that_is_smaller_than_its_backup_is_left_alone(site: Site) -> None:
    deployed(site)
    backed_up({0: b"", 1: bytes(64 * MIB)})
    refused(site, "disk 1 of the backup has 67108864 bytes, more than the")


def test_what_is_no_whole_qcow2_file_is_found_out_before_anything_is_written(site: Site) -> None:
    deployed(site)
    backed_up({0: content(0), 1: content(1)}, form="vmdk")
    refused(site, "is a vmdk image, and backups of disks are qcow2 files")
    backed_up({0: content(0), 1: content(1)})
    url = json.loads((BACKUPS / "53.-1.json").read_text())["1"]
    file = BACKUPS / hashlib.sha1(url.encode()).hexdigest()
    file.write_bytes(file.read_bytes()[: MIB // 2])
    refused(site, url)


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault("refuse", path=f"{IMAGE}/snapshots"),
        Fault("refuse", method="PUT", path=f"{IMAGE}$"),
        Fault("refuse", method="DELETE", path=f"{OWN}/snapshots/before-revert"),
    ],
    ids=["snapshot", "mark", "end"],
)
def test_a_failure_brings_all_disks_back(site: Site, fault: Fault) -> None:
    deployed(site)
    backed_up({0: content(0), 1: content(1)}, tpm=True)
    site.hosts.run("node3", ["sh", "-c", f"mkdir {DIRECTORY}/tpm && echo new >{DIRECTORY}/tpm/state"])
    before = state(site)
    site.controller.faults.add(fault)
    outcome = restore(site)
    assert outcome.code == 1, outcome.stderr
    assert state(site) == before and sealed(site) == "new\n"
    site.controller.faults.clear()
    restored_anew(site)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("refuse", method="DELETE", path=f"{IMAGE}/snapshots/before-revert"),
        Fault("refuse", method="PUT", path=f"{IMAGE}$", at=2),
    ],
    ids=["snapshot", "mark"],
)
def test_what_cannot_be_tidied_up_behind_one_disk_leaves_all_as_they_are_in_the_backup(
    site: Site, fault: Fault
) -> None:
    """The way back of the first disk is gone then: one disk of before beside one of the backup would be neither."""
    deployed(site)
    data = {number: content(number) for number in (0, 1)}
    backed_up(data, tpm=True)
    site.hosts.run("node3", ["sh", "-c", f"mkdir {DIRECTORY}/tpm && echo new >{DIRECTORY}/tpm/state"])
    site.controller.faults.add(fault)
    outcome = restore(site)
    assert outcome.code == 3 and f"content and marks of {OWN} (its new content is complete" in outcome.stderr
    assert f"{OWN} (kept" not in outcome.stderr
    assert holds(site, data) and sealed(site) == "sealed"
    site.controller.faults.clear()
    restored_anew(site)


def test_a_failure_after_a_restore_that_was_killed_at_its_end_leaves_what_that_one_restored(site: Site) -> None:
    deployed(site)
    data, there = {number: content(number) for number in (0, 1)}, []

    def kill() -> None:
        there[0].kill()

    backed_up(data)
    meanwhile(site, "DELETE", f"{OWN}/snapshots/before-revert", kill)
    there.append(start(site))
    assert there[0].wait(60).code == 255 and holds(site, data)
    backed_up({number: content(number) for number in (0, 1)})
    site.controller.faults.add(Fault("refuse", method="DELETE", path=f"{OWN}/snapshots/before-revert"))
    failed(restore(site))
    assert holds(site, data)
    site.controller.faults.clear()
    restored_anew(site)


def holds(site: Site, data: Mapping[int, bytes]) -> bool:
    return all(whole(site, name) == padded(data[number], whole(site, name)) for number, name in enumerate((OWN, IMAGE)))


def sealed(site: Site) -> str:
    return site.hosts.run("node3", ["sh", "-c", f"cat {DIRECTORY}/tpm/*"]).stdout


def restored_anew(site: Site) -> None:
    """A restore of another backup is what it is without the run before, and that one has left nothing."""
    data = {number: content(number) for number in (0, 1)}
    backed_up(data, tpm=True)
    done(restore(site))
    after = state(site)
    assert holds(site, data) and after["snapshots"] == [] and sealed(site) == "sealed"
    assert [name.rpartition("/")[2] for name in str(after["files"]).split() if "linstor_un" in name] == []


@pytest.mark.parametrize("kill", [Running.kill, lambda running: os.kill(running.script, 15)], ids=["KILL", "TERM"])
def test_a_restore_that_is_stopped_half_way_is_taken_back_or_repeated(
    site: Site, kill: Callable[[Running], None]
) -> None:
    """Killed: nobody gets a half-written disk before the restore is repeated. Told to end: it is as before."""
    deployed(site)
    data = {number: content(number) for number in (0, 1)}
    backed_up(data)
    before, there = state(site), []
    meanwhile(site, "POST", f"{IMAGE}/snapshots", lambda: kill(there[0]))
    there.append(start(site))
    ended = there[0].wait(60)
    if ended.code == 255:
        assert site.link("node3", 7, 0) == "" and marks(site, OWN)["STATE"] == "reverting"
        again = site.oned.tm("cpds", site.disk_word("node3", 7, 0), "/dev/drbd/by-res/one-image-9/0", -1, 7, 100)
        assert not again.success
    else:
        assert ended.code == 1 and state(site) == before
    done(restore(site))
    for number, name in enumerate((OWN, IMAGE)):
        assert whole(site, name) == padded(data[number], whole(site, name))
    after = state(site)
    assert [after[key] for key in ("links", "definitions", "snapshots", "files")] == [
        before[key] for key in ("links", "definitions", "snapshots", "files")
    ]


def test_nobody_but_oneadmin_owns_what_was_staged(site: Site) -> None:
    deployed(site)
    backed_up({0: content(0)})
    seen: list[str] = []
    look = ["sh", "-c", 'stat -c "%U %a" /var/tmp/linstor_un-*']
    meanwhile(site, "POST", "snapshots", lambda: seen.append(site.hosts.run("node3", look).stdout))
    done(restore(site, disk=0))
    assert seen == [f"{account.NAME} 700\n"]
