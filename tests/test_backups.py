"""A VM's disks laid out for a backup datastore, by the scripts as oned calls them: files, bytes, and what stays."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator
from typing import Callable, Optional

import pytest
from guest_support import run
from lab.controller.faults import Fault
from lab.controller.features import Version
from lab.controller.volumes import Content
from lab.guests import Domain, Guests
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_nothing
from lab.oned.process import Running
from lab.site import Site
from linstor_un.naming import by_res
from site_support import MIB, cp, cut_off, done, failed, meanwhile, opened, whole, written_apart

pytestmark = pytest.mark.slow

SITE = {"pools": {"thin": "LVM_THIN", "thick": "LVM"}}
RUNNING, POWEROFF = 69, 70
OWN, IMAGE = "one-vm-7-disk-0", "one-image-6"
DISKS = [D.DiskDocument(0, size=8, image=5), D.DiskDocument(1, size=8, image=6, clone=False)]
SNAPSHOT = "one-vm-7-backup"
DIRECTORY = "/var/lib/one/datastores/101/7"
FULL = {"MODE": "FULL", "FS_FREEZE": "NONE", "LAST_INCREMENT_ID": -1}


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


def document(state: int, host: str = "node3", disks: Optional[list[D.DiskDocument]] = None, **config: object) -> str:
    template = {"TPM": {"MODEL": "tpm-tis"}} if config.pop("tpm", False) else {}
    return D.vm(7, disks or DISKS, hosts=[host], lcm_state=state, backup={**FULL, **config}, **template)  # type: ignore[dict-item]


def deployed(site: Site, host: str = "node3") -> None:
    """Give VM 7 a disk of its own and a persistent image, each with bytes of the guest."""
    site.documents.put(D.vm(7, DISKS, hosts=[host]))
    for image in (5, 6):
        cp(site, image)
    done(site.oned.tm("clone", site.source_word(5), site.disk_word(host, 7, 0), 7, 100))
    done(site.oned.tm("ln", site.source_word(6), site.disk_word(host, 7, 1), 7, 100))
    for name in (OWN, IMAGE):
        write(site, name, f"guest's {name}".encode())


def write(site: Site, name: str, text: bytes, at: int = 0) -> None:
    with site.volumes.settled(Content(name, 0)).open("r+b") as file:
        file.seek(at)
        file.write(text)


def call(
    site: Site, action: str, text: str, host: str = "node3", disks: str = "0:1", release: str = "7.4"
) -> Outcome:
    words = [f"{host}:/var/lib/one//datastores/101/7", disks, "one-7", "-", "7", "101"]
    if release == "6.6":
        words = [words[0], f"{disks}:", "one-7", "7", "101"]
    return site.oned.tm(action, *words, stdin=text)


def files(site: Site, host: str = "node3", directory: str = f"{DIRECTORY}/backup") -> list[str]:
    return site.hosts.run(host, ["sh", "-c", 'ls -A "$1" 2>/dev/null; exit 0', "sh", directory]).stdout.split()


def unpacked(site: Site, number: int, host: str = "node3", directory: str = f"{DIRECTORY}/backup") -> bytes:
    """The bytes in a disk's qcow2 file, which has no backing file and is whole."""
    script = 'qemu-img check -q -f qcow2 "$1" && qemu-img convert -f qcow2 -O raw "$1" /var/tmp/raw'
    path = f"{directory}/disk.{number}.0"
    site.hosts.run(host, ["sh", "-c", script, "sh", path])
    info = site.hosts.run(host, ["qemu-img", "info", path]).stdout
    assert "backing file" not in info and "file format: qcow2" in info
    raw = site.hosts.device_directory(host).parent / "vartmp/raw"
    try:
        return raw.read_bytes()
    finally:
        raw.unlink()


def snapshots(site: Site) -> set[str]:
    return {snapshot.name for one in site.cluster.definitions.values() for snapshot in one.snapshots.values()}


def nothing_left(site: Site, *hosts: str, directory: str = f"{DIRECTORY}/backup") -> None:
    """Nothing of a backup is on LINSTOR or on hosts, and the VM has what it had."""
    assert {one.name for one in site.cluster.definitions.values()} == {"one-image-5", OWN, IMAGE}
    assert not snapshots(site)
    for host in hosts or site.hosts.names:
        assert not files(site, host, directory)


def as_before(site: Site) -> None:
    assert site.link("node3", 7, 0) == by_res(OWN) and site.link("node3", 7, 1) == by_res(IMAGE)
    assert site.attached(OWN) == ["node3"] == site.attached(IMAGE)


