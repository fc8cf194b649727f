"""A controller that restarts, moves or is gone: waited for, for a bounded time, and nothing is done twice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Callable, Optional

import pytest
from lab.controller.__main__ import build
from lab.controller.faults import Fault
from lab.controller.server import Controller as Simulator
from linstor_un.adapters.controller import LinstorController
from linstor_un.adapters.controller_client import GONE_SECONDS
from linstor_un.errors import DriverError, Refused, Unreachable
from linstor_un.settings import Settings
from linstor_un.units import Kib
from scripted_controller import Answer, Memory, ScriptedController, TestClock

SIZE = Kib(64 * 1024)


class Later(TestClock):
    """Time in which something happens as soon as somebody has waited long enough."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: list[tuple[float, Callable[[], Any]]] = []

    def after(self, seconds: float, deed: Callable[[], Any]) -> None:
        self.plans.append((self.time + seconds, deed))

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        for plan in [plan for plan in self.plans if plan[0] <= self.time]:
            self.plans.remove(plan)
            plan[1]()


@pytest.fixture
def clock() -> Later:
    return Later()


@pytest.fixture
def port() -> int:
    """A port on which nobody listens yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def opening() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def linstor(clock: TestClock, *uris: str, timeout: int = 300, trail: Optional[Memory] = None) -> LinstorController:
    return LinstorController(Settings(controllers=uris, timeout=timeout), clock, trail or Memory())


def sentence(act: Callable[[], Any], kind: type[DriverError]) -> str:
    with pytest.raises(kind) as caught:
        act()
    return str(caught.value)


def nodes(*states: str) -> Answer:
    return Answer(document=[{"name": f"node{n}", "connection_status": state} for n, state in enumerate(states, 1)])


# --- away before the first question -----------------------------------------------------------------------------


def test_a_controller_that_restarts_is_waited_for_and_so_are_its_satellites(
    clock: Later, port: int, opening: ExitStack
) -> None:
    started: list[ScriptedController] = []

    def start() -> None:
        controller = ScriptedController(port=port)
        one_by_one = [nodes("OFFLINE", "OFFLINE"), nodes("ONLINE", "OFFLINE"), nodes("ONLINE", "ONLINE")]
        controller.says("GET /v1/nodes", *one_by_one)
        started.append(controller)
        opening.callback(controller.close)

    clock.after(20, start)
    trail = Memory()
    found = linstor(clock, f"127.0.0.1:{port}", trail=trail).nodes()
    assert all(node.online for node in found)
    assert any("LINSTOR's controller was away" in line for line in trail.lines)
    assert [path for path, _ in started[0].asked("GET")] == ["/v1/nodes"] * 4


def test_a_satellite_that_stays_away_is_not_waited_for_long(clock: Later, port: int, opening: ExitStack) -> None:
    def start() -> None:
        controller = ScriptedController(port=port)
        controller.says("GET /v1/nodes", nodes("ONLINE", "OFFLINE"))
        opening.callback(controller.close)

    clock.after(5, start)
    began = clock.now()
    assert [node.online for node in linstor(clock, f"127.0.0.1:{port}").nodes()] == [True, False]
    assert clock.now() - began < 45


def one_resource(**volume: object) -> dict[str, object]:
    storage = {"storage_volumes": [{"volume_number": 0, **volume}]}
    return {"name": "one", "node_name": "node1", "state": {}, "layer_object": {"type": "STORAGE", "storage": storage}}


def test_what_a_controller_does_not_know_yet_is_waited_for_once(clock: Later, opening: ExitStack) -> None:
    controller = ScriptedController()
    opening.callback(controller.close)
    path = "GET /v1/resource-definitions/one/resources"
    silent = {key: value for key, value in one_resource().items() if key != "state"}
    stages = ([silent], [one_resource()], [one_resource(device_path="/dev/loop1")])
    controller.says(path, *(Answer(document=stage) for stage in stages))
    lin = linstor(clock, f"127.0.0.1:{controller.port}")
    began = clock.now()
    assert [replica.device for replica in lin.replicas("one")] == ["/dev/loop1"] and clock.now() - began < 5

    controller.says(path, Answer(document=[one_resource()]))
    assert [replica.device for replica in lin.replicas("one")] == [None] and 5 < clock.now() - began < 15
    began = clock.now()
    assert [replica.device for replica in lin.replicas("one")] == [None] and clock.now() - began < 1


def test_a_controller_that_stays_away_ends_the_action_with_one_sentence(clock: Later, port: int) -> None:
    lin = linstor(clock, f"127.0.0.1:{port}")
    began = clock.now()
    text = sentence(lin.nodes, Unreachable)
    assert "no LINSTOR controller answers" in text and "waited 60 s" in text
    assert 60 <= clock.now() - began < 70
    # Take-backs would each wait again.
    sentence(lin.nodes, Unreachable)
    assert clock.now() - began < 75


def test_a_proxy_without_its_controller_is_waited_for(clock: Later, opening: ExitStack) -> None:
    controller = ScriptedController()
    opening.callback(controller.close)
    version = Answer(document={"rest_api_version": "1.27.0", "version": "test"})
    controller.says("GET /v1/controller/version", Answer(503, raw=b"no backend"), version)
    controller.says("GET /v1/nodes", nodes("ONLINE"))
    assert linstor(clock, f"127.0.0.1:{controller.port}").nodes()


def test_what_stays_wrong_is_not_waited_for(clock: Later, opening: ExitStack) -> None:
    controller = ScriptedController()
    opening.callback(controller.close)
    controller.says("GET /v1/controller/version", Answer(401, raw=b"who are you"))
    began = clock.now()
    for address in (f"127.0.0.1:{controller.port}", "no-such-host.invalid"):
        sentence(linstor(clock, address).nodes, Unreachable)
    assert clock.now() == began


# --- away in the middle -----------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[Simulator, Simulator]]:
    """Two controllers with one database, of which the second listens only when the first does no more."""
    cluster = build("1.33", ["node1", "node2", "node3"], ["thin:LVM_THIN:10G"], ["DRBD", "STORAGE"])
    first, second = Simulator(cluster), Simulator(cluster)
    first.start()
    try:
        yield first, second
    finally:
        first.stop()
        second.stop()


def fail_over(pair: tuple[Simulator, Simulator], port: int) -> None:
    first, second = pair
    first.stop()
    second.start("127.0.0.1", port)


def placed(**more: Any) -> Settings:
    return Settings(storage_pools=("thin",), layer_list=("DRBD", "STORAGE"), replica_count=2, **more)


def test_an_action_goes_on_with_the_controller_that_takes_over(
    pair: tuple[Simulator, Simulator], port: int, clock: Later
) -> None:
    lin = linstor(clock, f"127.0.0.1:{pair[0].port}", f"127.0.0.1:{port}")
    lin.define("disk", placed(), {"Aux/one/VM_ID": "7"})
    fail_over(pair, port)
    lin.add_volume("disk", SIZE)
    lin.place("disk", placed())
    assert len([item for item in lin.replicas("disk") if item.diskful]) == 2


@pytest.mark.parametrize("kind", ["lose_answer", "drop"])
def test_what_was_in_flight_is_read_back_from_the_one_that_takes_over(
    pair: tuple[Simulator, Simulator], port: int, clock: Later, kind: str
) -> None:
    lin = linstor(clock, f"127.0.0.1:{pair[0].port}", f"127.0.0.1:{port}")
    lin.define("disk", placed(), {"Aux/one/VM_ID": "7"})
    pair[0].faults.add(Fault(kind, method="POST"))
    clock.after(8, lambda: pair[1].start("127.0.0.1", port))
    # The first one listens no more from that request on.
    pair[0].faults.before(2, lambda: pair[0]._server and pair[0]._server.socket.close())
    if kind == "drop":
        assert "nothing happened" in sentence(lambda: lin.add_volume("disk", SIZE), Refused)
    else:
        lin.add_volume("disk", SIZE)
    found = lin.definitions(["disk"])["disk"]
    assert (found.size is None) == (kind == "drop")


# --- a machine that is gone -------------------------------------------------------------------------------------


def test_the_kernel_watches_over_every_connection(clock: Later, opening: ExitStack) -> None:
    """Nothing but the deadline of the request would end it otherwise, and that is minutes."""
    controller = ScriptedController()
    opening.callback(controller.close)
    controller.says("GET /v1/nodes", nodes("ONLINE"))
    lin = linstor(clock, f"127.0.0.1:{controller.port}")
    for _ in range(2):
        lin.nodes()
        client = lin._link._client
        assert client
        sock = client._rest_conn.sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == GONE_SECONDS * 1000
        clock.sleep(3600)
