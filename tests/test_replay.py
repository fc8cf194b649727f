"""The replay's judge: a right driver passes on true recordings, and every kind of wrong one is noticed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from lab import replay
from lab.oned.recordings import Call, Recording
from lab.replaying import contents, judge, trees
from lab.replaying.needs import Needs
from lab.replaying.snapshot import Definition, Snapshot, differences
from lab.replaying.world import World
from replay_support import HELPERS, recording, repeated, replay_lab, retried, spoiled_complaints, wrong

lab = pytest.fixture(scope="module")(replay_lab)


@pytest.mark.parametrize(
    ("version", "scenario"),
    [
        ("6.10.5", "vm_persistent"),
        pytest.param("6.6.3", "dsstdin-image_create_path", marks=pytest.mark.slow),
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
@pytest.mark.parametrize("scenario", ["vm_persistent", "undeploy_resume", "host_failure", "image_clone"])
def test_every_action_may_fail_and_is_right_when_it_is_called_again(lab: replay.Lab, scenario: str) -> None:
    item = retried(recording("7.4.0", scenario), never=["postmigrate", "failmigrate"])
    assert wrong(lab.replay(item)) == []


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["vm_persistent", "migrate_live_fail"])
def test_every_action_may_be_called_twice(lab: replay.Lab, scenario: str) -> None:
    assert wrong(lab.replay(repeated(recording("7.4.0", scenario)))) == []


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

@pytest.mark.slow
@pytest.mark.parametrize(("script", "line", "complaint"), SPOILED, ids=[line for _, line, _ in SPOILED])
def test_a_wrong_driver_is_noticed(lab: replay.Lab, script: str, line: str, complaint: str) -> None:
    found = spoiled_complaints(lab, recording("7.4.0", "vm_nonpersistent"), script, line)
    assert any(complaint in sentence for sentence in found), found


def with_trees(item: Recording, **trees: dict[str, list[str]]) -> Recording:
    """Return a recording whose first call of another driver's mv tells of the VM's directory."""
    first = next(call for call in item.calls if call.script == "tm/ssh/mv" and call.argv[0].endswith("/94"))
    told = replace(first, more={**first.more, **trees})
    return replace(item, calls=[told if call is first else call for call in item.calls])


@pytest.mark.slow
def test_a_recorded_directory_needs_the_links_that_ours_had(lab: replay.Lab) -> None:
    had = {"node2": ["disk.0@", "disk.1@", "disk.2", "ds.xml"], "node1": []}
    item = with_trees(recording("7.4.0", "mixed-ssh-migrate_cold"), tree_after=had)
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
    made.__dict__.update({**lab.__dict__, "actions": {"nothing"}})
    item = recording("7.4.0", "backup_cancel")
    none = {"action": "nothing", "script": "tm/linstor_un/nothing"}
    calls = [replace(call, **none) if call.action == "prebackup_live" else call for call in item.calls]
    verdicts = made.replay(replace(item, calls=calls))
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
