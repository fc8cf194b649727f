"""python -m lab.compatibility: the whole life under each release of OpenNebula and LINSTOR, as docs/compatibility.md.

Each pair is a site of its own in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from pathlib import Path

from lab.guests import Guests, libvirt
from lab.histories.life import Life
from lab.hosts import isolation
from lab.site import Site

OPENNEBULA = ("5.12.0", "6.0.0", "6.6.0", "6.6.2-stdin", "6.8.0", "6.10.0", "7.4.0")
LINSTOR = ("1.20", "1.27", "1.31", "1.33", "1.34")
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"

_HEAD = """# Compatibility

`./tests/run compatibility` lets a VM live on a lab under each release of OpenNebula's calls and each version of
LINSTOR's controller, and writes this table. After each step every byte of every volume, every snapshot, attachment and
link is compared with what there should be. A number counts the steps that were right.

"""


def lived(pair: tuple[str, str]) -> tuple[tuple[str, str], list[tuple[str, list[str]]]]:
    """Return how each step of the life ended under a pair of releases."""
    one, linstor = pair
    with Site(one, linstor) as site, Guests(site.hosts) as guests:
        guests.start()
        life = Life(site)
        try:
            return pair, [(step.name, step.wrong) for step in life.live()]
        finally:
            life.close()


def table(found: dict[tuple[str, str], list[tuple[str, list[str]]]]) -> str:
    """Return the document for what was found."""
    lines = ["| OpenNebula | " + " | ".join(f"LINSTOR {version}" for version in LINSTOR) + " |",
             "|---" * (len(LINSTOR) + 1) + "|"]
    for one in OPENNEBULA:
        cells = [_cell(found[one, linstor]) for linstor in LINSTOR]
        lines.append(f"| {one} | " + " | ".join(cells) + " |")
    steps = [name for name, _ in found[OPENNEBULA[0], LINSTOR[0]]]
    lines += ["", "The steps:", ""] + [f"* {name}" for name in steps]
    return _HEAD + "\n".join(lines) + "\n"


def _cell(steps: list[tuple[str, list[str]]]) -> str:
    right = sum(not wrong for _, wrong in steps)
    return f"{right} of {len(steps)}"


def main() -> int:
    """Write the document; returns 1 when a step went wrong, 2 when there can be no lab here."""
    parser = argparse.ArgumentParser(prog="compatibility", description="Live under each pair of releases.")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    reason = isolation.missing() or libvirt.missing()
    if reason:
        print(f"compatibility: {reason}", file=sys.stderr)
        return 2
    pairs = [(one, linstor) for one in OPENNEBULA for linstor in LINSTOR]
    found: dict[tuple[str, str], list[tuple[str, list[str]]]] = {}
    bad = 0
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, maxtasksperchild=1) as pool:
        for (one, linstor), steps in pool.imap_unordered(lived, pairs):
            found[one, linstor] = steps
            print(f"OpenNebula {one} on LINSTOR {linstor}: {_cell(steps)}", flush=True)
            for name, wrong in steps:
                bad += bool(wrong)
                for text in wrong:
                    print(f"  {name}: {text}")
    DOCUMENT.write_text(table(found))
    print(f"compatibility: {len(pairs)} pairs, {sum(map(len, found.values()))} steps, {bad} wrong")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
