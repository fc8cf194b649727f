"""What operations may rely on, whatever LINSTOR answers: the same tests on every simulated version and on a real one.

With LS_CONTROLLERS in the environment they also run there, on a stack without DRBD, in the first storage pool that
can take snapshots; all names begin with one random prefix and are deleted at the end.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, Optional

import pytest
from lab.controller import drbd_events, satellites
from lab.controller.__main__ import build
from lab.controller.faults import Fault
from lab.controller.server import Controller as Simulator
from linstor_un.adapters.controller import LinstorController
from linstor_un.errors import DriverError, Exists, Failed, InUse, NotEnoughSpace, NotFound, Refused, Unsupported
from linstor_un.settings import Settings
from linstor_un.units import Kib
from scripted_controller import Memory

VERSIONS = ("1.20", "1.27", "1.31", "1.33", "1.34")
REAL = ("real",) if os.environ.get("LS_CONTROLLERS") else ()
MARK = "Aux/one/TEST"
SIZE = Kib(64 * 1024)


class RealTime:
    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass
class Stage:
    """A controller to play on: the adapter, the settings to place by, and a prefix for all names."""

    lin: LinstorController
    settings: Settings
    prefix: str
    nodes: list[str]
    trail: Memory
    simulator: Optional[Simulator] = None

    def name(self, end: str) -> str:
        return f"{self.prefix}-{end}"

    def volume(self, end: str, replicas: int = 2, marks: Optional[dict[str, str]] = None) -> str:
        """A complete volume."""
        name = self.name(end)
        self.lin.define(name, self.settings, {MARK: self.prefix, **(marks or {})})
        self.lin.add_volume(name, SIZE)
        self.lin.place(name, self.settings, count=replicas)
        return name

    def holders(self, name: str) -> set[str]:
        return {item.node for item in self.lin.replicas(name) if item.diskful}

    def other(self, name: str) -> str:
        return next(node for node in self.nodes if node not in {item.node for item in self.lin.replicas(name)})


def grow(lin: LinstorController, name: str, size: int) -> None:
    """Let a volume grow, with the facts that an operation reads before."""
    lin.resize(lin.definitions([name])[name], lin.replicas(name), Kib(size))


def simulated(version: str, kind: str, layers: tuple[str, ...], timeout: float = 20) -> Iterator[Stage]:
    cluster = build(version, ["node1", "node2", "node3"], [f"thin:{kind}:10G"], ["DRBD", "LUKS", "STORAGE"])
    with Simulator(cluster) as simulator:
        settings = Settings(
            controllers=(f"127.0.0.1:{simulator.port}",),
            storage_pools=("thin",),
            layer_list=layers,
            replica_count=2,
            timeout=timeout,  # type: ignore[arg-type]
        )
        trail = Memory()
        lin = LinstorController(settings, RealTime(), trail)
        yield Stage(lin, settings, "test", ["node1", "node2", "node3"], trail, simulator)


def real() -> Iterator[Stage]:
    trail = Memory()
    settings = Settings(layer_list=("STORAGE",), replica_count=2)
    lin = LinstorController(settings, RealTime(), trail)
    pools = [pool for pool in lin.pools([]) if pool.thin and pool.free]
    nodes = sorted({pool.node for pool in pools if pool.name == pools[0].name})
    if len(nodes) < 2:
        pytest.skip("the real controller has no thin storage pool on two nodes")
    settings = settings._replace(storage_pools=(pools[0].name,))
    prefix = f"t{secrets.token_hex(4)}"
    try:
        yield Stage(lin, settings, prefix, nodes, trail)
    finally:
        for item in lin.marked({MARK: prefix}):
            for snapshot in lin.snapshots(item.name):
                lin.delete_snapshot(item.name, snapshot.name)
            lin.delete(item.name)


@pytest.fixture(params=[*VERSIONS, *REAL])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A stack without DRBD, as it can be had everywhere."""
    yield from real() if request.param == "real" else simulated(request.param, "FILE_THIN", ("STORAGE",))


