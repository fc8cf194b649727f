"""docs/compatibility.md is a run's, and of everything that the driver is made for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lab.compatibility import DOCUMENT, LINSTOR, OPENNEBULA
from lab.controller.features import RELEASES
from linstor_un.actions import ACTIONS

README = Path(__file__).parents[1] / "README.md"
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in DOCUMENT.read_text().splitlines()
        if line.startswith("|")]


def test_the_table_has_each_release_and_each_version() -> None:
    assert ROWS[0] == ["OpenNebula", *(f"LINSTOR {version}" for version in LINSTOR)]
    assert tuple(row[0] for row in ROWS[2:]) == OPENNEBULA
    assert tuple(RELEASES) == LINSTOR


def test_what_the_readme_promises_begins_and_ends_the_table() -> None:
    first, last = OPENNEBULA[0].rpartition(".")[0], OPENNEBULA[-1].rpartition(".")[0]
    promised = README.read_text()
    assert f"| OpenNebula | {first} to {last}, KVM |" in promised
    assert f"| LINSTOR | {LINSTOR[0]} and later;" in promised
    assert "[docs/compatibility.md](docs/compatibility.md)" in promised


def test_no_pair_has_a_step_that_went_wrong() -> None:
    cells = [cell for row in ROWS[2:] for cell in row[1:]]
    assert len(cells) == len(OPENNEBULA) * len(LINSTOR)
    assert [cell for cell in cells if not re.fullmatch(r"[1-9][0-9]* calls, 0 wrong", cell)] == []


@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_has_a_step(action: str) -> None:
    room, _, name = action.partition(".")
    steps = [set(re.findall(r"[a-z_]+", line)) for line in DOCUMENT.read_text().splitlines() if line.startswith("* ")]
    assert any({room, name.replace("_linstor_un", "")} <= words for words in steps)
