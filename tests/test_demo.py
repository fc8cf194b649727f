"""The demo's honesty: what it leaves out, and what it says when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab.showing import Screen, Wrong

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[1]
NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_sees_what_needs_no_hosts_and_why_the_rest_is_left_out() -> None:
    env = {"PATH": os.defpath, "PYTHONPATH": f"{PROJECT}/tests:{PROJECT}/lib", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "lab.demo"], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", env=env,
        capture_output=True, text=True, check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "left out: everything on hosts, because the lab of real hosts needs root" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("5 driver calls in ")


def test_a_check_that_does_not_hold_ends_the_demo() -> None:
    with pytest.raises(Wrong, match="this does not hold: two is one"):
        Screen().check(False, "two is one")


def test_a_failed_demo_has_an_exit_code_and_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert Screen().failed("the disk is gone") == 1
    assert capsys.readouterr().out == "\nThe demo failed: the disk is gone\n", "colours are for terminals"