@pytest.fixture(params=VERSIONS)
def drbd(request: pytest.FixtureRequest) -> Iterator[Stage]:
    yield from simulated(request.param, "LVM_THIN", ("DRBD", "STORAGE"))


def sentence(act: Callable[[], Any], kind: type[DriverError]) -> str:
    with pytest.raises(kind) as caught:
        act()
    return str(caught.value)


# --- definitions ------------------------------------------------------------------------------------------------


def test_a_definition_has_its_marks_from_the_start_and_its_name_is_taken(stage: Stage) -> None:
    name = stage.name("a")
    stage.lin.define(name, stage.settings, {MARK: stage.prefix, "Aux/one/X": "a=b"})
    found = stage.lin.definitions([name, stage.name("nowhere")])
    assert set(found) == {name}
    assert found[name].props["Aux/one/X"] == "a=b" and found[name].layers == ("STORAGE",)
    assert found[name].size is None
    sentence(lambda: stage.lin.define(name, stage.settings, {}), Exists)


def test_marked_finds_by_key_and_by_value(stage: Stage) -> None:
    for end, value in (("a", "1"), ("b", "2")):
        stage.lin.define(stage.name(end), stage.settings, {MARK: stage.prefix, "Aux/one/N": value})
    ask = lambda **more: {item.name for item in stage.lin.marked({MARK: stage.prefix, **more})}  # noqa: E731
    assert ask() == {stage.name("a"), stage.name("b")}
    assert ask(**{"Aux/one/N": "2"}) == {stage.name("b")}
    assert ask(**{"Aux/one/N": ""}) == {stage.name("a"), stage.name("b")}
    assert ask(**{"Aux/one/N": "3"}) == set()


def test_marks_are_set_and_cleared_in_one_go(stage: Stage) -> None:
    name = stage.name("a")
    stage.lin.define(name, stage.settings, {MARK: stage.prefix, "Aux/one/OLD": "1", "Aux/one/KEY": "1"})
    stage.lin.mark(name, {"Aux/one/KEY": "2"}, ["Aux/one/OLD", "Aux/one/NEVER", "Aux/one/KEY"])
    props = stage.lin.definitions([name])[name].props
    assert props["Aux/one/KEY"] == "2" and "Aux/one/OLD" not in props


def test_a_placed_volume_is_on_distinct_nodes_with_devices(stage: Stage) -> None:
    name = stage.volume("a")
    there = stage.lin.replicas(name)
    assert len({item.node for item in there}) == 2
    assert all(item.diskful and item.online and item.usable and item.device for item in there)
    assert all(item.pool == stage.settings.storage_pools[0] and item.layers == ("STORAGE",) for item in there)
    assert {item.in_use for item in there} == {None}
    assert stage.lin.definitions([name])[name].size == SIZE


def test_placing_tells_the_provider_of_new_replicas_and_enough_is_enough(stage: Stage) -> None:
    name = stage.name("a")
    stage.lin.define(name, stage.settings, {MARK: stage.prefix})
    stage.lin.add_volume(name, SIZE)
    placed = stage.lin.place(name, stage.settings)
    assert set(placed) == stage.holders(name) and all(kind.endswith("THIN") for kind in placed.values())
    assert stage.lin.place(name, stage.settings) == {}


def test_placing_among_given_nodes_uses_no_other(stage: Stage) -> None:
    name = stage.name("a")
    stage.lin.define(name, stage.settings, {MARK: stage.prefix})
    stage.lin.add_volume(name, SIZE)
    stage.lin.place(name, stage.settings, nodes=[stage.nodes[1]], count=1)
    assert stage.holders(name) == {stage.nodes[1]}


def test_more_replicas_than_nodes_are_refused_and_nothing_is_placed(stage: Stage) -> None:
    name = stage.name("a")
    stage.lin.define(name, stage.settings, {MARK: stage.prefix})
    stage.lin.add_volume(name, SIZE)
    text = sentence(lambda: stage.lin.place(name, stage.settings, count=len(stage.nodes) + 1), NotEnoughSpace)
    assert text.startswith(f"cannot place {name} on {len(stage.nodes) + 1} nodes")
    assert all(f" MiB in {stage.settings.storage_pools[0]} on {node}" in text for node in stage.nodes)
    assert stage.lin.replicas(name) == []


