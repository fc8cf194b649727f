"""docs/hazards.md is complete, and what it names exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "hazards.md"
ADAPTERS = ROOT / "lib" / "linstor_un" / "adapters"

# How many traps each list has.
SERIES = {"U": 15, "D": 16, "T": 29, "V": 9, "S": 13, "R": 12, "P": 18}
_NUMBER = re.compile(r"([A-Z][0-9]+)([a-z]?)\Z")
_TEST = re.compile(r"`(test_[a-z0-9_]+)`")


class Row(NamedTuple):
    """One row: its numbers, without the letters of parts, its cells, and the tests that it names."""

    numbers: list[tuple[str, str]]
    cells: list[str]
    tests: list[str]


def rows() -> Iterator[Row]:
    """Yield the rows of all tables of traps."""
    inside = False
    for line in DOCUMENT.read_text().splitlines():
        if not line.startswith("|"):
            inside = False
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" |")]
        if inside and not line.startswith("|---"):
            words = [word.strip() for word in cells[0].split(",") if word.strip()]
            found = [_NUMBER.match(word) for word in words]
            assert all(found), f"{cells[0]!r} are no numbers; a trap of no list has an empty first cell: {line}"
            yield Row([(one[1], one[2]) for one in found if one], cells, _TEST.findall(cells[-1]))
        inside = inside or cells[0] == "No."


def all_tests() -> list[str]:
    found: list[str] = []
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        found += re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    return found


def test_each_trap_of_each_list_is_there_once() -> None:
    wanted = {f"{letter}{number}" for letter, count in SERIES.items() for number in range(1, count + 1)}
    parts: dict[str, list[str]] = {}
    for row in rows():
        for number, part in row.numbers:
            parts.setdefault(number, []).append(part)
    assert set(parts) - wanted == set(), "numbers of no list"
    assert wanted - set(parts) == set(), "traps that are not in the document"
    for number, found in parts.items():
        assert sorted(found) in ([""], [*"abcdefgh"[: len(found)]]), f"{number} is there more than once"


def test_each_row_tells_what_happens_what_is_done_and_which_test_shows_it() -> None:
    known = all_tests()
    for row in rows():
        assert len(row.cells) == 4 and all(row.cells[1:]), f"a row has four cells: {row.cells}"
        assert row.tests, f"no test is named: {row.cells}"
        for name in row.tests:
            assert known.count(name) == 1, f"{name} is there {known.count(name)} times"


def test_the_command_for_hazards_runs_no_other_test() -> None:
    """pytest chooses by parts of names, so that no named test may be the beginning or middle of another."""
    named = {name for row in rows() for name in row.tests}
    for name in named:
        assert [other for other in all_tests() if name in other] == [name]


def test_every_table_of_traps_is_read() -> None:
    """A table whose head is not as the others' would be looked at by nobody."""
    text = DOCUMENT.read_text()
    named = re.findall(r"\btest_[a-z0-9_]+\b(?!\.py)", text)
    assert sorted(named) == sorted(name for row in rows() for name in row.tests)


def test_nodes_and_disks_of_replicas_are_nobodys_to_change() -> None:
    text = "".join(path.read_text() for path in sorted(ADAPTERS.glob("controller*.py")))
    asked = [line.strip() for line in text.splitlines() if re.search(r'path\("nodes"', line)]
    assert asked and all('_read("' in line or '"GET"' in line for line in asked), asked
    assert "toggle-disk" not in text and "migrate-disk" not in text


def test_no_file_of_another_driver_is_read() -> None:
    text = "".join(path.read_text() for path in sorted((ROOT / "lib").rglob("*.py")))
    files = set(re.findall(r"etc/[a-z]+/[a-z_/]*\.?[a-z]+\b", text))
    assert files == {"etc/datastore/datastore.conf", "etc/datastore/linstor_un/linstor_un.conf", "etc/vmm/kvm/kvmrc"}
