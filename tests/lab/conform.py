"""Replay recorded LINSTOR exchanges against the simulator: ./tests/run conform DIR...

Compared: the HTTP status; of an answer list the type and low bits of every return code in order, entries of single
satellites as a set; of documents every member, and the absence of absent ones. Not compared: UUIDs, times, secrets,
ports, minors, loop numbers, error report ids, prose. Where LINSTOR was free to choose a place, the simulator is told
the recorded choice and has to find it allowed. What a file system takes for itself differs by some KiB from host to
host, so capacities and allocated sizes may be off by SLACK.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from lab.controller import features, router, satellites
from lab.controller.answers import CODE_BITS, TYPE_BITS, Hang
from lab.controller.cluster import Cluster
from lab.controller.handlers import ALL_HANDLERS
from lab.controller.volumes import Content, NoVolumes

OUT_OF_SCOPE = Path(__file__).parent.parent / "data" / "conform-out-of-scope.txt"
SLACK = 256  # KiB
NEVER = {
    "uuid", "create_timestamp", "created_at", "eviction_timestamp", "error_time", "secret", "git_hash", "build_time",
    "error_report_ids", "message", "cause", "details", "correction", "port", "tcp_ports", "minor_number",
    "Cluster/LocalID", "DrbdCurrentGi", "CryptPasswd", "Encryption/Passphrase", "obj_refs",
    "unsupported_providers", "unsupported_layers", "DrbdPrimarySetOn",
    "StorDriver/internal/lvmthin/thinPoolMetadataPercent",
}
SIZES = {"free_capacity", "allocated_size_kib", "usable_size_kib", "available_size_in_kib"}
ATTEMPTS, LONGEST, STAY = 1500, 30, -1  # schedules tried for parallel blocks; steps that are changed
# What a round over the nodes says of each of them comes in any order.
ROUND = re.compile(r"^\(\w+\) |on '\w+'$|Node\(s\): \[\w+\]$|^No active connection to satellite|^Prepared '")
SATELLITE = re.compile(r"^(\(\w+\) |Suspended IO|Resumed IO|Took snapshot|Aborted snapshot)")
POOL_TOTAL, POOL_SELF = 10420224, 105704  # KiB; the recorded pools and what their empty file system takes


@dataclass
class Verdict:
    """What came out of one exchange: "same", "differ" or "out of scope", and the first differences."""

    kind: str
    differences: list[str] = field(default_factory=list)


def load(path: Path) -> dict[str, Any]:
    """Read one recording, plain or gzipped."""
    recording: dict[str, Any] = json.loads(_raw(path))
    return recording


def _raw(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def recordings(folders: list[str]) -> Iterator[Path]:
    """Yield the recordings of folders (or single files) by name; other JSON files are passed over."""
    for name in folders:
        path = Path(name)
        found = [path] if path.is_file() else [*path.rglob("*.json"), *path.rglob("*.json.gz")]
        yield from (one for one in sorted(found) if b'"exchanges"' in _raw(one))


def out_of_scope() -> list[re.Pattern[str]]:
    """Return the endpoints nobody of ours would call: METHOD and path patterns, one a line, then the reason."""
    lines = OUT_OF_SCOPE.read_text(encoding="utf-8").splitlines()
    return [re.compile(line.split("  ")[0].strip()) for line in lines if line.strip() and not line.startswith("#")]


def main(arguments: Optional[list[str]] = None) -> int:
    """Run the command; return 0 when nothing differs."""
    parser = argparse.ArgumentParser(prog="conform")
    parser.add_argument("folders", nargs="+")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for every file")
    parser.add_argument("-n", "--most", type=int, default=5, help="differences shown of one exchange")
    options = parser.parse_args(arguments)
    total = {"same": 0, "differ": 0, "out of scope": 0}
    for path, verdicts in verdicts_of(list(recordings(options.folders))):
        for place, verdict in enumerate(verdicts):
            if verdict is not None:
                total[verdict.kind] += 1
                for difference in verdict.differences[:options.most]:
                    print(f"{path.parent.name}/{path.name}#{place}: {difference}")
        if options.verbose:
            kinds = [verdict.kind for verdict in verdicts if verdict is not None]
            print(f"{path.parent.name}/{path.name}: {len(kinds)} exchanges, {kinds.count('differ')} differ")
    print(f"conform: {sum(total.values())} exchanges, {total['same']} same, {total['differ']} differ, "
          f"{total['out of scope']} out of scope")
    return 1 if total["differ"] else 0


def verdicts_of(paths: list[Path]) -> Iterator[tuple[Path, list[Optional[Verdict]]]]:
    """Yield the verdicts of each recording: of most each by itself, of those that build on each other together."""
    from lab import conform_history

    known: dict[Path, list[Optional[Verdict]]] = {}
    for path in paths:
        recording = load(path)
        if not conform_history.is_part(recording):
            yield path, replay(recording)
            continue
        if path not in known:
            known.update(conform_history.replay(path.parent))
        yield path, known[path]


def replay(recording: dict[str, Any]) -> list[Optional[Verdict]]:
    """Replay one recording; the list has None for what is no exchange.

    A recording does not tell when a satellite that came back had caught up, so both are tried; nor how the steps of
    parallel requests followed each other, so one order after the other is, always changing the best one so far.
    """
    exchanges = recording["exchanges"]
    restarts = any("start" in one.get("event", "") for one in exchanges)
    tries = [Replay(recording, caught_up, {}) for caught_up in ((True, False) if restarts else (True,))]
    best = min(tries, key=lambda one: one.score)
    for attempt in range(ATTEMPTS):
        if not best.score or not best.blocks:
            break
        change = best.next_change(random.Random(attempt))
        other = Replay(recording, best.caught_up, {**best.schedules, **change}, best.score)
        best = other if other.score <= best.score else best
    return best.verdicts


class Replay:
    """One recording against one fresh cluster; `score` counts the differences. Beyond `worst` it is broken off."""

    def __init__(self, recording: dict[str, Any], caught_up: bool, schedules: dict[int, Schedule],
                 worst: int = 1 << 30) -> None:
        assert ALL_HANDLERS
        self.schedules, self.blocks = schedules, list[list[int]]()
        self.sizes: list[int] = []
        self.exchanges: list[dict[str, Any]] = recording["exchanges"]
        self.caught_up = caught_up
        self.volumes = NoVolumes()
        self.cluster = recorded_cluster(recording, self.volumes)
        self.skipped = out_of_scope()
        self.choices: dict[str, list[str]] = {}
        self.cluster.reports = recorded_reports(self.exchanges)
        self.cluster.prefer = lambda name: self.choices.get(name.upper(), self.choices.get("", []))
        self.score, self.worst = 0, worst
        self.verdicts = self._run()

    def _run(self) -> list[Optional[Verdict]]:
        verdicts: list[Optional[Verdict]] = []
        place = 0
        while place < len(self.exchanges) and self.score <= self.worst:
            one = self.exchanges[place]
            if one.get("event", "").startswith("parallel block"):
                end = next(index for index in range(place + 1, len(self.exchanges))
                           if "event" in self.exchanges[index])
                verdicts += [None, *self._parallel(self.exchanges[place + 1:end])]
                place = end
            elif "method" in one:
                verdicts.append(self._exchange(one))
                place += 1
            else:
                verdicts.append(self._event(one))
                place += 1
            self.score = sum(len(verdict.differences) for verdict in verdicts if verdict is not None)
        return verdicts

    def next_change(self, chance: random.Random) -> dict[int, Schedule]:
        """Return a changed schedule of one block: a request that differs, or any other, a step elsewhere."""
        wrong = [number for number, requests in enumerate(self.blocks) if requests]
        block = chance.choice(wrong * 3 + list(range(len(self.blocks))))
        requests = self.blocks[block] * 2 + list(range(self.sizes[block]))
        changed = self.schedules[block]
        if chance.random() < 0.3:  # all start anew, in another order
            order = chance.sample(range(self.sizes[block]), self.sizes[block])
            return {block: Schedule([*order, *changed.steps][:LONGEST])}
        for _ in range(chance.choice((1, 1, 2))):
            changed = changed.with_step(chance.choice(requests), chance.randrange(LONGEST), chance.choice((1, 1, 3)))
        return {block: changed}

    def _exchange(self, one: dict[str, Any]) -> Verdict:
        if any(pattern.fullmatch(f"{one['method']} {one['path']}") for pattern in self.skipped):
            return Verdict("out of scope")
        self._learn(one)
        return judge(one, self._send(one))

    def _send(self, one: dict[str, Any]) -> Optional[router.Response]:
        target = one["path"] + (f"?{one['query']}" if one.get("query") else "")
        headers = {key.lower(): value for key, value in (one.get("request_headers") or {}).items()
                   if value is not None}
        try:
            return router.respond(self.cluster, one["method"], target, headers, _body(one))
        except Hang:
            return None

    def _learn(self, one: dict[str, Any]) -> None:
        """Tell the simulator the places LINSTOR chose in this exchange."""
        self.choices = {}
        response = one.get("response")
        for node in chosen_pools(response):
            self.choices.setdefault("", []).append(node)
        for entry in response if isinstance(response, list) else []:
            refs = entry.get("obj_refs", {}) if isinstance(entry, dict) else {}
            nodes = [refs[key] for key in sorted(refs) if key.startswith("Node/")]
            found = re.match(r"(?:Tie breaker )?[Rr]esource '([^']+)' .*?(?:created )?on '?(\w+)'?",
                             str(entry.get("message", ""))) if isinstance(entry, dict) else None
            if nodes:
                self.choices[str(refs.get("RscDfn", "")).upper()] = nodes
                found = re.match(r"Resource '([^']+)'", entry["message"])
                if found:
                    self.choices[found.group(1).upper()] = nodes

    def _event(self, one: dict[str, Any]) -> Optional[Verdict]:
        problem = Events(self.cluster, self.volumes, self.caught_up).happen(one["event"])
        return Verdict("differ", [problem]) if problem else None

    def _parallel(self, block: list[dict[str, Any]]) -> list[Verdict]:
        """Send a block at one moment, its steps in the order of the block's schedule.

        Each recorded answer may be any one of the simulator's to an equal request. A satellite's run serves every
        request that waits for it, so what single satellites say is compared for the block as a whole.
        """
        for one in block:
            self._learn_more(one)
        turns = Turns(self.cluster, self.schedules.setdefault(len(self.blocks), Schedule()))
        answers = turns.run([lambda one=one: self._send(one) for one in block])
        left, verdicts = list(range(len(block))), []
        for one in block:
            equal = [index for index in left if all(block[index].get(key) == one.get(key)
                                                    for key in ("method", "path", "query", "request"))]
            judged = [(judge(one, answers[index], satellites_too=False), index) for index in equal]
            verdict, index = min(judged, key=lambda pair: len(pair[0].differences))
            left.remove(index)
            verdicts.append(verdict)
        said = [_said_by_satellites(block, [one.get("response") for one in block]),
                _said_by_satellites(block, [json.loads(one.body) if one and one.body else None for one in answers])]
        if said[0] != said[1]:
            verdicts[-1] = Verdict("differ", [*verdicts[-1].differences, f"satellites say {_words(sorted(said[1]))} in "
                                              f"this block, recorded {_words(sorted(said[0]))}"])
        self.sizes.append(len(block))
        self.blocks.append([number for number, verdict in enumerate(verdicts) if verdict.kind == "differ"])
        return verdicts

    def _learn_more(self, one: dict[str, Any]) -> None:
        known = self.choices
        self._learn(one)
        self.choices = {**known, **self.choices}


def recorded_reports(exchanges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the error reports a recording shows: they were there before it began, as its setup says."""
    found: dict[str, dict[str, Any]] = {}
    for one in exchanges:
        if one.get("path", "").startswith("/v1/error-reports") and isinstance(one.get("response"), list):
            for report in one["response"]:
                if "filename" in report:
                    found.setdefault(report["filename"], {}).update(report)
    return sorted(found.values(), key=lambda report: int(report["error_time"]))


