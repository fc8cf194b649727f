"""Reaching a controller: the right one, safely, in bounded time, with one sentence when it cannot be."""

from __future__ import annotations

import gzip
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from linstor import Config
from linstor_un.adapters import controller_link
from linstor_un.adapters.controller import LinstorController
from linstor_un.errors import BadRequest, DriverError, Failed, Refused, Unreachable
from linstor_un.settings import Settings
from scripted_controller import Answer, Memory, ScriptedController, TestClock, error, scripted


@pytest.fixture(autouse=True)
def _no_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's linstor-client.conf nor its token count."""
    monkeypatch.delenv("LS_CONTROLLERS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(Config, "CONFIG", None, raising=False)


@pytest.fixture
def controller() -> Iterator[ScriptedController]:
    with scripted() as running:
        running.says("GET /v1/nodes", Answer(document=[{"name": "a", "connection_status": "ONLINE"}]))
        yield running


def linstor(*uris: str, trail: Any = None, **settings: Any) -> LinstorController:
    return LinstorController(Settings(controllers=uris, **settings), TestClock(), trail or Memory())


def sentence(act: Any, kind: type[DriverError] = DriverError) -> str:
    with pytest.raises(kind) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text
    return text


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def closed() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# --- connecting -------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_first_question(controller: ScriptedController) -> None:
    linstor(f"127.0.0.1:{controller.port}")
    assert controller.connections == 0


def test_several_questions_use_one_connection_and_one_version_request(controller: ScriptedController) -> None:
    lin = linstor(f"127.0.0.1:{controller.port}")
    lin.nodes()
    lin.nodes()
    assert controller.connections == 1
    assert [path for _, path, _ in controller.requests] == ["/v1/controller/version", "/v1/nodes", "/v1/nodes"]


def test_a_refusing_first_controller_is_passed_over(controller: ScriptedController, closed: int) -> None:
    assert linstor(f"127.0.0.1:{closed}", f"127.0.0.1:{controller.port}").nodes()[0].name == "a"


def test_a_silent_first_controller_costs_a_bounded_time(
    controller: ScriptedController, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_link, "CONNECT_SECONDS", 0.3)
    start = time.monotonic()
    assert linstor(f"127.0.0.1:{silent}", f"127.0.0.1:{controller.port}").nodes()
    assert time.monotonic() - start < 3


def test_a_controller_behind_a_broken_proxy_is_passed_over(controller: ScriptedController) -> None:
    with scripted() as broken:
        broken.says("GET /v1/controller/version", Answer(502, raw=b"<html>gone</html>", content_type="text/html"))
        assert linstor(f"127.0.0.1:{broken.port}", f"127.0.0.1:{controller.port}").nodes()


def test_the_sentence_names_every_controller_and_its_reason(closed: int) -> None:
    with scripted() as strange:
        strange.says("GET /v1/controller/version", Answer(document={"hello": 1}))
        text = sentence(linstor(f"127.0.0.1:{closed}", f"127.0.0.1:{strange.port}").nodes, Unreachable)
    assert f"linstor://127.0.0.1:{closed}: " in text and "refused" in text.lower()
    assert "no LINSTOR controller, it answers '{\"hello\": 1}'" in text and "check LS_CONTROLLERS" in text


def test_the_next_question_after_a_failover_goes_to_the_other_controller(controller: ScriptedController) -> None:
    with scripted() as first:
        first.says("GET /v1/nodes", Answer(document=[]))
        lin = linstor(f"127.0.0.1:{first.port}", f"127.0.0.1:{controller.port}")
        assert lin.nodes() == []
        lin._clock.sleep(controller_link.IDLE_SECONDS + 1)
    assert lin.nodes()[0].name == "a"


def test_an_idle_connection_is_renewed_without_a_new_version_request(controller: ScriptedController) -> None:
    lin = linstor(f"127.0.0.1:{controller.port}")
    lin.nodes()
    lin._clock.sleep(controller_link.IDLE_SECONDS + 1)
    lin.nodes()
    assert controller.connections == 2
    assert [path for _, path, _ in controller.requests].count("/v1/controller/version") == 1


@pytest.mark.parametrize("entry", ["ftp://h", "h:port", "h:0", "http://", "a b", "h:99999999", "h\x01"])
def test_an_entry_that_is_no_address_is_named(entry: str) -> None:
    assert repr(entry if "://" in entry else f"linstor://{entry}") in sentence(linstor(entry).nodes, BadRequest)


def test_without_ls_controllers_the_clients_configuration_counts(
    controller: ScriptedController, tmp_path: Path
) -> None:
    place = tmp_path / ".config" / "linstor"
    place.mkdir(parents=True)
    (place / "linstor-client.conf").write_text(f"[global]\ncontrollers=127.0.0.1:{controller.port}\n")
    assert linstor().nodes()


def test_the_environment_counts_before_the_clients_configuration(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LS_CONTROLLERS", f"127.0.0.1:{controller.port}")
    assert linstor().nodes()


def test_a_broken_client_configuration_is_one_sentence(tmp_path: Path) -> None:
    place = tmp_path / ".config" / "linstor"
    place.mkdir(parents=True)
    (place / "linstor-client.conf").write_text("controllers=here\n")
    assert "linstor-client.conf cannot be read" in sentence(linstor().nodes, BadRequest)


# --- TLS and tokens ---------------------------------------------------------------------------------------------


pytestmark = pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated")  # python-linstor's


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two authorities, a server for 127.0.0.1 and one for another name, a client."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    place = tmp_path_factory.mktemp("tls")
    for authority in ("ca", "other"):
        openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"),
            *("-subj", f"/CN={authority}", "-keyout", f"{place}/{authority}.key", "-out", f"{place}/{authority}.crt"),
        )
    for name, alternative in (("server", "IP:127.0.0.1"), ("elsewhere", "DNS:else.test"), ("client", "DNS:client")):
        openssl(
            *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", f"{place}/{name}.key", "-out", f"{place}/{name}.csr"),
        )
        (place / f"{name}.ext").write_text(f"subjectAltName={alternative}\n")
        openssl(
            *("x509", "-req", "-in", f"{place}/{name}.csr", "-CA", f"{place}/ca.crt", "-CAkey", f"{place}/ca.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", f"{place}/{name}.ext", "-out", f"{place}/{name}.crt"),
        )
    return place


def server_context(certificates: Path, name: str = "server", demand_client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.crt", certificates / f"{name}.key")
    if demand_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(certificates / "ca.crt")
    return context


@pytest.fixture
def secure(certificates: Path) -> Iterator[ScriptedController]:
    with scripted(tls=server_context(certificates)) as running:
        running.says("GET /v1/nodes", Answer(document=[]))
        yield running


def test_the_right_authority_is_trusted(secure: ScriptedController, certificates: Path) -> None:
    assert linstor(f"linstor+ssl://127.0.0.1:{secure.port}", cafile=str(certificates / "ca.crt")).nodes() == []


def test_a_wrong_authority_is_refused_before_any_request(secure: ScriptedController, certificates: Path) -> None:
    lin = linstor(f"https://127.0.0.1:{secure.port}", cafile=str(certificates / "other.crt"))
    assert "certificate verify failed" in sentence(lin.nodes, Unreachable).lower()
    assert secure.requests == []


def test_a_certificate_for_another_name_is_refused(certificates: Path) -> None:
    with scripted(tls=server_context(certificates, "elsewhere")) as running:
        lin = linstor(f"https://127.0.0.1:{running.port}", cafile=str(certificates / "ca.crt"))
        assert "not valid for '127.0.0.1'" in sentence(lin.nodes, Unreachable)
        assert running.requests == []


def test_without_an_authority_the_log_says_that_nothing_was_verified(secure: ScriptedController) -> None:
    trail = Memory()
    linstor(f"linstor+ssl://127.0.0.1:{secure.port}", trail=trail).nodes()
    assert any("its certificate is not verified, because LS_CAFILE is not set" in line for line in trail.lines)


def test_a_demanded_client_certificate_is_shown(certificates: Path) -> None:
    with scripted(tls=server_context(certificates, demand_client=True)) as running:
        running.says("GET /v1/nodes", Answer(document=[]))
        address, authority = f"linstor+ssl://127.0.0.1:{running.port}", str(certificates / "ca.crt")
        sentence(linstor(address, cafile=authority).nodes, Unreachable)
        lin = linstor(
            address,
            cafile=authority,
            certfile=str(certificates / "client.crt"),
            keyfile=str(certificates / "client.key"),
        )
        assert lin.nodes() == []


@pytest.mark.parametrize("attribute", ["certfile", "keyfile", "cafile", "token_file"])
def test_a_missing_file_is_named_with_its_attribute(controller: ScriptedController, attribute: str) -> None:
    lin = linstor(f"127.0.0.1:{controller.port}", **{attribute: "/nowhere/x.pem"})
    assert f"LS_{attribute.upper()}: /nowhere/x.pem cannot be read (No such file" in sentence(lin.nodes, BadRequest)


def test_a_file_that_is_no_certificate_is_one_sentence(secure: ScriptedController, tmp_path: Path) -> None:
    (tmp_path / "bad.pem").write_text("nonsense")
    bad = str(tmp_path / "bad.pem")
    for wrong in ({"certfile": bad, "keyfile": bad}, {"cafile": bad}):
        text = sentence(linstor(f"https://127.0.0.1:{secure.port}", **wrong).nodes, BadRequest)
        assert all(f"LS_{attribute.upper()} ({bad})" in text for attribute in wrong)


def test_a_key_with_a_passphrase_is_refused_instead_of_asked_for(certificates: Path, tmp_path: Path) -> None:
    key = str(tmp_path / "locked.key")
    openssl("ec", "-in", f"{certificates}/client.key", "-aes256", "-passout", "pass:secret", "-out", key)
    lin = linstor("https://127.0.0.1:1", certfile=f"{certificates}/client.crt", keyfile=key)
    assert "without passphrase" in sentence(lin.nodes, BadRequest)


def test_a_redirect_of_the_plain_port_is_followed_to_https(secure: ScriptedController, certificates: Path) -> None:
    with scripted() as plain:
        target = f"https://127.0.0.1:{secure.port}/v1/controller/version"
        plain.says("GET /v1/controller/version", Answer(302, raw=b"", headers={"Location": target}))
        lin = linstor(f"127.0.0.1:{plain.port}", cafile=str(certificates / "ca.crt"))
        assert lin.nodes() == []
        assert plain.connections == 1


def test_a_token_is_sent_over_tls_only(
    secure: ScriptedController, controller: ScriptedController, certificates: Path, tmp_path: Path, capfd: Any
) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    token, trail = str(tmp_path / "token"), Memory()
    secure_address = f"linstor+ssl://127.0.0.1:{secure.port}"
    linstor(secure_address, cafile=str(certificates / "ca.crt"), token_file=token).nodes()
    assert {headers.get("Authorization") for headers in secure.headers} == {"Bearer s3cret"}
    linstor(f"127.0.0.1:{controller.port}", token_file=token, trail=trail).nodes()
    assert not any("Authorization" in headers for headers in controller.headers)
    assert any("LS_TOKEN_FILE is not used" in line for line in trail.warned())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("content", ["", "two words", "a\r\nHost: evil", "\u00e4"])
def test_a_file_without_a_token_is_refused(controller: ScriptedController, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_bytes(content.encode())
    text = sentence(linstor(f"127.0.0.1:{controller.port}", token_file=str(tmp_path / "token")).nodes, BadRequest)
    assert "holds no token" in text


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_are_called_so(controller: ScriptedController, status: int) -> None:
    controller.says("GET /v1/nodes", Answer(status, [error(402, "Access denied.")]))
    text = sentence(linstor(f"127.0.0.1:{controller.port}").nodes, Refused)
    assert f"refused our credentials (HTTP {status}: Access denied); check LS_TOKEN_FILE" in text


# --- deadlines and hostile answers ------------------------------------------------------------------------------


def test_a_question_that_is_never_answered_ends_at_its_deadline(controller: ScriptedController) -> None:
    controller.says("GET /v1/nodes", Answer(hang=True))
    lin = linstor(f"127.0.0.1:{controller.port}", timeout=1)
    start = time.monotonic()
    assert "no answer within 1 s" in sentence(lin.nodes, Failed)
    assert time.monotonic() - start < 5


def test_a_question_whose_answer_is_lost_is_asked_once_more(controller: ScriptedController) -> None:
    controller.says("GET /v1/nodes", Answer(drop=True), Answer(document=[]))
    assert linstor(f"127.0.0.1:{controller.port}").nodes() == []


@pytest.mark.parametrize(
    "answer",
    [
        Answer(raw=b"<html><body>hello</body></html>", content_type="text/html"),
        Answer(502, raw=b"<html>bad gateway</html>", content_type="text/html"),
        Answer(raw=b""),
        Answer(500, raw=b""),
        Answer(raw=b'[{"name": "a"'),
        Answer(raw=b"\xff\xfe\x00"),
        Answer(raw=b"[" * 200000),
        Answer(document={"name": "a"}),
        Answer(document=[1, 2]),
        Answer(document=[{"no": "name"}]),
        Answer(document=[{"name": "a", "flags": 7}]),
        Answer(document=None),
        Answer(500, document=[{"ret_code": "many"}]),
        Answer(500, document={"messages": 5}),
        Answer(raw=b"not gzip", headers={"Content-Encoding": "gzip"}),
        Answer(raw=b"short", headers={"Content-Length": "5000", "Connection": "close"}),
        Answer(raw=b"zz\r\nbroken", headers={"Transfer-Encoding": "chunked", "Connection": "close"}),
    ],
)
def test_a_hostile_answer_is_one_sentence(controller: ScriptedController, answer: Answer) -> None:
    controller.says("GET /v1/nodes", answer)
    assert "cannot list the nodes" in sentence(linstor(f"127.0.0.1:{controller.port}", timeout=2).nodes, Failed)


def test_an_answer_that_inflates_without_end_is_cut_off(
    controller: ScriptedController, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controller_link, "MAX_BODY", 1 << 20)
    bomb = gzip.compress(b" " * (64 << 20))
    controller.says("GET /v1/nodes", Answer(raw=bomb, headers={"Content-Encoding": "gzip"}))
    assert "larger than 1 MiB" in sentence(linstor(f"127.0.0.1:{controller.port}").nodes, Failed)


def test_a_compressed_answer_is_understood(controller: ScriptedController) -> None:
    packed = gzip.compress(b'[{"name": "n", "connection_status": "OFFLINE"}]')
    controller.says("GET /v1/nodes", Answer(raw=packed, headers={"Content-Encoding": "gzip"}))
    (node,) = linstor(f"127.0.0.1:{controller.port}").nodes()
    assert (node.name, node.online) == ("n", False)
