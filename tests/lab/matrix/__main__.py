"""python -m lab.matrix: see the package."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from typing import Any, Optional, Union

from lab.hosts import isolation
from lab.matrix.actions import actions
from lab.matrix.cases import Bench, Case, Row, Unfit

# An action's cases are dealt out to this many jobs; --quick takes every so many-th case.
_STRIPES = 3
_QUICK = 11


@dataclass(frozen=True)
class Job:
    """Some cases of one action: every `step`-th from `first` on, whose text has `text`."""

    action: str
    first: int
    step: int
    text: str


def main() -> int:
    """Run the matrix; returns 0 when nothing was left unnamed, no rerun failed and nothing foreign was touched."""
    parser = argparse.ArgumentParser(prog="matrix", description="Interrupt every action at each of its effects.")
    parser.add_argument("--quick", action="store_true", help=f"every {_QUICK}th case only")
    parser.add_argument("--jobs", type=int, default=(os.cpu_count() or 1) + 1, help="labs side by side")
    parser.add_argument("--case", default="", help="only the cases whose text has this, such as 'kill at request 2'")
    parser.add_argument("action", nargs="*", help="only these actions")
    options = parser.parse_args()
    reason = isolation.missing()
    if reason:
        print(f"matrix: cannot run: {reason}")
        return 2
    names = [action.name for action in actions() if not options.action or action.name in options.action]
    step = _QUICK if options.quick else _STRIPES
    firsts = [0] if options.quick else range(_STRIPES)
    jobs = [Job(name, first, step, options.case) for first in firsts for name in names]
    begin = time.monotonic()
    rows, failures = _run(jobs, min(options.jobs, len(jobs)))
    _show(names, rows)
    bad = sum(bool(row.problems) for row in rows.values()) + len(failures)
    cases = sum(row.cases for row in rows.values())
    print(f"matrix: {len(rows)} actions, {cases} cases, {bad} actions with problems, "
          f"{time.monotonic() - begin:.0f} s")
    return 1 if bad or len(rows) < len(names) or not cases else 0


def _run(jobs: list[Job], workers: int) -> tuple[dict[str, Row], list[str]]:
    """Return the rows by action, and what kept jobs from being done."""
    context = multiprocessing.get_context("fork")
    todo: SimpleQueue[Optional[Job]] = context.SimpleQueue()
    done: SimpleQueue[Union[Row, str, None]] = context.SimpleQueue()
    # Without a thread in this process: a worker enters namespaces of its own.
    processes = [context.Process(target=_work, args=(todo, done)) for _ in range(workers)]
    for process in processes:
        process.start()
    for job in [*jobs, *[None] * workers]:
        todo.put(job)
    rows: dict[str, Row] = {}
    failures = []
    for result in _results(done, workers):
        if isinstance(result, str):
            failures.append(result)
            print(f"failed: {result}", flush=True)
        else:
            _add(rows, result)
            print(f"{result.action}: {result.cases} cases", file=sys.stderr, flush=True)
            for text in result.problems:
                print(text, flush=True)
    for process in processes:
        process.join()
    return rows, failures


def _results(done: SimpleQueue[Union[Row, str, None]], workers: int) -> Iterator[Union[Row, str]]:
    while workers:
        result = done.get()
        if result is None:
            workers -= 1
        else:
            yield result


def _add(rows: dict[str, Row], more: Row) -> None:
    row = rows.setdefault(more.action, Row(more.action, more.effects))
    row.cases += more.cases
    row.leftovers += more.leftovers
    row.reruns += more.reruns
    row.foreign += more.foreign


def _work(todo: SimpleQueue[Optional[Job]], done: SimpleQueue[Any]) -> None:
    """Be one lab: do jobs until there are none."""
    try:
        bench = Bench()
        try:
            for job in iter(todo.get, None):
                done.put(_job(bench, job))
        finally:
            bench.close()
    except Exception:
        done.put(traceback.format_exc())
    done.put(None)


def _job(bench: Bench, job: Job) -> Union[Row, str]:
    action = next(action for action in actions() if action.name == job.action)
    try:
        effects = bench.effects(action)
        every = [case for case in (Case(one, how) for one in effects for how in one.faults) if job.text in str(case)]
        return bench.row(action, effects, every[job.first :: job.step])
    except Unfit as unfit:
        return str(unfit)


def _show(names: list[str], rows: dict[str, Row]) -> None:
    heads = ("effects", "cases", "leftovers unnamed", "reruns failed", "foreign objects touched")
    print(f"{'action':28}" + "".join(f"{head:>{len(head) + 3}}" for head in heads))
    for name in names:
        if name in rows:
            row = rows[name]
            cells = (row.effects, row.cases, len(row.leftovers), len(row.reruns), len(row.foreign))
            print(f"{name:28}" + "".join(f"{cell:>{len(head) + 3}}" for cell, head in zip(cells, heads)))


if __name__ == "__main__":
    sys.exit(main())