def chosen_pools(response: Any) -> list[str]:
    """Return the nodes of a recorded next_spawn_result."""
    if not isinstance(response, dict):
        return []
    info = response.get("space_info") or {}
    if "result" in response:
        info = next((one.get("space_info", {}) for one in response["result"].values()
                     if "next_spawn_result" in one.get("space_info", {})), {})
    if "candidates" in response:
        return list(response["candidates"][0]["node_names"])
    return [pool["node_name"] for pool in info.get("next_spawn_result", [])]


class Schedule:
    """In which order the steps of a parallel block follow each other: the request that takes each step, by number.

    Where that has ended, for STAY, and after the last step, the same request goes on.
    """

    def __init__(self, steps: Optional[list[int]] = None) -> None:
        self.steps = steps or []

    def with_step(self, request: int, place: int, times: int = 1) -> Schedule:
        """Return a schedule in which a request takes `times` more steps at a place."""
        steps = self.steps + [STAY] * (place - len(self.steps))
        return Schedule([*steps[:place], *[request] * times, *steps[place:]])


class Turns:
    """Runs requests in threads of which one goes on at a time; where it waits for satellites another may be next."""

    def __init__(self, cluster: Cluster, schedule: Schedule) -> None:
        self.cluster, self.steps = cluster, list(schedule.steps)
        self.turn = 0
        self.alive: list[int] = []
        self.signals: list[threading.Semaphore] = []

    def run(self, work: list[Any]) -> list[Optional[router.Response]]:
        """Return the answers in the order of `work`."""
        answers: list[Optional[router.Response]] = [None] * len(work)
        mine = threading.local()
        self.alive = list(range(len(work)))
        self.signals = [threading.Semaphore(0) for _ in work]

        def pause() -> None:
            self._next()
            if self.turn != mine.number:
                with self.cluster.unlocked_for_others():
                    self.signals[self.turn].release()
                    self.signals[mine.number].acquire()

        def run(number: int) -> None:
            mine.number = number
            self.signals[number].acquire()
            try:
                answers[number] = work[number]()
            finally:
                self._next(done=number)
                if self.alive:
                    self.signals[self.turn].release()

        self.cluster.at_pause = pause
        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(work))]
        for thread in threads:
            thread.start()
        self._next()
        self.signals[self.turn].release()
        for thread in threads:
            thread.join(30)
        self.cluster.at_pause = None
        return answers

    def _next(self, done: Optional[int] = None) -> None:
        if done is not None:
            self.alive.remove(done)
        wanted = self.steps.pop(0) if self.steps else self.turn
        if wanted in self.alive:
            self.turn = wanted
        elif self.turn not in self.alive:
            self.turn = self.alive[0] if self.alive else -1


