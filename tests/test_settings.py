"""Settings: a datastore's attributes over linstor_un.conf, which is parsed and never run."""

from __future__ import annotations

from pathlib import Path

import pytest
from linstor_un import conffile
from linstor_un.attributes import ATTRIBUTES, OLD_SPELLINGS
from linstor_un.errors import BadRequest
from linstor_un.settings import Settings, load, require_placement

# The old driver's file as sites have it.
OLD_CONF = """
# Configuration of the driver
DD_BLOCK_SIZE=${DD_BLOCK_SIZE:-64k}
DD_CONV="sparse"   # skip zeroes
STAGING_DIR=/var/tmp
export LINSTOR='linstor' JQ=jq
#LEGACY_MONITORING=1
"""


def settings(conf: str = "", **template: str) -> Settings:
    return load(template, conf).settings


def test_every_attribute_of_the_old_readme_is_read() -> None:
    found = settings(
        CLONE_MODE="Snapshot", BRIDGE_LIST="node1 node2,node_3", LS_CONTROLLERS="c1,linstor+ssl://c2:3371 [::1]:3370",
        LS_CERTFILE="/a", LS_KEYFILE="/b", LS_CAFILE="/c", LS_TOKEN_FILE="/d", LS_TIMEOUT="20", RESOURCE_GROUP="one",
        NODE_LIST="n1,  n2", LAYER_LIST="drbd,STORAGE", PROVIDERS="lvm_thin", REPLICAS_ON_SAME="site",
        REPLICAS_ON_DIFFERENT="rack row=3", REPLICA_COUNT="2", CHECKPOINT_REPLICA_COUNT="1", DO_NOT_PLACE_WITH="r1 r2",
        DO_NOT_PLACE_WITH_REGEX="^one-", STORAGE_POOL="ssd hdd", DISKLESS_POOL="DfltDisklessStorPool",
        PREFER_NODE="Yes", ENCRYPTION="no", STAGING_DIR="/s", RESTRICTED_DIRS="/", SAFE_DIRS="/a /b",
        NO_DECOMPRESS="YES", LIMIT_TRANSFER_BW="10M", ON_NO_QUORUM="IO-error",
    )  # fmt: skip
    assert found == Settings(
        clone_mode="snapshot", bridge_list=("node1", "node2", "node_3"),
        controllers=("c1", "linstor+ssl://c2:3371", "[::1]:3370"), certfile="/a", keyfile="/b", cafile="/c",
        token_file="/d", timeout=20, resource_group="one", node_list=("n1", "n2"), layer_list=("DRBD", "STORAGE"),
        providers=("LVM_THIN",), replicas_on_same=("site",), replicas_on_different=("rack", "row=3"), replica_count=2,
        checkpoint_replica_count=1, do_not_place_with=("r1", "r2"), do_not_place_with_regex="^one-",
        storage_pools=("ssd", "hdd"), diskless_pool="DfltDisklessStorPool", prefer_node=True, encryption=False,
        staging_dir="/s", restricted_dirs=("/",), safe_dirs=("/a", "/b"), no_decompress="yes", limit_transfer_bw="10M",
        on_no_quorum="io-error",
    )  # fmt: skip


def test_every_field_of_settings_has_its_attribute() -> None:
    assert {attribute.field for attribute in ATTRIBUTES.values()} == set(Settings._fields)


def test_the_datastore_goes_before_the_file_and_an_empty_value_counts_as_not_set() -> None:
    conf = "REPLICA_COUNT=2\nCLONE_MODE=snapshot"
    assert settings(conf, REPLICA_COUNT="3").replica_count == 3
    assert settings(conf, REPLICA_COUNT="").replica_count == 2
    assert settings(conf, REPLICA_COUNT="3").clone_mode == "snapshot"
    assert settings("REPLICA_COUNT=").replica_count is None


@pytest.mark.parametrize(("old", "new"), OLD_SPELLINGS.items())
def test_an_old_spelling_works_and_gives_way_to_the_new_one(old: str, new: str) -> None:
    field = ATTRIBUTES[new].field
    assert getattr(settings(**{old: "3"}), field) == 3
    assert getattr(settings(**{old: "3", new: "2"}), field) == 2
    assert getattr(settings(f"{new}=2", **{old: "3"}), field) == 3


def test_the_old_file_is_accepted_and_what_has_no_effect_is_named_once() -> None:
    loaded = load({}, OLD_CONF)
    assert loaded.warnings == ()
    assert loaded.notes == ("DD_BLOCK_SIZE, DD_CONV, JQ, LINSTOR of the old driver have no effect any more",)
    assert loaded.settings == Settings(staging_dir="/var/tmp")
    assert load({}, "LEGACY_MONITORING=1").notes == ("LEGACY_MONITORING of the old driver have no effect any more",)


