"""What can be known of a node whose satellite does not report: whether its machine is off, and who should copy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.controller import drbd_events, satellites
from linstor_un import placement
from linstor_un.inventory import Replica
from test_controller_contract import VERSIONS, Stage, simulated


@pytest.fixture(params=VERSIONS)
def drbd(request: pytest.FixtureRequest) -> Iterator[Stage]:
    yield from simulated(request.param, "LVM_THIN", ("DRBD", "STORAGE"))


def test_a_machine_that_is_off_is_told_from_a_satellite_that_is_stopped(drbd: Stage) -> None:
    assert drbd.simulator
    cluster, name = drbd.simulator.cluster, drbd.volume("a")
    for node in sorted(drbd.holders(name)):
        satellites.go_offline(cluster, node)
        found = drbd.lin.replicas(name)
        assert placement.unknown(found) == [node] and placement.away(found) == []
        satellites.come_back(cluster, node)

        drbd_events.kill(cluster, node)
        found = drbd.lin.replicas(name)
        assert placement.unknown(found) == [node] and placement.away(found) == [node]
        drbd_events.join(cluster, node)
    assert placement.unknown(drbd.lin.replicas(name)) == []


def replica(node: str, *flags: str, online: bool = True, **sees: bool) -> Replica:
    return Replica(node, frozenset(flags), ("DRBD", "STORAGE"), "thin", "/dev/drbd1000", online, None, sees=sees)


@pytest.mark.parametrize(
    ("others", "away"),
    [
        ((replica("b", c=False, a=False),), ["a"]),
        ((replica("b", a=False), replica("c", a=True)), []),
        ((replica("b", c=True),), []),
        ((replica("b", "DELETE", a=False),), []),
        ((replica("b", online=False, a=False),), []),
        ((), []),
    ],
    ids=["not reached", "reached by one", "not told about", "told by what is going", "told long ago", "nobody tells"],
)
def test_only_what_drbd_tells_now_makes_a_silent_node_away(others: tuple[Replica, ...], away: list[str]) -> None:
    found = placement.away((replica("a", online=False), *others))
    assert found == away


def test_a_node_that_is_being_emptied_holds_only_where_no_other_does() -> None:
    leaving, staying = replica("a", "EVACUATE"), replica("b")
    assert placement.steady([leaving, staying]) == ["b"]
    assert placement.steady([leaving]) == ["a"]
