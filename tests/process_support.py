"""Labs in processes of their own, for tests of what they leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent


def eventually(condition: Callable[[], object], seconds: float = 15.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return bool(condition())


def lab_process(code: str, *launcher: str) -> subprocess.Popen[str]:
    """Run code that has `hosts` and `volumes` of its own; it says one line of JSON with `say` and then waits."""
    start = (
        "import json, os, subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from lab.controller.volumes import Content\n"
        "from lab.hosts import Hosts, LabUnavailable, LoopVolumes, isolation, facts\n"
        "def say(**words): print(json.dumps(words), flush=True); sys.stdin.read()\n"
        "try: hosts = Hosts(['node1', 'node2']); hosts.start()\n"
        "except LabUnavailable as reason: say(unavailable=str(reason)); sys.exit()\n"
        "volumes = LoopVolumes(None, hosts)\n"
        "disk = Content('one-vm-7-disk-0', 0)\n"
    )
    return subprocess.Popen(
        [sys.executable, *launcher, "-c", start + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the other lab ended without a word"
    answer: dict[str, Any] = json.loads(line)
    if "unavailable" in answer:
        process.communicate()
        pytest.skip(f"a lab within a lab: {answer['unavailable']}")
    return answer