# --- what a backup datastore finds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["6.6", "7.4"])
@pytest.mark.parametrize(("action", "state"), [("prebackup", POWEROFF), ("prebackup_live", RUNNING)])
def test_each_disk_is_laid_out_as_a_qcow2_file_beside_the_vms_document(
    site: Site, action: str, state: int, release: str
) -> None:
    deployed(site)
    text = document(state)
    outcome = done(call(site, action, text, release=release))
    read_nothing(outcome)
    assert outcome.stderr == ""
    assert files(site) == ["disk.0.0", "disk.1.0", "vm.xml"]
    for number, name in enumerate((OWN, IMAGE)):
        found = unpacked(site, number)
        assert len(found) == 8 << 20 and found == whole(site, name)[: 8 << 20]
        assert not whole(site, name)[8 << 20 :].strip(b"\0")
    saved = site.hosts.run("node3", ["cat", f"{DIRECTORY}/backup/vm.xml"]).stdout
    assert base64.b64decode(saved).decode() == text
    assert not snapshots(site) and {one.name for one in site.cluster.definitions.values()} == {
        "one-image-5", OWN, IMAGE,
    }  # fmt: skip
    as_before(site)
    post = done(call(site, f"post{action[3:]}", text, release=release))
    assert post.stderr == ""
    nothing_left(site)
    as_before(site)
    assert done(call(site, f"post{action[3:]}", text, release=release)).stderr == ""


def test_what_is_thin_stays_thin(site: Site) -> None:
    deployed(site)
    done(call(site, "prebackup", document(POWEROFF)))
    size = int(site.hosts.run("node3", ["stat", "-c", "%s", f"{DIRECTORY}/backup/disk.0.0"]).stdout)
    assert 3 * MIB // 2 < size < 3 * MIB


def test_only_oneadmin_reads_a_backup(site: Site) -> None:
    deployed(site)
    done(call(site, "prebackup", document(POWEROFF)))
    found = site.hosts.run("node3", ["stat", "-c", "%a %U", f"{DIRECTORY}/backup", f"{DIRECTORY}/backup/disk.0.0"])
    assert {line.split()[0] for line in found.stdout.splitlines()} == {"700", "600"}


def test_what_a_guest_wrote_beyond_the_size_asked_for_is_not_cut_off(site: Site) -> None:
    """Pools round up, and a partition table has its copy at the very end."""
    deployed(site)
    length = len(whole(site, OWN))
    assert length > 8 << 20
    write(site, OWN, b"the very end", length - 12)
    done(call(site, "prebackup", document(POWEROFF)))
    assert unpacked(site, 0) == whole(site, OWN) and len(unpacked(site, 1)) == 8 << 20


def test_backup_base_path_is_where_files_go_and_it_goes_empty(site: Site) -> None:
    deployed(site)
    conf = site.frontend.remotes / "etc/datastore/datastore.conf"
    before = conf.read_text()
    conf.write_text(before + '\nBASE=/var/tmp\nBACKUP_BASE_PATH="$BASE/backups" # here\n')
    try:
        done(call(site, "prebackup", document(POWEROFF)))
        assert files(site, directory="/var/tmp/backups/7/backup") == ["disk.0.0", "disk.1.0", "vm.xml"]
        done(call(site, "postbackup", document(POWEROFF)))
        assert files(site, directory="/var/tmp/backups") == []
        conf.write_text(before + "\nBACKUP_BASE_PATH=../elsewhere\n")
        assert "which is not an absolute path" in failed(call(site, "prebackup", document(POWEROFF)), code=2)
    finally:
        conf.write_text(before)
    nothing_left(site)


def test_the_bridge_that_oned_chose_gets_the_files_and_gives_the_disks_back(site: Site) -> None:
    """LAST_BRIDGE of oned >= 7.0.2: the backup datastore reads there, where the VM has no directory."""
    deployed(site)
    text = document(RUNNING, LAST_BRIDGE="node2")
    with opened(site, "node3", by_res(OWN)):
        done(call(site, "prebackup_live", text))
    assert files(site, "node2") == ["disk.0.0", "disk.1.0", "vm.xml"] and not files(site)
    assert unpacked(site, 0, "node2") == whole(site, OWN)[: 8 << 20]
    as_before(site)
    done(call(site, "postbackup_live", text))
    nothing_left(site)
    assert files(site, "node2", "/var/lib/one/datastores/101") == []


# --- one moment -----------------------------------------------------------------------------------------------------