def recorded_cluster(recording: dict[str, Any], volumes: NoVolumes) -> Cluster:
    """Return the cluster a recording starts from: three nodes, each with the pool `thin`."""
    cluster = Cluster(features.nearest(recording["linstor"]).name, volumes)
    folder, network = ("/srv/pool27", 2) if cluster.version.name == "1.27" else ("/srv/pool", 1)
    for number in (1, 2, 3):
        name = f"node{number}"
        cluster.add_node(name, address=f"127.0.0.{network}{number}", layers=("STORAGE",),
                         providers=("DISKLESS", "FILE", "FILE_THIN"), directories={f"{folder}/{name}"})
        cluster.add_pool(name, "thin", "FILE_THIN", POOL_TOTAL, used_elsewhere=POOL_SELF, props={
            "StorDriver/StorPoolName": f"{folder}/{name}", "StorDriver/internal/AllocationGranularity": "1"})
    # Recorded after a recording that had deleted it.
    cluster.props.pop("DrbdOptions/auto-quorum", None)
    cluster.reachable = lambda name, address: name in ("node1", "node2", "node3")
    return cluster


class Events:
    """What happened outside REST, done to the simulator; a reading is compared with what is there."""

    def __init__(self, cluster: Cluster, volumes: NoVolumes, caught_up: bool) -> None:
        self.cluster, self.volumes, self.caught_up = cluster, volumes, caught_up

    def happen(self, text: str) -> str:
        """Do the event; return what differs, "" if nothing."""
        stop = re.match(r"satellite (\w+) stopped", text)
        start = re.match(r"satellite (\w+) started", text)
        write = re.match(r"on (\w+): wrote '(.*)' to the device of ([\w-]+)/(\d+)", text)
        read = re.match(r"on (\w+): device of ([\w-]+)/(\d+) reads '(.*)', device size (\d+) bytes", text)
        none = re.match(r"on (\w+): ([\w-]+)/(\d+) has no device", text)
        if stop:
            satellites.go_offline(self.cluster, stop.group(1))
        elif start:
            satellites.come_back(self.cluster, start.group(1), self.caught_up)
        elif write:
            self._write(write.group(1), write.group(3), int(write.group(4)), write.group(2))
        elif read:
            return self._read(read.group(1), read.group(2), int(read.group(3)), read.group(4), int(read.group(5)))
        elif none:
            owner = self._owner(none.group(1), none.group(2))
            return f"{text}: the simulator has one" if owner and owner.volumes[int(none.group(3))].device else ""
        else:
            self._hold(text)
        return ""

    def _owner(self, node: str, resource: str) -> Any:
        found = self.cluster.definition(resource)
        return found.resources.get(node.upper()) if found else None

    def _write(self, node: str, resource: str, number: int, text: str) -> None:
        self.volumes.write(Content(resource, number, node), text)

    def _read(self, node: str, resource: str, number: int, text: str, size: int) -> str:
        owner = self._owner(node, resource)
        if owner is None:
            return f"{resource}/{number} is not on {node}"
        where = satellites.content(owner, number)
        dead = owner.volumes[number].dead
        seen, bytes_ = ("", 0) if dead else (self.volumes.read(where), self.volumes.sizes[where])
        return "" if (seen, bytes_) == (text, size) else f"device reads {seen!r} ({bytes_} bytes), recorded {text!r}"

    def _hold(self, text: str) -> None:
        opened = re.match(r"(?:(\w+): device of )?([\w-]+)(?:/0)? (?:is now )?held open (?:\(read\)|for (\w+))", text)
        if opened:
            mode = "rw" if opened.group(3) == "writing" else "ro"
            self.cluster.openers[opened.group(2).upper(), (opened.group(1) or "node1").upper()] = mode
        elif re.match(r"(device )?closed", text):
            self.cluster.openers.clear()
        elif text.startswith("loop device detached by hand"):
            for one in self.cluster.definitions.values():
                for owner in one.resources.values():
                    for volume in owner.volumes.values():
                        volume.lost = True


