"""The replay's judge: a right driver passes on true recordings, and every kind of wrong one is noticed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lab import replay
from lab.hosts import isolation
from lab.oned.recordings import Call, Recording, read_recording
from lab.opennebula.frontend import REPOSITORY
from lab.replaying import contents, effects, judge, lifecycle, trees
from lab.replaying.needs import Needs
from lab.replaying.snapshot import Definition, Snapshot, differences
from lab.replaying.world import World

DATA = Path(__file__).parent / "data/driver-calls"


@pytest.fixture(scope="module")
def lab() -> Iterator[replay.Lab]:
    reason = isolation.missing()
    if reason:
        pytest.skip(reason)
    made = replay.Lab("1.33", None)
    yield made
    made.close()


def recording(version: str, scenario: str) -> Recording:
    found = read_recording(DATA / version / f"{scenario}.json.gz")
    assert found is not None
    return found


def wrong(verdicts: list[replay.Verdict]) -> list[str]:
    return [f"{verdict.seq} {complaint}" for verdict in verdicts for complaint in verdict.complaints]


@pytest.mark.parametrize(
    ("version", "scenario"),
    [
        ("6.6.3", "dsstdin-image_create_path"),
        ("6.10.5", "vm_persistent"),
        pytest.param("5.12.12", "image_create_path", marks=pytest.mark.slow),
        pytest.param("7.4.0", "vm_volatile", marks=pytest.mark.slow),
        pytest.param("7.4.0", "image_failures", marks=pytest.mark.slow),
        pytest.param("7.4.0", "mixed-ssh-kernel_files", marks=pytest.mark.slow),
    ],
)
def test_the_driver_does_what_real_daemons_ask(lab: replay.Lab, version: str, scenario: str) -> None:
    verdicts = lab.replay(recording(version, scenario))
    assert [sentence for sentence in wrong(verdicts) if "not yet" not in sentence] == []
    assert any(verdict.status == replay.OK for verdict in verdicts)


@pytest.mark.slow
def test_nothing_is_left_on_hosts_between_recordings(lab: replay.Lab) -> None:
    cut_off = recording("7.4.0", "vm_volatile")
    lab.replay(replace(cut_off, calls=cut_off.calls[:4]))
    with World(cut_off, lab.hosts, lab.volumes, "1.33") as world:
        moment = world.snapshot()
    assert list(moment.definitions) == ["payroll-db"]
    assert [path for _, path in moment.files if "/datastores/" in path] == []


# A wrong driver: each line spoils what the right one has done.

SPOILED = [
    ("tm/linstor_un/clone", "echo surprise", "where oned reads nothing"),
    ("tm/linstor_un/clone", "echo 'cloned it' >&2", "stderr of a success"),
    ("tm/linstor_un/clone", "exit 1", "exit code 1"),
    ("tm/linstor_un/clone", "ssh node1 rm /var/lib/one/datastores/101/3/disk.0", "no link to one-vm-3-disk-0"),
    ("tm/linstor_un/clone", "ssh node1 ln -sfn /dev/null /var/lib/one/datastores/101/3/disk.0", "no link to"),
    ("tm/linstor_un/clone", "ssh node2 touch /var/lib/one/datastores/stray", "datastores/stray was not there"),
    ("tm/linstor_un/clone", "ssh node1 touch /var/tmp/staged", "/var/tmp/staged was not there"),
    ("tm/linstor_un/clone", "write node1 one-vm-3-disk-0", "has not the right bytes"),
    ("tm/linstor_un/clone", "write node1 one-image-0", "the bytes of one-image-0 changed"),
    ("tm/linstor_un/clone", "rest DELETE one-vm-3-disk-0", "one-vm-3-disk-0 does not exist"),
    ("tm/linstor_un/clone", "rest DELETE payroll-db", "payroll-db is gone"),
    ("tm/linstor_un/clone", "mark one-vm-3-disk-0 Aux/one/VM_ID 4", "marked with Aux/one/VM_ID 4"),
    ("tm/linstor_un/clone", "mark one-vm-3-disk-0 Aux/one/STATE creating", "left in state creating"),
    ("tm/linstor_un/clone", "mark payroll-db Aux/one/VM_ID 3", "payroll-db changed"),
    ("tm/linstor_un/clone", "attach one-vm-3-disk-0", "is attached on"),
    ("tm/linstor_un/clone", "attach one-image-0", "image one-image-0 changed"),
    ("tm/linstor_un/context", "ssh node1 rm /var/lib/one/datastores/101/3/disk.1", "not a file"),
    ("tm/linstor_un/delete", "ssh node1 mkdir -p /var/lib/one/datastores/101/3", "is still there"),
    ("tm/linstor_un/delete", "rest DELETE one-image-0", "one-image-0 is gone"),
]

HELPERS = """
api=http://127.0.0.1:3370/v1/resource-definitions
send() { curl -sf -o /dev/null -H 'Content-Type: application/json' "$@"; }
rest() { send -X "$1" "$api/$2"; }
mark() { send -X PUT -d "{\\"override_props\\":{\\"$2\\":\\"$3\\"}}" "$api/$1"; }
attach() {
    for node in node1 node2 node3; do
        send -X POST -d '{"diskful":false,"layer_list":["DRBD","STORAGE"]}' "$api/$1/resources/$node/make-available"
    done
}
snap() { send -X POST -d "{\\"name\\":\\"$2\\"}" "$api/$1/snapshots"; }
grow() { send -X PUT -d "{\\"size_kib\\":$2}" "$api/$1/volume-definitions/0"; }
dual() { connection "$1" "\\"override_props\\":{\\"DrbdOptions/Net/allow-two-primaries\\":\\"$2\\"}"; }
connection() { send -X PUT -d "{$2}" "$api/$1/resource-connections/node1/node2"; }
anywhere() { mark "$1" DrbdOptions/Net/allow-two-primaries yes; }
virsh() { ssh "$1" virsh "$2" "$3" >/dev/null 2>&1; }
write() { ssh "$1" "echo spoiled | dd of=/dev/drbd/by-res/$2/0 conv=notrunc,fsync status=none"; }
ssh() { command ssh -o BatchMode=yes "$@" </dev/null; }
"""


def spoil(world: World, script: str, line: str) -> None:
    """Let the installed script do its work and then one wrong thing."""
    path = world.frontend.remotes / script
    right = path.with_name(f"{path.name}.right")
    right.write_bytes(path.read_bytes())
    right.chmod(0o755)
    path.write_text(f'#!/bin/bash\n{HELPERS}\n"$0.right" "$@" || exit\n{line}\n')


def spoiled_complaints(lab: replay.Lab, item: Recording, script: str, line: str) -> list[str]:
    found: list[str] = []
    with World(item, lab.hosts, lab.volumes, "1.33") as world:
        spoil(world, script, line)
        needs = Needs(world, item)
        for call in item.calls:
            if call.vm_document:
                world.documents.put(call.vm_document)
            lifecycle.settle(world, call)
            needs.prepare(call)
            if replay.ours(call) and (world.frontend.remotes / call.script).exists():
                found += replay.judged(world, call)
            else:
                effects.emulate(world, call)
                lifecycle.follow(world, call)
            if found:
                break
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("script", "line", "complaint"), SPOILED, ids=[line for _, line, _ in SPOILED])
def test_a_wrong_driver_is_noticed(lab: replay.Lab, script: str, line: str, complaint: str) -> None:
    found = spoiled_complaints(lab, recording("7.4.0", "vm_nonpersistent"), script, line)
    assert any(complaint in sentence for sentence in found), found


POFF, COLD, DEAD, MOVED, FAILED, MIXED = (
    "migrate_poff", "mixed-ssh-migrate_cold", "host_failure", "migrate_live", "migrate_live_fail",
    "mixed-ssh-migrate_live",
)
KEPT, HANDED = "suspend_resume", "mixed-ssh-poweroff_suspend"
SNAPPED, LIVE, GROWN, SAVED_AS = "disk_snapshot_poweroff", "disk_snapshot_live", "disk_resize", "disk_saveas"
THERE = "/var/lib/one/datastores"
SPOILED_LATER = [
    (SNAPPED, "tm/linstor_un/snap_create", "rest DELETE one-vm-28-disk-0/snapshots/snapshot-0", "has the snapshots []"),
    (SNAPPED, "tm/linstor_un/snap_create", "mark one-vm-28-disk-0 Aux/one/SNAPSHOT_0/DISK_SIZE x", "says 'x' KiB"),
    (SNAPPED, "tm/linstor_un/snap_create", "mark one-vm-28-disk-0 Aux/one/VM_ID 5", "has the properties"),
    (SNAPPED, "tm/linstor_un/snap_create", "attach one-vm-28-disk-0", "is attached on"),
    (SNAPPED, "tm/linstor_un/snap_create", "write node1 one-vm-28-disk-0", "the bytes of one-vm-28-disk-0 changed"),
    (SNAPPED, "tm/linstor_un/snap_delete", "snap one-vm-28-disk-0 snapshot-0", "has the snapshots ['snapshot-0'"),
    (LIVE, "tm/linstor_un/snap_create_live", "virsh node1 suspend one-27", "was running on node1, is paused on node1"),
    (LIVE, "tm/linstor_un/snap_create_live", "virsh node1 domfsfreeze one-27", "is running on node1, frozen"),
    (LIVE, "tm/linstor_un/snap_create_live", "virsh node1 destroy one-27", "is not there"),
    (LIVE, "tm/linstor_un/snap_create_live", "snap one-vm-27-disk-0 more", "at a moment when its guest could write"),
    (LIVE, "tm/linstor_un/snap_create_live", "virsh node1 undefine one-27 || true", "virsh does not know: undefine"),
    (GROWN, "tm/linstor_un/resize", "grow one-vm-35-disk-0 2000000", "has 2000000 KiB, asked for 1024000"),
    (GROWN, "tm/linstor_un/resize", "virsh node1 destroy one-35", "is not there"),
    (POFF, "tm/linstor_un/mv", "mark one-vm-19-disk-0 Aux/one/DS_ID 100", "carries the marks"),
    (POFF, "tm/linstor_un/mv", "attach one-vm-19-disk-0", "is attached on"),
    (POFF, "tm/linstor_un/mv", "write node2 one-vm-19-disk-0", "the bytes of one-vm-19-disk-0 changed"),
    (POFF, "tm/linstor_un/mv", f"ssh node2 rm {THERE}/101/19/disk.0", "no link to one-vm-19-disk-0"),
    (POFF, "tm/linstor_un/mv", f"ssh node2 rm -f {THERE}/101/19/nvram.fd", "101/19/nvram.fd is None"),
    (POFF, "tm/linstor_un/mv", f"ssh node2 chmod -f 777 {THERE}/101/19/nvram.fd || true", "777"),
    (POFF, "tm/linstor_un/mv", f"ssh node1 mkdir -p {THERE}/101/19", "101/19 is still there"),
    (COLD, "tm/linstor_un/mv", f"ssh node1 rm {THERE}/106/94/disk.0", "ssh carries that directory after this"),
    (DEAD, "tm/linstor_un/mv", "ssh -o ConnectTimeout=1 node3 true || true", "tried to connect to the dead host"),
    (MOVED, "tm/linstor_un/premigrate", "dual one-vm-18-disk-0 no", "may not be written on node1 node2"),
    (MOVED, "tm/linstor_un/premigrate", "anywhere one-vm-18-disk-0", "may be written on ['node1 node2', 'node1 node3'"),
    (MOVED, "tm/linstor_un/premigrate", f"ssh node2 rm {THERE}/101/18/disk.0", "no link to one-vm-18-disk-0"),
    (MOVED, "tm/linstor_un/premigrate", f"ssh node2 rm {THERE}/101/18/nvram.fd", "101/18/nvram.fd is None"),
    (MOVED, "tm/linstor_un/premigrate", f"ssh node1 touch {THERE}/101/18/stray", "stray was not there"),
    (MOVED, "tm/linstor_un/postmigrate", "dual one-vm-18-disk-0 yes", "may still be written on"),
    (MOVED, "tm/linstor_un/postmigrate", "mark one-vm-18-disk-0 Aux/one/LEASE x", "has the properties"),
    (MOVED, "tm/linstor_un/postmigrate", f"ssh node1 mkdir -p {THERE}/101/18", "101/18 is still there"),
    (FAILED, "tm/linstor_un/failmigrate", "attach one-vm-20-disk-0", "is attached on"),
    (FAILED, "tm/linstor_un/failmigrate", f"ssh node2 mkdir -p {THERE}/101/20", "101/20 was not there"),
    (MIXED, "tm/linstor_un/premigrate", f"ssh node2 touch {THERE}/106/96/x", "106/96/x was not there"),
    (SAVED_AS, "tm/linstor_un/cpds", "snap one-vm-36-disk-0 left", "one-vm-36-disk-0 changed: snapshots"),
    (SAVED_AS, "tm/linstor_un/cpds", "attach one-image-33", "one-image-33 is still attached on"),
    (SAVED_AS, "tm/linstor_un/cpds", "write node1 one-image-33", "one-image-33 has not the right bytes"),
    (KEPT, "vmm/kvm/save_linstor_un", "echo done", "printed 'done"),
    (KEPT, "vmm/kvm/save_linstor_un", "attach one-vm-12-checkpoint", "one-vm-12-checkpoint is attached on"),
    (KEPT, "vmm/kvm/save_linstor_un", "rest DELETE one-vm-12-checkpoint", "one-vm-12-checkpoint does not exist"),
    (KEPT, "vmm/kvm/save_linstor_un", "attach one-vm-12-checkpoint; write node1 one-vm-12-checkpoint", "is nothing"),
    (KEPT, "vmm/kvm/restore_linstor_un", "virsh node1 suspend one-12", "is paused on node1"),
    (KEPT, "vmm/kvm/restore_linstor_un", "virsh node1 destroy one-12", "does not run"),
    (KEPT, "vmm/kvm/restore_linstor_un", f"ssh node1 rm {THERE}/101/12/disk.0", "disk.0 was link"),
    (HANDED, "vmm/kvm/save_linstor_un", "ssh node1 'echo less >/run/domains/.argv'", "the stock script got ['less']"),
    (HANDED, "vmm/kvm/save_linstor_un", "ssh node1 'echo less >/run/domains/.stdin'", "the stock script read b'less"),
    (SAVED_AS, "tm/linstor_un/cpds", "mark one-image-33 Aux/one/VM_ID 36", "carries ['Aux/one/VM_ID'] of the disk"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "script", "line", "complaint"), SPOILED_LATER, ids=[line for _, _, line, _ in SPOILED_LATER]
)
def test_a_wrong_action_is_noticed(lab: replay.Lab, scenario: str, script: str, line: str, complaint: str) -> None:
    if not (REPOSITORY / script).exists():
        pytest.skip(f"there is no {script} yet")
    found = spoiled_complaints(lab, recording("7.4.0", scenario), script, line)
    assert any(complaint in sentence for sentence in found), found


def with_trees(item: Recording, **trees: dict[str, list[str]]) -> Recording:
    """Return a recording whose first call of another driver's mv tells of the VM's directory."""
    first = next(call for call in item.calls if call.script == "tm/ssh/mv" and call.argv[0].endswith("/94"))
    told = replace(first, more={**first.more, **trees})
    return replace(item, calls=[told if call is first else call for call in item.calls])


def test_a_recorded_directory_needs_the_links_that_ours_had(lab: replay.Lab) -> None:
    had = {"node2": ["disk.0@", "disk.1@", "disk.2", "ds.xml"], "node1": []}
    item = with_trees(recording("7.4.0", COLD), tree_after=had)
    assert [sentence for sentence in wrong(lab.replay(item)) if "the recorded one had" in sentence] == []
    without = replace(item, calls=[call for call in item.calls if call.action != "ln"])
    found = [sentence for sentence in wrong(lab.replay(without)) if "the recorded one had" in sentence]
    assert len(found) == 1 and "94 has no disk.1" in found[0]


def test_names_of_recorded_directories_are_read_in_every_form() -> None:
    forms = ["disk.0@ disk.2 tpm/", ["disk.0@", "disk.2", "tpm/tpm2"], {"disk.0": "link", "disk.2": 5, "tpm": {}}]
    assert [set(trees.names(form)) for form in forms] == [{"disk.0", "disk.2", "tpm"}] * 3
    assert set(trees.names(None)) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("echo more", "more than one line"),
        ("write node1 one-image-2", "has not the right bytes"),
        ("attach one-image-2", "is still attached on"),
        ("mark one-image-2 Aux/one/IMAGE_ID 9", "marked with IMAGE_ID 9"),
        ("rest DELETE one-image-2", "does not exist"),
    ],
)
def test_a_wrong_import_is_noticed(lab: replay.Lab, line: str, complaint: str) -> None:
    found = spoiled_complaints(lab, recording("7.4.0", "image_create_path"), "datastore/linstor_un/cp", line)
    assert any(complaint in sentence for sentence in found), found


def failing(lab: replay.Lab, text: str) -> list[str]:
    """Judge a script of ours that fails in its own way where the recorded call failed, too."""
    item = recording("7.4.0", "image_failures")
    call = next(call for call in item.calls if call.action == "cp" and call.failure_injected)
    with World(item, lab.hosts, lab.volumes, "1.33") as world:
        Needs(world, item).prepare(call)
        (world.frontend.remotes / call.script).write_text(f"#!/bin/bash\n{HELPERS}\n{text}\n")
        return replay.judged(world, call)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("echo cp: no space >&2; exit 1", ""),
        ("exit 0", "succeeded although the controller places nothing"),
        ("exit 1", "0 user sentences instead of one"),
        ("echo ERROR: cp: no space >&2; exit 1", "0 user sentences instead of one"),
        ("echo one >&2; echo two >&2; exit 1", "2 user sentences instead of one"),
        ("echo cp: bug >&2; exit 70", "exit code 70"),
        ("echo cp: left >&2; exit 3", "exit code 3"),
        ("echo /dev/x raw; echo cp: no >&2; exit 1", "and failed"),
        ("ssh node1 touch /var/tmp/left; echo cp: no >&2; exit 1", "/var/tmp/left was not there"),
        ("rest DELETE payroll-db; echo cp: no >&2; exit 1", "payroll-db is gone"),
    ],
)
def test_only_a_clean_failure_passes(lab: replay.Lab, text: str, complaint: str) -> None:
    found = failing(lab, text)
    assert (not found) if not complaint else any(complaint in sentence for sentence in found), found


@pytest.mark.slow
def test_an_action_without_a_script_is_not_yet(lab: replay.Lab) -> None:
    made = replay.Lab.__new__(replay.Lab)
    made.__dict__.update({**lab.__dict__, "actions": {"prebackup_live"}})
    item = recording("7.4.0", "backup_cancel")
    verdicts = made.replay(item)
    assert {verdict.status for verdict in verdicts} <= {replay.WRONG, replay.NOT_OURS}
    assert all("not yet" in sentence for sentence in wrong(verdicts)) and wrong(verdicts)


# Without a lab


def test_every_judged_action_is_described() -> None:
    text = (Path(__file__).parents[1] / "docs/replay.md").read_text()
    for _, action in judge.RULES:
        assert f"`{action}`" in text, action


def test_a_directory_without_recordings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        replay.main([str(tmp_path)])
    assert "no recordings there" in capsys.readouterr().err


def test_differences_name_each_change() -> None:
    one = Definition(1024, {}, frozenset({"a"}), frozenset(), frozenset(), frozenset())
    before = Snapshot({"x": one, "y": one}, {("h", "/p"): "directory", ("h", "/q"): "file 1"})
    after = Snapshot({"x": replace(one, attached=frozenset({"b"})), "z": one}, {("h", "/p"): "directory"})
    assert differences(before, after) == [
        "x changed: attached [] -> ['b']", "y is gone", "z appeared", "h:/q was file 1, is not there",
    ]
    assert differences(before, after, ["x", "y", "z"], [("h", "/q")]) == []


def test_fingerprints_see_every_byte_and_no_size(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    contents.write_pattern(one, 8 << 20, "seed")
    contents.write_pattern(other, 8 << 20, "seed")
    with open(other, "r+b") as file:
        file.truncate(16 << 20)
    assert contents.fingerprint(one) == contents.fingerprint(other) != contents.EMPTY
    with open(other, "r+b") as file:
        file.seek(12345678)
        file.write(b"\1")
    assert contents.fingerprint(one) != contents.fingerprint(other)
    (tmp_path / "zero").write_bytes(bytes(5 << 20))
    assert contents.fingerprint(tmp_path / "zero") == contents.EMPTY


def test_calls_are_made_with_the_recorded_words() -> None:
    call: Call = recording("5.12.12", "image_create_path").calls[0]
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", call.argv[0]) and call.stdin == ""
