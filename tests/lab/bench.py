"""python -m lab.bench: see tests/bench."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence

from lab import bench_copy, bench_monitor
from lab.bench_budget import BUDGETS
from lab.bench_usage import REFERENCE, Meter, Taken, Traffic, prepare, traffic
from lab.hosts import isolation
from lab.matrix import scene
from lab.matrix.actions import Action, actions, make_image_files
from lab.matrix.effects import Saboteur
from lab.site import Site

# Of the processor for actions that do not ask oned, and of memory for all.
TARGET = 1.3


def main() -> int:
    """Print the tables that were asked for; returns 1 when a target is missed, 2 when nothing can be measured."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure the driver against what it rests on.")
    parser.add_argument("--repeat", type=int, default=7, help="runs of each, of which the median counts")
    parser.add_argument("what", nargs="*", choices=[*_PARTS, []], help="default: all")
    options = parser.parse_args()
    reason = isolation.missing()
    if reason:
        print(f"bench: cannot run: {reason}")
        return 2
    missed = [text for name in options.what or _PARTS for text in _PARTS[name](options.repeat)]
    print(f"\nbench: {len(missed)} targets missed" + "".join(f"\n  {text}" for text in missed))
    return 1 if missed else 0


def _actions(repeat: int) -> list[str]:
    """Measure all actions; returns a text for each missed target."""
    with scene.Stage() as site:
        make_image_files()
        meter = Meter(site)
        meter.reference()
        took = {action.name: _ratios(site, meter, action, repeat) for action in actions()}
        saboteur = Saboteur(site)
        asked = {action.name: traffic(site, saboteur, action) for action in actions()}
    print(f"\nEach action to `python -c \"{REFERENCE}\"`, medians of {repeat} runs side by side. own: the driver's\n"
          "process, with ssh: also the commands it started; wall includes the waiting for LINSTOR and hosts.\n"
          "Asked: requests, commands by ssh, connections from none, each with its goal, and whether oned was asked.\n")
    heads = ("own", "with ssh", "wall", "memory")
    print(f"{'action':28}" + "".join(f"{head:>10}" for head in heads) + f"{'requests':>14}{'commands':>10}"
          f"{'connections':>14}{'oned':>6}")
    return [text for name in took for text in _row(name, took[name], asked[name])]


def _ratios(site: Site, meter: Meter, action: Action, repeat: int) -> tuple[float, ...]:
    begin = prepare(site, action)
    pairs: list[tuple[Taken, Taken]] = []
    for _ in range(repeat):
        action.scene.restore(site, begin)
        pairs.append((meter.action(action), meter.reference()))
    values: Sequence[Callable[[Taken], float]] = (
        lambda one: one.own, lambda one: one.cpu, lambda one: one.wall, lambda one: one.memory,
    )
    return tuple(
        statistics.median(value(one) for one, _ in pairs) / statistics.median(value(other) for _, other in pairs)
        for value in values
    )


def _row(name: str, ratios: tuple[float, ...], asked: Traffic) -> list[str]:
    budget = BUDGETS[name]
    requests = f"{len(asked.requests)} ({budget.goal[0]})"
    connections = f"{asked.connections} ({budget.goal[1]})"
    print(f"{name:28}" + "".join(f"{ratio:10.2f}" for ratio in ratios)
          + f"{requests:>14}{asked.commands:>10}{connections:>14}{'yes' if asked.asks_oned else 'no':>6}  "
          + budget.reason)
    bound = [("memory", ratios[3]), *([] if asked.asks_oned else [("processor", ratios[0])])]
    missed = [f"{name}: {word} {ratio:.2f}, target {TARGET}" for word, ratio in bound if ratio > TARGET]
    if len(asked.requests) > budget.requests or asked.connections > budget.connections:
        missed.append(f"{name}: more requests or connections than its budget allows")
    return missed


_PARTS = {"actions": _actions, "monitor": bench_monitor.run, "copy": bench_copy.run}

if __name__ == "__main__":
    sys.exit(main())
