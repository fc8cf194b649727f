"""oned over XML-RPC: facts, and each way of not getting them as one sentence."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.oned import documents
from lab.oned.faults import Fault
from lab.oned.store import Documents
from lab.oned.xmlrpc import XmlRpc
from linstor_un.adapters.cloud import Oned
from linstor_un.errors import BadRequest, DriverError, Failed, NotFound, Refused, TimedOut, Unreachable


@pytest.fixture
def server() -> Iterator[XmlRpc]:
    store = Documents()
    store.put(documents.vm(7, [documents.DiskDocument(0, image=5)], hosts=("node1", "node2")))
    store.put(documents.datastore(100, RESOURCE_GROUP="one", SAFE_DIRS="/var/tmp"))
    for number, state in enumerate((0, 1, 2, 3, 4, 5, 6, 7, 8)):
        store.put(documents.host(number, f"node{number}", state))
    with XmlRpc(store) as running:
        yield running


def oned(server: XmlRpc, tmp_path: Path, session: str = "oneadmin:opennebula", **environ: str) -> Oned:
    auth = tmp_path / "one_auth"
    auth.write_text(session + "\n")
    return Oned({"ONE_XMLRPC": server.endpoint, "ONE_AUTH": str(auth), **environ}, seconds=5)


def test_facts_come_as_values(server: XmlRpc, tmp_path: Path) -> None:
    cloud = oned(server, tmp_path)
    assert cloud.vm(7).disks[0].image_id == 5
    assert cloud.datastore(100).template["RESOURCE_GROUP"] == "one"
    assert server.calls == [("one.vm.info", (7,)), ("one.datastore.info", (100, True))]


def test_hosts_that_failed_or_are_switched_off_are_not_usable(server: XmlRpc, tmp_path: Path) -> None:
    usable = {host.name for host in oned(server, tmp_path).hosts() if host.usable}
    assert usable == {"node0", "node1", "node2", "node6"}


def test_load_is_the_promised_share_of_a_host(tmp_path: Path) -> None:
    store = Documents()
    for number, (name, used, total) in enumerate([("busy", 300, 400), ("big", 300, 6400), ("idle", 0, 100)]):
        share = f"<HOST_SHARE><CPU_USAGE>{used}</CPU_USAGE><MAX_CPU>{total}</MAX_CPU></HOST_SHARE></HOST>"
        store.put(documents.host(number, name).replace("</HOST>", share))
    with XmlRpc(store) as server:
        hosts = oned(server, tmp_path).hosts()
    assert [host.name for host in sorted(hosts, key=lambda host: host.load)] == ["idle", "big", "busy"]


def test_endpoint_and_credentials_are_found_as_the_command_line_tools_find_them(
    server: XmlRpc, tmp_path: Path
) -> None:
    home = tmp_path / ".one"
    home.mkdir()
    (home / "one_endpoint").write_text(server.endpoint + "\n")
    (home / "one_auth").write_text("oneadmin:opennebula\n")
    assert Oned({"HOME": str(tmp_path)}).vm(7).id == 7


def test_what_does_not_exist_is_not_found(server: XmlRpc, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="VM 99"):
        oned(server, tmp_path).vm(99)


def test_wrong_credentials_are_told_without_them(server: XmlRpc, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="does not accept the credentials in .*one_auth") as raised:
        oned(server, tmp_path, session="oneadmin:secret").vm(7)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("session", ["", "nocolon"])
def test_a_file_without_credentials_is_named(server: XmlRpc, tmp_path: Path, session: str) -> None:
    with pytest.raises(BadRequest, match="one_auth does not hold USER:PASSWORD"):
        oned(server, tmp_path, session=session).vm(7)


def test_an_oned_that_is_not_there_is_unreachable(server: XmlRpc, tmp_path: Path) -> None:
    server.stop()
    with pytest.raises(Unreachable, match="does not answer .*is it running"):
        oned(server, tmp_path).vm(7)


def test_waiting_ends(tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        auth = tmp_path / "auth"
        auth.write_text("a:b")
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/RPC2"
        began = time.monotonic()
        with pytest.raises(TimedOut, match="no answer about VM 7 within 0.2 s"):
            Oned({"ONE_XMLRPC": endpoint, "ONE_AUTH": str(auth)}, seconds=0.2).vm(7)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.WRONG_CREDENTIALS, Refused),
        (Fault.INTERNAL_ERROR, Failed),
        (Fault.INVALID_XML, Failed),
        (Fault.INVALID_RPC, Failed),
    ],
)
def test_a_broken_answer_is_a_failure(
    server: XmlRpc, tmp_path: Path, fault: Fault, error: type[DriverError]
) -> None:
    server.faults.arm(fault, "one.vm.info", times=5)
    with pytest.raises(error) as raised:
        oned(server, tmp_path).vm(7)
    assert not isinstance(raised.value, (NotFound, BadRequest))


def test_a_connection_that_drops_once_is_asked_again(server: XmlRpc, tmp_path: Path) -> None:
    server.faults.arm(Fault.DROP, "one.vm.info")
    assert oned(server, tmp_path).vm(7).id == 7


def test_a_connection_that_keeps_dropping_is_unreachable(server: XmlRpc, tmp_path: Path) -> None:
    server.faults.arm(Fault.DROP, "one.vm.info", times=9)
    with pytest.raises(Unreachable):
        oned(server, tmp_path).vm(7)


@pytest.mark.parametrize("endpoint", ["ftp://x", "localhost:2633", "http://", "http://x:99999/RPC2", "http://a b/"])
def test_an_endpoint_that_is_none_is_named(server: XmlRpc, tmp_path: Path, endpoint: str) -> None:
    with pytest.raises(BadRequest, match="ONE_XMLRPC is"):
        oned(server, tmp_path, ONE_XMLRPC=endpoint).vm(7)


def test_a_proxy_is_not_asked_for_oned(server: XmlRpc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert oned(server, tmp_path).vm(7).id == 7