def test_a_running_vms_disks_are_all_of_one_moment(site: Site) -> None:
    """LINSTOR takes all snapshots in one request; what the guest writes while they are copied is in none."""
    deployed(site)
    before = {name: whole(site, name)[: 8 << 20] for name in (OWN, IMAGE)}

    def later() -> None:
        for name in (OWN, IMAGE):
            write(site, name, b"written later")

    meanwhile(site, "POST", "snapshot-restore-resource", later)
    with opened(site, "node3", by_res(OWN)), opened(site, "node3", by_res(IMAGE)):
        done(call(site, "prebackup_live", document(RUNNING)))
    taken = [entry["path"] for entry in site.controller.faults.log if entry["method"] == "POST"]
    assert sum("/snapshot" in path and "restore" not in path for path in taken) == 1
    assert [unpacked(site, number) for number in (0, 1)] == list(before.values())
    assert whole(site, OWN).startswith(b"written later")
    as_before(site)


@pytest.mark.parametrize(
    ("freeze", "seen"), [("SUSPEND", "paused (user)"), ("TRY", "paused (user)"), ("NONE", "running (booted)")]
)
def test_the_guest_waits_for_the_moment_as_fs_freeze_says(site: Site, guests: Guests, freeze: str, seen: str) -> None:
    deployed(site)
    run(guests, "node3", Domain("one-7", 7, disks=()))
    found: list[str] = []
    meanwhile(site, "POST", "snapshot/multi", lambda: found.append(guests.reason("node3", "one-7")))
    done(call(site, "prebackup_live", document(RUNNING, FS_FREEZE=freeze)))
    assert found == [seen] and guests.state("node3", "one-7") == "running"


def test_an_agent_that_is_wanted_and_missing_is_no_backup(site: Site, guests: Guests) -> None:
    deployed(site)
    run(guests, "node3", Domain("one-7", 7, disks=()))
    said = failed(call(site, "prebackup_live", document(RUNNING, FS_FREEZE="AGENT")))
    assert "cannot keep the guest one-7 quiet on node3" in said and "agent" in said
    assert guests.state("node3", "one-7") == "running"
    nothing_left(site)


def test_a_guest_that_somebody_paused_stays_paused(site: Site, guests: Guests) -> None:
    deployed(site)
    run(guests, "node3", Domain("one-7", 7, disks=()))
    guests.virsh("node3", "suspend", "one-7")
    done(call(site, "prebackup_live", document(RUNNING, FS_FREEZE="TRY")))
    assert guests.state("node3", "one-7") == "paused"


def test_a_failed_snapshot_leaves_no_guest_waiting(site: Site, guests: Guests) -> None:
    deployed(site)
    run(guests, "node3", Domain("one-7", 7, disks=()))
    site.controller.faults.add(Fault("refuse", path="snapshot/multi"))
    outcome = call(site, "prebackup_live", document(RUNNING, FS_FREEZE="SUSPEND"))
    assert outcome.code == 1 and outcome.stderr.count("cannot take snapshot") == 1
    assert guests.state("node3", "one-7") == "running"
    nothing_left(site)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["prebackup", "prebackup_live"])
def test_an_increment_is_refused_before_anything_happens(site: Site, action: str) -> None:
    """A whole backup in its place would be taken for changes, and changes that lack blocks for all there is."""
    deployed(site)
    text = document(POWEROFF, MODE="INCREMENT", LAST_INCREMENT_ID=0)
    said = failed(call(site, action, text))
    assert "VM 7 cannot have an incremental backup; set MODE=FULL in its BACKUP_CONFIG" in said
    nothing_left(site)


def test_the_first_of_a_chain_is_whole_and_says_that_it_will_be_the_only_one(site: Site) -> None:
    deployed(site)
    outcome = done(call(site, "prebackup", document(POWEROFF, MODE="INCREMENT")))
    assert outcome.stderr.startswith("WARN: ") and "there will be none of changes only" in outcome.stderr
    assert unpacked(site, 0) == whole(site, OWN)[: 8 << 20]


def test_another_program_is_not_let_to_the_disks(site: Site) -> None:
    deployed(site)
    assert "set INTERACTIVE=NO" in failed(call(site, "prebackup", document(POWEROFF, INTERACTIVE="YES")))
    nothing_left(site)


def test_a_disk_of_another_driver_is_named(site: Site) -> None:
    deployed(site)
    disks = [*DISKS, D.DiskDocument(2, size=8, image=9, tm_mad="ceph")]
    said = failed(call(site, "prebackup_live", document(RUNNING, disks=disks), disks="0:1:2"))
    assert "disk 2 of VM 7 is of driver ceph, which this one cannot back up" in said
    nothing_left(site)
    done(call(site, "prebackup_live", document(RUNNING, disks=disks)))
    assert done(call(site, "postbackup_live", document(RUNNING, disks=disks), disks="0:1:2")).stderr == ""
    nothing_left(site)


