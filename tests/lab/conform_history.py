"""Recordings that build on each other: one cluster, replayed in the order of the recorded times.

All recordings with DRBD in a folder are one history. What the hosts' own tools said and did
("host_facts") is done to the simulator between the exchanges: devices opened and closed, machines killed, networks
cut. What was done by hand between two recordings is not recorded; it follows from what is there later: a definition
missing from the next complete list is gone, and a new recording finds all nodes up and no device open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from lab import conform
from lab.controller import drbd_events, progress, satellites
from lab.controller.cluster import Cluster, Group, new_uuid
from lab.controller.volumes import Content

NAME = re.compile(r"/resource-definitions/([^/]+)|/clone/([^/]+)")
NAME_KEYS = ("name", "resource_definition_name", "to_resource", "resource_name")
ON_NODE = re.compile(r" on '\w+'")
DEVICE = r"/dev/drbd/by-res/([\w-]+)/0"
HARDWARE = {
    "layers": ("DRBD", "LUKS", "WRITECACHE", "CACHE", "STORAGE"),
    "directories": {"linstor_vg/thin", "thickvg"},
    "capacities": {"linstor_vg/thin": 12058624, "thickvg": 6287360},
}


@dataclass
class Step:
    """One thing that happened: an exchange, or a fact of a host. `time` is the recorded clock, carried forward."""

    time: str
    path: Path
    place: int
    exchange: Optional[dict[str, Any]]
    fact: dict[str, Any]


def is_part(recording: dict[str, Any]) -> bool:
    """Tell whether a recording is part of a history: those with DRBD are."""
    return "drbd" in recording


def steps(recordings: dict[Path, dict[str, Any]]) -> list[Step]:
    """Return everything that happened in all recordings, in order."""
    found = [step for path, recording in recordings.items() for step in _in_one(path, recording)]
    return sorted(found, key=lambda step: step.time)


def _in_one(path: Path, recording: dict[str, Any]) -> Iterator[Step]:
    exchanges = [(one["seq"], place, one, {}) for place, one in enumerate(recording["exchanges"])]
    facts = [(one["seq"], -1, None, one) for one in recording.get("host_facts", [])]
    ordered = sorted([*exchanges, *facts], key=lambda item: item[0])
    stamps = [_stamp(one) for _, _, one, _ in ordered]
    time = next((stamp for stamp in stamps if stamp), "")
    for (_, place, one, fact), stamp in zip(ordered, stamps):
        time = max(time, stamp)
        yield Step(time, path, place, one, fact)


def _stamp(one: Optional[dict[str, Any]]) -> str:
    return max((entry["created_at"] for entry in _entries(one)), default="")


def _entries(one: Optional[dict[str, Any]]) -> list[dict[str, Any]]:
    response = one.get("response") if one else None
    found = response.get("messages") if isinstance(response, dict) else response
    return [entry for entry in found if "created_at" in entry] if isinstance(found, list) else []


def overlap(step: Step, following: Step) -> bool:
    """Tell whether the next step, of another recording, changed things while this one was still waiting."""
    if step.path == following.path or not step.exchange or not following.exchange:
        return False
    mine, other = _entries(step.exchange), _entries(following.exchange)
    changes = "GET" not in (step.exchange["method"], following.exchange["method"])
    return changes and bool(mine and other) and other[0]["created_at"] < mine[-1]["created_at"]


def mentioned(step: Step) -> set[str]:
    """Return the names of definitions that an exchange speaks of."""
    one = step.exchange or {}
    names = {name for pair in NAME.findall(one.get("path", "")) for name in pair}
    request = one.get("request")
    pieces = [request, *(request.values() if isinstance(request, dict) else ())]
    for piece in [inner for outer in pieces for inner in (outer if isinstance(outer, list) else [outer])]:
        if isinstance(piece, dict):
            names |= {str(piece[key]) for key in NAME_KEYS if piece.get(key)}
    return names - {""}


def vanished(history: list[Step]) -> dict[int, set[str]]:
    """Return, by place in the history, which definitions somebody removed by hand after that step."""
    gone: dict[int, set[str]] = {}
    last: dict[str, int] = {}
    for place, step in enumerate(history):
        listed = _complete_list(step)
        if listed is not None:
            for name in [name for name in last if name not in listed]:
                gone.setdefault(last.pop(name), set()).add(name)
            last.update((name, place) for name in listed)
        for name in mentioned(step):
            last[name] = place
    return gone


def _complete_list(step: Step) -> Optional[set[str]]:
    one = step.exchange or {}
    complete = one.get("method") == "GET" and one.get("status") == 200 and not one.get("query") \
        and one.get("path") in ("/v1/resource-definitions", "/v1/view/resources")
    return {entry["name"] for entry in one["response"]} if complete else None


def furnish(cluster: Cluster) -> None:
    """Give a cluster the nodes, pools and groups that the first recording of such a history sets up."""
    for number in (1, 2, 3):
        node = cluster.add_node(f"node{number}", address=f"10.77.0.1{number}", **HARDWARE)
        for name, kind, place in (("thin", "LVM_THIN", "linstor_vg/thin"), ("thick", "LVM", "thickvg")):
            if name == "thin" or number < 3:
                cluster.add_pool(node.name, name, kind, node.capacities[place],
                                 props={"StorDriver/StorPoolName": place})
    for name, pool in (("rg2", "thin"), ("rgthick", "thick")):
        select = {"place_count": 2, "storage_pool_list": [pool], "layer_stack": ["DRBD", "STORAGE"]}
        cluster.groups[name.upper()] = Group(name, select=select, volume_groups={0: {"uuid": new_uuid()}})


class History(conform.Replay):
    """All recordings of a folder against one cluster."""

    def __init__(self, recordings: dict[Path, dict[str, Any]]) -> None:
        self.recordings = recordings
        self.found: dict[Path, list[Optional[conform.Verdict]]] = {
            path: [None] * len(recording["exchanges"]) for path, recording in recordings.items()}
        first = next(iter(recordings.values()))
        super().__init__({**first, "exchanges": []}, True, {})

    def _run(self) -> list[Optional[conform.Verdict]]:
        self.cluster.clear()
        self.cluster.hardware, self.cluster.work_seconds = HARDWARE, float("inf")
        self.hosts = Hosts(self.cluster)
        if not any(one.get("path") == "/v1/nodes" and one["method"] == "POST"
                   for recording in self.recordings.values() for one in recording["exchanges"]):
            furnish(self.cluster)
        history = steps(self.recordings)
        gone, ends = vanished(history), {step.path: step.time for step in history}
        begun: set[Path] = set()
        self.makers: dict[str, Path] = {}
        for place, step in enumerate(history):
            if self._done(step):
                continue
            if step.path not in begun:
                if not any(ends[path] > step.time for path in begun):
                    self.hosts.put_in_order()
                begun.add(step.path)
                self.hosts.foresee(self.recordings[step.path])
                known = conform.recorded_reports(self.recordings[step.path]["exchanges"])
                self.cluster.reports = known or self.cluster.reports
            before = set(self.cluster.definitions)
            following = history[place + 1] if place + 1 < len(history) else None
            if following is not None and overlap(step, following):
                self._both(step, following)
            else:
                self._step(step)
            self.makers.update((self.cluster.definitions[key].name, step.path)
                               for key in set(self.cluster.definitions) - before)
            for name in gone.get(place, ()):
                self.hosts.remove(name)
        return []

    def _done(self, step: Step) -> bool:
        return step.exchange is not None and self.found[step.path][step.place] is not None

    def _both(self, step: Step, inner: Step) -> None:
        """Do a step, and another while the first waits for its last satellite."""
        left = len([entry for entry in _entries(step.exchange) if ON_NODE.search(entry.get("message", ""))
                    and not conform.SATELLITE.match(entry["message"])])

        def pause() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                self.cluster.at_pause = None
                choices = self.choices
                self._step(inner)
                self.choices = choices

        self.cluster.at_pause = pause
        self._step(step)
        self.cluster.at_pause = None

    def _exchange(self, one: dict[str, Any]) -> conform.Verdict:
        """Compare as ever, but for content types, which these recordings do not have."""
        verdict = super()._exchange(one)
        if verdict.differences and "content type" in verdict.differences[0]:
            verdict = super()._exchange({**one, "content_type": "text/plain"})
        return verdict

    def _step(self, step: Step) -> None:
        if step.exchange is None:
            self.hosts.happen(step.fact)
            return
        self.hosts.before(step.exchange)
        verdict = self._exchange(step.exchange)
        if step.exchange["status"] is None:  # the client gave up on the slow emulation, the controller did not
            verdict = conform.Verdict("same")
        reading = step.exchange["method"] == "GET" or step.exchange["path"].startswith("/v1/queries/")
        if verdict.kind == "differ" and reading and self._catch_up(step):
            verdict = self._exchange(step.exchange)
        self.found[step.path][step.place] = verdict
        self.hosts.after()

    def _catch_up(self, step: Step) -> bool:
        """Let happen what a reading shows to have happened outside REST meanwhile; return whether it shows any."""
        assert step.exchange is not None
        if self._waited(step.exchange):
            progress.complete(self.cluster)
            return True
        if self._groups_made_by_hand(step.exchange):
            return True
        return self._connections_broke(step.exchange) or self._properties_set_by_hand(step) or \
            self._disks_toggled_by_hand(step)

    def _connections_broke(self, one: dict[str, Any]) -> bool:
        """Break connections that both ends report as broken though both nodes are up: the emulated network did it."""
        lost = {(resource["name"], resource["node_name"], peer)
                for resource in one["response"] if "layer_object" in resource
                for peer, state in (resource["layer_object"].get("drbd", {}).get("connections") or {}).items()
                if not state["connected"]} if isinstance(one["response"], list) else set()
        broken = [(name, node, peer) for name, node, peer in lost if (name, peer, node) in lost and node < peer
                  and self.cluster.online(node) and self.cluster.online(peer)]
        for name, node, peer in broken:
            drbd_events.lose(self.cluster, name, node, peer)
        return bool(broken)

    def _properties_set_by_hand(self, step: Step) -> bool:
        """Take over properties of definitions from earlier recordings that no request of this one speaks of."""
        assert step.exchange is not None
        response, changed = step.exchange["response"], False
        asked = json.dumps([one.get("request") for one in self.recordings[step.path]["exchanges"]])
        for document in response if isinstance(response, list) else [response]:
            one = self.cluster.definition(document.get("name", "")) if "resource_group_name" in document else None
            if one is None or self.makers.get(one.name) == step.path:
                continue
            for key in set(document.get("props", {})) - set(one.props):
                if key not in asked:
                    one.props[key], changed = document["props"][key], True
        return changed

    def _disks_toggled_by_hand(self, step: Step) -> bool:
        """Note which diskless resources of earlier recordings had a disk once: they show one link too many."""
        assert step.exchange is not None
        changed, response = False, step.exchange["response"]
        for document in response if isinstance(response, list) else []:
            one = self.cluster.definition(document.get("name", ""))
            owner = one.resources.get(document.get("node_name", "").upper()) if one else None
            for volume in document.get("volumes", []) if one and self.makers.get(one.name) != step.path else []:
                links = sum(key.startswith("Satellite/Device/Symlinks/") for key in volume.get("props", {}))
                if owner is not None and owner.diskless and owner.volumes[volume["volume_number"]].links < links:
                    owner.volumes[volume["volume_number"]].links, changed = links, True
        return changed

    def _groups_made_by_hand(self, one: dict[str, Any]) -> bool:
        """Make groups that only an answer about all groups knows."""
        result = one["response"].get("result", {}) if isinstance(one["response"], dict) else {}
        unknown = [name for name in result if self.cluster.group(name) is None]
        for name in unknown:
            places = result[name]["space_info"].get("next_spawn_result", [])
            pools = sorted({place["stor_pool_name"] for place in places})
            self.cluster.groups[name.upper()] = Group(name, select={"place_count": len(places),
                                                                    "storage_pool_list": pools})
        return bool(unknown)

    def _waited(self, one: dict[str, Any]) -> bool:
        """Tell whether a recorded reading is one that somebody repeated until work was done."""
        return bool(self.cluster.works) and (one["path"].endswith("/sync-status") or "/clone/" in one["path"])


class Hosts:
    """What happened on the hosts, done to the simulator."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.pending: dict[str, Callable[[], None]] = {}
        self.later: list[dict[str, Any]] = []
        self.patterns: list[tuple[str, Callable[[dict[str, Any], re.Match[str]], None]]] = [
            (rf"hold\.sh {DEVICE} (\w+)", self._hold),
            (r"writer\.py", self._writers),
            (r"(?:cat /run/w-|kill \$\(cat /run/hold\.pid)", self._close),
            (rf"dd if=/dev/zero of={DEVICE} bs=(\d+)", self._write),
            (rf"open\('{DEVICE}','r\+b'.*?\((\d+)<<(\d+)", self._write),
            (r"systemctl stop linstor-satellite", self._stop),
            (r"systemctl start linstor-satellite", self._start),
            (r"\(machine killed\)", self._kill),
            (r"\(network cut\)", self._cut),
            (r"\(network back", self._join),
            (r"drbdadm disconnect ([\w-]+)", self._reconnect),
        ]

    def put_in_order(self) -> None:
        """Bring the lab to what every recording starts with."""
        self.pending.clear()
        self.cluster.openers.clear()
        for node in list(self.cluster.nodes.values()):
            if not node.linked:
                drbd_events.join(self.cluster, node.name)
            elif not node.online:
                satellites.come_back(self.cluster, node.name)

    def foresee(self, recording: dict[str, Any]) -> None:
        """Let an attach hang that somebody helped on by hand later in the recording."""
        for fact in recording.get("host_facts", []):
            if "drbdadm disconnect" in fact.get("command", ""):
                self.cluster.stuck.add(fact["node"].upper())

    def remove(self, name: str) -> None:
        """Remove a definition as somebody did between two recordings."""
        one = self.cluster.definition(name)
        if one is None:
            return
        for owner in one.resources.values():
            for number in owner.volumes:
                self.cluster.volumes.detach(satellites.content(owner, number), owner.node)
        for number in one.volumes:
            self.cluster.volumes.delete(Content(one.name, number))
        del self.cluster.definitions[name.upper()]

    def happen(self, fact: dict[str, Any]) -> None:
        if re.search(r"opened while .* runs", fact.get("note", "")):
            self.later.append(fact)
            return
        command = fact.get("command", "")
        for pattern, act in self.patterns:
            found = re.search(pattern, command, re.DOTALL)
            done = fact.get("rc", 0) == 0 or command.startswith("systemctl")
            if found and done and "failed to open" not in fact.get("stderr", ""):
                act(fact, found)

    def before(self, one: dict[str, Any]) -> None:
        """Let the controller see connections come and go: when a recorded list of nodes shows it, or at the latest
        when anything else is asked."""
        shown = {node["name"]: node["connection_status"] for node in one["response"]} \
            if one["method"] == "GET" and one["path"] == "/v1/nodes" else None
        for name in list(self.pending):
            wanted = "ONLINE" if not self.cluster.online(name) else "OFFLINE"
            if shown is None or shown.get(name) == wanted:
                self.pending.pop(name)()

    def after(self) -> None:
        """Do what happened while the last exchange ran."""
        facts, self.later = self.later, []
        for fact in facts:
            self.happen({**fact, "note": ""})

    def _hold(self, fact: dict[str, Any], found: re.Match[str]) -> None:
        drbd_events.open_device(self.cluster, found.group(1), fact["node"], found.group(2))

    def _writers(self, fact: dict[str, Any], _found: re.Match[str]) -> None:
        names = re.search(r"for r in ([^;]+);", fact["command"])
        for name in names.group(1).split() if names else ():
            drbd_events.open_device(self.cluster, name, fact["node"], "rw")

    def _close(self, fact: dict[str, Any], _found: re.Match[str]) -> None:
        if "hold.pid" in fact["command"] or "closed" in fact.get("stdout", ""):
            for name, node in list(self.cluster.openers):
                if node == fact["node"].upper() and "writer" not in fact["command"]:
                    drbd_events.close_device(self.cluster, name, node)

    def _write(self, fact: dict[str, Any], found: re.Match[str]) -> None:
        one = self.cluster.definition(found.group(1))
        bytes_ = int(found.group(2)) << int(found.group(3)) if found.re.groups == 3 else int(found.group(2))
        if one is not None:
            satellites.wrote(self.cluster, one, 0, max(bytes_ // 1024, 1))
        if self.cluster.openers.get((found.group(1).upper(), fact["node"].upper())) != "rw":
            drbd_events.open_device(self.cluster, found.group(1), fact["node"], "rw")
            drbd_events.close_device(self.cluster, found.group(1), fact["node"])

    def _stop(self, fact: dict[str, Any], _found: re.Match[str]) -> None:
        self.pending[fact["node"]] = lambda: satellites.go_offline(self.cluster, fact["node"])

    def _start(self, fact: dict[str, Any], _found: re.Match[str]) -> None:
        self.pending[fact["node"]] = lambda: satellites.come_back(self.cluster, fact["node"])

    def _kill(self, fact: dict[str, Any], _found: re.Match[str]) -> None:
        self.pending[fact["node"]] = lambda: drbd_events.kill(self.cluster, fact["node"])

    def _cut(self, fact: dict[str, Any], _found: re.Match[str]) -> None:
        self.pending[fact["node"]] = lambda: drbd_events.cut(self.cluster, fact["node"])

    def _join(self, fact: dict[str, Any], _found: re.Match[str]) -> None:
        self.pending[fact["node"]] = lambda: drbd_events.join(self.cluster, fact["node"])

    def _reconnect(self, fact: dict[str, Any], found: re.Match[str]) -> None:
        self.cluster.stuck.discard(fact["node"].upper())
        drbd_events.reconnect(self.cluster, found.group(1), fact["node"])
        progress.complete(self.cluster)


def replay(folder: Path) -> dict[Path, list[Optional[conform.Verdict]]]:
    """Replay the history a folder holds; return the verdicts of each recording."""
    return History({path: conform.load(path) for path in conform.recordings([str(folder)])}).found
