"""Actions interrupted at their effects, in labs of their own: a slice on every run; `./tests/run matrix` does all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from lab.hosts import isolation

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
_ROW = re.compile(r"^(?P<action>[a-z, ]+?) +(?P<effects>\d+) +(?P<cases>\d+) +(?P<problems>\d+ +\d+ +\d+)$", re.M)


def matrix(*arguments: str, seconds: float) -> dict[str, int]:
    """Run the matrix; returns how many cases each action had. Fails with its report unless nothing was wrong."""
    reason = isolation.missing()
    if reason:
        pytest.skip(reason)
    command = [sys.executable, "-m", "lab.hosts.isolation", sys.executable, "-m", "lab.matrix", *arguments]
    ended = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=seconds, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = list(_ROW.finditer(ended.stdout))
    assert all(row["problems"].split() == ["0", "0", "0"] for row in rows)
    return {row["action"]: int(row["cases"]) for row in rows}


def test_an_interrupted_action_leaves_nothing_unnamed_and_its_rerun_ends_as_an_undisturbed_one() -> None:
    cases = matrix("--quick", "rm", "clone copy", "ln", seconds=120)
    assert set(cases) == {"rm", "clone copy", "ln"} and all(cases.values())