def _body(one: dict[str, Any]) -> Optional[bytes]:
    request = one.get("request")
    if request is None:
        return None
    if isinstance(request, str):
        return request.encode()
    return json.dumps(request).encode()


def judge(one: dict[str, Any], answer: Optional[router.Response], satellites_too: bool = True) -> Verdict:
    """Compare a recorded exchange with the simulator's answer; without `satellites_too` not what those say."""
    call = f"{one['method']} {one['path']}"
    if one.get("status") is None:
        # The client gave up. Whether the controller would have answered later is not known, but for a hang.
        gave_up_early = one.get("seconds") is not None and one["seconds"] < 5
        same = answer is None or gave_up_early
        return Verdict("same") if same else Verdict("differ", [f"{call}: recorded no answer, got {answer.status}"])
    if answer is None:
        return Verdict("differ", [f"{call}: no answer, recorded {one['status']}"])
    differences = []
    if answer.status != one["status"]:
        differences.append(f"status {answer.status}, recorded {one['status']}")
    body = None if one["method"] == "HEAD" or answer.body is None else answer.body.decode()
    differences += compare_bodies(one, answer, body)
    if not satellites_too:
        differences = [text for text in differences if "satellites say" not in text]
    return Verdict("differ" if differences else "same", [f"{call}: {text}" for text in differences])


