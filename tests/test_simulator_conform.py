"""The simulated controller answers as real LINSTOR controllers did: every recording, exchange by exchange."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import conform

pytestmark = pytest.mark.slow

RECORDINGS = Path(__file__).parent / "data" / "linstor"


def test_the_recordings_are_there() -> None:
    assert len(list(conform.recordings([str(RECORDINGS)]))) > 100


def test_out_of_scope_are_few_whole_endpoints_with_a_reason() -> None:
    lines = [line for line in conform.OUT_OF_SCOPE.read_text(encoding="utf-8").splitlines()
             if line and not line.startswith("#")]
    assert 0 < len(lines) <= 5
    assert all(len(line.split("  ", 1)) == 2 for line in lines)


@pytest.mark.parametrize("folder", sorted(path.name for path in RECORDINGS.iterdir() if path.is_dir()))
def test_nothing_differs_from_a_folder_of_recordings(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = conform.main([str(RECORDINGS / folder)])
    assert (code, [line for line in capsys.readouterr().out.splitlines() if "#" in line]) == (0, [])


def test_a_wrong_status_code_or_member_is_noticed() -> None:
    recording = conform.load(RECORDINGS / "1.33.3-storage" / "03-rd-create.json.gz")
    for place, change in ((5, {"status": 201}), (6, {"response": [{"ret_code": 1}]}),
                          (3, {"response": {**recording["exchanges"][3]["response"], "props": {"Aux/a": "1"}}}),
                          (1, {"response": {**recording["exchanges"][1]["response"], "flags": ["DELETE"]}})):
        changed = [dict(one) for one in recording["exchanges"]]
        changed[place].update(change)
        verdicts = conform.replay({**recording, "exchanges": changed})
        assert [number for number, one in enumerate(verdicts) if one and one.kind == "differ"] == [place]