def test_our_own_file_is_accepted_as_shipped_and_with_every_line_switched_on() -> None:
    text = (Path(__file__).parents[1] / "etc" / "linstor_un.conf").read_text()
    assert load({}, text) == load({}, "")
    on = "\n".join(line.lstrip("#") for line in text.splitlines() if line.startswith("#") and not line.startswith("# "))
    loaded = load({}, on)
    assert (loaded.warnings, loaded.notes) == ((), ())
    assert loaded.settings.resource_group == "opennebula"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("CLONE_MODE", "thin", "copy or snapshot or clone"),
        ("BRIDGE_LIST", "node1 no;de", "host names"),
        ("LS_CONTROLLERS", "ftp://c1", "HOST, HOST:PORT"),
        ("LS_CONTROLLERS", "c1:99999", "HOST, HOST:PORT"),
        ("LS_CONTROLLERS", "user:secret@c1", "HOST, HOST:PORT"),
        ("LS_CAFILE", "ca.pem", "an absolute path"),
        ("LS_TIMEOUT", "0", "seconds from 1 to"),
        ("RESOURCE_GROUP", "a b", "resource group name"),
        ("NODE_LIST", "-n1", "node names"),
        ("LAYER_LIST", "DRBD RAID", "DRBD, LUKS"),
        ("PROVIDERS", "btrfs", "LVM, LVM_THIN"),
        ("REPLICA_COUNT", "two", "replicas from 1 to 32"),
        ("REPLICA_COUNT", "0", "replicas from 1 to 32"),
        ("AUTO_PLACE", "-1", "replicas from 1 to 32"),
        ("DO_NOT_PLACE_WITH", "a/b", "resource names"),
        ("DO_NOT_PLACE_WITH_REGEX", "(", "a regular expression"),
        ("STORAGE_POOL", "ab", "3 to 48 letters"),
        ("DISKLESS_POOL", "x" * 49, "3 to 48 letters"),
        ("PREFER_NODE", "maybe", "yes or no"),
        ("ENCRYPTION", "1", "yes or no"),
        ("ON_NO_QUORUM", "freeze", "suspend-io or io-error or linstor"),
        ("SAFE_DIRS", "/a var/tmp", "an absolute path"),
        ("LIMIT_TRANSFER_BW", "fast", "bytes a second"),
    ],
)
def test_an_invalid_value_is_one_sentence(name: str, value: str, allowed: str) -> None:
    for conf, template in (("", {name: value}), (f"{name}='{value}'", {})):
        with pytest.raises(BadRequest) as raised:
            load(template, conf)
        sentence = str(raised.value)
        assert name in sentence and allowed in sentence and repr(value.rsplit(maxsplit=1)[-1])[1:-1] in sentence
        assert ("linstor_un.conf" if conf else "the datastore") in sentence


def test_an_unknown_key_of_the_file_is_named_with_the_nearest_known_one() -> None:
    warnings = load({}, "LS_CONTROLER=c1\nZZZ=1\nmine=2").warnings
    assert len(warnings) == 2
    assert "LS_CONTROLER" in warnings[0] and "LS_CONTROLLERS" in warnings[0]
    assert warnings[1].startswith("ZZZ in linstor_un.conf is not a key")


def test_in_a_datastore_only_near_misses_are_named() -> None:
    warnings = load({"REPLICA_COUTN": "2", "STORAGE_POOLS": "a", "CEPH_HOST": "x", "DISK_TYPE": "BLOCK"}, "").warnings
    assert [warning.split()[0] for warning in warnings] == ["REPLICA_COUTN", "STORAGE_POOLS"]
    assert "REPLICA_COUNT may be meant" in warnings[0]


_OPENNEBULAS_OWN = [
    "ALLOW_ORPHANS", "BASE_PATH", "CEPH_CONF", "CEPH_HOST", "CEPH_KEY", "CEPH_SECRET", "CEPH_USER",
    "CLONE_TARGET", "CLONE_TARGET_SHARED", "CLONE_TARGET_SSH", "COMPATIBLE_SYS_DS", "DATASTORE_CAPACITY_CHECK",
    "DISK_TYPE", "DISK_TYPE_SHARED", "DISK_TYPE_SSH", "DRIVER", "DS_LIVE_MIGRATE", "DS_MAD", "DS_MIGRATE",
    "DS_MIGRATE_SNAP", "EC_POOL_NAME", "ISCSI_HOST", "ISCSI_USER", "LIMIT_MB", "LINSTOR_CLONE_MODE",
    "LINSTOR_CONTROLLERS", "LINSTOR_RESOURCE_GROUP", "LN_TARGET", "LN_TARGET_SHARED", "LN_TARGET_SSH",
    "NFS_AUTO_ENABLE", "NFS_AUTO_HOST", "NFS_AUTO_OPTS", "NFS_AUTO_PATH", "PERSISTENT_SNAPSHOTS", "POOL_NAME",
    "QCOW2_OPTIONS", "QCOW2_STANDALONE", "RBD_FORMAT", "REPLICA_HOST", "REPLICA_RECOVERY_SNAPS_FREQ",
    "REPLICA_SSH_OPTS", "REPLICA_STORAGE_IP", "RESTIC_PASSWORD", "RSYNC_HOST", "RSYNC_USER", "SHARED", "SPARSE",
    "STAGING_IMAGE", "TM_MAD", "TM_MAD_SYSTEM", "TYPE", "VG_NAME",
]