def compare_bodies(one: dict[str, Any], answer: router.Response, body: Optional[str]) -> list[str]:
    """Compare what was recorded as the body with the simulator's."""
    recorded = one.get("response")
    if recorded is None or body is None:
        return [] if (recorded is None) == (not body) else [f"body {str(body)[:80]!r}, recorded {str(recorded)[:80]!r}"]
    kind = one.get("content_type", "application/json")
    if kind.split(";")[0] != answer.content_type.split(";")[0]:
        return [f"content type {answer.content_type}, recorded {kind}"]
    if isinstance(recorded, str):
        return []
    return compare(json.loads(body), recorded, "")


def compare(got: Any, recorded: Any, where: str, key: str = "") -> list[str]:
    """Compare two documents member by member; answer lists by their codes."""
    if _is_answer(recorded) or _is_answer(got):
        return compare_entries(got, recorded, where)
    if isinstance(recorded, dict) and isinstance(got, dict):
        differences = []
        if "filename" in recorded and "error_time" in recorded:
            # Which reports are the newest depends on what went on before the recording began.
            return [] if got.get("filename") else [f"{where} is no error report"]
        for name in sorted({*recorded, *got} - NEVER):
            if name not in got or name not in recorded:
                absent = "missing" if name not in got else "not recorded"
                differences.append(f"{where}.{name} {absent}: {str(recorded.get(name, got.get(name)))[:100]}")
            else:
                differences += compare(got[name], recorded[name], f"{where}.{name}", name)
        return differences
    if key == "flags" and isinstance(recorded, list) and isinstance(got, list):
        # Whether DRBD's metadata counts as new concerns nobody outside; it depends on what was undone long before.
        recorded, got = ([flag for flag in one if flag != "INITIALIZED"] for one in (recorded, got))
    if isinstance(recorded, list) and isinstance(got, list):
        if len(recorded) != len(got):
            return [f"{where} has {len(got)} elements, recorded {len(recorded)}: {_brief(got)} / {_brief(recorded)}"]
        pairs = zip(got, recorded)
        return [text for place, (one, other) in enumerate(pairs) for text in compare(one, other, f"{where}[{place}]")]
    return [] if equal(got, recorded, key) else [f"{where} is {str(got)[:120]}, recorded {str(recorded)[:120]}"]


