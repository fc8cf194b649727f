"""Replay recorded lifecycles through our scripts: python -m lab.replay [options] DIRECTORY...

Each call is made as it was recorded, in order, in a lab whose state is the recording's; docs/replay.md tells what
"as expected" means. The last line is `replay: N calls, N as expected, 0 wrong, N not ours`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Optional, Union

from lab.hosts import Hosts, LabUnavailable, account, isolation, kernel
from lab.oned.recordings import Call, Recording, read_recording, recordings
from lab.opennebula.frontend import REPOSITORY
from lab.opennebula.interpreter import open_the_way
from lab.replaying import effects, facts, lifecycle, trees
from lab.replaying.breaks import injected
from lab.replaying.case import Case
from lab.replaying.guests import equip
from lab.replaying.judge import RULES, failed_cleanly, succeeded
from lab.replaying.linstor import Volumes
from lab.replaying.needs import Needs
from lab.replaying.outage import dead
from lab.replaying.refusals import must_fail
from lab.replaying.world import World

OK, WRONG, NOT_OURS = "ok", "wrong", "not ours"
CALL_SECONDS = 120.0
HOSTS = ("node1", "node2", "node3")


@dataclass
class Verdict:
    """How one call ended, with the complaints if it is wrong."""

    seq: int
    script: str
    status: str
    seconds: float = 0.0
    complaints: list[str] = field(default_factory=list)


class Lab:
    """The hosts of one process, kept from recording to recording."""

    def __init__(self, linstor_version: str, actions: Optional[set[str]], hosts: Sequence[str] = HOSTS) -> None:
        self.linstor_version = linstor_version
        self.actions = actions
        self.hosts = Hosts(hosts)
        open_the_way()
        _own_var_tmp()
        self.hosts.start()
        equip(self.hosts)
        self.volumes = Volumes(self.hosts)

    def close(self) -> None:
        """End hosts and devices."""
        self.volumes.close()
        self.hosts.close()
        kernel.unmount("/var/tmp")

    def replay(self, recording: Recording) -> list[Verdict]:
        """Replay one recording from its start."""
        with World(recording, self.hosts, self.volumes, self.linstor_version) as world:
            needs = Needs(world, recording)
            return [self._call(world, needs, call) for call in nested_first(recording.calls)]

    def _call(self, world: World, needs: Needs, recorded: Call) -> Verdict:
        call = without_suffix(recorded)
        if call.vm_document:
            world.documents.put(call.vm_document)
        lifecycle.settle(world, call)
        needs.prepare(call)
        trees.before(world, call)
        wanted = self._wanted(call)
        if not ours(call) or not (REPOSITORY / call.script).exists():
            effects.emulate(world, call)
            lifecycle.relocate(world, call)
            stuck = lifecycle.follow(world, call) + trees.after_others(world, call)
            if wanted:
                return Verdict(call.seq, call.script, WRONG, 0.0, ["not yet: there is no such script"])
            return Verdict(call.seq, call.script, WRONG if stuck else NOT_OURS, 0.0, stuck)
        started = time.monotonic()
        complaints = judged(world, call)
        if not wanted:
            return Verdict(call.seq, call.script, NOT_OURS)
        status = WRONG if complaints else OK
        return Verdict(call.seq, call.script, status, time.monotonic() - started, complaints)

    def _wanted(self, call: Call) -> bool:
        """Say whether the call counts: every action of ours that has a rule, or those asked for."""
        if self.actions is None:
            return ours(call)
        return _by_us(call) and bool({call.action, f"{call.kind}.{call.action}"} & self.actions)


def _by_us(call: Call) -> bool:
    return call.driver == facts.LINSTOR_UN or call.script.endswith(f"_{facts.LINSTOR_UN}")


def ours(call: Call) -> bool:
    """Say whether a call is made here: one of our scripts, of an action that has a rule."""
    return _by_us(call) and (call.kind, call.action) in RULES


def _own_var_tmp() -> None:
    """Cover the machine's /var/tmp, which others write to while it is watched for what our scripts leave."""
    kernel.mount(isolation.MARK + isolation.token(), "/var/tmp", "tmpfs", 0, "mode=1777")
    account.own_directory(Path("/var/tmp/one"))


def judged(world: World, call: Call) -> list[str]:
    """Make one call as it was recorded and return what is wrong with how it ended."""
    if call.kind == "ds":
        world.learn(facts.datastore_of(call))
    world.loud.clear()
    with dead(world, facts.dead_host(call)) as contact:
        before = world.snapshot()
        reason = must_fail(world, call, before)
        with injected(world, call, before) as broken:
            outcome = world.oned.finish(world.oned.recorded(call.script, call.argv, call.stdin), CALL_SECONDS)
    case = Case(world, call, before, world.snapshot(), outcome, contact)
    if reason or broken:
        failed_cleanly(case, reason or broken)
        if call.action == "premigrate":
            world.owed_premigrate[call.vm_id or 0] = call
    else:
        succeeded(case)
    case.wrong += [*world.guests.unknown_commands(), *trees.after_ours(world, call)]
    lifecycle.relocate(world, call)
    world.guests.guard()
    return case.wrong


