"""Whether an image may lie where its disk is: only when its own datastore would have placed it just so."""

from __future__ import annotations

from typing import Any

import pytest
from linstor_un.inventory import Group, Pool, Replica
from linstor_un.placement import may_lie_with
from linstor_un.settings import Settings

GROUP = Group("opennebula", 2, ("thin",), ())
WISH = Settings(clone_mode="snapshot", resource_group="opennebula")
ALONE = Settings(clone_mode="clone", storage_pools=("thin",), replica_count=2)


def replica(node: str, **more: Any) -> Replica:
    known = {"flags": frozenset(), "layers": ("DRBD", "STORAGE"), "pool": "thin", "device": None, "online": True}
    return Replica(node=node, in_use=False, **{**known, **more})


def pools(kind: str = "LVM_THIN", name: str = "thin") -> list[Pool]:
    return [Pool(name, node, kind, None, None, "") for node in ("a", "b")]


TIEBREAKER = replica("c", flags=frozenset({"DISKLESS", "DRBD_DISKLESS", "TIE_BREAKER"}), pool="DfltDisklessStorPool")
PAIR = [replica("a"), replica("b"), TIEBREAKER]


@pytest.mark.parametrize(("settings", "group"), [(WISH, GROUP), (ALONE, None)])
def test_it_may_where_its_datastore_asks_for_the_same(settings: Settings, group: Group) -> None:
    assert may_lie_with(settings, group, PAIR, pools())
    assert may_lie_with(settings, group, PAIR, pools("FILE_THIN"))


@pytest.mark.parametrize(
    "rule",
    [
        {"clone_mode": "copy"},
        {"replica_count": 3},
        {"replica_count": 1},
        {"storage_pools": ("fast",)},
        {"layer_list": ("drbd", "luks", "storage")},
        {"encryption": True},
        {"layer_list": ("storage",)},
        {"node_list": ("a", "b")},
        {"providers": ("FILE_THIN",)},
        {"replicas_on_same": ("site",)},
        {"replicas_on_different": ("rack",)},
        {"do_not_place_with": ("other",)},
        {"do_not_place_with_regex": "one-.*"},
    ],
    ids=str,
)
def test_it_may_not_against_a_rule_of_its_datastore(rule: dict[str, Any]) -> None:
    assert not may_lie_with(WISH._replace(**rule), GROUP, PAIR, pools())


@pytest.mark.parametrize(
    "group",
    [
        Group("g", 3, ("thin",), ()),
        Group("g", 2, ("fast",), ()),
        Group("g", 2, ("thin",), ("STORAGE",)),
        Group("g", 2, (), ("DRBD", "LUKS", "STORAGE")),
    ],
    ids=str,
)
def test_it_may_not_against_a_rule_of_its_group(group: Group) -> None:
    assert not may_lie_with(WISH, group, PAIR, pools())


def test_it_may_not_where_a_copy_is_not_independent_or_a_replica_is_missing() -> None:
    assert not may_lie_with(WISH, GROUP, PAIR, pools("ZFS_THIN")) and not may_lie_with(WISH, GROUP, PAIR, [])
    offline = [replica("a"), replica("b", online=False), TIEBREAKER]
    assert not may_lie_with(WISH, GROUP, offline, pools()) and not may_lie_with(WISH, GROUP, [TIEBREAKER], pools())


def test_without_drbd_only_a_single_replica_is_the_disk() -> None:
    bare = ALONE._replace(layer_list=("storage",))
    both = [replica("a", layers=("STORAGE",)), replica("b", layers=("STORAGE",))]
    assert not may_lie_with(bare, None, both, pools())
    assert may_lie_with(bare._replace(replica_count=1), None, both[:1], pools()[:1])
