"""LINSTOR's traps, each shown first as a naive client falls into it, then as the adapter does not: docs/hazards.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from copy_support import make_world
from hazard_support import diskful, flags, naive
from lab.controller import satellites
from lab.controller.cluster import Cluster
from lab.controller.faults import Fault
from lab.controller.volumes import Content, NoVolumes
from linstor_un.errors import Exists, Failed, NotEnoughSpace, NotFound, Refused, Unsupported
from linstor_un.operations import removal
from linstor_un.settings import Settings
from linstor_un.units import Kib
from scripted_controller import TestClock
from test_controller_contract import MARK, SIZE, Stage, grow, sentence, simulated

QUORUM = "DrbdOptions/Resource/quorum"
MIB_IN_KIB = 1024


@pytest.fixture
def alone() -> Iterator[Stage]:
    """Without DRBD, in a pool that cannot clone."""
    yield from simulated("1.33", "FILE_THIN", ("STORAGE",))


@pytest.fixture
def drbd() -> Iterator[Stage]:
    yield from simulated("1.33", "LVM_THIN", ("DRBD", "STORAGE"))


@pytest.fixture
def thick() -> Iterator[Stage]:
    yield from simulated("1.33", "LVM", ("DRBD", "STORAGE"))


def cluster_of(stage: Stage) -> Cluster:
    assert stage.simulator
    return stage.simulator.cluster


def texts(stage: Stage) -> NoVolumes:
    volumes = cluster_of(stage).volumes
    assert isinstance(volumes, NoVolumes)
    return volumes


def offline(stage: Stage, node: str) -> None:
    with cluster_of(stage).lock:
        satellites.go_offline(cluster_of(stage), node)


def online(stage: Stage, node: str) -> None:
    with cluster_of(stage).lock:
        satellites.come_back(cluster_of(stage), node)


def bare(stage: Stage, end: str) -> str:
    """A definition with a volume and no replica."""
    stage.lin.define(stage.name(end), stage.settings, {})
    stage.lin.add_volume(stage.name(end), SIZE)
    return stage.name(end)


def requests(stage: Stage, method: str) -> list[str]:
    assert stage.simulator
    return [entry["path"] for entry in stage.simulator.faults.log if entry["method"] == method]


# --- placing ----------------------------------------------------------------------------------------------------


def test_a_list_of_replicas_with_one_that_exists_is_placed_completely(alone: Stage) -> None:
    both = [{"resource": {"node_name": node, "props": {"StorPoolName": "thin"}}} for node in ("node1", "node2")]
    name = bare(alone, "naive")
    naive(cluster_of(alone), "POST", f"resource-definitions/{name}/resources", both[:1])
    status, _ = naive(cluster_of(alone), "POST", f"resource-definitions/{name}/resources", both)
    assert status == 201 and diskful(cluster_of(alone), name) == {"node1"}

    alone.lin.add_replicas(name, ["node1", "node2"], alone.settings)
    assert diskful(cluster_of(alone), name) == {"node1", "node2"}


def test_a_misspelt_pool_is_an_error_and_no_other_pool(alone: Stage) -> None:
    name = alone.name("naive")
    alone.lin.define(name, alone.settings, {})
    volume = {"volume_definition": {"size_kib": SIZE, "props": {"StorPoolName": "nope"}}}
    assert naive(cluster_of(alone), "POST", f"resource-definitions/{name}/volume-definitions", volume)[0] == 200
    placed = {"select_filter": {"place_count": 1}}
    assert naive(cluster_of(alone), "POST", f"resource-definitions/{name}/autoplace", placed)[0] == 201
    assert len(diskful(cluster_of(alone), name)) == 1

    wrong = alone.settings._replace(storage_pools=("nope",))
    alone.lin.define(alone.name("ours"), wrong, {})
    alone.lin.add_volume(alone.name("ours"), SIZE)
    assert "nope" in sentence(lambda: alone.lin.place(alone.name("ours"), wrong), NotEnoughSpace)
    sentence(lambda: alone.lin.add_replicas(alone.name("ours"), ["node1"], wrong), NotFound)
    assert not diskful(cluster_of(alone), alone.name("ours"))


def test_an_attachment_on_an_offline_node_is_no_success(drbd: Stage) -> None:
    name = drbd.volume("a")
    node = sorted(drbd.holders(name))[0]
    offline(drbd, node)
    address = f"resource-definitions/{name}/resources/{node}/make-available"
    assert naive(cluster_of(drbd), "POST", address, {"diskful": False})[0] == 200

    assert f"no connection to {node}" in sentence(
        lambda: drbd.lin.attach(name, node, drbd.settings, ["DRBD", "STORAGE"]), Failed
    )


def test_a_change_that_an_old_controller_stored_is_not_taken_for_refused() -> None:
    for stage in simulated("1.27", "FILE_THIN", ("STORAGE",)):
        name = bare(stage, "a")
        offline(stage, "node2")
        body = [{"resource": {"node_name": "node2", "props": {"StorPoolName": "thin"}}}]
        status, _ = naive(cluster_of(stage), "POST", f"resource-definitions/{name}/resources", body)
        assert status == 500 and diskful(cluster_of(stage), name) == {"node2"}

        other = bare(stage, "b")
        with pytest.raises(Failed) as caught:
            stage.lin.add_replicas(other, ["node2"], stage.settings)
        assert not isinstance(caught.value, Refused)


# --- snapshots and copies of LINSTOR's own ----------------------------------------------------------------------


@pytest.mark.parametrize("stack", ["alone", "drbd"])
def test_a_snapshot_never_claims_a_node_that_is_offline(stack: str, request: pytest.FixtureRequest) -> None:
    stage: Stage = request.getfixturevalue(stack)
    cluster = cluster_of(stage)
    name = stage.volume("source")
    away, here = sorted(stage.holders(name))
    offline(stage, away)
    status, _ = naive(
        cluster, "POST", f"resource-definitions/{name}/snapshots", {"name": "naive", "nodes": [away]}
    )
    definition = cluster.definition(name)
    assert status == 201 and definition
    claimed = definition.snapshots["NAIVE"]
    assert "SUCCESSFUL" in claimed.flags and not claimed.taken

    stage.lin.snapshot(name, "ours")
    found = next(item for item in stage.lin.snapshots(name) if item.name == "ours")
    assert found.nodes == (here,) and {node.lower() for node in definition.snapshots["OURS"].taken} == {here}


def test_a_restored_copy_has_the_data_wherever_it_is(alone: Stage) -> None:
    cluster, name = cluster_of(alone), alone.volume("source")
    away, here = sorted(alone.holders(name))
    for node in (away, here):
        texts(alone).write(Content(name, 0, node), "data")
    offline(alone, away)
    naive(cluster, "POST", f"resource-definitions/{name}/snapshots", {"name": "naive", "nodes": [away, here]})
    alone.lin.snapshot(name, "ours")
    online(alone, away)
    for snapshot in ("naive", "ours"):
        alone.lin.define(alone.name(snapshot), alone.settings, {})
        body = {"to_resource": alone.name(snapshot)}
        for kind in ("snapshot-restore-volume-definition", "snapshot-restore-resource"):
            naive(cluster, "POST", f"resource-definitions/{name}/{kind}/{snapshot}", body)
    assert texts(alone).read(Content(alone.name("naive"), 0, away)) == ""

    assert diskful(cluster, alone.name("ours")) == {here}
    assert texts(alone).read(Content(alone.name("ours"), 0, here)) == "data"


@pytest.fixture
def encrypted() -> Iterator[Stage]:
    for stage in simulated("1.33", "LVM_THIN", ("DRBD", "LUKS", "STORAGE")):
        cluster_of(stage).passphrase, cluster_of(stage).unlocked = "secret", True
        yield stage


def stack_on(stage: Stage, name: str, node: str) -> tuple[str, ...]:
    return next(item.layers for item in stage.lin.replicas(name) if item.node == node)


def test_a_restored_volume_is_attached_with_the_layers_that_its_replicas_have(encrypted: Stage) -> None:
    cluster, name = cluster_of(encrypted), encrypted.volume("source")
    encrypted.lin.snapshot(name, "snap")
    copies = [encrypted.name("naive"), encrypted.name("ours")]
    for copy in copies:
        encrypted.lin.define(copy, encrypted.settings, {})
        encrypted.lin.restore(name, "snap", copy)
        assert "LUKS" not in encrypted.lin.definitions([copy])[copy].layers
        assert all("LUKS" in stack_on(encrypted, copy, node) for node in encrypted.holders(copy))
    node = next(node for node in encrypted.nodes if node not in encrypted.holders(name))
    for copy in copies:
        address = f"resource-definitions/{copy}/resources/{node}"
        naive(cluster, "DELETE", address)
    address = f"resource-definitions/{copies[0]}/resources/{node}/make-available"
    assert naive(cluster, "POST", address, {"diskful": True})[0] == 200
    assert stack_on(encrypted, copies[0], node) == ("DRBD", "STORAGE")

    encrypted.lin.attach(copies[1], node, encrypted.settings, ())
    assert not diskful(cluster, copies[1]) & {node}
    assert encrypted.simulator
    sent = [item["body"] for item in encrypted.simulator.faults.log if item["path"].endswith("make-available")]
    assert json.loads(sent[-1])["layer_list"] == ["drbd", "luks", "storage"]


@pytest.mark.parametrize("back", [[], ["storage"]], ids=["marks alone", "with the layers"])
def test_a_restored_volume_is_marked_without_its_layers(alone: Stage, back: list[str]) -> None:
    """Marks go in one request, and LINSTOR refuses all of it that would give the volume its layers back."""
    cluster, name, copy = cluster_of(alone), alone.volume("source"), alone.name("copy")
    alone.lin.snapshot(name, "snap")
    alone.lin.define(copy, alone.settings, {})
    assert alone.lin.definitions([copy])[copy].layers == ("STORAGE",)
    alone.lin.restore(name, "snap", copy)
    assert alone.lin.definitions([copy])[copy].layers == ()
    body = {"override_props": {"Aux/one/VM_ID": "7"}, "layer_stack": back}
    assert naive(cluster, "PUT", f"resource-definitions/{copy}", body)[0] == (500 if back else 200)
    assert alone.lin.definitions([copy])[copy].props.get("Aux/one/VM_ID") == (None if back else "7")
    # It serves all the same, where its replicas are; only LINSTOR's own clone of it is refused, in words.
    alone.lin.attach(copy, next(iter(alone.holders(copy))), alone.settings, ("STORAGE",))
    refused = sentence(lambda: alone.lin.clone(copy, alone.name("clone"), alone.settings, {}, ()), Unsupported)
    assert "forgot the layers" in refused and "made or rolled back from a snapshot" in refused


def test_an_encrypted_volume_is_attached_where_its_tiebreaker_is(encrypted: Stage) -> None:
    cluster, name = cluster_of(encrypted), encrypted.volume("a")
    node = next(node for node in encrypted.nodes if node not in encrypted.holders(name))
    address = f"resource-definitions/{name}/resources/{node}/make-available"
    layers = ["drbd", "luks", "storage"]
    assert naive(cluster, "POST", address, {"diskful": False, "layer_list": layers})[0] == 500

    encrypted.lin.attach(name, node, encrypted.settings, ("DRBD", "LUKS", "STORAGE"))
    assert "TIE_BREAKER" not in flags(cluster, name, node)


def test_without_drbd_no_empty_device_is_passed_off_as_the_volume(alone: Stage) -> None:
    cluster, name = cluster_of(alone), alone.volume("a", replicas=1)
    texts(alone).write(Content(name, 0, next(iter(alone.holders(name)))), "data")
    node = alone.other(name)
    address = f"resource-definitions/{name}/resources/{node}/make-available"
    assert naive(cluster, "POST", address, {"layer_list": ["storage"]})[0] == 200
    assert texts(alone).read(Content(name, 0, node)) == ""

    other = alone.volume("b", replicas=1)
    assert "without the DRBD layer" in sentence(
        lambda: alone.lin.attach(other, alone.other(other), alone.settings, ["STORAGE"]), Unsupported
    )
    assert len(diskful(cluster, other)) == 1


def test_a_clone_that_linstor_would_refuse_is_not_asked_for(alone: Stage) -> None:
    cluster, name = cluster_of(alone), alone.volume("naive")
    for source in (name, alone.volume("ours")):
        alone.lin.snapshot(source, "snap")
        naive(cluster, "POST", f"resource-definitions/{source}/snapshot-rollback/snap", {})
        naive(cluster, "DELETE", f"resource-definitions/{source}/snapshots/snap")
    before = len(requests(alone, "POST"))
    assert "layers" in sentence(
        lambda: alone.lin.clone(alone.name("ours"), alone.name("copy"), alone.settings, {}, ()), Unsupported
    )
    assert len(requests(alone, "POST")) == before
    # LINSTOR refuses this one after it has begun, which leaves it unable to delete the source.
    assert naive(cluster, "POST", f"resource-definitions/{name}/clone", {"name": "copy"})[0] == 500


def test_a_taken_name_costs_the_source_no_pause(drbd: Stage) -> None:
    cluster, name, taken = cluster_of(drbd), drbd.volume("source"), drbd.volume("taken")
    assert naive(cluster, "POST", f"resource-definitions/{name}/clone", {"name": taken})[0] == 500
    before = len(requests(drbd, "POST"))
    sentence(lambda: drbd.lin.clone(name, taken, drbd.settings, {}, ()), Refused)
    assert len(requests(drbd, "POST")) == before


def test_a_thick_volume_is_cloned_when_its_replicas_are_equal(thick: Stage) -> None:
    cluster, name = cluster_of(thick), thick.volume("source")
    definition = cluster.definition(name)
    assert definition
    definition.resources["NODE1" if "node1" in thick.holders(name) else "NODE2"].volumes[0].state = "Inconsistent"
    assert naive(cluster, "POST", f"resource-definitions/{name}/clone", {"name": "copy"})[0] == 500
    before = len(requests(thick, "POST"))
    assert "wait for its resync" in sentence(
        lambda: thick.lin.clone(name, thick.name("copy"), thick.settings, {}, ()), Refused
    )
    assert len(requests(thick, "POST")) == before


def test_snapshots_of_one_moment_are_all_taken_or_none(drbd: Stage) -> None:
    names = [drbd.volume("a"), drbd.volume("b")]
    assert drbd.simulator and drbd.lin.snapshots_at_once()
    drbd.simulator.faults.add(Fault("lose_answer", method="POST", path="snapshot/multi"))
    drbd.lin.snapshot_all(names, "snap")
    assert [[one.name for one in drbd.lin.snapshots(name) if one.usable] for name in names] == [["snap"], ["snap"]]
    drbd.lin.delete_snapshot(names[0], "snap")
    sentence(lambda: drbd.lin.snapshot_all(names, "snap"), Exists)
    assert not drbd.lin.snapshots(names[0]) and drbd.lin.snapshots(names[1])
    entry = {"ret_code": -4611686018427387904 + 998, "message": "Creation of snapshot: TimeoutException"}
    drbd.simulator.faults.add(Fault("refuse", method="POST", path="snapshot/multi", entries=[entry]))
    sentence(lambda: drbd.lin.snapshot_all(names, "late"), Failed)
    assert any(f"end that with `drbdadm resume-io {' '.join(names)}`" in line for line in drbd.trail.warned())


def test_a_snapshot_that_failed_half_way_is_deleted_again(drbd: Stage) -> None:
    name = drbd.volume("a")
    assert drbd.simulator
    entry = {"ret_code": -4611686018427387904 + 998, "message": "Creation of snapshot: TimeoutException"}
    drbd.simulator.faults.add(Fault("refuse", method="POST", path="snapshots$", entries=[entry]))
    naive(cluster_of(drbd), "POST", f"resource-definitions/{name}/snapshots", {"name": "snap"})
    assert "TimeoutException" in sentence(lambda: drbd.lin.snapshot(name, "snap"), Failed)
    assert not drbd.lin.snapshots(name)
    assert any(f"end that with `drbdadm resume-io {name}`" in line for line in drbd.trail.warned())


SAFETY = "safety-snap-f4bZ0q1TtX"


def left_by_a_rollback(stage: Stage, name: str) -> None:
    """Leave what a rollback of LINSTOR's own falls back to."""
    naive(cluster_of(stage), "POST", f"resource-definitions/{name}/snapshots", {"name": SAFETY})
    found = cluster_of(stage).definition(name)
    assert found
    found.snapshots[SAFETY.upper()].flags.append("SAFETY_SNAPSHOT")


