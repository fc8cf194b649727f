"""python -m lab.compatibility: the whole life under each release of OpenNebula and LINSTOR, as docs/compatibility.md.

Each pair is a site of its own in a process of its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import traceback
from pathlib import Path

from lab.controller.features import RELEASES
from lab.guests import Guests, libvirt
from lab.histories.life import Life, Step
from lab.hosts import isolation
from lab.site import Site

# Each has another form of calls, of documents or of what a user is told of errors than the one before it.
OPENNEBULA = ("5.12.0", "6.0.0", "6.6.0", "6.6.2-stdin", "6.8.0", "6.10.0", "7.4.0")
LINSTOR = tuple(RELEASES)
DOCUMENT = Path(__file__).parents[2] / "docs" / "compatibility.md"

Pair = tuple[str, str]

_HEAD = """# Compatibility

One VM lives on a lab under each release of OpenNebula's calls and each version of LINSTOR's controller, and every
action of the driver has its part in that life: the scripts are called as this release's processes call them, and their
answers are read as this release reads them. After each step the site is compared with what there should be: every byte
of every volume, snapshots, replicas, attachments, links, memory, and which guests run where. A cell tells how many
scripts were called, and how many steps ended with a difference.

"""
_MIDDLE = """
`6.6.2-stdin` is 6.6 with `one_datastore -i`. The hosts, their devices, libvirt and the guests are real; the controller
is the simulated one of [testing.md](testing.md), which recorded exchanges with real ones hold to the truth.

The steps, each with its calls under {one} on {linstor}:

"""
_TAIL = """
`./tests/run compatibility` wrote this document. The oldest and the newest pair are lived through in `./tests/run`.
"""


def lived(pair: Pair) -> tuple[Pair, list[Step]]:
    """Return how each step of the life ended under a pair of releases; a lab that breaks ends its own pair alone."""
    one, linstor = pair
    steps: list[Step] = []
    try:
        with Site(one, linstor) as site, Guests(site.hosts) as guests:
            guests.start()
            life = Life(site, guests)
            try:
                steps.extend(life.live())
            finally:
                life.close()
    except Exception:
        steps.append(Step("the lab", 0, [traceback.format_exc()]))
    return pair, steps


def table(found: dict[Pair, list[Step]]) -> str:
    """Return the document for what was found."""
    lines = ["| OpenNebula | " + " | ".join(f"LINSTOR {version}" for version in LINSTOR) + " |",
             "|---" * (len(LINSTOR) + 1) + "|"]
    for one in OPENNEBULA:
        cells = [_cell(found[one, linstor]) for linstor in LINSTOR]
        lines.append(f"| {one} | " + " | ".join(cells) + " |")
    newest = OPENNEBULA[-1], LINSTOR[-1]
    steps = [f"* {step.name}: {step.calls}\n" for step in found[newest]]
    return _HEAD + "\n".join(lines) + "\n" + _MIDDLE.format(one=newest[0], linstor=newest[1]) + "".join(steps) + _TAIL


def _cell(steps: list[Step]) -> str:
    return f"{sum(step.calls for step in steps)} calls, {sum(bool(step.wrong) for step in steps)} wrong"


def _pair(text: str) -> Pair:
    one, _, linstor = text.partition("/")
    if one not in OPENNEBULA or linstor not in LINSTOR:
        raise argparse.ArgumentTypeError(f"{text} is no pair of these: {' '.join(OPENNEBULA)} / {' '.join(LINSTOR)}")
    return one, linstor


def main() -> int:
    """Write the document; returns 1 when a step went wrong, 2 when there can be no lab here."""
    parser = argparse.ArgumentParser(prog="compatibility", description="Live under each pair of releases.")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("pairs", type=_pair, nargs="*", help="only these, such as 7.4.0/1.33; writes no document")
    arguments = parser.parse_args()
    reason = isolation.missing() or libvirt.missing()
    if reason:
        print(f"compatibility: {reason}", file=sys.stderr)
        return 2
    pairs = arguments.pairs or [(one, linstor) for one in OPENNEBULA for linstor in LINSTOR]
    found: dict[Pair, list[Step]] = {}
    with multiprocessing.get_context("spawn").Pool(arguments.jobs, maxtasksperchild=1) as pool:
        for pair, steps in pool.imap_unordered(lived, pairs):
            found[pair] = steps
            _tell(pair, steps)
    if not arguments.pairs:
        DOCUMENT.write_text(table(found))
    every = [step for steps in found.values() for step in steps]
    bad = sum(bool(step.wrong) for step in every)
    calls = sum(step.calls for step in every)
    print(f"compatibility: {len(found)} pairs, {len(every)} steps, {calls} calls, {bad} wrong")
    return 1 if bad else 0


def _tell(pair: Pair, steps: list[Step]) -> None:
    print(f"OpenNebula {pair[0]} on LINSTOR {pair[1]}: {_cell(steps)}", flush=True)
    for step in steps:
        for text in step.wrong:
            print(f"  {step.name}: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
