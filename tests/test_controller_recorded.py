"""What LINSTOR 1.27.1 and 1.33.3 really answered, and what anybody could answer instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linstor_un.adapters import controller_answers as answers
from linstor_un.adapters import controller_parsing as parsing
from linstor_un.adapters.controller_capacity import capacity_of, room_in
from linstor_un.adapters.controller_features import FIRST_REST, understands
from linstor_un.adapters.controller_link import Lost, Reply
from linstor_un.errors import DriverError, Exists, Failed, InUse, NotEnoughSpace, NotFound, Refused, Unsupported
from linstor_un.inventory import Pool
from linstor_un.units import Kib

DATA = Path(__file__).parent / "data" / "linstor"
DOCUMENTS = json.loads((DATA / "documents.json").read_text())
ANSWERS = json.loads((DATA / "answers.json").read_text())

# Where the code alone decides (an error beside successes is always Failed).
CLASSES: dict[int, type[DriverError]] = {
    **dict.fromkeys((202, 203, 208, 213, 218, 219, 223, 228, 237, 600, 606, 974, 975, 991, 995), Refused),
    **dict.fromkeys((300, 301, 302, 309, 310, 311, 313, 314, 315, 317, 318), NotFound),
    **dict.fromkeys((500, 501, 502, 503, 512, 514, 517, 522, 523), Exists),
    **dict.fromkeys((980, 996), NotEnoughSpace),
    **dict.fromkeys((224, 225, 227, 988, 994, 312), Unsupported),
    997: InUse,
    32765: Failed,
}


def messages(response: Any) -> list[Any]:
    return list(response["messages"] if isinstance(response, dict) else response)


@pytest.mark.parametrize("recorded", ANSWERS, ids=lambda item: f"{item['status']}-{item['response']}"[:40])
def test_a_recorded_answer_is_a_success_or_the_error_it_tells(recorded: Any) -> None:
    reply = Reply(recorded["status"], recorded["response"], "linstor://test")
    told = messages(recorded["response"])
    failures = [item for item in told if item["ret_code"] >> 62 & 3 == answers.ERROR]
    successes = [item for item in told if item["ret_code"] >> 62 & 3 == answers.SUCCESS]
    if not failures:
        assert len(answers.result(reply, "do it")) == len(told)
        return
    with pytest.raises(DriverError) as caught:
        answers.result(reply, "do it")
    text, first = str(caught.value), failures[0]
    assert text.startswith("cannot do it: ") and "\n" not in text
    assert all(report in text for report in first.get("error_report_ids", ()))
    code = first["ret_code"] & 0x7FFF
    if successes:
        assert type(caught.value) in (Failed, Unsupported)
    elif code in CLASSES:
        assert type(caught.value) is CLASSES[code]


def test_replicas_under_drbd_have_the_name_that_udev_gives() -> None:
    first, second, third = (parsing.replica(item) for item in DOCUMENTS["replicas with tiebreaker"])
    assert {item.device for item in (first, second, third)} == {"/dev/drbd/by-res/one-3/0"}
    assert first.diskful and second.diskful and third.tiebreaker and third.diskless and not third.diskful
    assert first.layers == ("DRBD", "STORAGE") and first.pool == "thin"
    assert [item.in_use for item in (first, second, third)] == [False, False, False]


def test_replicas_with_luks_show_all_their_layers_and_a_tiebreaker_has_fewer() -> None:
    found = [parsing.replica(item) for item in DOCUMENTS["replicas with luks"]]
    assert {item.layers for item in found if item.diskful} == {("DRBD", "LUKS", "STORAGE")}
    assert {item.layers for item in found if item.tiebreaker} == {("DRBD", "STORAGE")}


def test_replicas_without_drbd_have_the_device_that_linstor_reports_and_nothing_about_openers() -> None:
    found = [parsing.replica(item) for item in DOCUMENTS["replicas without drbd"]]
    assert all(item.device and item.device.startswith("/dev/loop") and item.online for item in found)
    assert {item.in_use for item in found} == {None}


def test_a_replica_on_an_offline_node_is_not_usable() -> None:
    found = {item.node: item for item in map(parsing.replica, DOCUMENTS["replicas, one node offline"])}
    assert not found["node3"].online and not found["node3"].usable
    assert found["node1"].usable


def test_definitions_have_layers_and_flags_as_far_as_linstor_knows_them() -> None:
    assert parsing.definition(DOCUMENTS["definitions with drbd"][0]).layers == ("DRBD", "STORAGE")
    restored = parsing.definition(DOCUMENTS["definition after restore"][0])
    assert restored.layers == () and restored.size == 102400
    assert parsing.definition(DOCUMENTS["definition being deleted"][0]).deleting


@pytest.mark.parametrize("version", ["1.27", "1.33"])
def test_snapshots_are_numbered_in_both_dialects(version: str) -> None:
    found = [parsing.snapshot(item) for item in DOCUMENTS[f"snapshots of {version}"]]
    assert len({item.sequence for item in found}) == len(found) and min(item.sequence for item in found) >= 1
    assert all(item.usable and item.size and item.nodes for item in found)


def test_an_offline_pool_has_no_capacity() -> None:
    pools = {item.node: item for item in map(parsing.pool, DOCUMENTS["pools, one node offline"])}
    assert pools["node3"].free is None and pools["node1"].free
    capacity = capacity_of(list(pools.values()), [], 1, [])
    assert capacity.total == (pools["node1"].total or 0) + (pools["node2"].total or 0)


def test_a_group_without_rules_has_linstors_default_of_two() -> None:
    group = parsing.group(DOCUMENTS["group"][0])
    assert (group.replicas, group.pools, group.layers) == (2, (), ())


# --- capacity ---------------------------------------------------------------------------------------------------


def pools(*sizes: int, shared: str = "", kind: str = "LVM_THIN") -> list[Pool]:
    nodes = (f"n{number}" for number in range(len(sizes)))
    return [Pool("p", n, kind, Kib(size), Kib(2 * size), shared or n) for n, size in zip(nodes, sizes)]


@pytest.mark.parametrize(
    ("sizes", "replicas", "fits", "largest"),
    [
        ((10, 10, 10), 1, 30, 10),
        ((10, 10, 10), 2, 15, 10),
        ((10, 10, 10), 3, 10, 10),
        ((10, 10, 10), 4, 0, 0),
        ((30, 10, 10), 2, 20, 10),
        ((100, 1), 2, 1, 1),
        ((7,), 1, 7, 7),
        ((), 1, 0, 0),
    ],
)
def test_capacity_is_what_fits_with_all_replicas(
    sizes: tuple[int, ...], replicas: int, fits: int, largest: int
) -> None:
    found = capacity_of(pools(*sizes), [], replicas, [])
    assert (found.available, found.largest) == (fits, largest)


def test_capacity_counts_a_shared_pool_once_and_only_what_is_allowed() -> None:
    assert capacity_of(pools(10, 10, shared="san"), [], 1, []).available == 10
    assert capacity_of(pools(10, 10, 10), ["N1"], 1, []).available == 10
    assert capacity_of(pools(10, 10), [], 1, ["zfs"]).available == 0
    assert capacity_of(pools(10, kind="DISKLESS"), [], 1, []).total == 0


@pytest.mark.parametrize(
    ("sizes", "listed", "replicas", "fits", "largest"),
    [
        ((30, 10, 10), ["n0"], 2, 20, 10),
        ((30, 10, 10), ["n1"], 2, 10, 10),
        ((30, 10, 4), ["n0"], 3, 4, 4),
        ((30, 10, 4), ["n0", "n1"], 3, 4, 4),
        ((30, 10, 4), ["n0", "n1"], 2, 10, 10),
        ((30, 10, 4), ["n9"], 2, 0, 0),
        ((30,), ["n0"], 2, 0, 0),
    ],
)
def test_capacity_on_named_nodes_is_at_most_that_of_the_smallest(
    sizes: tuple[int, ...], listed: list[str], replicas: int, fits: int, largest: int
) -> None:
    found = capacity_of(pools(*sizes), listed, replicas, [])
    assert (found.available, found.largest, found.total) == (fits, largest, 2 * fits)


def test_room_is_told_where_there_is_most_first_and_offline_nodes_are_named() -> None:
    offline = pools(0)[0]._replace(node="n9", free=None)
    assert room_in([*pools(1024, 5 << 10), offline]) == "free now: 5 MiB in p on n1, 1 MiB in p on n0; n9 offline"
    assert room_in([offline]) == "free now: nothing; n9 offline"
    assert room_in(pools(*range(7))).endswith(", less in 2 more")
    assert "check STORAGE_POOL" in room_in([])


@given(st.lists(st.integers(0, 1 << 40), max_size=6), st.integers(1, 4))
def test_capacity_never_promises_more_than_there_is(sizes: list[int], replicas: int) -> None:
    found = capacity_of(pools(*sizes), [], replicas, [])
    assert 0 <= found.largest <= found.available or replicas > len(sizes)
    assert found.available * replicas <= sum(sizes)
    # A place is of use only up to the result itself.
    assert sum(min(size, found.available) for size in sizes) >= found.available * replicas


# --- anything at all --------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["ret_code", "message", "messages", "reports", "cause", "obj_refs"]) | st.text(),
        inner,
        max_size=4,
    ),
)


@given(JSON, st.sampled_from([200, 201, 400, 401, 403, 404, 500, 502]))
def test_whatever_is_answered_becomes_entries_or_one_sentence(document: Any, status: int) -> None:
    try:
        answers.result(Reply(status, document, "linstor://test"), "do it")
    except (DriverError, Lost) as error:
        assert "\n" not in str(error)


@given(JSON, st.sampled_from([200, 404, 500]), st.sampled_from([list, dict]))
def test_whatever_is_read_becomes_a_document_or_one_sentence(document: Any, status: int, kind: type) -> None:
    try:
        found = answers.content(Reply(status, document, "linstor://test"), "read it", kind)
        assert isinstance(found, kind)
    except DriverError as error:
        assert str(error).startswith("cannot read it: ")


def test_versions_are_compared_as_numbers() -> None:
    assert understands((1, 27, 0), "clone_marks") and not understands((1, 9, 0), "clone_marks")
    assert all(not understands((1, 4, 0), feature) for feature in FIRST_REST)