def test_a_pool_that_is_not_there_is_told_when_nothing_can_be_placed(stage: Stage) -> None:
    name = stage.name("a")
    stage.lin.define(name, stage.settings, {MARK: stage.prefix})
    stage.lin.add_volume(name, SIZE)
    elsewhere = stage.settings._replace(storage_pools=("nowhere",))
    text = sentence(lambda: stage.lin.place(name, elsewhere), NotEnoughSpace)
    assert text.endswith("; there is no such storage pool, check STORAGE_POOL")


def test_replicas_come_on_exactly_the_nodes_asked_for_even_if_one_is_there(stage: Stage) -> None:
    name = stage.volume("a", replicas=1)
    stage.lin.add_replicas(name, stage.nodes[:2], stage.settings)
    assert stage.holders(name) >= set(stage.nodes[:2])


def test_a_volume_grows_and_never_shrinks(stage: Stage) -> None:
    name = stage.volume("a")
    grow(stage.lin, name, 2 * SIZE)
    grow(stage.lin, name, 2 * SIZE)
    assert stage.lin.definitions([name])[name].size == 2 * SIZE
    sentence(lambda: grow(stage.lin, name, SIZE), Refused)
    assert stage.lin.definitions([name])[name].size == 2 * SIZE


def test_a_thin_volume_does_not_grow_beyond_all_bounds(stage: Stage) -> None:
    name = stage.volume("a")
    assert "do not fit" in sentence(lambda: grow(stage.lin, name, 1 << 50), NotEnoughSpace)
    assert stage.lin.definitions([name])[name].size == SIZE


def test_deleting_twice_is_deleting_once(stage: Stage) -> None:
    name = stage.volume("a")
    stage.lin.delete(name)
    assert stage.lin.definitions([name]) == {}
    stage.lin.delete(name)
    sentence(lambda: stage.lin.replicas(name), NotFound)


def test_without_drbd_nothing_is_attached_where_no_replica_is(stage: Stage) -> None:
    name = stage.volume("a", replicas=1)
    (holder,) = stage.holders(name)
    stage.lin.attach(name, holder, stage.settings, ["STORAGE"])
    elsewhere = next(node for node in stage.nodes if node != holder)
    sentence(lambda: stage.lin.attach(name, elsewhere, stage.settings, ["STORAGE"]), Unsupported)
    stage.lin.release(name, holder)
    assert stage.holders(name) == {holder}


@pytest.mark.parametrize("rule", ["suspend-io", "io-error"])
def test_what_happens_without_quorum_is_told_with_the_definition(stage: Stage, rule: str) -> None:
    replicated = stage.settings._replace(layer_list=("DRBD", "STORAGE"), on_no_quorum=rule)
    wanted, name = stage.lin.quorum(replicated), stage.name("a")
    assert set(wanted.values()) == {rule}
    stage.lin.define(name, replicated, {MARK: stage.prefix, **wanted})
    props = stage.lin.definitions([name])[name].props
    taken = {key: props.get(key) for key in wanted}
    assert taken == wanted
    assert stage.lin.quorum(stage.settings) == {}


# --- snapshots --------------------------------------------------------------------------------------------------


def test_a_snapshot_blocks_deletion_and_goes_away(stage: Stage) -> None:
    name = stage.volume("a")
    stage.lin.snapshot(name, "snapshot-9")
    stage.lin.snapshot(name, "snapshot-10")
    found = stage.lin.snapshots(name)
    assert [item.name for item in found] == ["snapshot-9", "snapshot-10"]
    assert all(item.usable and item.size == SIZE and set(item.nodes) == stage.holders(name) for item in found)
    sentence(lambda: stage.lin.snapshot(name, "snapshot-9"), Exists)
    sentence(lambda: stage.lin.delete(name), Exists)
    for item in found:
        stage.lin.delete_snapshot(name, item.name)
        stage.lin.delete_snapshot(name, item.name)
    assert stage.lin.snapshots(name) == []
    stage.lin.delete(name)
    assert stage.lin.snapshots(name) == []
    stage.lin.delete_snapshot(name, "snapshot-9")


