"""A script called with a flag speaks to a person."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab.oned import documents
from lab.oned.store import Documents
from lab.oned.xmlrpc import XmlRpc

ROOT = Path(__file__).parents[1]


def call(tmp_path: Path, *arguments: str, **environ: str) -> tuple[int, str, str]:
    env = {**os.environ, "ONE_LOCATION": str(tmp_path), "HOME": str(tmp_path), "TMPDIR": str(tmp_path), **environ}
    script = str(ROOT / "tm" / "linstor_un" / "clone")
    ended = subprocess.run(
        [sys.executable, script, *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


def test_help_shows_the_scripts_own_usage(tmp_path: Path) -> None:
    code, stdout, stderr = call(tmp_path, "--help")
    assert (code, stderr) == (0, "")
    assert "usage: clone [--help | --version | --check] SRC DST VM_ID DS_ID" in stdout


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    version = next(line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version"))
    assert call(tmp_path, "--version") == (0, version.split('"')[1] + "\n", "")


@pytest.mark.parametrize("flag", ["--dry-run", "--", "--check=1"])
def test_an_unknown_flag_is_refused(tmp_path: Path, flag: str) -> None:
    code, stdout, stderr = call(tmp_path, flag)
    assert (code, stdout) == (2, "")
    assert "Traceback" not in stderr and "Error: " in stderr


def test_check_says_what_answers_and_what_does_not(tmp_path: Path) -> None:
    store = Documents()
    store.put(documents.host(0, "node1"), documents.host(1, "node2", state=8))
    store.put(documents.datastore(100, LS_CONTROLLERS="127.0.0.1:9", LS_TIMEOUT=1, CLONE_MODE="copy"))
    store.put(documents.datastore(103, CLONE_MODE="wrong"))
    auth = tmp_path / "auth"
    auth.write_text("oneadmin:opennebula")
    with XmlRpc(store) as server:
        environ = {"ONE_XMLRPC": server.endpoint, "ONE_AUTH": str(auth)}
        code, stdout, _ = call(tmp_path, "--check", "100", **environ)
        assert code == 1
        assert "ok      oned answers; 1 of 2 hosts can be used\n" in stdout
        assert "FAILED  no LINSTOR controller answers" in stdout
        code, stdout, _ = call(tmp_path, "--check", "103", **environ)
        assert code == 2
        assert "FAILED  datastore 103 (ds103): CLONE_MODE of the datastore is 'wrong'" in stdout