def test_what_a_rollback_of_linstors_own_left_goes_with_its_volume(drbd: Stage, tmp_path: Path) -> None:
    name = drbd.volume("a")
    drbd.lin.snapshot(name, "snapshot-0")
    left_by_a_rollback(drbd, name)
    assert [one.name for one in drbd.lin.snapshots(name)] == ["snapshot-0"]
    assert naive(cluster_of(drbd), "DELETE", f"resource-definitions/{name}")[0] == 500

    world = make_world(tmp_path)._replace(clock=TestClock())
    removal.remove(world, drbd.lin, name, {}, drbd.settings)
    assert name not in drbd.lin.definitions([name])


def test_what_a_rollback_may_fall_back_to_stays_until_it_has_ended(drbd: Stage, tmp_path: Path) -> None:
    name = drbd.volume("a")
    left_by_a_rollback(drbd, name)
    found = cluster_of(drbd).definition(name)
    assert found

    class Ending(TestClock):
        """LINSTOR ends its rollback after half a minute."""

        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if self.time > 1030:
                found.snapshots.clear()

    removal.remove(make_world(tmp_path)._replace(clock=Ending()), drbd.lin, name, {}, drbd.settings)
    assert name not in drbd.lin.definitions([name])
    assert not [one for one in requests(drbd, "DELETE") if SAFETY in one]


