"""python -m lab.histories: see `./tests/run histories`."""

from __future__ import annotations

import argparse
import contextlib
import sys

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from lab.guests import Guests
from lab.histories.machine import machine
from lab.hosts import LabUnavailable
from lab.site import Site


def run(site: Site, guests: Guests, number: int, examples: int, steps: int) -> str:
    """Run histories and return how the first one went that ended differently than it should, "" for none.

    Arguments: number, the seed they are drawn from.
    """
    test = seed(number)(machine(site, guests))
    with contextlib.suppress(Exception):
        _run(test, examples, steps)
    return test.failure


def _run(test: type[RuleBasedStateMachine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        test,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, database=None, print_blob=False,
            phases=[Phase.generate], verbosity=Verbosity.normal, suppress_health_check=list(HealthCheck),
        ),
    )


def main() -> int:
    """Run histories and tell how many there were; returns 1 when one of them ended differently than it should."""
    parser = argparse.ArgumentParser(prog="histories", description="Random histories against a model of all bytes.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--release", default="7.4.0", help="of OpenNebula")
    parser.add_argument("--linstor", default="1.33", help="version of the simulated controller")
    arguments = parser.parse_args()
    try:
        with Site(arguments.release, arguments.linstor) as site, Guests(site.hosts) as guests:
            guests.start()
            failure = run(site, guests, arguments.seed, arguments.examples, arguments.steps)
    except LabUnavailable as reason:
        print(f"histories: {reason}", file=sys.stderr)
        return 2
    if failure:
        print(f"{failure}\nhistories: a history of seed {arguments.seed} ended differently than it should")
        return 1
    print(f"histories: {arguments.examples} of {arguments.steps} steps, 0 differences, 0 leftovers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
