"""The simulated controller under DRBD: tiebreaker, quorum, openers, and what LINSTOR does not protect from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from lab.controller import drbd_events, drbd_kernel, drbd_sizes, progress, satellites
from lab.controller.answers import number
from lab.controller.cluster import Cluster, Group
from lab.controller.handlers import ALL_HANDLERS
from lab.controller.quorum import Votes
from lab.controller.router import respond
from lab.controller.volumes import Content, NoVolumes, Opening

assert ALL_HANDLERS
RD = "/v1/resource-definitions/disk"
GIB = 1 << 20
LAYERS = ("DRBD", "LUKS", "STORAGE")


class Lab:
    """A cluster of nodes n1, n2, ... with a thin and a thick pool each, and short words for its requests."""

    def __init__(self, version: str = "1.33", nodes: int = 3) -> None:
        self.cluster = Cluster(version, NoVolumes())
        self.cluster.work_seconds = float("inf")
        for place in range(1, nodes + 1):
            name = f"n{place}"
            self.cluster.add_node(name, layers=LAYERS)
            for pool, kind in (("thin", "LVM_THIN"), ("thick", "LVM")):
                self.cluster.add_pool(name, pool, kind, 10 * GIB)
        self.cluster.groups["RG"] = Group("rg", select={"place_count": 2, "storage_pool_list": ["thin"],
                                                        "layer_stack": ["DRBD", "STORAGE"]},
                                          volume_groups={0: {"uuid": "x"}})

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        raw = None if body is None else json.dumps(body).encode()
        answer = respond(self.cluster, method, path, {}, raw)
        return answer.status, json.loads(answer.body) if answer.body else None

    def codes(self, method: str, path: str, body: Any = None) -> tuple[int, list[int]]:
        """Return the status and the low bits of all entries that say more than done (warnings, errors, infos)."""
        status, entries = self.ask(method, path, body)
        return status, [number(entry) for entry in entries if number(entry) not in (0, 1, 2, 3)]

    def disk(self, *nodes: str, size: int = 65536, pool: str = "thin", layers: tuple[str, ...] = ()) -> None:
        """Make the definition "disk" with replicas on nodes."""
        stack = {"layer_data": [{"type": kind} for kind in layers]} if layers else {}
        self.ask("POST", "/v1/resource-definitions", {"resource_definition": {
            "name": "disk", "resource_group_name": "rg", **stack}})
        self.ask("POST", f"{RD}/volume-definitions", {"volume_definition": {"size_kib": size}})
        status, entries = self.ask("POST", f"{RD}/resources", [
            {"resource": {"node_name": node, "props": {"StorPoolName": pool}}} for node in nodes])
        assert status == 201, entries

    def flags(self) -> dict[str, list[str]]:
        return {one["node_name"]: one.get("flags", []) for one in self.ask("GET", f"{RD}/resources")[1]}

    def shown(self, node: str) -> dict[str, Any]:
        found: dict[str, Any] = next(one for one in self.ask("GET", f"{RD}/resources")[1] if one["node_name"] == node)
        return found

    def drbd(self, node: str) -> dict[str, Any]:
        data: dict[str, Any] = self.shown(node)["layer_object"]["drbd"]
        return data

    def props(self) -> dict[str, str]:
        found: dict[str, str] = self.ask("GET", RD)[1]["props"]
        return found

    def open(self, node: str, mode: str = "rw") -> None:
        drbd_events.open_device(self.cluster, "disk", node, mode)

    def close(self, node: str) -> None:
        drbd_events.close_device(self.cluster, "disk", node)


DISKLESS = ["DISKLESS", "DRBD_DISKLESS"]
TIEBREAKER = [*DISKLESS, "TIE_BREAKER"]
QUORUM = "DrbdOptions/Resource/quorum"


@pytest.mark.parametrize(("votes", "enabled", "wanted"), [
    (Votes(diskful=1, diskless=0, tiebreakers=0), True, False),
    (Votes(diskful=2, diskless=0, tiebreakers=0), True, True),
    (Votes(diskful=2, diskless=0, tiebreakers=0), False, False),
    (Votes(diskful=2, diskless=1, tiebreakers=1), True, True),
    (Votes(diskful=2, diskless=1, tiebreakers=0), True, False),
    (Votes(diskful=2, diskless=2, tiebreakers=1), True, False),
    (Votes(diskful=3, diskless=0, tiebreakers=0), True, False),
    (Votes(diskful=4, diskless=0, tiebreakers=0), True, True),
])
def test_a_tiebreaker_is_wanted_for_an_even_number_of_disks_and_nobody_else(votes: Votes, enabled: bool,
                                                                            wanted: bool) -> None:
    assert votes.wants_tiebreaker(enabled) is wanted


@pytest.mark.parametrize(("diskful", "diskless", "possible"), [
    (1, 0, False), (1, 2, False), (2, 0, False), (2, 1, True), (3, 0, True),
])
def test_quorum_needs_three_that_vote_and_two_disks(diskful: int, diskless: int, possible: bool) -> None:
    assert Votes(diskful, diskless, 0).can_have_quorum() is possible


@pytest.mark.parametrize(("size", "layers", "on_storage", "device"), [
    # Measured with 7 peer slots on thin LVM: what the disk is asked for, and what the DRBD device has.
    (131072, ["DRBD", "STORAGE"], 131140, 135100),
    (65536, ["DRBD", "STORAGE"], 65588, 69580),
    (16384, ["DRBD", "STORAGE"], 16424, 20436),
    (65536, ["DRBD", "LUKS", "STORAGE"], 65588 + 16384, 69580),
])
def test_a_drbd_device_is_larger_than_asked_for(size: int, layers: list[str], on_storage: int, device: int) -> None:
    assert drbd_sizes.on_storage(layers, size, 7) == on_storage
    assert drbd_sizes.device(layers, "LVM_THIN", size, 7) == device


def test_two_replicas_get_a_tiebreaker_and_quorum() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    assert lab.flags() == {"n1": [], "n2": [], "n3": TIEBREAKER}
    assert lab.props()[QUORUM] == "majority"


def test_without_a_free_node_there_is_a_warning_and_no_quorum() -> None:
    lab = Lab(nodes=2)
    status, codes = lab.codes("POST", "/v1/resource-groups/rg/spawn", {
        "resource_definition_name": "disk", "volume_sizes": [65536]})
    assert (status, codes) == (201, [1013])
    assert lab.props()[QUORUM] == "off"


def test_attaching_on_the_tiebreaker_is_a_flag_and_detaching_gives_it_back() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    assert lab.codes("POST", f"{RD}/resources/n3/make-available", {"diskful": False}) == (200, [])
    assert lab.flags()["n3"] == DISKLESS
    assert lab.codes("DELETE", f"{RD}/resources/n3") == (200, [10006])
    assert lab.flags()["n3"] == TIEBREAKER


def test_a_deleted_tiebreaker_takes_quorum_with_it_unless_it_is_kept() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    assert lab.codes("DELETE", f"{RD}/resources/n3?keep_tiebreaker=True") == (200, [10006])
    assert lab.codes("DELETE", f"{RD}/resources/n3") == (200, [10002, 10004, 10005])
    assert lab.flags() == {"n1": [], "n2": []}
    assert lab.props()[QUORUM] == "off"
    assert lab.props()["DrbdOptions/auto-add-quorum-tiebreaker"] == "False"


@pytest.mark.parametrize(("version", "tiebreaker"), [("1.33", None), ("1.34", TIEBREAKER)])
def test_a_diskless_elsewhere_displaces_the_tiebreaker_before_1_34(version: str, tiebreaker: Any) -> None:
    lab = Lab(version, nodes=4)
    lab.disk("n1", "n2")
    assert lab.ask("POST", f"{RD}/resources/n4/make-available", {"diskful": False})[0] == 200
    assert lab.flags().get("n3") == tiebreaker
    assert ("CLIENT" in lab.drbd("n4").get("flags", [])) is (version == "1.34")


def test_opening_for_writing_makes_the_tiebreaker_a_plain_diskless_for_good() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    lab.open("n3", "ro")
    assert lab.flags()["n3"] == TIEBREAKER
    lab.open("n3", "rw")
    lab.close("n3")
    assert lab.flags()["n3"] == DISKLESS


def test_what_is_open_for_writing_is_refused_with_997_and_nothing_changes() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    lab.ask("POST", f"{RD}/snapshots", {"name": "s1"})
    lab.open("n1")
    before = lab.flags()
    assert lab.codes("DELETE", f"{RD}/resources/n1") == (500, [997])
    assert lab.codes("POST", f"{RD}/snapshot-rollback/s1", {}) == (500, [997])
    assert lab.codes("DELETE", f"{RD}/volume-definitions/0") == (500, [997])
    assert lab.codes("DELETE", RD) == (500, [514])
    lab.ask("DELETE", f"{RD}/snapshots/s1")
    assert lab.codes("DELETE", RD) == (500, [997])
    assert lab.flags() == before


def test_nothing_protects_the_second_replica_even_in_use() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    lab.open("n1")
    assert lab.codes("DELETE", f"{RD}/resources/n2")[0] == 200
    assert lab.flags() == {"n1": []}
    assert lab.props()[QUORUM] == "off"


def test_the_last_disk_stays_while_a_diskless_depends_on_it() -> None:
    lab = Lab()
    lab.disk("n1")
    lab.ask("POST", f"{RD}/resources/n2/make-available", {"diskful": False})
    assert lab.codes("DELETE", f"{RD}/resources/n1") == (500, [997])


def test_a_reader_is_invisible_and_leaves_a_deleted_replica_half_gone() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    lab.ask("PUT", RD, {"override_props": {"DrbdOptions/auto-add-quorum-tiebreaker": "False"}})
    lab.ask("POST", f"{RD}/resources/n3/make-available", {"diskful": False})
    lab.open("n3", "ro")
    assert lab.shown("n3")["state"] == {"in_use": False}
    assert lab.codes("DELETE", f"{RD}/resources/n3") == (500, [998, 998])
    assert lab.flags()["n3"] == [*DISKLESS, "DRBD_DELETE"]
    assert lab.codes("POST", f"{RD}/resources/n3/make-available", {"diskful": False}) == (200, [])
    assert lab.flags()["n3"] == DISKLESS
    assert {link["connected"] for link in lab.drbd("n3")["connections"].values()} == {True}


def test_in_use_is_forgotten_with_the_satellite_and_the_data_goes_when_the_writer_ends() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    lab.open("n2")
    satellites.go_offline(lab.cluster, "n2")
    assert "state" not in lab.shown("n2")
    assert lab.codes("DELETE", f"{RD}/resources/n1")[0] == 200
    assert lab.codes("DELETE", RD) == (200, [1002])
    satellites.come_back(lab.cluster, "n2")
    assert lab.flags() == {"n2": ["DELETE"]}
    volumes = lab.cluster.volumes
    assert isinstance(volumes, NoVolumes) and Content("disk", 0) in volumes.sizes
    lab.close("n2")
    assert lab.ask("DELETE", RD)[0] == 200
    assert Content("disk", 0) not in volumes.sizes


def test_a_deletion_that_waits_for_a_satellite_ends_when_it_is_back() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    satellites.go_offline(lab.cluster, "n2")
    assert lab.codes("DELETE", RD) == (200, [1002])
    assert lab.codes("POST", "/v1/resource-definitions", {"resource_definition": {"name": "disk"}}) == (500, [501])
    satellites.come_back(lab.cluster, "n2")
    assert lab.ask("GET", RD)[0] == 404


def test_a_missing_tiebreaker_is_made_when_its_node_is_back() -> None:
    lab = Lab()
    satellites.go_offline(lab.cluster, "n3")
    lab.disk("n1", "n2")
    assert "n3" not in lab.flags()
    satellites.come_back(lab.cluster, "n3")
    assert lab.flags()["n3"] == TIEBREAKER


def test_two_primaries_taken_back_too_early_stay_in_the_kernels() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    allow = "DrbdOptions/Net/allow-two-primaries"
    lab.ask("PUT", RD, {"override_props": {allow: "yes"}})
    lab.open("n1")
    lab.open("n2")
    assert lab.codes("PUT", RD, {"delete_props": [allow]}) == (500, [998])
    assert allow not in lab.props()
    assert lab.codes("PUT", RD, {"delete_props": [allow]}) == (200, [])
    one = lab.cluster.definitions["DISK"].resources
    assert one["N1"].two_primaries >= {"N2"}
    lab.close("n1")
    assert lab.codes("PUT", RD, {"override_props": {"Aux/touch": "1"}}) == (200, [])
    assert one["N1"].two_primaries == set()


def test_a_connection_may_allow_two_primaries_to_its_two_nodes_only() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    path = f"{RD}/resource-connections/n1/n2"
    assert lab.ask("PUT", path, {"override_props": {"DrbdOptions/Net/allow-two-primaries": "yes"}})[0] == 200
    lab.open("n1")
    one = lab.cluster.definitions["DISK"].resources
    assert drbd_kernel.refusal(lab.cluster, one["N2"], Opening.WRITE) == 0
    assert drbd_kernel.refusal(lab.cluster, one["N3"], Opening.WRITE) == drbd_kernel.ERROFS


def test_a_second_opener_is_refused_by_the_kernel() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    one = lab.cluster.definitions["DISK"].resources
    assert drbd_kernel.refusal(lab.cluster, one["N2"], Opening.WRITE) == 0
    lab.open("n1")
    assert lab.drbd("n2")["may_promote"] is False
    assert drbd_kernel.refusal(lab.cluster, one["N2"], Opening.WRITE) == drbd_kernel.ERROFS
    assert drbd_kernel.refusal(lab.cluster, one["N3"], Opening.READ) == drbd_kernel.EMEDIUMTYPE


def test_the_last_of_three_replicas_has_no_quorum_but_the_last_of_two_keeps_it() -> None:
    three, two = Lab(), Lab()
    three.disk("n1", "n2", "n3")
    two.disk("n1", "n2")
    for lab in (three, two):
        drbd_events.kill(lab.cluster, "n2")
        drbd_events.kill(lab.cluster, "n3")
    last = three.cluster.definitions["DISK"].resources["N1"]
    assert drbd_kernel.refusal(three.cluster, last, Opening.READ) == drbd_kernel.ENODATA
    assert three.drbd("n1")["may_promote"] is False
    assert two.drbd("n1")["may_promote"] is True


def test_after_a_partition_with_two_writers_the_newer_copy_is_called_outdated() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    lab.open("n1")
    drbd_events.cut(lab.cluster, "n1")
    assert drbd_kernel.refusal(lab.cluster, lab.cluster.definitions["DISK"].resources["N2"], Opening.WRITE) == 0
    lab.open("n2")
    lab.close("n2")
    drbd_events.join(lab.cluster, "n1")
    assert lab.drbd("n2")["connections"]["n1"] == {"connected": False, "message": "StandAlone"}
    states = {one["node_name"]: one["volumes"][0]["state"]["disk_state"] for one in lab.ask(
        "GET", "/v1/view/resources?resources=disk")[1]}
    assert states == {"n1": "UpToDate", "n2": "Outdated", "n3": "Diskless"}


def test_a_thick_pool_syncs_first_and_refuses_resize_and_clone_meanwhile() -> None:
    lab = Lab()
    lab.disk("n1", "n2", pool="thick")
    assert lab.ask("GET", f"{RD}/sync-status")[1] == {"synced_on_all": False}
    assert lab.codes("PUT", f"{RD}/volume-definitions/0", {"size_kib": 98304}) == (500, [974])
    status, answer = lab.ask("POST", f"{RD}/clone", {"name": "copy"})
    assert (status, [number(one) for one in answer["messages"]]) == (500, [974])
    progress.complete(lab.cluster)
    assert lab.ask("GET", f"{RD}/sync-status")[1] == {"synced_on_all": True}
    assert lab.ask("PUT", f"{RD}/volume-definitions/0", {"size_kib": 98304})[0] == 200


def test_growing_is_checked_against_thick_pools_only() -> None:
    thin, thick = Lab(), Lab()
    thin.disk("n1", "n2")
    thick.disk("n1", "n2", pool="thick")
    progress.complete(thick.cluster)
    assert thin.ask("PUT", f"{RD}/volume-definitions/0", {"size_kib": 999999999})[0] == 200
    assert thick.codes("PUT", f"{RD}/volume-definitions/0", {"size_kib": 999999999}) == (500, [980])
    assert thin.codes("PUT", f"{RD}/volume-definitions/0", {"size_kib": 65536}) == (500, [206])


def test_a_moved_replica_leaves_a_tiebreaker_behind() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    assert lab.ask("PUT", f"{RD}/resources/n3/migrate-disk/n2/thin")[0] == 200
    progress.complete(lab.cluster)
    assert lab.flags() == {"n1": [], "n2": TIEBREAKER, "n3": []}


def test_a_former_tiebreaker_that_loses_its_disk_is_deleted_and_the_call_fails_all_the_same() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    lab.ask("PUT", f"{RD}/resources/n3/toggle-disk/diskful/thin")
    lab.ask("PUT", f"{RD}/resources/n2/toggle-disk/diskless")
    assert lab.codes("PUT", f"{RD}/resources/n3/toggle-disk/diskless")[0] == 500
    assert "n3" not in lab.flags()


def test_the_only_disk_online_cannot_be_removed() -> None:
    lab = Lab()
    lab.disk("n1")
    assert lab.codes("PUT", f"{RD}/resources/n1/toggle-disk/diskless") == (500, [991])


def test_luks_needs_the_master_passphrase_and_copies_for_a_while() -> None:
    lab = Lab()
    stack = ("drbd", "luks", "storage")
    lab.ask("POST", "/v1/resource-definitions", {"resource_definition": {
        "name": "disk", "layer_data": [{"type": kind} for kind in stack]}})
    lab.ask("POST", f"{RD}/volume-definitions", {"volume_definition": {"size_kib": 16384}})
    place = {"select_filter": {"place_count": 2, "storage_pool_list": ["thin"]}, "layer_list": list(stack)}
    assert lab.codes("POST", f"{RD}/autoplace", place) == (500, [998])
    assert lab.ask("GET", f"{RD}/resources")[1] == []
    assert lab.ask("POST", "/v1/encryption/passphrase", {"new_passphrase": "secret"})[0] == 201
    assert lab.ask("POST", f"{RD}/autoplace", place)[0] == 201
    assert lab.ask("POST", f"{RD}/clone", {"name": "copy"})[0] == 201
    assert lab.ask("GET", f"{RD}/clone/copy")[1] == {"status": "CLONING"}
    progress.complete(lab.cluster)
    assert lab.ask("GET", f"{RD}/clone/copy")[1] == {"status": "COMPLETE"}


def test_an_attach_that_hangs_is_never_in_sync_until_it_is_reconnected_by_hand() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    lab.cluster.stuck.add("N3")
    assert lab.ask("POST", f"{RD}/resources/n3/make-available", {"diskful": True})[0] == 200
    progress.complete(lab.cluster)
    assert lab.ask("GET", f"{RD}/sync-status")[1] == {"synced_on_all": False}
    lab.cluster.stuck.clear()
    drbd_events.reconnect(lab.cluster, "disk", "n3")
    assert lab.ask("GET", f"{RD}/sync-status")[1] == {"synced_on_all": True}


def test_a_rollback_leaves_a_plain_diskless_and_makes_replicas_without_the_snapshot_anew() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    lab.ask("POST", f"{RD}/snapshots", {"name": "s1", "nodes": ["n1"]})
    assert lab.ask("POST", f"{RD}/snapshot-rollback/s1", {})[0] == 200
    assert lab.flags() == {"n1": [], "n2": [], "n3": DISKLESS}
    assert lab.props()[QUORUM] == "majority"


def test_quorum_set_by_hand_is_left_alone_until_it_is_deleted() -> None:
    lab = Lab()
    lab.disk("n1", "n2")
    lab.ask("PUT", RD, {"override_props": {QUORUM: "off"}})
    lab.ask("PUT", RD, {"override_props": {"Aux/any": "1"}})
    assert lab.props()[QUORUM] == "off"
    assert lab.flags()["n3"] == TIEBREAKER
    assert lab.codes("PUT", RD, {"delete_props": [QUORUM]}) == (200, [10002])
    assert lab.props()[QUORUM] == "majority"


# --- replicas in pools of different kinds, and the only one that has everything -------------------------------------


def test_replicas_are_in_pools_of_one_kind_unless_an_administrator_allows_more() -> None:
    lab = Lab()
    lab.disk("n1")
    more = {"select_filter": {"place_count": 2, "storage_pool_list": ["thick"]}}
    thick = [{"resource": {"node_name": "n2", "props": {"StorPoolName": "thick"}}}]
    assert lab.codes("POST", f"{RD}/autoplace", more) == (500, [996])
    assert lab.codes("POST", f"{RD}/resources", thick) == (500, [221])
    assert set(lab.flags()) == {"n1"}
    lab.ask("POST", "/v1/controller/properties", {"override_props": {"AllowMixingStoragePoolDriver": "true"}})
    assert lab.codes("POST", f"{RD}/autoplace", more)[0] == 201
    assert len([flags for flags in lab.flags().values() if not flags]) == 2


def test_bytes_are_lost_with_the_only_replica_that_has_all_of_them() -> None:
    for waits in (False, True):
        lab = Lab()
        lab.disk("n1", pool="thick")
        place = Content("disk", 0)
        volumes = lab.cluster.volumes
        assert isinstance(volumes, NoVolumes)
        volumes.write(place, "of the guest")
        lab.ask("POST", f"{RD}/resources", [{"resource": {"node_name": "n2", "props": {"StorPoolName": "thick"}}}])
        if waits:
            progress.complete(lab.cluster)
        lab.ask("DELETE", f"{RD}/resources/n1")
        assert volumes.read(place) == ("of the guest" if waits else "")