def test_a_deletion_of_what_a_rollback_left_is_not_taken_for_done(drbd: Stage) -> None:
    name = drbd.volume("a")
    left_by_a_rollback(drbd, name)
    assert drbd.simulator
    drbd.simulator.faults.add(Fault("drop", method="DELETE"))
    assert "nothing happened" in sentence(lambda: drbd.lin.delete_snapshot(name, SAFETY), Refused)
    drbd.lin.delete_snapshot(name, SAFETY)
    assert not drbd.lin.rolling_back(name)


# --- attachments ------------------------------------------------------------------------------------------------


def test_the_second_of_two_replicas_is_never_let_go(drbd: Stage) -> None:
    cluster, names = cluster_of(drbd), [drbd.volume("naive"), drbd.volume("ours")]
    node = sorted(drbd.holders(names[0]))[0]
    assert naive(cluster, "DELETE", f"resource-definitions/{names[0]}/resources/{node}")[0] == 200
    assert len(diskful(cluster, names[0])) == 1

    node = sorted(drbd.holders(names[1]))[0]
    drbd.lin.release(names[1], node)
    assert len(diskful(cluster, names[1])) == 2


def test_letting_go_of_a_tiebreaker_keeps_the_quorum(drbd: Stage) -> None:
    cluster, names = cluster_of(drbd), [drbd.volume("naive"), drbd.volume("ours")]

    def quorum(name: str) -> str:
        definition = cluster.definition(name)
        assert definition
        return cluster.effective(definition, QUORUM) or ""

    node = next(node for node in drbd.nodes if node not in drbd.holders(names[0]))
    assert quorum(names[0]) == "majority"
    assert naive(cluster, "DELETE", f"resource-definitions/{names[0]}/resources/{node}")[0] == 200
    assert quorum(names[0]) == "off"

    node = next(node for node in drbd.nodes if node not in drbd.holders(names[1]))
    drbd.lin.attach(names[1], node, drbd.settings, ["DRBD", "STORAGE"])
    assert "TIE_BREAKER" not in flags(cluster, names[1], node)
    drbd.lin.release(names[1], node)
    drbd.lin.release(names[1], node)
    assert quorum(names[1]) == "majority" and "TIE_BREAKER" in flags(cluster, names[1], node)