def test_a_snapshot_fills_a_defined_target(stage: Stage) -> None:
    name, target = stage.volume("a"), stage.name("b")
    stage.lin.snapshot(name, "s-1")
    stage.lin.define(target, stage.settings, {MARK: stage.prefix})
    stage.lin.restore(name, "s-1", target)
    assert stage.holders(target) == stage.holders(name)
    assert stage.lin.definitions([target])[target].size == SIZE
    stage.lin.attach(target, sorted(stage.holders(target))[0], stage.settings, ["STORAGE"])


def test_restoring_a_snapshot_that_is_not_there_is_refused(stage: Stage) -> None:
    name, target = stage.volume("a"), stage.name("b")
    stage.lin.define(target, stage.settings, {MARK: stage.prefix})
    sentence(lambda: stage.lin.restore(name, "nowhere", target), NotFound)


def test_linstors_clone_is_refused_where_the_provider_cannot(stage: Stage) -> None:
    if stage.simulator is None:
        pytest.skip("the real controller's pool may be able to clone")
    name = stage.volume("a")
    text = sentence(lambda: stage.lin.clone(name, stage.name("b"), stage.settings, {}, []), Unsupported)
    assert "FILE_THIN" in text and stage.lin.definitions([stage.name("b")]) == {}


# --- pools ------------------------------------------------------------------------------------------------------


def test_pools_nodes_and_capacity_agree(stage: Stage) -> None:
    pools = stage.lin.pools(stage.settings.storage_pools)
    assert {pool.node for pool in pools} == set(stage.nodes) and all(pool.thin and pool.free for pool in pools)
    assert set(stage.nodes) <= {node.name for node in stage.lin.nodes() if node.online}
    one = stage.lin.capacity(stage.settings._replace(replica_count=1))
    two = stage.lin.capacity(stage.settings)
    none = stage.lin.capacity(stage.settings._replace(replica_count=len(stage.nodes) + 1))
    assert one.total == sum(pool.total or 0 for pool in pools)
    assert 0 < two.available <= one.available // 2 + 1 and none.available == none.largest == 0
    sentence(lambda: stage.lin.capacity(stage.settings._replace(storage_pools=("nowhere",))), NotFound)
    sentence(lambda: stage.lin.group("nowhere"), NotFound)


# --- with DRBD --------------------------------------------------------------------------------------------------


def test_a_diskless_attachment_comes_and_goes(drbd: Stage) -> None:
    name = drbd.volume("a", replicas=1)
    before = drbd.holders(name)
    node = drbd.other(name)
    for _ in range(2):
        drbd.lin.attach(name, node, drbd.settings, ["DRBD", "STORAGE"])
    here = next(item for item in drbd.lin.replicas(name) if item.node == node)
    assert here.diskless and here.usable and here.device == f"/dev/drbd/by-res/{name}/0"
    for _ in range(2):
        drbd.lin.release(name, node)
    assert node not in {item.node for item in drbd.lin.replicas(name)} and drbd.holders(name) == before


def test_a_tiebreaker_is_not_taken_for_the_attachment_that_linstor_refused(drbd: Stage) -> None:
    name = drbd.volume("a")
    (tiebreaker,) = (item.node for item in drbd.lin.replicas(name) if item.tiebreaker)
    assert drbd.simulator
    drbd.simulator.faults.add(Fault("refuse", method="POST", path="make-available"))
    sentence(lambda: drbd.lin.attach(name, tiebreaker, drbd.settings, ["DRBD", "STORAGE"]), Failed)
    drbd.lin.attach(name, tiebreaker, drbd.settings, ["DRBD", "STORAGE"])
    assert not next(item for item in drbd.lin.replicas(name) if item.node == tiebreaker).tiebreaker


