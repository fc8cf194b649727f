"""Replays in tests: recordings by name, and drivers that do one wrong thing after the right ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lab import replay
from lab.hosts import isolation
from lab.oned.recordings import Call, Recording, read_recording
from lab.replaying import effects, lifecycle
from lab.replaying.needs import Needs
from lab.replaying.world import World

DATA = Path(__file__).parent / "data/driver-calls"


def replay_lab() -> Iterator[replay.Lab]:
    """Yield the hosts of a replay; the body of a fixture."""
    reason = isolation.missing()
    if reason:
        pytest.skip(reason)
    made = replay.Lab("1.33", None)
    yield made
    made.close()


def recording(version: str, scenario: str) -> Recording:
    """Return a recording that came with the tests."""
    found = read_recording(DATA / version / f"{scenario}.json.gz")
    assert found is not None
    return found


def retried(item: Recording, never: Iterable[str] = ()) -> Recording:
    """Return a recording in which each call of ours that succeeded had failed once, and was made again."""
    failure = {"stdout": "", "stderr": "", "exit_code": 1, "injected_failure": True}
    calls = [one for call in item.calls for one in (
        [replace(call, answer=failure), call] if _to_repeat(call, never) else [call])]
    return replace(item, calls=calls)


def repeated(item: Recording) -> Recording:
    """Return a recording in which each call of ours that succeeded is made once more."""
    calls = [one for call in item.calls for one in ([call, call] if _to_repeat(call, ()) else [call])]
    return replace(item, calls=calls)


def _to_repeat(call: Call, never: Iterable[str]) -> bool:
    return replay.ours(call) and not call.failure_injected and call.action not in {"monitor", *never}


def wrong(verdicts: list[replay.Verdict]) -> list[str]:
    """Return all complaints with the number of the call."""
    return [f"{verdict.seq} {complaint}" for verdict in verdicts for complaint in verdict.complaints]


HELPERS = """
api=http://127.0.0.1:3370/v1/resource-definitions
send() { curl -sf -o /dev/null -H 'Content-Type: application/json' "$@"; }
rest() { send -X "$1" "$api/$2"; }
mark() { send -X PUT -d "{\\"override_props\\":{\\"$2\\":\\"$3\\"}}" "$api/$1"; }
attach() {
    for node in node1 node2 node3; do
        send -X POST -d '{"diskful":false,"layer_list":["DRBD","STORAGE"]}' "$api/$1/resources/$node/make-available"
    done
}
snap() { send -X POST -d "{\\"name\\":\\"$2\\"}" "$api/$1/snapshots"; }
grow() { send -X PUT -d "{\\"size_kib\\":$2}" "$api/$1/volume-definitions/0"; }
dual() { connection "$1" "\\"override_props\\":{\\"DrbdOptions/Net/allow-two-primaries\\":\\"$2\\"}"; }
connection() { send -X PUT -d "{$2}" "$api/$1/resource-connections/node1/node2"; }
anywhere() { mark "$1" DrbdOptions/Net/allow-two-primaries yes; }
virsh() { ssh "$1" virsh "$2" "$3" >/dev/null 2>&1; }
write() { ssh "$1" "echo spoiled | dd of=/dev/drbd/by-res/$2/0 conv=notrunc,fsync status=none"; }
ssh() { command ssh -o BatchMode=yes "$@" </dev/null; }
"""


def spoil(world: World, script: str, line: str) -> None:
    """Let the installed script do its work and then one wrong thing."""
    path = world.frontend.remotes / script
    right = path.with_name(f"{path.name}.right")
    right.write_bytes(path.read_bytes())
    right.chmod(0o755)
    path.write_text(f'#!/bin/bash\n{HELPERS}\n"$0.right" "$@" || exit\n{line}\n')


def spoiled_complaints(lab: replay.Lab, item: Recording, script: str, line: str) -> list[str]:
    """Replay a recording with a spoiled script up to the first complaint; returns what was complained of."""
    found: list[str] = []
    with World(item, lab.hosts, lab.volumes, "1.33") as world:
        spoil(world, script, line)
        needs = Needs(world, item)
        for call in item.calls:
            if call.vm_document:
                world.documents.put(call.vm_document)
            lifecycle.settle(world, call)
            needs.prepare(call)
            if replay.ours(call) and (world.frontend.remotes / call.script).exists():
                found += replay.judged(world, call)
            else:
                effects.emulate(world, call)
                lifecycle.follow(world, call)
            if found:
                break
    return found
