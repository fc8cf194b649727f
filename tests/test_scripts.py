"""The entry scripts, run as oned's driver processes run them."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab.oned import documents
from linstor_un.actions import ACTIONS

ROOT = Path(__file__).parents[1]


def call(
    tmp_path: Path, action: str, *argv: str, stdin: bytes = b"", root: Path = ROOT
) -> subprocess.CompletedProcess[bytes]:
    kind, name = action.split(".")
    environ = {**os.environ, "ONE_LOCATION": str(tmp_path), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    folder = "kvm" if kind == "vmm" else "linstor_un"
    command = [sys.executable, str(root / kind / folder / name), *argv]
    return subprocess.run(command, input=stdin, env=environ, cwd=tmp_path, capture_output=True, timeout=60, check=False)


# The guard on what a bad request loads starts every script as well.
FIRST_AND_OTHERS = [pytest.param(one, marks=pytest.mark.slow if place else ()) for place, one in enumerate(ACTIONS)]


@pytest.mark.parametrize("action", FIRST_AND_OTHERS)
def test_each_script_runs_its_own_action(tmp_path: Path, action: str) -> None:
    ended = call(tmp_path, action)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert ended.stderr.startswith(action.split(".")[1].encode() + b": ") and ended.stderr.count(b"\n") == 1


def test_an_invalid_setting_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    document = (
        "<DS_DRIVER_ACTION_DATA>"
        + documents.image("7.4", 5, source="/dev/drbd/by-res/one-image-5/0")
        + documents.datastore(100, RESOURCE_GROUP="one", LS_TIMEOUT="soon")
        + "</DS_DRIVER_ACTION_DATA>"
    )
    ended = call(tmp_path, "datastore.rm", "5", stdin=base64.b64encode(document.encode()))
    sentence = "rm: datastore 100 (ds100): LS_TIMEOUT of the datastore is 'soon'; allowed is a number of seconds"
    assert ended.returncode == 2
    assert ended.stderr.decode().startswith(sentence)


def test_a_copied_tree_works_where_it_lies(tmp_path: Path) -> None:
    for directory in ("datastore", "tm", "vmm", "lib"):
        subprocess.run(["cp", "-r", str(ROOT / directory), str(tmp_path)], check=True)
    assert call(tmp_path, "tm.ln", "x", root=tmp_path).stderr.startswith(b"ln: the arguments are SOURCE")
    ended = call(tmp_path, "vmm.save_linstor_un", "x", root=tmp_path)
    assert ended.stderr.startswith(b"save_linstor_un: the arguments are DEPLOY_ID")


def test_a_terminal_is_never_read(tmp_path: Path) -> None:
    _, terminal = os.openpty()
    script = str(ROOT / "datastore" / "linstor_un" / "stat")
    environ = {**os.environ, "ONE_LOCATION": str(tmp_path), "TMPDIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, script, "1"], stdin=terminal, env=environ, capture_output=True, timeout=60, check=False
    )
    assert ended.returncode == 2 and b"not usable XML" in ended.stderr


def test_standard_input_has_a_limit(tmp_path: Path) -> None:
    ended = call(tmp_path, "datastore.stat", "1", stdin=b"A" * (17 << 20))
    assert ended.returncode == 2 and b"longer than 16 MiB" in ended.stderr