def test_letting_go_leaves_a_tiebreaker_where_one_is_needed(drbd: Stage) -> None:
    name = drbd.volume("a")
    (tiebreaker,) = (item.node for item in drbd.lin.replicas(name) if item.tiebreaker)
    drbd.lin.attach(name, tiebreaker, drbd.settings, ["DRBD", "STORAGE"])
    assert not next(item for item in drbd.lin.replicas(name) if item.node == tiebreaker).tiebreaker
    drbd.lin.release(name, tiebreaker)
    assert next(item for item in drbd.lin.replicas(name) if item.node == tiebreaker).tiebreaker
    drbd.lin.release(name, tiebreaker)
    assert next(item for item in drbd.lin.replicas(name) if item.node == tiebreaker).tiebreaker


def test_a_replica_is_never_released(drbd: Stage) -> None:
    name = drbd.volume("a")
    for node in drbd.nodes:
        drbd.lin.release(name, node)
    assert len(drbd.holders(name)) == 2


def test_linstors_clone_has_its_own_marks(drbd: Stage) -> None:
    name, target = drbd.volume("a", marks={"Aux/one/DROP": "1"}), drbd.name("b")
    drbd.lin.clone(name, target, drbd.settings, {"Aux/one/NEW": "2"}, ["Aux/one/DROP"])
    if not drbd.lin.clones_marked():
        assert drbd.lin.definitions([target])[target].props["Aux/one/DROP"] == "1"
        drbd.lin.mark(target, {"Aux/one/NEW": "2"}, ["Aux/one/DROP"])
    drbd.lin.await_clone(name, target, SIZE)
    props = drbd.lin.definitions([target])[target].props
    assert props["Aux/one/NEW"] == "2" and "Aux/one/DROP" not in props
    assert drbd.holders(target) == drbd.holders(name)
    sentence(lambda: drbd.lin.clone(name, target, drbd.settings, {}, []), Exists)


def test_an_offline_holder_keeps_a_deletion_pending_and_is_named(drbd: Stage) -> None:
    name = drbd.volume("a")
    holder = sorted(drbd.holders(name))[0]
    assert drbd.simulator
    with drbd.simulator.cluster.lock:
        satellites.go_offline(drbd.simulator.cluster, holder)
    assert not next(item for item in drbd.lin.replicas(name) if item.node == holder).online
    assert holder in sentence(lambda: drbd.lin.delete(name), Failed)
    assert drbd.lin.definitions([name])[name].deleting


def test_an_open_device_is_neither_released_nor_deleted(drbd: Stage) -> None:
    name = drbd.volume("a", replicas=1)
    node = drbd.other(name)
    drbd.lin.attach(name, node, drbd.settings, ["DRBD", "STORAGE"])
    assert drbd.simulator
    drbd.simulator.cluster.openers[name.upper(), node.upper()] = "rw"
    assert next(item for item in drbd.lin.replicas(name) if item.node == node).in_use
    sentence(lambda: drbd.lin.release(name, node), InUse)
    sentence(lambda: drbd.lin.delete(name), InUse)
    assert len(drbd.lin.replicas(name)) == 2


# --- lost answers -----------------------------------------------------------------------------------------------

