"""What a rollback does to a volume, without DRBD: on simulated controllers of both kinds, and on a real one.

How a real one is found: see test_controller_contract.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from linstor_un.errors import NotFound
from linstor_un.units import Kib
from test_controller_contract import MARK, REAL, SIZE, Stage, real, sentence, simulated

KEY, LATER = "Aux/one/KEY", "Aux/one/LATER"


@pytest.fixture(params=["1.27", "1.31", "1.33", "1.34", *REAL])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    yield from real() if request.param == "real" else simulated(request.param, "FILE_THIN", ("STORAGE",))


@pytest.fixture
def restoring(stage: Stage) -> Stage:
    """A controller that rolls back by deleting all resources and restoring them."""
    if not stage.lin.rolls_back_to_any():
        pytest.skip("this LINSTOR rolls back in place")
    return stage


def rollback(stage: Stage, name: str, snapshot: str) -> None:
    stage.lin.rollback(name, snapshot, stage.lin.replicas(name))


def test_the_newest_snapshot_can_be_rolled_back_to_again_and_again(stage: Stage) -> None:
    name = stage.volume("a")
    before = stage.holders(name)
    stage.lin.snapshot(name, "s-1")
    for _ in range(2):
        rollback(stage, name, "s-1")
        assert stage.holders(name) == before and not stage.lin.rolling_back(name)
        assert all(item.usable and item.device for item in stage.lin.replicas(name))
        assert [item.name for item in stage.lin.snapshots(name)] == ["s-1"]


def test_a_snapshot_that_is_not_there_is_refused_and_nothing_is_touched(stage: Stage) -> None:
    name = stage.volume("a")
    before = {item.uuid for item in stage.lin.replicas(name)}
    sentence(lambda: rollback(stage, name, "nowhere"), NotFound)
    assert {item.uuid for item in stage.lin.replicas(name)} == before and stage.lin.snapshots(name) == []


def test_every_snapshot_can_be_rolled_back_to_and_all_stay(restoring: Stage) -> None:
    name = restoring.volume("a")
    for snapshot in ("s-1", "s-2", "s-3"):
        restoring.lin.snapshot(name, snapshot)
    for snapshot in ("s-1", "s-3", "s-2"):
        rollback(restoring, name, snapshot)
        assert [item.name for item in restoring.lin.snapshots(name)] == ["s-1", "s-2", "s-3"]
    assert all(item.usable for item in restoring.lin.snapshots(name))


def test_marks_of_the_snapshot_come_back_over_those_of_now(restoring: Stage) -> None:
    name = restoring.volume("a", marks={KEY: "then"})
    restoring.lin.snapshot(name, "s-1")
    restoring.lin.mark(name, {KEY: "now", LATER: "new"}, [MARK])
    rollback(restoring, name, "s-1")
    props = restoring.lin.definitions([name])[name].props
    assert props[KEY] == "then" and props[MARK] == restoring.prefix and props[LATER] == "new"


def test_the_snapshots_size_comes_back(restoring: Stage) -> None:
    name = restoring.volume("a")
    restoring.lin.snapshot(name, "s-1")
    definition = restoring.lin.definitions([name])[name]
    restoring.lin.resize(definition, restoring.lin.replicas(name), Kib(2 * SIZE))
    rollback(restoring, name, "s-1")
    assert restoring.lin.definitions([name])[name].size == SIZE


def test_a_replica_without_the_snapshot_does_not_come_back_on_this_stack(restoring: Stage) -> None:
    name = restoring.volume("a", replicas=1)
    (holder,) = restoring.holders(name)
    restoring.lin.snapshot(name, "s-1")
    restoring.lin.add_replicas(name, [restoring.other(name)], restoring.settings)
    assert len(restoring.holders(name)) == 2
    rollback(restoring, name, "s-1")
    # The definition's layers are forgotten: where nodes have DRBD, LINSTOR makes a new, empty replica with it.
    there = {item.node for item in restoring.lin.replicas(name) if item.layers == ("STORAGE",)}
    assert there == {holder}


def test_after_a_rollback_the_volume_works_on(restoring: Stage) -> None:
    name = restoring.volume("a", replicas=1)
    restoring.lin.snapshot(name, "s-1")
    rollback(restoring, name, "s-1")
    definition = restoring.lin.definitions([name])[name]
    restoring.lin.resize(definition, restoring.lin.replicas(name), Kib(2 * SIZE))
    restoring.lin.snapshot(name, "s-2")
    restoring.lin.add_replicas(name, [restoring.other(name)], restoring.settings)
    assert len(restoring.holders(name)) == 2
    for snapshot in ("s-1", "s-2"):
        restoring.lin.delete_snapshot(name, snapshot)
    restoring.lin.delete(name)
    assert restoring.lin.definitions([name]) == {}