def test_without_snapshots_a_running_vm_is_refused_and_one_that_is_off_is_not(site: Site) -> None:
    site.datastores(STORAGE_POOL="thick", REPLICA_COUNT=2)
    deployed(site)
    said = failed(call(site, "prebackup_live", document(RUNNING)))
    assert f"{OWN} is in pool thick of kind LVM on node1, which cannot take snapshots" in said
    nothing_left(site)
    done(call(site, "prebackup", document(POWEROFF)))
    assert unpacked(site, 0) == whole(site, OWN)[: 8 << 20]


def test_a_disk_that_is_open_is_not_backed_up_as_if_it_were_off(site: Site) -> None:
    deployed(site)
    with opened(site, "node3", by_res(OWN)):
        assert f"{OWN} is open for writing on node3" in failed(call(site, "prebackup", document(POWEROFF)))
    nothing_left(site)


@pytest.mark.parametrize(("action", "state"), [("prebackup", POWEROFF), ("prebackup_live", RUNNING)])
def test_without_drbd_the_replica_that_the_vm_wrote_to_is_backed_up(site: Site, action: str, state: int) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    disks = [DISKS[0]]
    site.documents.put(D.vm(7, disks, hosts=["node2"]))
    cp(site, 5)
    done(site.oned.tm("clone", site.source_word(5), site.disk_word("node2", 7, 0), 7, 100))
    with site.volumes.settled(Content(OWN, 0, "node2")).open("r+b") as file:
        file.write(b"of the guest")
    bridge = document(state, "node2", disks, LAST_BRIDGE="node1")
    assert "node1 has not what VM 7 wrote on node2" in failed(call(site, action, bridge, "node2", "0"))
    done(call(site, action, document(state, "node2", disks), "node2", "0"))
    assert unpacked(site, 0, "node2").startswith(b"of the guest")


def test_a_volume_that_is_somebody_elses_is_left_alone(site: Site) -> None:
    deployed(site)
    site.rest("PUT", f"/v1/resource-definitions/{OWN}", {"override_props": {"Aux/one/VM_ID": "70"}})
    assert "is marked VM_ID=70" in failed(call(site, "prebackup_live", document(RUNNING)))
    nothing_left(site)


def test_replicas_with_differing_data_are_not_backed_up(site: Site) -> None:
    deployed(site)
    written_apart(site, IMAGE)
    assert f"the replicas of {IMAGE} have differing data" in failed(call(site, "prebackup_live", document(RUNNING)))
    nothing_left(site)


def test_what_drbd_does_not_keep_equal_is_not_backed_up(site: Site) -> None:
    """Each replica of what is restored from the snapshot comes from another one, and any of them is read."""
    deployed(site)
    cut_off(site, IMAGE, *site.holders(IMAGE))
    assert f"the replicas of {IMAGE} on" in failed(call(site, "prebackup_live", document(RUNNING)))
    nothing_left(site)


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["prebackup", "prebackup_live"])
def test_a_full_directory_leaves_nothing(site: Site, action: str) -> None:
    deployed(site)
    base = f"{DIRECTORY}/backup"
    site.hosts.run("node3", ["mkdir", "-p", DIRECTORY])
    conf = site.frontend.remotes / "etc/datastore/datastore.conf"
    before = conf.read_text()
    conf.write_text(before + "\nBACKUP_BASE_PATH=/var/tmp/small\n")
    site.hosts.run("node3", ["mkdir", "/var/tmp/small"], user="root")
    site.hosts.run("node3", ["mount", "-t", "tmpfs", "-o", "size=1m,mode=1777", "small", "/var/tmp/small"], user="root")
    try:
        said = failed(call(site, action, document(RUNNING)))
        assert "No space left on device" in said and OWN in said
        assert files(site, directory="/var/tmp/small") == []
    finally:
        site.hosts.run("node3", ["umount", "/var/tmp/small"], user="root")
        conf.write_text(before)
    nothing_left(site, directory=base)


def started(site: Site, at: str, deed: Callable[[Running], object]) -> Running:
    """Start a backup of the running VM, to which something is done when it makes such a request."""
    there: list[Running] = []
    meanwhile(site, "POST", at, lambda: deed(there[0]))
    words = ["node3:/var/lib/one//datastores/101/7", "0:1", "one-7", "-", "7", "101"]
    there.append(site.oned.start_tm("prebackup_live", *words, stdin=document(RUNNING)))
    return there[0]


