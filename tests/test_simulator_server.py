"""The simulated controller as clients meet it: over HTTP and TLS, with a token, in trouble, and with 10 000 volumes."""

from __future__ import annotations

import gzip
import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Optional

import pytest
from lab.controller.__main__ import build
from lab.controller.cluster import Definition, Resource, Volume, VolumeDefinition
from lab.controller.faults import Fault
from lab.controller.features import RELEASES
from lab.controller.server import Controller, Tls

NODES = ["node1", "node2", "node3"]
Answer = tuple[int, Any]


def controller(version: str = "1.33", token: str = "") -> Controller:
    return Controller(build(version, NODES, ["thin:LVM_THIN:10G"], ["DRBD", "LUKS", "STORAGE"]), token).start()


def call(served: Controller, method: str, path: str, body: Any = None, headers: Optional[dict[str, str]] = None,
         timeout: float = 10) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers or {})
        answer = connection.getresponse()
        raw = answer.read()
        if answer.getheader("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        return answer.status, json.loads(raw) if raw else None
    finally:
        connection.close()


def names(served: Controller) -> list[str]:
    return [one["name"] for one in call(served, "GET", "/v1/resource-definitions")[1]]


def create(served: Controller, name: str) -> Answer:
    return call(served, "POST", "/v1/resource-definitions", {"resource_definition": {"name": name}})


@pytest.mark.parametrize("version", RELEASES)
def test_every_version_tells_its_rest_version_and_takes_a_volume_through_its_life(version: str) -> None:
    with controller(version) as served:
        status, told = call(served, "GET", "/v1/controller/version")
        assert (status, told["version"], told["rest_api_version"]) == (200, *RELEASES[version])
        steps = [
            ("POST", "", {"resource_definition": {"name": "one-1", "layer_data": [{"type": "STORAGE"}]}}, 201),
            ("POST", "/one-1/volume-definitions", {"volume_definition": {"size_kib": 65536}}, 200),
            ("POST", "/one-1/autoplace", {"select_filter": {"place_count": 2}}, 201),
            ("POST", "/one-1/snapshots", {"name": "snap"}, 201),
            ("POST", "/one-1/snapshot-rollback/snap", {}, 200),
            ("DELETE", "/one-1/snapshots/snap", None, 200),
            ("DELETE", "/one-1", None, 200),
        ]
        for method, path, body, wanted in steps:
            status, answer = call(served, method, "/v1/resource-definitions" + path, body)
            assert status == wanted, (path, answer)
        assert names(served) == []


def test_a_newer_key_is_refused_by_an_older_version() -> None:
    body = {"name": "snap", "snapshot_definition_props": {"Aux/a": "1"}}
    for version, status in (("1.27", 500), ("1.33", 404)):
        with controller(version) as served:
            assert call(served, "POST", "/v1/resource-definitions/one-1/snapshots", body)[0] == status


def test_long_answers_are_compressed_only_when_asked_for() -> None:
    with controller() as served:
        for encoding, compressed in (("gzip", True), ("identity", False)):
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
            connection.request("GET", "/v1/nodes", headers={"Accept-Encoding": encoding})
            assert (connection.getresponse().getheader("Content-Encoding") == "gzip") is compressed
            connection.close()


def test_without_the_token_nothing_is_told_but_the_health() -> None:
    with controller(token="secret") as served:
        assert call(served, "GET", "/v1/nodes")[0] == 401
        assert call(served, "GET", "/v1/nodes", headers={"Authorization": "Bearer wrong"})[0] == 401
        assert call(served, "GET", "/v1/nodes", headers={"Authorization": "Bearer secret"})[0] == 200
        assert call(served, "GET", "/health")[0] == 200


def certificate(folder: Path) -> tuple[str, str]:
    files = str(folder / "certificate.pem"), str(folder / "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-days", "1", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def test_over_tls_a_client_certificate_may_be_asked_for(tmp_path: Path) -> None:
    made, key = certificate(tmp_path)
    cluster = build("1.33", NODES, [], ["STORAGE"])
    with Controller(cluster).start(tls=Tls(made, key, client_ca=made)) as served:
        context = ssl.create_default_context(cafile=made)
        with pytest.raises((ssl.SSLError, OSError)):
            _over_tls(served, context)
        context.load_cert_chain(made, key)
        assert _over_tls(served, context) == 200


def _over_tls(served: Controller, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", served.port, context=context, timeout=10)
    connection.request("GET", "/v1/nodes")
    return connection.getresponse().status


def test_a_refusal_changes_nothing_and_a_lost_answer_everything() -> None:
    with controller() as served:
        served.faults.add(Fault("refuse", at=1, method="POST"))
        served.faults.add(Fault("lose_answer", at=2, method="POST"))
        served.faults.add(Fault("drop", at=3, method="POST"))
        status, answer = create(served, "refused")
        assert (status, answer[0]["ret_code"] & 0xFFFF) == (500, 998)
        for name in ("lost", "dropped"):
            with pytest.raises((http.client.HTTPException, OSError)):
                create(served, name)
        assert create(served, "fine")[0] == 201
        assert names(served) == ["fine", "lost"]


def test_faults_count_no_question_for_the_version() -> None:
    with controller() as served:
        served.faults.add(Fault("refuse", at=1))
        assert call(served, "GET", "/v1/controller/version")[0] == 200
        assert create(served, "one")[0] == 500
        assert [one["path"] for one in served.faults.log] == ["/v1/controller/version", "/v1/resource-definitions"]


def test_a_hanging_request_ends_when_it_is_let_go() -> None:
    with controller() as served:
        served.faults.add(Fault("hang", method="POST"))
        arrived = threading.Event()
        served.faults.before(1, arrived.set)
        ended: list[BaseException] = []

        def ask() -> None:
            try:
                create(served, "hung")
            except (http.client.HTTPException, OSError) as problem:
                ended.append(problem)

        waiting = threading.Thread(target=ask)
        waiting.start()
        assert arrived.wait(10)
        assert names(served) == []
        assert waiting.is_alive()
        served.faults.release()
        waiting.join(10)
        assert len(ended) == 1


def test_a_late_answer_comes_after_the_deed() -> None:
    with controller() as served:
        served.faults.add(Fault("late", seconds=0.5, method="POST"))
        with pytest.raises(OSError):
            call(served, "POST", "/v1/resource-definitions", {"resource_definition": {"name": "late"}}, timeout=0.2)
        assert names(served) == ["late"]


def test_a_controller_that_restarts_answers_nobody_and_then_as_before() -> None:
    with controller() as served:
        assert create(served, "kept")[0] == 201
        served.faults.add(Fault("restart", seconds=0.3))
        end = time.monotonic() + 10
        failures = 0
        while True:
            assert time.monotonic() < end
            try:
                assert names(served) == ["kept"]
                break
            except (http.client.HTTPException, OSError):
                failures += 1
        assert failures > 0


def test_a_hook_sees_the_world_right_before_a_request() -> None:
    with controller() as served:
        seen: list[list[str]] = []
        served.faults.before(2, lambda: seen.append(sorted(served.cluster.definitions)))
        create(served, "first")
        create(served, "second")
        assert seen == [["FIRST"]]


def test_the_side_door_serves_tests_in_another_process() -> None:
    process = subprocess.Popen([sys.executable, "-m", "lab.controller", "--nodes", "node1,node2", "--pool",
                                "thin:FILE_THIN:10G", "--layers", "STORAGE"], stdout=subprocess.PIPE, text=True,
                               cwd=Path(__file__).parent)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        served = type("Served", (), {"port": port})
        assert call(served, "POST", "/lab/faults", {"kind": "refuse", "method": "POST"})[0] == 200
        assert create(served, "one")[0] == 500
        call(served, "POST", "/lab/nodes/node2", {"online": False})
        call(served, "POST", "/lab/open", {"node": "node1", "resource": "one-1", "mode": "ro"})
        state = call(served, "GET", "/lab/state")[1]
        assert [one["connection_status"] for one in state["nodes"]] == ["ONLINE", "OFFLINE"]
        assert state["openers"] == [{"resource": "ONE-1", "node": "NODE1", "mode": "ro"}]
        assert [one["status"] for one in call(served, "GET", "/lab/requests")[1]] == [500]
        call(served, "POST", "/lab/reset")
        assert call(served, "GET", "/lab/requests")[1] == []
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.slow
def test_ten_thousand_volumes_are_served_in_about_a_second() -> None:
    with controller() as served:
        for number in range(10_000):
            one = Definition(f"one-vm-{number}-disk-0", "DfltRscGrp", layers=["DRBD", "STORAGE"],
                             props={"Aux/one/DS_ID": str(number % 2)})
            one.volumes[0] = VolumeDefinition(0, 1024)
            for node in ("node1", "node2"):
                one.resources[node.upper()] = Resource(one, node, ["DRBD", "STORAGE"], known=True,
                                                       volumes={0: Volume(0, "thin", size=1024, usable=1024)})
            served.cluster.definitions[one.name.upper()] = one
        began = time.process_time()
        listed = call(served, "GET", "/v1/resource-definitions?props=Aux/one/DS_ID%3D1&with_volume_definitions=true")[1]
        sizes = call(served, "POST", "/v1/resource-groups/DfltRscGrp/query-size-info", {})[1]
        assert len(listed) == 5000
        assert sizes["space_info"]["capacity_in_kib"] > 0
        assert time.process_time() - began < 2


def test_a_refused_clone_after_a_rollback_spoils_the_controller_until_it_restarts() -> None:
    root = "/v1/resource-definitions"
    files = Controller(build("1.33", NODES, ["files:FILE:10G"], ["STORAGE"])).start()
    with files as served:
        group = {"name": "files", "select_filter": {"storage_pool_list": ["files"], "layer_stack": ["STORAGE"],
                                                    "place_count": 1}}
        assert call(served, "POST", "/v1/resource-groups", group)[0] == 201
        spawn = "/v1/resource-groups/files/spawn"
        assert call(served, "POST", spawn, {"resource_definition_name": "one", "volume_sizes": [65536]})[0] == 201
        assert call(served, "POST", f"{root}/one/snapshots", {"name": "snap"})[0] == 201
        assert call(served, "POST", f"{root}/one/snapshot-rollback/snap", {})[0] == 200
        assert call(served, "DELETE", f"{root}/one/snapshots/snap")[0] == 200
        status, told = call(served, "POST", f"{root}/one/clone", {"name": "two"})
        assert status == 500 and "TransactionMgr" in told["messages"][-1]["message"]
        assert "two" in names(served)
        assert "transMgr" in create(served, "three")[1][0]["message"]
        assert create(served, "three")[0] == 201
        four = {"resource_definition_name": "four", "volume_sizes": [65536]}
        assert call(served, "POST", spawn, four)[0] == 500
        assert call(served, "POST", spawn, four)[0] == 201
        assert call(served, "DELETE", f"{root}/one")[0] == 500
        served.faults.add(Fault("restart", seconds=0))
        with pytest.raises((http.client.HTTPException, OSError)):
            names(served)
        assert names(served) == ["four", "one", "three"]
        assert call(served, "DELETE", f"{root}/one")[0] == 200


def test_a_restarted_controller_shows_a_state_of_resources_before_it_knows_their_devices() -> None:
    with Controller(build("1.33", NODES, ["files:FILE_THIN:10G"], ["STORAGE"])).start() as served:
        group = {"name": "files", "select_filter": {"layer_stack": ["STORAGE"], "place_count": 2}}
        assert call(served, "POST", "/v1/resource-groups", group)[0] == 201
        one = {"resource_definition_name": "one", "volume_sizes": [65536]}
        assert call(served, "POST", "/v1/resource-groups/files/spawn", one)[0] == 201
        served.faults.add(Fault("restart", seconds=0))
        with pytest.raises((http.client.HTTPException, OSError)):
            names(served)
        for known in (False, True):
            for resource in call(served, "GET", "/v1/resource-definitions/one/resources")[1]:
                volume = resource["layer_object"]["storage"]["storage_volumes"][0]
                assert resource["state"] == {} and ("device_path" in volume) == known
                assert (volume["usable_size_kib"] == -1) != known
