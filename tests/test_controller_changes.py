"""Changing things on LINSTOR: what is sent, what counts as done, and what a lost answer means."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from linstor_un.adapters.controller import LinstorController
from linstor_un.errors import (
    DriverError,
    Exists,
    Failed,
    InUse,
    NotEnoughSpace,
    NotFound,
    Pending,
    Refused,
    TimedOut,
    Uncertain,
    Unsupported,
)
from linstor_un.settings import Settings
from linstor_un.units import Kib
from scripted_controller import (
    DELETE_DEFINITION,
    Answer,
    Memory,
    ScriptedController,
    TestClock,
    definition,
    error,
    resource,
    scripted,
    success,
    warning,
)

MARKS = {"Aux/one/IMAGE_ID": "7", "Aux/one/RUN": "me"}
RD = "/v1/resource-definitions"
SNAPSHOT = 0x1000000 | 0x0C0000
THIN = Settings(storage_pools=("thin",))
GROUP = {"name": "rg", "select_filter": {"place_count": 2}}


class Bench:
    """A scripted controller and the adapter that talks to it."""

    def __init__(self, server: ScriptedController) -> None:
        self.server = server
        self.says = server.says
        self.trail = Memory()

    def lin(self, **settings: Any) -> LinstorController:
        wanted = Settings(controllers=(f"127.0.0.1:{self.server.port}",), **{"timeout": 2, **settings})
        return LinstorController(wanted, TestClock(), self.trail)

    def knows(self, *definitions: Any) -> None:
        self.says(f"GET {RD}\\?", Answer(document=list(definitions)))

    def has(self, name: str, *resources: Any) -> None:
        self.says(f"GET {RD}/{name}/resources", Answer(document=list(resources)))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with scripted() as server:
        yield Bench(server)


@pytest.fixture
def old() -> Iterator[Bench]:
    """LINSTOR 1.20, which refuses most newer keys."""
    with scripted("1.15.1") as server:
        yield Bench(server)


def sentence(act: Callable[[], Any], kind: type[DriverError]) -> str:
    with pytest.raises(kind) as caught:
        act()
    assert type(caught.value) is kind
    return str(caught.value)


# --- the choke point --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ([error(501, "exists")], Exists),
        ([error(514, "snapshots")], Exists),
        ([error(996, "no nodes")], NotEnoughSpace),
        ([error(980, "no space")], NotEnoughSpace),
        ([error(206, "Not enough free space available for volume 0")], NotEnoughSpace),
        ([error(206, "Volume size 0 is invalid")], Refused),
        ([error(317, "no group")], NotFound),
        ([error(310, "no pool")], NotFound),
        ([error(997, "in use")], InUse),
        ([error(988, "no layer")], Unsupported),
        ([error(994, "no snapshots")], Unsupported),
        ([error(225, "stack")], Unsupported),
        ([error(227, "provider")], Unsupported),
        ([error(312, "no key")], Unsupported),
        ([error(974, "not up to date")], Refused),
        ([error(213, "bad property")], Refused),
        ([error(998, "unknown")], Failed),
        ([error(32765, "Unable to parse input json.")], Failed),
        ([success(1), error(995, "No connection to satellite 'node3'")], Failed),
        ([success(1), error(206, "Not enough free space")], Failed),
    ],
)
def test_low_bits_decide_the_error(bench: Bench, answer: Any, kind: type[DriverError]) -> None:
    bench.says(f"POST {RD}/one/volume-definitions", Answer(500, answer))
    sentence(lambda: bench.lin().add_volume("one", Kib(4096)), kind)


def test_a_sentence_has_the_object_the_reason_the_cause_and_the_report(bench: Bench) -> None:
    told = error(996, "Not enough available nodes.", cause="Too few pools", error_report_ids=["63F1-0001"])
    bench.says(f"POST {RD}/one-7/autoplace", Answer(500, [told]))
    lin = bench.lin()
    assert sentence(lambda: lin.place("one-7", Settings(replica_count=2, storage_pools=("thin",))), NotEnoughSpace) == (
        "cannot place one-7 on 2 nodes of thin: Not enough available nodes: Too few pools (ErrorReport 63F1-0001)"
    )


@pytest.mark.parametrize("code", [312, 998])
def test_a_missing_master_passphrase_says_what_to_do(bench: Bench, code: int) -> None:
    told = error(code, "An exception occurred", cause="Unable to create encrypt key without having a master key")
    bench.says(f"POST {RD}/one/autoplace", Answer(500, [told]))
    text = sentence(lambda: bench.lin().place("one", Settings(replica_count=1)), Unsupported)
    assert "linstor encryption create-passphrase" in text


# --- what is sent -----------------------------------------------------------------------------------------------


def test_a_definition_is_born_with_its_marks_and_layers(bench: Bench) -> None:
    bench.says(f"POST {RD}$", Answer(201, [success()]))
    bench.lin().define("one", Settings(layer_list=("DRBD", "STORAGE"), resource_group="rg"), MARKS)
    ((_, body),) = bench.server.asked("POST")
    assert body == {
        "resource_definition": {
            "name": "one",
            "props": MARKS,
            "layer_data": [{"type": "drbd"}, {"type": "storage"}],
            "resource_group_name": "rg",
        }
    }


@pytest.mark.parametrize(
    ("settings", "inherited", "stack"),
    [
        ({}, None, None),
        ({"layer_list": ("drbd",)}, None, ["drbd", "storage"]),
        ({"encryption": True}, None, ["drbd", "luks", "storage"]),
        ({"encryption": True, "layer_list": ("STORAGE",)}, None, ["luks", "storage"]),
        ({"encryption": True, "layer_list": ("DRBD", "LUKS", "STORAGE")}, None, ["drbd", "luks", "storage"]),
        ({"encryption": True, "resource_group": "rg"}, ["storage"], ["luks", "storage"]),
        ({"encryption": True, "resource_group": "rg"}, None, ["drbd", "luks", "storage"]),
    ],
)
def test_encryption_is_a_layer_above_storage(bench: Bench, settings: Any, inherited: Any, stack: Any) -> None:
    rules = {"place_count": 2, **({"layer_stack": inherited} if inherited else {})}
    bench.says("GET /v1/resource-groups/rg", Answer(document={"name": "rg", "select_filter": rules}))
    bench.says(f"POST {RD}$", Answer(201, [success()]))
    bench.lin().define("one", Settings(**settings), MARKS)
    ((_, body),) = bench.server.asked("POST")
    layers = body["resource_definition"].get("layer_data")
    assert (layers and [layer["type"] for layer in layers]) == stack


def test_placement_settings_become_a_filter_of_only_what_is_set(bench: Bench) -> None:
    placed = success(1, message="autoplaced", obj_refs={"Node/0": "b", "StoragePool/0/0": "thin,LVM_THIN"})
    bench.says(f"POST {RD}/one/autoplace", Answer(201, [placed]))
    settings = Settings(
        replica_count=2,
        storage_pools=("thin",),
        providers=("lvm_thin",),
        replicas_on_same=("zone", "Aux/rack=3"),
        replicas_on_different=("site",),
        do_not_place_with=("one-vm-1",),
        do_not_place_with_regex="one-vm-2.*",
        layer_list=("DRBD", "STORAGE"),
    )
    assert bench.lin().place("one", settings, nodes=["a", "b"]) == {"b": "LVM_THIN"}
    bench.lin().place("one", Settings(resource_group="rg"))
    first, second = (body for _, body in bench.server.asked("POST"))
    assert first == {
        "select_filter": {
            "place_count": 2,
            "node_name_list": ["a", "b"],
            "storage_pool_list": ["thin"],
            "provider_list": ["LVM_THIN"],
            "replicas_on_same": ["Aux/zone", "Aux/rack=3"],
            "replicas_on_different": ["Aux/site"],
            "not_place_with_rsc": ["one-vm-1"],
            "not_place_with_rsc_regex": "one-vm-2.*",
        },
        "layer_list": ["drbd", "storage"],
    }
    assert second == {"select_filter": {}}


def test_spawn_is_one_request_and_tells_where_and_on_what(bench: Bench) -> None:
    refs = {"Node/0": "a", "Node/1": "b", "StoragePool/0/0": "thin,LVM_THIN", "StoragePool/1/0": "t2,ZFS"}
    bench.says("POST /v1/resource-groups/rg/spawn", Answer(201, [success(), success(obj_refs=refs)]))
    placed = bench.lin().spawn("one", Kib(65536), Settings(resource_group="rg", replica_count=2), MARKS)
    assert placed == {"a": "LVM_THIN", "b": "ZFS"}
    assert bench.server.asked("GET") == []
    assert bench.server.asked("POST")[0][1] == {
        "resource_definition_name": "one",
        "volume_sizes": [65536],
        "resource_definition_props": MARKS,
        "select_filter": {"place_count": 2},
    }


def test_spawn_without_replicas_is_no_success(bench: Bench) -> None:
    bench.says("POST /v1/resource-groups/rg/spawn", Answer(201, [success()]))
    bench.has("one")
    assert "without replicas" in sentence(
        lambda: bench.lin().spawn("one", Kib(4096), Settings(resource_group="rg"), MARKS), Failed
    )


def test_an_old_controller_is_never_sent_what_it_does_not_know(old: Bench) -> None:
    lin, settings = old.lin(), Settings(resource_group="rg")
    sentence(lambda: lin.spawn("one", Kib(4096), settings, MARKS), Unsupported)
    assert old.server.asked("POST") == []
    old.says(f"POST {RD}/one/resources/b/make-available", Answer(200, [success()]))
    lin.attach("one", "b", settings, ["DRBD", "STORAGE"])
    assert old.server.asked("POST")[0][1] == {"diskful": False}
    old.has("one", resource("one", "b", ("DISKLESS", "DRBD_DISKLESS")))
    old.says(f"DELETE {RD}/one/resources/b", Answer(200, [success(2)]))
    lin.release("one", "b")
    assert old.server.asked("DELETE") == [(f"{RD}/one/resources/b", None)]


def test_names_are_quoted_in_paths(bench: Bench) -> None:
    bench.says(f"GET {RD}/a", Answer(document=[]))
    bench.lin().replicas("a/../b?c=d&e#f\r\n")
    assert bench.server.asked("GET") == [(f"{RD}/a%2F..%2Fb%3Fc%3Dd%26e%23f%0D%0A/resources", None)]


def test_ten_thousand_definitions_are_read_in_little_time(bench: Bench) -> None:
    marks = {"Aux/one/VM_ID": "1234", "Aux/one/DISK_ID": "0", "Aux/one/DS_ID": "100", "DrbdOptions/quorum": "majority"}
    items = [definition(f"one-vm-{number}-disk-0", marks, uuid="0" * 36) for number in range(10_000)]
    packed = gzip.compress(json.dumps(items).encode())
    bench.says(f"GET {RD}\\?", Answer(raw=packed, headers={"Content-Encoding": "gzip"}))
    lin = bench.lin(timeout=60)
    start = time.thread_time()
    assert len(lin.marked({"Aux/one/DS_ID": "100"})) == 10_000
    assert time.thread_time() - start < 0.6
    assert bench.server.asked("GET") == [(f"{RD}?props=Aux%2Fone%2FDS_ID%3D100&with_volume_definitions=true", None)]


# --- replicas ---------------------------------------------------------------------------------------------------


def test_a_list_with_one_existing_replica_is_sent_again_without_it(bench: Bench) -> None:
    """LINSTOR creates nothing of such a list and answers 201."""
    info = {"ret_code": (1 << 62) | 10008, "message": "already exists"}
    bench.says(f"POST {RD}/one/resources", Answer(201, [info]), Answer(201, [success()]))
    bench.has("one", resource("one", "a"))
    bench.lin().add_replicas("one", ["a", "b"], THIN)
    bodies = [[item["resource"]["node_name"] for item in body] for _, body in bench.server.asked("POST")]
    assert bodies == [["a", "b"], ["b"]]


def test_a_replica_on_an_offline_node_is_no_success(bench: Bench) -> None:
    bench.says(f"POST {RD}/one/resources", Answer(201, [success(), warning(1002, "No active connection")]))
    bench.has("one", resource("one", "a"), {**resource("one", "b"), "state": None})
    text = sentence(lambda: bench.lin().add_replicas("one", ["a", "b"], THIN), Failed)
    assert "b got no replica" in text and "a, b got" not in text


def test_the_first_configured_pool_that_a_node_has_is_taken(bench: Bench) -> None:
    pools = [("fast", "a"), ("slow", "a"), ("slow", "b")]
    bench.says(
        "GET /v1/view/storage-pools",
        Answer(document=[{"storage_pool_name": p, "node_name": n, "provider_kind": "LVM_THIN"} for p, n in pools]),
    )
    bench.says(f"POST {RD}/one/resources", Answer(201, [success()]))
    lin, settings = bench.lin(), Settings(storage_pools=("fast", "slow"))
    lin.add_replicas("one", ["a", "b"], settings)
    ((_, body),) = bench.server.asked("POST")
    assert [item["resource"]["props"]["StorPoolName"] for item in body] == ["fast", "slow"]
    refusal = sentence(lambda: lin.add_replicas("one", ["c"], settings), NotFound)
    assert "node c has no storage pool of fast slow" in refusal


def test_without_drbd_a_device_is_only_where_a_replica_is(bench: Bench) -> None:
    """LINSTOR would create an independent, empty device."""
    bench.has("one", resource("one", "a", drbd=False))
    lin = bench.lin()
    lin.attach("one", "a", Settings(), ["STORAGE"])
    text = sentence(lambda: lin.attach("one", "b", Settings(), ["STORAGE"]), Unsupported)
    assert "without the DRBD layer it is only on a" in text
    assert bench.server.asked("POST") == []


def test_an_attachment_carries_the_layers_even_if_they_have_to_be_looked_up(bench: Bench) -> None:
    """After a rollback LINSTOR 1.33 has forgotten them and would attach by its default."""
    encrypted = resource("one", "c")
    storage = encrypted["layer_object"]["children"]
    encrypted["layer_object"]["children"] = [{"type": "LUKS", "children": storage}]
    bench.has("one", resource("one", "a", ("DISKLESS", "DRBD_DISKLESS", "TIE_BREAKER")), encrypted)
    bench.says(f"POST {RD}/one/resources/b/make-available", Answer(200, [success()]))
    bench.lin().attach("one", "b", Settings(), [])
    assert bench.server.asked("POST")[0][1] == {"diskful": False, "layer_list": ["drbd", "luks", "storage"]}


def test_already_deployed_is_no_proof_for_an_offline_node(bench: Bench) -> None:
    bench.says(f"POST {RD}/one/resources/b/make-available", Answer(200, [success(0, message="already")]))
    bench.has("one", {**resource("one", "b"), "state": None})
    assert "no connection to b" in sentence(lambda: bench.lin().attach("one", "b", Settings(), ["DRBD"]), Failed)
    bench.has("one", resource("one", "b"))
    bench.lin().attach("one", "b", Settings(), ["DRBD"])


def test_a_diskless_pool_of_ones_own_is_named(bench: Bench) -> None:
    bench.says(f"POST {RD}/one/resources$", Answer(201, [success()]))
    bench.lin().attach("one", "b", Settings(diskless_pool="nodisk"), ["DRBD", "STORAGE"])
    resource_body = {"node_name": "b", "flags": ["DRBD_DISKLESS"], "props": {"StorPoolName": "nodisk"}}
    assert bench.server.asked("POST")[0][1] == [{"resource": resource_body, "layer_list": ["drbd", "storage"]}]


@pytest.mark.parametrize("there", [(), ("DISKLESS", "DRBD_DISKLESS", "TIE_BREAKER")])
def test_release_leaves_replicas_and_tiebreakers_alone(bench: Bench, there: tuple[str, ...]) -> None:
    bench.has("one", resource("one", "b", there))
    lin = bench.lin()
    lin.release("one", "b")
    lin.release("one", "elsewhere")
    bench.says(f"GET {RD}/one/resources", Answer(404, [error(301, "not found")]))
    lin.release("one", "b")
    assert bench.server.asked("DELETE") == []


def test_release_keeps_the_tiebreaker(bench: Bench) -> None:
    bench.has("one", resource("one", "b", ("DISKLESS", "DRBD_DISKLESS")))
    bench.says(f"DELETE {RD}/one/resources/b", Answer(200, [success(2)]))
    bench.lin().release("one", "b")
    assert bench.server.asked("DELETE") == [(f"{RD}/one/resources/b?keep_tiebreaker=True", None)]


def test_a_device_that_a_reader_keeps_open_is_not_released(bench: Bench) -> None:
    """DRBD cannot shut it down: 998, and the resource is half gone."""
    half = ("DISKLESS", "DRBD_DISKLESS", "DRBD_DELETE")
    before = Answer(document=[resource("one", "b", half[:2])])
    bench.says(f"GET {RD}/one/resources", before, Answer(document=[resource("one", "b", half)]))
    bench.says(f"DELETE {RD}/one/resources/b", Answer(500, [success(2), error(998, "Shutdown failed")]))
    assert "Shutdown failed" in sentence(lambda: bench.lin().release("one", "b"), Failed)


# --- a replica that goes -------------------------------------------------------------------------------------------


def shows(bench: Bench, **states: str) -> None:
    """Say what DRBD has of a volume on each node, "" for a state that nobody reported."""
    found = []
    for node, state in states.items():
        volume = {"volume_number": 0, "state": {"disk_state": state} if state else {}}
        found.append(resource("one", node, volumes=[volume]))
    bench.says("GET /v1/view/resources", Answer(document=found))
    bench.has("one", *found)


@pytest.mark.parametrize("state", ["Inconsistent", "Outdated", "SyncTarget", "DUnknown", ""])
def test_no_replica_goes_before_enough_others_have_all_data(bench: Bench, state: str) -> None:
    bench.says(f"DELETE {RD}/one/resources/a", Answer(200, [success(2)]))
    shows(bench, a="UpToDate", b="UpToDate", c=state)
    said = sentence(lambda: bench.lin().remove_replica("one", "a", 2), Refused)
    assert "only 1 others are up to date, and 2 have to stay" in said
    assert not bench.server.asked("DELETE")


def test_the_last_replica_with_all_data_never_goes(bench: Bench) -> None:
    shows(bench, a="UpToDate", b="Inconsistent")
    sentence(lambda: bench.lin().remove_replica("one", "a", 0), Refused)
    assert not bench.server.asked("DELETE")


def test_no_replica_goes_while_they_differ(bench: Bench) -> None:
    shows(bench, a="UpToDate", b="UpToDate")
    apart = resource("one", "b")
    apart["layer_object"]["drbd"]["connections"] = {"a": {"connected": False, "message": "StandAlone"}}
    bench.has("one", resource("one", "a"), apart)
    assert "have differing data" in sentence(lambda: bench.lin().remove_replica("one", "a", 1), Refused)
    assert not bench.server.asked("DELETE")


def test_a_replica_that_is_still_there_did_not_go(bench: Bench) -> None:
    shows(bench, a="UpToDate", b="UpToDate")
    bench.says(f"DELETE {RD}/one/resources/a", Answer(200, [success(2)]))
    assert "still there" in sentence(lambda: bench.lin().remove_replica("one", "a", 1), Failed)


# --- deleting ---------------------------------------------------------------------------------------------------


def gone(*before: Any) -> Answer:
    return Answer(200, [success(2, DELETE_DEFINITION, "marked"), *before, success(2, DELETE_DEFINITION, "deleted")])


def test_a_proven_deletion_needs_no_second_request(bench: Bench) -> None:
    bench.says(f"DELETE {RD}/one", gone())
    lin = bench.lin()
    lin.delete("one")
    bench.says(f"DELETE {RD}/one", Answer(200, [warning(3000, "not found")]))
    lin.delete("one")
    assert bench.server.asked("GET") == []


@pytest.mark.parametrize("order", [1, -1])
def test_a_deletion_that_waits_for_an_offline_node_names_it(bench: Bench, order: int) -> None:
    pending = [success(2, DELETE_DEFINITION, "marked"), warning(1002, "No active connection to satellite 'node3'")]
    bench.says(f"DELETE {RD}/one", Answer(200, pending[::order]))
    bench.knows(definition("one", flags=["DELETE"]))
    bench.has("one", resource("one", "node1"), resource("one", "node3"))
    states = [("node1", "ONLINE"), ("node2", "OFFLINE"), ("node3", "OFFLINE")]
    bench.says("GET /v1/nodes", Answer(document=[{"name": n, "connection_status": s} for n, s in states]))
    text = sentence(lambda: bench.lin().delete("one"), Pending)
    assert "stays marked for deletion until node3 is connected" in text


def test_a_deletion_that_somebody_else_is_finishing_is_waited_for(bench: Bench) -> None:
    noop = {"ret_code": (1 << 62) | 0x3000000 | 10007, "message": "does not exist. Noop."}
    bench.says(f"DELETE {RD}/one", Answer(200, [success(2, DELETE_DEFINITION, "marked"), noop]))
    there = Answer(document=[definition("one", flags=["DELETE"])])
    bench.says(f"GET {RD}\\?", there, there, Answer(document=[]))
    bench.lin(timeout=60).delete("one")


def test_a_deletion_with_snapshots_or_openers_is_refused(bench: Bench) -> None:
    bench.says(f"DELETE {RD}/one", Answer(500, [error(514, "has snapshots")]), Answer(500, [error(997, "in use")]))
    lin = bench.lin()
    sentence(lambda: lin.delete("one"), Exists)
    sentence(lambda: lin.delete("one"), InUse)


# --- growing ----------------------------------------------------------------------------------------------------


def pool(free: int, kind: str = "LVM_THIN", node: str = "a") -> dict[str, Any]:
    return {
        "storage_pool_name": "thin",
        "node_name": node,
        "provider_kind": kind,
        "free_capacity": free,
        "total_capacity": 10_000_000,
    }


@pytest.fixture
def growing(bench: Bench) -> Bench:
    bench.knows(definition("one", size=65536))
    bench.has("one", resource("one", "a"), resource("one", "c", ("DISKLESS", "DRBD_DISKLESS")))
    bench.says("GET /v1/view/storage-pools", Answer(document=[pool(1_000_000)]))
    bench.says(f"PUT {RD}/one/volume-definitions/0", Answer(200, [warning(1023, "same size"), success(3)]))
    return bench


def grow(lin: LinstorController, size: int) -> None:
    lin.resize(lin.definitions(["one"])["one"], lin.replicas("one"), Kib(size))


def test_growing_within_the_pool_asks_no_satellite_first(growing: Bench) -> None:
    grow(growing.lin(), 100_000)
    assert growing.server.asked("PUT") == [(f"{RD}/one/volume-definitions/0", {"size_kib": 100_000})]
    assert growing.server.asked("POST") == []


def test_a_volume_never_shrinks_and_the_same_size_is_nothing_to_do(growing: Bench) -> None:
    lin = growing.lin()
    grow(lin, 65536)
    assert "never shrinks" in sentence(lambda: grow(lin, 65535), Refused)
    assert growing.server.asked("PUT") == []


@pytest.mark.parametrize(
    ("kind", "allowed", "fits"), [("LVM_THIN", 3_000_000, True), ("LVM_THIN", 900_000, False), ("LVM", 0, False)]
)
def test_growing_beyond_the_pool_is_linstors_to_allow(growing: Bench, kind: str, allowed: int, fits: bool) -> None:
    """LINSTOR itself accepts any growth of a thin volume, and then refuses every later placement in that pool."""
    growing.says("GET /v1/view/storage-pools", Answer(document=[pool(1_000_000, kind)]))
    space = {"space_info": {"max_vlm_size_in_kib": allowed}}
    growing.says("POST /v1/resource-groups/rg/query-size-info", Answer(document=space))
    act = lambda: grow(growing.lin(), 2_000_000)  # noqa: E731
    if fits:
        act()
    else:
        assert "do not fit into pool thin on a, which has 976 MiB free" in sentence(act, NotEnoughSpace)
    assert bool(growing.server.asked("PUT")) == fits


def test_growing_far_beyond_a_thin_pool_is_refused_unasked(growing: Bench) -> None:
    sentence(lambda: grow(growing.lin(), 999_999_999), NotEnoughSpace)
    assert growing.server.asked("PUT") == []


# --- snapshots, restore, clone ----------------------------------------------------------------------------------


def snapshot_list(*flags: str) -> Answer:
    volume = {"volume_number": 0, "size_kib": 65536}
    item = {"name": "s", "resource_name": "one", "nodes": ["a", "b"], "flags": list(flags)}
    whole = {**item, "volume_definitions": [volume], "props": {"SequenceNumber": "1"}}
    return Answer(document=[whole] if flags else [])


def test_a_snapshot_never_names_nodes(bench: Bench) -> None:
    bench.says(f"POST {RD}/one/snapshots", Answer(201, [success(1, SNAPSHOT), success(3, SNAPSHOT)]))
    bench.lin().snapshot("one", "s")
    assert bench.server.asked("POST") == [(f"{RD}/one/snapshots", {"name": "s"})]
    assert bench.server.asked("GET") == []


def test_a_snapshot_with_warnings_counts_only_if_it_is_successful(bench: Bench) -> None:
    skipped = {"ret_code": -(1 << 63), "message": "will not be created on node 'b'"}
    bench.says(f"POST {RD}/one/snapshots", Answer(201, [skipped, success(1, SNAPSHOT)]))
    bench.says("GET /v1/view/snapshots", snapshot_list("SUCCESSFUL"))
    bench.lin().snapshot("one", "s")
    bench.says("GET /v1/view/snapshots", snapshot_list("FAILED_DEPLOYMENT"))
    bench.says(f"DELETE {RD}/one/snapshots/s", Answer(200, [success(2, SNAPSHOT)]))
    sentence(lambda: bench.lin().snapshot("one", "s"), Failed)
    assert bench.server.asked("DELETE") == [(f"{RD}/one/snapshots/s", None)]


def test_a_failed_snapshot_that_cannot_be_deleted_is_named(bench: Bench) -> None:
    bench.says(f"POST {RD}/one/snapshots", Answer(500, [success(1, SNAPSHOT), error(998, "timeout")]))
    bench.says(f"DELETE {RD}/one/snapshots/s", Answer(500, [error(997, "shipping")]))
    sentence(lambda: bench.lin().snapshot("one", "s"), Failed)
    assert any("left behind: failed snapshot s of one" in line for line in bench.trail.warned())


def test_snapshots_come_in_the_order_of_their_creation(bench: Bench) -> None:
    def item(name: str, number: int, modern: bool) -> dict[str, Any]:
        props = {"SequenceNumber": str(number)}
        return {"name": name, "resource_name": "one", "snapshot_definition_props" if modern else "props": props}

    items = [item("safety-snap-x", 5, True), item("snapshot-10", 10, True), item("snapshot-9", 9, False)]
    bench.says("GET /v1/view/snapshots", Answer(document=items))
    assert [found.name for found in bench.lin().snapshots("one")] == ["snapshot-9", "snapshot-10"]


@pytest.mark.parametrize("status", [200, 404])
def test_deleting_a_snapshot_that_is_not_there_is_success(bench: Bench, status: int) -> None:
    answer = [warning(3000, "not found")] if status == 200 else [error(301, "not found")]
    bench.says(f"DELETE {RD}/one/snapshots/s", Answer(status, answer))
    bench.lin().delete_snapshot("one", "s")


def test_restoring_nothing_is_no_success(bench: Bench) -> None:
    bench.says(f"POST {RD}/one/snapshot-restore-volume-definition/s", Answer(200, [success(2, SNAPSHOT)]))
    bench.says(f"POST {RD}/one/snapshot-restore-resource/s", Answer(200, [warning(3000, "No volumes to restore.")]))
    assert "its replicas are empty" in sentence(lambda: bench.lin().restore("one", "s", "two"), Failed)


def prepare_cloning(bench: Bench) -> None:
    bench.knows(definition("one", {"Aux/one/IMAGE_ID": "1"}))
    bench.has("one", resource("one", "a"), resource("one", "b"))
    bench.says("GET /v1/view/storage-pools", Answer(document=[pool(1), pool(1, node="b")]))
    bench.says(f"GET {RD}/one/sync-status", Answer(document={"synced_on_all": True}))
    bench.says(f"POST {RD}/one/clone", Answer(201, {"clone_name": "two", "messages": [success()]}))
    states = (Answer(document={"status": status}) for status in ("CLONING", "COMPLETE"))
    bench.says(f"GET {RD}/one/clone/two", *states)


@pytest.fixture
def cloning(bench: Bench) -> Bench:
    prepare_cloning(bench)
    return bench


def clone(bench: Bench) -> None:
    lin = bench.lin()
    lin.clone("one", "two", Settings(resource_group="other"), MARKS, ["Aux/one/DROP", "Aux/one/RUN"])
    lin.await_clone("one", "two", Kib(65536))


def test_a_clone_gets_its_own_marks_in_the_request(cloning: Bench) -> None:
    clone(cloning)
    ((_, body),) = cloning.server.asked("POST")
    assert body == {
        "name": "two",
        "resource_group": "other",
        "override_props": MARKS,
        "delete_props": ["Aux/one/DROP"],
    }


def test_an_older_controller_is_not_sent_marks_of_a_clone() -> None:
    with scripted("1.22.0") as server:
        bench = Bench(server)
        prepare_cloning(bench)
        clone(bench)
        assert server.asked("POST")[0][1] == {"name": "two"} and not bench.lin().clones_marked()


def test_a_failed_clone_is_deleted(cloning: Bench) -> None:
    cloning.says(f"GET {RD}/one/clone/two", Answer(document={"status": "FAILED"}))
    cloning.says(f"DELETE {RD}/two", gone())
    assert "the clone failed" in sentence(lambda: clone(cloning), Failed)
    assert cloning.server.asked("DELETE") == [(f"{RD}/two", None)]


def test_a_clone_that_never_ends_is_given_up(cloning: Bench) -> None:
    cloning.says(f"GET {RD}/one/clone/two", Answer(document={"status": "CLONING"}))
    sentence(lambda: clone(cloning), TimedOut)


@pytest.mark.parametrize("status", [201, 500])
def test_a_clone_refused_inside_its_object_is_refused(cloning: Bench, status: int) -> None:
    """LINSTOR up to 1.32.1 answered 201 to a clone it had refused."""
    refusal = {"clone_name": "two", "messages": [error(227, "unsupported storage pools")]}
    cloning.says(f"POST {RD}/one/clone", Answer(status, refusal))
    sentence(lambda: clone(cloning), Unsupported)


@pytest.mark.parametrize(
    ("prepare", "kind", "words"),
    [
        (lambda b: b.knows(), NotFound, "does not exist"),
        (lambda b: b.knows(definition("one", flags=["DELETE"])), NotFound, "is being deleted"),
        (lambda b: b.knows(definition("one"), definition("two")), Exists, "two is taken"),
        (lambda b: b.knows(definition("one", layer_data=[])), Unsupported, "copy it instead"),
        (lambda b: b.has("one"), Refused, "not all replicas"),
        (lambda b: b.has("one", {**resource("one", "a"), "state": None}), Refused, "not all replicas"),
        (
            lambda b: b.says("GET /v1/view/storage-pools", Answer(document=[pool(1, "FILE_THIN")])),
            Unsupported,
            "kind FILE_THIN",
        ),
        (
            lambda b: b.says(f"GET {RD}/one/sync-status", Answer(document={"synced_on_all": False})),
            Refused,
            "not all replicas of one are up to date",
        ),
    ],
)
def test_what_linstor_would_refuse_to_clone_is_not_asked_for(
    cloning: Bench, prepare: Any, kind: type[DriverError], words: str
) -> None:
    prepare(cloning)
    assert words in sentence(lambda: clone(cloning), kind)
    assert cloning.server.asked("POST") == []


# --- lost answers -----------------------------------------------------------------------------------------------

ACTS: dict[str, tuple[str, Callable[[LinstorController], Any]]] = {
    "spawn": (
        "POST /v1/resource-groups/rg/spawn",
        lambda lin: lin.spawn("one", Kib(65536), Settings(resource_group="rg"), MARKS),
    ),
    "define": (f"POST {RD}$", lambda lin: lin.define("one", Settings(), MARKS)),
    "add_volume": (f"POST {RD}/one/volume-definitions", lambda lin: lin.add_volume("one", Kib(65536))),
    "place": (f"POST {RD}/one/autoplace", lambda lin: lin.place("one", Settings(replica_count=2))),
    "add_replicas": (f"POST {RD}/one/resources", lambda lin: lin.add_replicas("one", ["a", "b"], THIN)),
    "attach": (f"POST {RD}/one/resources/b/make", lambda lin: lin.attach("one", "b", Settings(), ["DRBD"])),
    "delete": (f"DELETE {RD}/one", lambda lin: lin.delete("one")),
    "mark": (f"PUT {RD}/one", lambda lin: lin.mark("one", MARKS, ["Aux/x"])),
    "snapshot": (f"POST {RD}/one/snapshots", lambda lin: lin.snapshot("one", "s")),
    "delete_snapshot": (f"DELETE {RD}/one/snapshots/s", lambda lin: lin.delete_snapshot("one", "s")),
}
BOTH = (resource("one", "a"), resource("one", "b"))


def world_after(bench: Bench, name: str, done: bool) -> None:
    bench.says("GET /v1/resource-groups/rg", Answer(document=GROUP))
    removal = name.startswith("delete")
    there = done != removal
    bare = definition("one", size=None)
    marked = definition("one", MARKS)
    before = {"spawn": [], "define": []}.get(name, [bare])
    bench.knows(*([marked] if there else ([] if removal else before)))
    if name == "delete" and not done:
        bench.knows(marked)
    bench.has("one", *(BOTH if done else ()))
    bench.says("GET /v1/view/snapshots", snapshot_list(*(["SUCCESSFUL"] if there else [])))


@pytest.mark.parametrize("loss", [Answer(drop=True), Answer(502, raw=b"<html>"), Answer(hang=True)])
@pytest.mark.parametrize("name", ACTS)
def test_a_change_that_was_done_is_a_success_although_its_answer_was_lost(
    bench: Bench, name: str, loss: Answer
) -> None:
    question, act = ACTS[name]
    world_after(bench, name, done=True)
    bench.says(question, loss)
    act(bench.lin(timeout=0.3))
    changes = [how for how, _, _ in bench.server.requests if how != "GET"]
    assert len(changes) == 1, "a change is never repeated blindly"


@pytest.mark.parametrize("name", ACTS)
def test_a_change_that_was_never_carried_out_says_that_nothing_happened(bench: Bench, name: str) -> None:
    question, act = ACTS[name]
    world_after(bench, name, done=False)
    bench.says(question, Answer(drop=True))
    assert "nothing happened" in sentence(lambda: act(bench.lin()), Refused)
    assert len([how for how, _, _ in bench.server.requests if how != "GET"]) == 1


@pytest.mark.parametrize("name", ACTS)
def test_a_change_without_an_answer_in_time_stays_uncertain(bench: Bench, name: str) -> None:
    """The controller may still be waiting for a satellite and do it later."""
    question, act = ACTS[name]
    world_after(bench, name, done=False)
    bench.says(question, Answer(hang=True))
    assert "no answer within" in sentence(lambda: act(bench.lin(timeout=0.3)), Uncertain)


def test_a_name_that_a_rival_took_meanwhile_is_not_ours(bench: Bench) -> None:
    bench.says(f"POST {RD}$", Answer(drop=True))
    bench.knows(definition("one", {**MARKS, "Aux/one/RUN": "another"}))
    assert "taken by another" in sentence(lambda: bench.lin().define("one", Settings(), MARKS), Exists)


def test_a_spawn_that_the_controller_still_works_on_is_waited_for(bench: Bench) -> None:
    world_after(bench, "spawn", done=True)
    half = Answer(document=[resource("one", "a"), {**resource("one", "b"), "layer_object": {"type": "DRBD"}}])
    bench.says(f"GET {RD}/one/resources", Answer(document=[]), half, Answer(document=list(BOTH)))
    bench.says("POST /v1/resource-groups/rg/spawn", Answer(drop=True))
    settings = Settings(resource_group="rg")
    assert bench.lin(timeout=20).spawn("one", Kib(65536), settings, MARKS) == {"a": "", "b": ""}


def test_a_lost_answer_of_a_restarting_controller_is_read_when_it_is_back(bench: Bench) -> None:
    world_after(bench, "define", done=True)
    starting = Answer(503, raw=b"starting", content_type="text/plain")
    bench.says(f"GET {RD}\\?", starting, starting, starting, Answer(document=[definition("one", MARKS)]))
    bench.says(f"POST {RD}$", Answer(drop=True))
    bench.lin(timeout=60).define("one", Settings(), MARKS)


def test_a_mark_that_was_stored_although_a_node_failed_is_set(bench: Bench) -> None:
    bench.says(f"PUT {RD}/one", Answer(500, [success(3), error(998, "Failed to adjust DRBD resource")]))
    bench.knows(definition("one", MARKS))
    bench.lin().mark("one", MARKS)
    assert any("but it is done" in line for line in bench.trail.warned())