def test_backup_cancel_ends_a_backup_and_nothing_is_left(site: Site) -> None:
    """OpenNebula's script looks for processes called ruby with the VM's domain among their words, and sends TERM."""
    deployed(site)
    found = "ps --no-headers -o pid,cmd -C ruby | awk '$0 ~ \"(pre)?backup(_live)? .*one-7 \" { print $1 }'"

    def cancel(_: Running) -> None:
        # A terminal's width must not cut the lines.
        subprocess.run(["env", "-u", "COLUMNS", "sh", "-c", f"kill -s TERM $({found})"], check=True)

    outcome = site.oned.finish(started(site, "snapshot-restore-resource", cancel))
    assert failed(outcome) == "prebackup_live: stopped by SIGTERM"
    nothing_left(site)
    as_before(site)


@pytest.mark.parametrize("then", ["prebackup_live", "postbackup_live"])
@pytest.mark.parametrize("at", ["snapshot-restore-resource", "snapshot/multi", "resource-definitions$"])
def test_what_a_killed_backup_left_goes_with_the_next_call(site: Site, at: str, then: str) -> None:
    deployed(site)
    started(site, at, Running.kill).wait(60)
    assert files(site) == ["vm.xml"]
    done(call(site, then, document(RUNNING)))
    assert not snapshots(site)
    done(call(site, "postbackup_live", document(RUNNING)))
    nothing_left(site)
    as_before(site)


def test_what_a_killed_backup_left_of_a_disk_goes_with_the_disk(site: Site) -> None:
    deployed(site)
    started(site, "snapshot-restore-resource", Running.kill).wait(60)
    site.documents.put(D.vm(7, DISKS, hosts=["node3"], lcm_state=11))
    done(site.oned.tm("delete", site.disk_word("node3", 7, 0), 7, 100))
    assert {one.name for one in site.cluster.definitions.values()} == {"one-image-5", IMAGE}


def test_a_rerun_does_not_take_the_killed_ones_snapshots_for_its_own(site: Site) -> None:
    deployed(site)
    started(site, "snapshot-restore-resource", Running.kill).wait(60)
    write(site, OWN, b"since then")
    done(call(site, "prebackup_live", document(RUNNING)))
    assert unpacked(site, 0).startswith(b"since then")


def test_postbackup_says_what_stays_and_does_not_fail(site: Site) -> None:
    """oned would call a backup failed that its datastore has."""
    deployed(site)
    done(call(site, "prebackup_live", document(RUNNING)))
    site.rest("POST", f"/v1/resource-definitions/{OWN}/snapshots", {"name": SNAPSHOT})
    site.controller.faults.add(Fault("refuse", method="DELETE", path="snapshots", times=9))
    outcome = done(call(site, "postbackup_live", document(RUNNING)))
    assert re.match(f"WARN: postbackup_live: what was laid out .*{SNAPSHOT} of {OWN}", outcome.stderr)
    assert not files(site) and snapshots(site) == {SNAPSHOT}
    site.controller.faults.clear()
    assert done(call(site, "postbackup_live", document(RUNNING))).stderr == ""
    nothing_left(site)


def test_an_older_linstor_takes_the_snapshots_while_the_guest_waits(site: Site, guests: Guests) -> None:
    """Before 1.22 there is one request a disk: without FS_FREEZE, too, the disks have to be of one moment."""
    deployed(site)
    run(guests, "node3", Domain("one-7", 7, disks=()))
    found: list[str] = []
    before, site.cluster.version = site.cluster.version, Version("1.20")
    meanwhile(site, "POST", f"{IMAGE}/snapshots", lambda: found.append(guests.reason("node3", "one-7")))
    try:
        done(call(site, "prebackup_live", document(RUNNING)))
    finally:
        site.cluster.version = before
    assert found == ["paused (user)"] and guests.state("node3", "one-7") == "running"


# --- a virtual TPM --------------------------------------------------------------------------------------------------


def test_the_state_of_a_virtual_tpm_is_a_part_of_the_backup(site: Site) -> None:
    deployed(site)
    text = document(POWEROFF, tpm=True)
    assert f"there is no {DIRECTORY}/tpm" in failed(call(site, "prebackup", text))
    nothing_left(site)
    site.hosts.run("node3", ["sh", "-c", f"mkdir {DIRECTORY}/tpm && echo sealed >{DIRECTORY}/tpm/state"])
    done(call(site, "prebackup", text))
    assert files(site) == ["disk.0.0", "disk.1.0", "disk.tpm.0", "vm.xml"]
    inside = site.hosts.run("node3", ["tar", "-xzOf", f"{DIRECTORY}/backup/disk.tpm.0", "tpm/state"])
    assert inside.stdout == "sealed\n"
