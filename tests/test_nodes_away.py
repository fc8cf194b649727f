"""What can be known of a node whose satellite does not report: whether its machine is off, and who should copy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.controller import drbd_events, satellites
from linstor_un import placement
from linstor_un.errors import Refused, Unsupported
from linstor_un.inventory import Replica
from linstor_un.operations.volumes import Volume
from linstor_un.settings import Settings
from linstor_un.units import Kib
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
    return Replica(node, frozenset(flags), ("DRBD", "STORAGE"), "thin", "/dev/drbd1000", online, False, sees=sees)


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


def test_who_has_a_device_open_is_unknown_before_the_controller_was_told() -> None:
    """One that was restarted calls nodes online, and shows a state of their resources, a moment too early."""
    told, drbd = replica("a"), replica("b")._replace(in_use=None)
    plain = told._replace(node="c", layers=("STORAGE",), in_use=None)
    assert placement.unknown([told, drbd, plain, plain._replace(node="d", device=None)]) == ["b", "d"]


def test_a_device_that_is_not_known_now_is_told_from_one_that_cannot_be() -> None:
    plain = replica("a")._replace(layers=("STORAGE",), device=None)
    volume = Volume("one-image-5", Kib(8192), Settings(), (plain,))
    with pytest.raises(Refused, match="LINSTOR does not know the device of one-image-5 on a now; retry when"):
        volume.device("a")
    with pytest.raises(Unsupported, match="one-image-5 has no device on b, and without DRBD"):
        volume.device("b")


def test_a_node_that_is_being_emptied_holds_only_where_no_other_does() -> None:
    leaving, staying = replica("a", "EVACUATE"), replica("b")
    assert placement.steady([leaving, staying]) == ["b"]
    assert placement.steady([leaving]) == ["a"]