def without_suffix(call: Call) -> Call:
    """Return the call as oned makes it where no script has the suffix of the system datastore (mv.ssh)."""
    short = call.script.rpartition(".")[0]
    if call.kind != "tm" or not _by_us(call) or not short or (REPOSITORY / call.script).exists():
        return call
    return replace(call, script=short, action=call.action.rpartition(".")[0] or call.action)


def nested_first(calls: list[Call]) -> list[Call]:
    """Return the calls in the order of their work: another driver's postmigrate removes after it called ours."""
    ordered = list(calls)
    for place, (outer, inner) in enumerate(zip(calls, calls[1:])):
        if outer.action == inner.action == "postmigrate" and facts.caller(inner) == outer.driver:
            ordered[place:place + 2] = inner, outer
    return ordered


_lab: Union[Lab, LabUnavailable, None] = None


def _start(linstor_version: str, actions: Optional[set[str]], hosts: Sequence[str]) -> None:
    global _lab  # noqa: PLW0603  (one lab a worker process)
    try:
        _lab = Lab(linstor_version, actions, hosts)
    except LabUnavailable as unavailable:
        # A worker that fails here would be replaced by the pool for ever: it tells at its first recording.
        _lab = unavailable
        return
    # A worker of a pool ends without atexit, but with these.
    multiprocessing.util.Finalize(None, _lab.close, exitpriority=10)


def _replay_file(path: str) -> tuple[str, list[Verdict]]:
    if not isinstance(_lab, Lab):
        raise _lab or LabUnavailable("the worker has no lab")
    recording = read_recording(Path(path))
    assert recording is not None
    return path, _lab.replay(recording)


def _results(arguments: argparse.Namespace, found: list[Recording]) -> Iterator[tuple[str, list[Verdict]]]:
    actions = set(arguments.actions.split(",")) if arguments.actions else None
    files = [str(recording.path) for recording in found]
    hosts = sorted({name for recording in found for name in facts.hosts_of(recording.pools)}) or HOSTS
    workers = min(arguments.jobs, len(files))
    with multiprocessing.get_context("fork").Pool(workers, _start, (arguments.linstor, actions, hosts)) as pool:
        yield from pool.imap_unordered(_replay_file, files)
        pool.close()
        pool.join()


def main(argv: Optional[list[str]] = None) -> int:
    """Replay all recordings below the directories; returns 0 when no call was wrong, 2 when there is no lab here."""
    parser = argparse.ArgumentParser(prog="replay", description=__doc__.splitlines()[0])
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIRECTORY")
    parser.add_argument("--actions", help="judge only these linstor_un actions, such as clone,ds.cp,tm.clone")
    parser.add_argument("--scenarios", default="", help="replay only files whose name contains this")
    parser.add_argument("--linstor", default="1.33", help="version of the simulated controller")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("-v", "--verbose", action="store_true", help="print every call, not only the wrong ones")
    arguments = parser.parse_args(argv)
    found = [item for directory in arguments.directories for item in recordings(directory)
             if arguments.scenarios in item.path.name]
    if not found:
        parser.error("no recordings there")
    counts = {OK: 0, WRONG: 0, NOT_OURS: 0}
    for path, verdicts in _results(arguments, found):
        for verdict in verdicts:
            counts[verdict.status] += 1
        _tell(path, verdicts, arguments.verbose)
    total = sum(counts.values())
    print(f"replay: {total} calls, {counts[OK]} as expected, {counts[WRONG]} wrong, {counts[NOT_OURS]} not ours")
    return 0 if counts[WRONG] == 0 else 1


def _tell(path: str, verdicts: list[Verdict], verbose: bool) -> None:
    wrong = sum(verdict.status == WRONG for verdict in verdicts)
    seconds = sum(verdict.seconds for verdict in verdicts)
    print(f"{path}: {len(verdicts)} calls, {wrong} wrong, {seconds:.1f} s", flush=True)
    for verdict in verdicts:
        if verbose or verdict.status == WRONG:
            print(f"  {verdict.seq:05d} {verdict.script}: {verdict.status} {verdict.seconds:.2f} s")
        for complaint in verdict.complaints:
            print(f"        {complaint}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabUnavailable as unavailable:
        print(f"replay: {unavailable}", file=sys.stderr)
        sys.exit(2)