def _brief(items: list[Any]) -> str:
    return ",".join(str(one.get("name", one.get("volume_number", "?"))) if isinstance(one, dict) else str(one)
                    for one in items)[:100]


def _is_answer(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and "ret_code" in value[0]


def equal(got: Any, recorded: Any, key: str) -> bool:
    """Compare two plain values; devices by kind, capacities up to what file systems take for themselves."""
    if key in SIZES and isinstance(got, int) and isinstance(recorded, int):
        return abs(got - recorded) <= SLACK
    if key == "max_vlm_size_in_kib":
        return abs(int(got) - int(recorded)) <= SLACK * 20
    if key == "max_volume_size_kib":
        return abs(int(got) - int(recorded)) <= SLACK
    if isinstance(got, str) and isinstance(recorded, str):
        return _plain(got) == _plain(recorded)
    return bool(got == recorded)


def _plain(text: str) -> str:
    text = re.sub(r"/dev/(loop|drbd)\d+", r"/dev/\1N", text)
    return re.sub(r"safety-snap-\w+", "safety-snap-X", text)


def compare_entries(got: Any, recorded: Any, where: str) -> list[str]:
    """Compare answer lists: codes in order, those of single satellites as a set."""
    if not all(isinstance(one, list) and (not one or _is_answer(one)) for one in (got, recorded)):
        return [f"{where} is {str(got)[:100]}, recorded {str(recorded)[:100]}"]
    mine, theirs = _codes(got), _codes(recorded)
    differences = []
    if mine[0] != theirs[0]:
        differences.append(f"{where} codes {_words(mine[0])}, recorded {_words(theirs[0])}")
    if mine[1] != theirs[1]:
        differences.append(f"{where} satellites say {_words(sorted(mine[1]))}, recorded {_words(sorted(theirs[1]))}")
    return differences


def _codes(entries: list[dict[str, Any]]) -> tuple[list[tuple[int, int]], set[tuple[int, int]]]:
    ordered, single, run = [], set(), 0
    for entry in entries:
        code, text = int(entry["ret_code"]), str(entry.get("message", ""))
        pair = ((code & TYPE_BITS) >> 62, code & CODE_BITS & 0x7FFF)
        if pair[0] in (0, 1) and SATELLITE.match(text):
            single.add(pair)
            continue
        ordered.append(pair)
        if ROUND.search(text):
            ordered[run:] = sorted(ordered[run:])
        else:
            run = len(ordered)
    return ordered, single


def _said_by_satellites(block: list[dict[str, Any]], responses: list[Any]) -> set[tuple[int, int]]:
    """Return what single satellites say in all answers of a block (but where the client gave up)."""
    return {pair for one, response in zip(block, responses) if one.get("status") and _is_answer(response)
            for pair in _codes(response)[1]}


def _words(codes: Any) -> str:
    return " ".join(f"{'.IWE'[kind]}{number}" for kind, number in codes)


if __name__ == "__main__":
    sys.exit(main())