Act = Callable[[Stage, str], Any]
CHANGES: dict[str, tuple[Act, Callable[[Stage, str], bool]]] = {
    "define": (
        lambda s, _: s.lin.define(s.name("new"), s.settings, {"Aux/one/RUN": "me"}),
        lambda s, _: s.name("new") in s.lin.definitions([s.name("new")]),
    ),
    "place": (lambda s, n: s.lin.place(n, s.settings, count=3), lambda s, n: len(s.holders(n)) == 3),
    "attach": (
        lambda s, n: s.lin.attach(n, s.nodes[2], s.settings, ["DRBD", "STORAGE"]),
        lambda s, n: any(item.node == s.nodes[2] for item in s.lin.replicas(n)),
    ),
    "resize": (lambda s, n: grow(s.lin, n, 2 * SIZE), lambda s, n: s.lin.definitions([n])[n].size == 2 * SIZE),
    "mark": (
        lambda s, n: s.lin.mark(n, {"Aux/one/K": "v"}),
        lambda s, n: s.lin.definitions([n])[n].props.get("Aux/one/K") == "v",
    ),
    "snapshot": (lambda s, n: s.lin.snapshot(n, "s-1"), lambda s, n: len(s.lin.snapshots(n)) == 1),
    "clone": (
        lambda s, n: s.lin.clone(n, s.name("copy"), s.settings, {"Aux/one/RUN": "me"}, []),
        lambda s, _: s.name("copy") in s.lin.definitions([s.name("copy")]),
    ),
    "delete": (lambda s, n: s.lin.delete(n), lambda s, n: n not in s.lin.definitions([n])),
}