def test_a_resource_that_a_reader_left_half_gone_is_named_and_repaired(drbd: Stage) -> None:
    cluster, name = cluster_of(drbd), drbd.volume("a", replicas=1)
    node = drbd.other(name)
    drbd.lin.attach(name, node, drbd.settings, ["DRBD", "STORAGE"])
    cluster.openers[name.upper(), node.upper()] = "ro"
    assert not next(item for item in drbd.lin.replicas(name) if item.node == node).in_use
    status, _ = naive(cluster, "DELETE", f"resource-definitions/{name}/resources/{node}?keep_tiebreaker=True")
    assert status == 500 and "DRBD_DELETE" in flags(cluster, name, node)
    here = next(item for item in drbd.lin.replicas(name) if item.node == node)
    assert not here.usable

    drbd.lin.attach(name, node, drbd.settings, ["DRBD", "STORAGE"])
    assert "DRBD_DELETE" not in flags(cluster, name, node)
    assert "release" in sentence(lambda: drbd.lin.release(name, node), Failed)
    cluster.openers.clear()
    drbd.lin.release(name, node)
    assert drbd.other(name) == node


# --- sizes and changes ------------------------------------------------------------------------------------------


def test_a_volume_does_not_grow_beyond_its_pool(drbd: Stage) -> None:
    cluster, names = cluster_of(drbd), [drbd.volume("naive"), drbd.volume("ours")]
    huge = Kib(954 * 1024 * MIB_IN_KIB)
    assert "do not fit" in sentence(lambda: grow(drbd.lin, names[1], huge), NotEnoughSpace)
    assert drbd.lin.definitions([names[1]])[names[1]].size == SIZE
    drbd.volume("next")

    address = f"resource-definitions/{names[0]}/volume-definitions/0"
    assert naive(cluster, "PUT", address, {"size_kib": huge})[0] == 200
    # from now on the pool takes nobody
    sentence(lambda: drbd.volume("late"), NotEnoughSpace)