def test_opennebulas_own_attributes_are_no_near_misses() -> None:
    assert load(dict.fromkeys(_OPENNEBULAS_OWN, "x"), "").warnings == ()


@pytest.mark.parametrize(
    ("template", "missing"),
    [
        ({}, "none of RESOURCE_GROUP, NODE_LIST and REPLICA_COUNT"),
        ({"STORAGE_POOL": "ssd"}, "none of RESOURCE_GROUP, NODE_LIST and REPLICA_COUNT"),
        ({"REPLICA_COUNT": "2"}, "neither RESOURCE_GROUP nor STORAGE_POOL"),
        ({"NODE_LIST": "n1"}, "neither RESOURCE_GROUP nor STORAGE_POOL"),
        ({"RESOURCE_GROUP": "one"}, ""),
        ({"REPLICA_COUNT": "2", "STORAGE_POOL": "ssd"}, ""),
        ({"NODE_LIST": "n1", "STORAGE_POOL": "ssd"}, ""),
    ],
)
def test_placing_needs_a_count_and_a_pool(template: dict[str, str], missing: str) -> None:
    found = settings(**template)
    if not missing:
        return require_placement(found)
    with pytest.raises(BadRequest, match=missing):
        require_placement(found)
    return None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", "b"),
        ("export A=b", "b"),
        ("A='b  c'", "b  c"),
        ('A="b c"d', "b cd"),
        (r"A=b\ c", "b c"),
        (r'A="\$x \n"', r"$x \n"),
        ("A=b\\\nc", "bc"),
        ('A="b\nc"', "b\nc"),
        ("A=${Z:-d}", "d"),
        ("A=${Z:-\"d e\"}", "d e"),
        ("Z=\nA=${Z:-d}", "d"),
        ("Z=\nA=${Z-d}", ""),
        ("Z=z; A=${Z}y", "zy"),
        ("Z=z A=$Z", "z"),
        ("A=${Y:-${Z:-d}}", "d"),
        ("A=b # c", "b"),
        ("A=b#c", "b#c"),
        ("  A=b\r\n", "b"),
        ("A=", ""),
        ("A=1\nA=2", "2"),
    ],
)
def test_assignments_are_read_as_a_shell_reads_them(text: str, value: str) -> None:
    assert conffile.parse(text).values["A"] == value


@pytest.mark.parametrize(
    "text",
    [
        "A=$(touch {0})", "A=`touch {0}`", 'A="$(touch {0})"', "touch {0}", "A=1 && touch {0}", "A=<(touch {0})",
        "if true; then touch {0}; fi", ". {0}", "A=${{B:-$(touch {0})}}", "A=(1 2)", "A='open", 'A="open', "A=*",
        "A=${{B/x/y}}", "A+=1", "1A=2", "A=${{B:-open",
    ],
)  # fmt: skip
def test_what_is_no_plain_assignment_is_named_and_never_run(text: str, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    parsed = conffile.parse(text.format(witness) + "\nB=after\n")
    assert not witness.exists()
    assert any("is not a plain assignment" in remark for remark in parsed.remarks)


def test_a_line_that_means_nothing_does_not_hide_the_next() -> None:
    parsed = conffile.parse("touch /x\nA=$(date)\nB=after\n")
    assert parsed.values == {"B": "after"}
    assert [remark.partition(":")[0] for remark in parsed.remarks] == [
        "line 1 is not a plain assignment and has no effect",
        "line 2 is not a plain assignment and has no effect",
    ]


def test_a_variable_of_nowhere_is_named() -> None:
    parsed = conffile.parse("A=$NOWHERE/x")
    assert parsed.values["A"] == "/x"
    assert parsed.remarks == ["$NOWHERE is not set before it is used; it counts as empty"]


def test_a_nest_of_defaults_ends() -> None:
    parsed = conffile.parse("A=" + "${B:-" * 5000)
    assert parsed.values == {}