@pytest.fixture(params=["1.20", "1.33"])
def fragile(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Reading back gives up soon here: after a tenth of the time limit."""
    yield from simulated(request.param, "LVM_THIN", ("DRBD", "STORAGE"), timeout=2)


@pytest.mark.parametrize("kind", ["lose_answer", "drop", "restart"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_lost_answer_is_told_as_what_happened(fragile: Stage, change: str, kind: str) -> None:
    act, done = CHANGES[change]
    stage = fragile
    name = stage.name("a")
    stage.lin.define(name, stage.settings, {})
    stage.lin.add_volume(name, SIZE)
    stage.lin.add_replicas(name, stage.nodes[:1] if change == "attach" else stage.nodes[:2], stage.settings)
    assert stage.simulator
    stage.simulator.faults.add(Fault(kind, method="POST|PUT|DELETE", seconds=0.2 if kind == "restart" else 0))
    if kind == "lose_answer":
        act(stage, name)
        assert done(stage, name)
    else:
        assert "nothing happened" in sentence(lambda: act(stage, name), Refused)
        assert not done(stage, name)


# --- spawn ------------------------------------------------------------------------------------------------------


def group(stage: Stage) -> Settings:
    """A resource group, made as an administrator does."""
    name, pool = stage.name("rg"), stage.settings.storage_pools[0]
    body = {"name": name, "select_filter": {"place_count": 2, "storage_pool": pool, "layer_stack": ["storage"]}}
    for path, document in (("/v1/resource-groups", body), (f"/v1/resource-groups/{name}/volume-groups", {})):
        stage.lin._link.request("POST", path, document, 10)
    return stage.settings._replace(resource_group=name, storage_pools=(), layer_list=(), replica_count=None)


@pytest.fixture
def grouped(stage: Stage) -> Iterator[tuple[Stage, Settings]]:
    settings = group(stage)
    yield stage, settings
    for item in stage.lin.marked({MARK: stage.prefix}):
        stage.lin.delete(item.name)
    stage.lin._link.request("DELETE", f"/v1/resource-groups/{settings.resource_group}", None, 10)


def test_spawn_makes_all_in_one_request_or_says_that_it_cannot(grouped: tuple[Stage, Settings]) -> None:
    stage, settings = grouped
    name, marks = stage.name("a"), {MARK: stage.prefix, "Aux/one/RUN": "me"}
    if not stage.lin._understands("spawn_marks"):
        sentence(lambda: stage.lin.spawn(name, SIZE, settings, marks), Unsupported)
        return
    found_group = stage.lin.group(settings.resource_group)
    assert found_group.replicas == 2 and found_group.layers == ("STORAGE",)
    placed = stage.lin.spawn(name, SIZE, settings, marks)
    assert set(placed) == stage.holders(name) and set(placed.values()) == {"FILE_THIN"}
    found = stage.lin.definitions([name])[name]
    assert found.group == settings.resource_group and found.size == SIZE and found.props["Aux/one/RUN"] == "me"
    sentence(lambda: stage.lin.spawn(name, SIZE, settings, marks), Exists)
    too_many = settings._replace(replica_count=len(stage.nodes) + 1)
    sentence(lambda: stage.lin.spawn(stage.name("b"), SIZE, too_many, marks), NotEnoughSpace)
    assert stage.lin.definitions([stage.name("b")]) == {}


def test_capacity_of_a_group_is_what_linstor_computes(grouped: tuple[Stage, Settings]) -> None:
    stage, settings = grouped
    found = stage.lin.capacity(settings)
    assert 0 < found.available <= found.total and found.largest > 0
    assert stage.lin.capacity(settings._replace(replica_count=len(stage.nodes) + 1)).available == 0
    sentence(lambda: stage.lin.capacity(settings._replace(resource_group="nowhere")), NotFound)


def test_a_lost_answer_to_spawn_is_read_back(grouped: tuple[Stage, Settings]) -> None:
    stage, settings = grouped
    if not stage.lin._understands("spawn_marks"):
        pytest.skip("this LINSTOR knows no marks in spawn")
    if stage.simulator is None:
        pytest.skip("a real controller loses no answers on demand")
    stage.simulator.faults.add(Fault("lose_answer", method="POST"))
    name = stage.name("a")
    assert set(stage.lin.spawn(name, SIZE, settings, {"Aux/one/RUN": "me"})) == stage.holders(name)


# --- cost -------------------------------------------------------------------------------------------------------


@pytest.fixture
def current() -> Iterator[Stage]:
    yield from simulated("1.33", "LVM_THIN", ("DRBD", "STORAGE"))


def test_each_step_costs_few_requests(current: Stage) -> None:
    """Reads that guard a change are from the controller's memory; every change is one request, restoring is two."""
    lin, settings, name, node = current.lin, current.settings, current.name("a"), current.nodes
    assert current.simulator
    faults, cost = current.simulator.faults, {}
    steps: dict[str, Callable[[], Any]] = {
        "define": lambda: lin.define(name, settings, {}),
        "add_volume": lambda: lin.add_volume(name, SIZE),
        "place": lambda: lin.place(name, settings, nodes=node[:1], count=1),
        "attach": lambda: lin.attach(name, node[1], settings, ["DRBD", "STORAGE"]),
        "mark": lambda: lin.mark(name, {"Aux/one/A": "1"}),
        "snapshot": lambda: lin.snapshot(name, "s-1"),
        "define target": lambda: lin.define(current.name("b"), settings, {}),
        "restore": lambda: lin.restore(name, "s-1", current.name("b")),
        "clone": lambda: lin.clone(name, current.name("c"), settings, {}, []),
        "resize": lambda: grow(lin, name, 2 * SIZE),
        "release": lambda: lin.release(name, node[1]),
        "delete_snapshot": lambda: lin.delete_snapshot(name, "s-1"),
        "capacity": lambda: lin.capacity(settings),
        "delete": lambda: lin.delete(name),
    }
    for label, step in steps.items():
        before = faults.count
        step()
        cost[label] = faults.count - before
    assert cost == {**dict.fromkeys(steps, 1), "restore": 2, "clone": 5, "resize": 4, "release": 2}


# --- two primaries ------------------------------------------------------------------------------------------------

TWO = "DrbdOptions/Net/allow-two-primaries"
MIGRATION = "Aux/one/MIGRATION"


def pairs(stage: Stage, name: str) -> dict[tuple[str, str], dict[str, str]]:
    assert stage.simulator
    found = stage.simulator.cluster.definition(name)
    assert found
    return {nodes: props for nodes, props in found.pairs.items() if props}


def allows(stage: Stage, name: str, node: str) -> set[str]:
    """Which nodes DRBD lets write beside this one; only LINSTOR's word can be asked for."""
    assert stage.simulator
    found = stage.simulator.cluster.definition(name)
    assert found
    return {peer.lower() for peer in found.resources[node.upper()].two_primaries}


def opened(stage: Stage, name: str, *nodes: str) -> None:
    assert stage.simulator
    for node in nodes:
        drbd_events.open_device(stage.simulator.cluster, name, node, "rw")


def closed(stage: Stage, name: str, *nodes: str) -> None:
    assert stage.simulator
    for node in nodes:
        drbd_events.close_device(stage.simulator.cluster, name, node)


def test_two_nodes_may_write_at_once_and_no_third(drbd: Stage) -> None:
    name = drbd.volume("two")
    one, other = sorted(drbd.holders(name))
    third = next(node for node in drbd.nodes if node not in (one, other))
    drbd.lin.attach(name, third, drbd.settings, ("DRBD", "STORAGE"))
    for _ in range(2):
        drbd.lin.allow_two_primaries(name, one, other)
        assert allows(drbd, name, one) == {other} and allows(drbd, name, other) == {one}
        assert not allows(drbd, name, third)
    for _ in range(2):
        drbd.lin.forbid_two_primaries(name, other, one)
        assert not pairs(drbd, name) and not allows(drbd, name, one) and not allows(drbd, name, other)


def test_a_node_that_has_the_volume_no_more_needs_nothing_taken_back(drbd: Stage) -> None:
    name = drbd.volume("two")
    one, third = sorted(drbd.holders(name))[0], drbd.other(name) if len(drbd.nodes) > 3 else "node3"
    drbd.lin.attach(name, third, drbd.settings, ("DRBD", "STORAGE"))
    assert drbd.simulator
    found = drbd.simulator.cluster.definition(name)
    assert found
    drbd.lin.allow_two_primaries(name, one, third)
    found.drop(third)
    drbd.lin.forbid_two_primaries(name, one, third)
    drbd.lin.forbid_two_primaries(drbd.name("nosuch"), one, third)


def test_taking_back_while_both_write_is_no_success_and_a_mark_that_is_followed_tells_when_it_is(drbd: Stage) -> None:
    name = drbd.volume("two", marks={MIGRATION: "7/node1/node2/1"})
    one, other = sorted(drbd.holders(name))
    drbd.lin.allow_two_primaries(name, one, other)
    opened(drbd, name, one, other)
    assert "adjust" in sentence(lambda: drbd.lin.forbid_two_primaries(name, one, other), Failed)
    # LINSTOR has forgotten it, and says so for nothing when it is asked again; DRBD has not.
    drbd.lin.forbid_two_primaries(name, one, other)
    assert not pairs(drbd, name) and allows(drbd, name, one) == {other}
    sentence(lambda: drbd.lin.mark(name, {MIGRATION: "again"}, followed=True), Failed)
    drbd.lin.mark(name, {MIGRATION: "once more"})
    closed(drbd, name, other)
    drbd.lin.mark(name, {}, [MIGRATION], followed=True)
    assert not allows(drbd, name, one) and not allows(drbd, name, other)


# What was never carried out is looked for until the time for that is over.
@pytest.mark.parametrize("kind", ["lose_answer", pytest.param("drop", marks=pytest.mark.slow)])
@pytest.mark.parametrize("backwards", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_lost_answer_about_two_primaries_is_read_back(drbd: Stage, kind: str, backwards: bool) -> None:
    """LINSTOR up to 1.29.1 finds a connection in the order of its nodes' names only."""
    name = drbd.volume("two", marks={MIGRATION: "7/node1/node2/1"})
    one, other = sorted(drbd.holders(name), reverse=backwards)
    assert drbd.simulator
    for change, wanted in ((drbd.lin.allow_two_primaries, 1), (drbd.lin.forbid_two_primaries, 0)):
        drbd.simulator.faults.add(Fault(kind, method="PUT", path="resource-connections"))
        if kind == "drop":
            sentence(lambda change=change: change(name, one, other), Refused)  # type: ignore[misc]
            assert len(pairs(drbd, name)) == 1 - wanted
        change(name, one, other)
        assert len(pairs(drbd, name)) == wanted
    drbd.simulator.faults.add(Fault(kind, method="PUT", path=f"{name}$"))
    sentence(lambda: drbd.lin.mark(name, {}, [MIGRATION], followed=True), DriverError)