def test_a_volume_never_shrinks_under_its_data(alone: Stage) -> None:
    cluster, names = cluster_of(alone), [alone.volume("naive"), alone.volume("ours")]
    address = f"resource-definitions/{names[0]}/volume-definitions/0"
    assert naive(cluster, "PUT", address, {"size_kib": SIZE // 2})[0] == 200
    assert alone.lin.definitions([names[0]])[names[0]].size == SIZE // 2

    assert "never shrinks" in sentence(lambda: grow(alone.lin, names[1], SIZE // 2), Refused)
    assert alone.lin.definitions([names[1]])[names[1]].size == SIZE


def test_a_change_that_was_carried_out_although_linstor_says_otherwise_is_done(drbd: Stage) -> None:
    cluster, name = cluster_of(drbd), drbd.volume("a")
    assert drbd.simulator
    faults, address = drbd.simulator.faults, f"resource-definitions/{name}"
    change = {"override_props": {"Aux/one/OURS": "1"}, "delete_props": [MARK]}
    satellite = {"ret_code": -4611686018427387904 + 998, "message": "(node1) Failed to adjust DRBD resource"}
    faults.add(Fault("refuse", method="PUT", entries=[satellite]))
    faults.before(faults.count + 1, lambda: naive(cluster, "PUT", address, change))
    drbd.lin.mark(name, {"Aux/one/OURS": "1"}, clear=[MARK])
    assert [entry["status"] for entry in faults.log if entry["method"] == "PUT"] == [500]

    faults.add(Fault("refuse", method="PUT", entries=[satellite]))
    assert "Failed to adjust" in sentence(lambda: drbd.lin.mark(name, {"Aux/one/OTHER": "1"}), Failed)
    props = drbd.lin.definitions([name])[name].props
    assert props["Aux/one/OURS"] == "1" and MARK not in props and "Aux/one/OTHER" not in props


def test_an_answer_that_is_late_is_awaited_and_nothing_is_done_twice() -> None:
    # A satellite may hang for 45 s and then succeed: the deadline is far above, and what was given up is read back.
    assert Settings().timeout >= 120
    for stage in simulated("1.33", "LVM_THIN", ("DRBD", "STORAGE"), timeout=2):
        assert stage.simulator
        name = bare(stage, "a")
        late = Fault("late", method="POST", path="autoplace$", seconds=2.5)
        stage.simulator.faults.add(late)
        stage.lin.place(name, stage.settings)
        assert len(diskful(cluster_of(stage), name)) == 2 and late.seen == 1
