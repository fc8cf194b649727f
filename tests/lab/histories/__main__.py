"""python -m lab.histories: see `./tests/run histories`."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from lab.guests import Guests
from lab.histories.machine import machine
from lab.hosts import LabUnavailable
from lab.site import Site

_BATCH = 10


class Ended(NamedTuple):
    """How many histories there were, with how many steps in all; what was called in them and how often.

    `failure` is the first one that ended differently than it should, step by step, "" for none; `left_over` whether
    something was left when all was removed.
    """

    histories: int
    steps: int
    happened: Counter[str]
    failure: str
    left_over: bool


def run(site: Site, guests: Guests, number: int, examples: int, steps: int) -> Ended:
    """Run histories; the first that ends differently than it should is the last.

    Arguments: number, the seed they are drawn from; steps, the most that one has.
    """
    test = seed(number)(machine(site, guests))
    with contextlib.suppress(Exception):
        run_state_machine_as_test(
            test,
            settings=settings(
                max_examples=examples, stateful_step_count=steps, deadline=None, database=None, print_blob=False,
                phases=[Phase.generate], verbosity=Verbosity.normal, suppress_health_check=list(HealthCheck),
            ),
        )
    # What was compared before the first step of each is no step.
    return Ended(test.begun, test.steps - test.begun, test.happened, test.failure, test.left_over)


def main() -> int:
    """Run histories and tell how many there were; returns 1 when one of them ended differently than it should."""
    parser = argparse.ArgumentParser(prog="histories", description="Random histories against a model of all bytes.")
    parser.add_argument("--seed", type=int, default=0, help="of the first batch; each has one more")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--release", default="7.4.0", help="of OpenNebula")
    parser.add_argument("--linstor", default="1.33", help="version of the simulated controller")
    parser.add_argument("--thick", action="store_true", help="a pool without snapshots, full of somebody's old bytes")
    arguments = parser.parse_args()
    ended = []
    try:
        pools = {"thick": "LVM"} if arguments.thick else None
        made = Site(arguments.release, arguments.linstor, pools=pools, dirty=arguments.thick)
        with made as site, Guests(site.hosts) as guests:
            guests.start()
            for number, begin in enumerate(range(0, arguments.examples, _BATCH), arguments.seed):
                batch = min(_BATCH, arguments.examples - begin)
                ended.append(run(site, guests, number, batch, arguments.steps))
                _tell(ended[-1], number)
    except LabUnavailable as reason:
        print(f"histories: {reason}", file=sys.stderr)
        return 2
    return _sum(ended)


def _tell(batch: Ended, number: int) -> None:
    if batch.failure:
        print(f"{batch.failure}\na history of seed {number} ended differently than it should")
    print(f"seed {number}: {batch.histories} histories, {batch.steps} steps", flush=True)


def _sum(ended: list[Ended]) -> int:
    happened = sum((batch.happened for batch in ended), Counter())
    print(", ".join(f"{number} {what}" for what, number in sorted(happened.items())))
    failed = [batch for batch in ended if batch.failure]
    left = sum(batch.left_over for batch in failed)
    print(
        f"histories: {sum(batch.histories for batch in ended)}, {sum(batch.steps for batch in ended)} steps, "
        f"{len(failed) - left} differences, {left} leftovers"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
