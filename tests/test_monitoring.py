"""Monitoring, by the scripts as oned calls them, against the simulated controller and a socket in monitord's place."""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Union

import pytest
from lab.controller import satellites
from lab.controller.cluster import Cluster, Definition, Group, VolumeDefinition
from lab.controller.server import Controller
from lab.oned import documents
from lab.oned.answers import Outcome, read_monitor
from lab.oned.driver import Oned
from lab.opennebula import install_frontend

GIB = 1 << 20  # in KiB
MIB_OF_GIB = 1024


@dataclass
class Site:
    """A front-end and a controller; `sizes` are the GiB of one pool on each node."""

    directory: Path
    sizes: tuple[int, ...] = (8, 8, 8)
    version: str = "7.4.0"
    network: str = ""
    cluster: Cluster = field(default_factory=lambda: Cluster("1.33"))

    def __post_init__(self) -> None:
        for number, size in enumerate(self.sizes):
            self.cluster.add_node(f"node{number}")
            self.cluster.add_pool(f"node{number}", "thin", "LVM_THIN", size * GIB)
        self.cluster.groups["GROUP"] = Group("group", select={"place_count": 2, "storage_pool_list": ["thin"]})
        self.controller = Controller(self.cluster).start()
        self.frontend = install_frontend(self.directory / "var", self.version)
        self.monitord = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.monitord.bind(("127.0.0.1", 0))
        self.monitord.settimeout(20)
        self.configure()

    def configure(self, more: str = "") -> None:
        """Write monitord.conf as its package has it, with the port of our socket."""
        port = self.monitord.getsockname()[1]
        (self.directory / "etc").mkdir(exist_ok=True)
        (self.directory / "etc" / "monitord.conf").write_text(
            "# NETWORK = [ PORT = 1 ]\nDB = [ CONNECTIONS = 15 ]\nNETWORK = [\n"
            f'    ADDRESS         = "0.0.0.0",\n    MONITOR_ADDRESS = "auto",\n    PORT = {port},  # ours\n'
            f"    THREADS         = 16{more}\n]\n"
        )

    def close(self) -> None:
        self.controller.stop()
        self.monitord.close()

    def datastore(self, kind: int, **attributes: Union[str, int]) -> str:
        controllers = f"127.0.0.1:{self.controller.port}"
        return documents.datastore(100 + kind, kind, LS_CONTROLLERS=controllers, **attributes)

    def monitor(self, kind: int = 0, vm_disks: bool = False, **attributes: Union[str, int]) -> Outcome:
        oned = Oned(self.version, self.frontend.remotes, env=self.frontend.env())
        return oned.monitor(self.datastore(kind, **attributes), vm_disks=vm_disks)

    def disk(self, vm: int, disk: int, mib: int, datastore: int = 101, **marks: str) -> None:
        """Let LINSTOR have a VM's disk; more marks by their name below Aux/one/."""
        name = f"one-vm-{vm}-disk-{disk}"
        own = {"VM_ID": str(vm), "DISK_ID": str(disk), "DS_ID": str(datastore)}
        props = {f"Aux/one/{key}": value for key, value in {**own, **marks}.items()}
        volumes = {0: VolumeDefinition(0, mib << 10)}
        self.cluster.definitions[name.upper()] = Definition(name, "group", props=props, volumes=volumes)

    def received(self) -> list[bytes]:
        """Return what arrived at monitord so far; at least one datagram has to."""
        found = [self.monitord.recv(1 << 17)]
        self.monitord.setblocking(False)
        try:
            while True:
                found.append(self.monitord.recv(1 << 17))
        except BlockingIOError:
            self.monitord.settimeout(20)
            return found

    def silent(self) -> bool:
        """Say whether nothing arrived at monitord."""
        self.monitord.setblocking(False)
        try:
            self.monitord.recv(1)
        except BlockingIOError:
            return True
        return False


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def usage(text: bytes) -> dict[int, str]:
    """Return what monitord stores for each VM of a message's text."""
    found = re.findall(rb'^VM=\[ID=(\d+), MONITOR="([^"]+)"\]$', text, re.MULTILINE)
    return {int(number): base64.b64decode(encoded).decode() for number, encoded in found}


def unpacked(datagram: bytes) -> bytes:
    return zlib.decompress(base64.b64decode(datagram.split()[-1], validate=True))


@pytest.mark.parametrize("kind", [0, 1])
def test_capacity_is_what_volumes_can_be_asked_for(site: Site, kind: int) -> None:
    values = read_monitor(site.monitor(kind, STORAGE_POOL="thin", REPLICA_COUNT=2))
    assert values == {"TOTAL_MB": 12 * MIB_OF_GIB, "USED_MB": 0, "FREE_MB": 12 * MIB_OF_GIB}


def test_a_node_that_is_offline_adds_no_capacity(site: Site) -> None:
    satellites.go_offline(site.cluster, "node2")
    values = read_monitor(site.monitor(STORAGE_POOL="thin", REPLICA_COUNT=2))
    assert values["TOTAL_MB"] == 8 * MIB_OF_GIB


def test_a_large_node_alone_cannot_hold_two_replicas(tmp_path: Path) -> None:
    site = Site(tmp_path, sizes=(100, 4, 4))
    try:
        assert read_monitor(site.monitor(STORAGE_POOL="thin", REPLICA_COUNT=2))["TOTAL_MB"] == 8 * MIB_OF_GIB
    finally:
        site.close()


def test_a_resource_group_says_how_many_replicas(site: Site) -> None:
    two = read_monitor(site.monitor(RESOURCE_GROUP="group"))
    three = read_monitor(site.monitor(RESOURCE_GROUP="group", REPLICA_COUNT=3))
    assert two["TOTAL_MB"] >= three["TOTAL_MB"] == 8 * MIB_OF_GIB


@pytest.mark.parametrize("linstor", ["1.20", "1.33"])
def test_a_group_that_names_no_pool_has_the_capacity_of_all(tmp_path: Path, linstor: str) -> None:
    site = Site(tmp_path, cluster=Cluster(linstor))
    site.cluster.groups["BARE"] = Group("bare", select={"place_count": 2})
    try:
        told = read_monitor(site.monitor(RESOURCE_GROUP="bare"))
        assert told == read_monitor(site.monitor(RESOURCE_GROUP="group")) and told["TOTAL_MB"] >= 8 * MIB_OF_GIB
    finally:
        site.close()


@pytest.mark.parametrize("linstor", ["1.20", "1.33"])
@pytest.mark.parametrize(
    "gib, attributes",
    [
        (6, {"NODE_LIST": "node0", "REPLICA_COUNT": 2}),
        (2, {"NODE_LIST": "node2", "REPLICA_COUNT": 2}),
        (2, {"NODE_LIST": "node0 node1", "REPLICA_COUNT": 3}),
        (2, {"NODE_LIST": "node0 node1 node2", "REPLICA_COUNT": 1}),
        (4, {"NODE_LIST": "Node0 node1", "REPLICA_COUNT": 1}),
        (8, {"NODE_LIST": "node0"}),
        (6, {"NODE_LIST": "node0", "RESOURCE_GROUP": "group"}),
        (4, {"NODE_LIST": "node0 node1", "RESOURCE_GROUP": "group"}),
        (2, {"NODE_LIST": "node0 node1 node2", "RESOURCE_GROUP": "group"}),
        (8, {"NODE_LIST": "node0", "RESOURCE_GROUP": "group", "REPLICA_COUNT": 1}),
    ],
)  # fmt: skip
def test_each_volume_takes_room_on_all_nodes_of_node_list(
    tmp_path: Path, linstor: str, gib: int, attributes: dict[str, Union[str, int]]
) -> None:
    site = Site(tmp_path, sizes=(8, 4, 2), cluster=Cluster(linstor))
    pool = {} if "RESOURCE_GROUP" in attributes else {"STORAGE_POOL": "thin"}
    try:
        values = read_monitor(site.monitor(**attributes, **pool))
        assert values == {"TOTAL_MB": gib * MIB_OF_GIB, "USED_MB": 0, "FREE_MB": gib * MIB_OF_GIB}
    finally:
        site.close()


@pytest.mark.parametrize("attributes", [{"RESOURCE_GROUP": "group"}, {"STORAGE_POOL": "thin", "REPLICA_COUNT": 1}])
def test_nothing_fits_while_a_node_of_node_list_is_offline(
    site: Site, attributes: dict[str, Union[str, int]]
) -> None:
    satellites.go_offline(site.cluster, "node1")
    outcome = site.monitor(NODE_LIST="node1", **attributes)
    assert outcome.code == 1 and "the capacity of datastore 100 is unknown" in outcome.user_message


@pytest.mark.parametrize("attributes", [{"RESOURCE_GROUP": "group"}, {"STORAGE_POOL": "thin", "REPLICA_COUNT": 2}])
def test_a_capacity_that_nobody_knows_is_no_zero(site: Site, attributes: dict[str, Union[str, int]]) -> None:
    for number in range(3):
        satellites.go_offline(site.cluster, f"node{number}")
    outcome = site.monitor(**attributes)
    assert outcome.code == 1 and outcome.stdout == ""
    assert "the capacity of datastore 100 is unknown" in outcome.user_message


def test_an_unknown_group_is_named(site: Site) -> None:
    outcome = site.monitor(RESOURCE_GROUP="nowhere")
    assert outcome.code == 1 and "nowhere" in outcome.user_message


def test_monitord_is_told_each_disk_and_snapshot_of_the_datastore(site: Site) -> None:
    site.disk(7, 0, 64, **{"SNAPSHOT_3/DISK_SIZE": "32769"})
    site.disk(7, 1, 128)
    site.disk(8, 0, 10)
    site.disk(9, 0, 10, datastore=102)
    site.disk(10, 0, 10, STATE="creating")
    outcome = site.monitor(1, vm_disks=True, RESOURCE_GROUP="group")
    assert read_monitor(outcome) and outcome.stderr == ""
    (datagram,) = site.received()
    assert datagram.startswith(b"MONITOR_VM SUCCESS -1 0 ") and datagram.endswith(b"\n")
    assert usage(unpacked(datagram)) == {
        7: "DISK_SIZE=[ID=0,SIZE=64]\nDISK_SIZE=[ID=1,SIZE=128]\nSNAPSHOT_SIZE=[ID=3,DISK_ID=0,SIZE=33]",
        8: "DISK_SIZE=[ID=0,SIZE=10]",
    }


def test_a_broken_mark_of_one_disk_hides_no_other(site: Site) -> None:
    site.disk(7, 0, 64, **{"SNAPSHOT_x/DISK_SIZE": "1", "SNAPSHOT_4/DISK_SIZE": "large"})
    site.disk(8, 0, 64, VM_ID="eight")
    site.monitor(1, vm_disks=True, RESOURCE_GROUP="group")
    assert usage(unpacked(site.received()[0])) == {7: "DISK_SIZE=[ID=0,SIZE=64]"}


@pytest.mark.parametrize("kind, vm_disks", [(1, False), (0, False)])
def test_monitord_hears_nothing_unless_oned_wants_it(site: Site, kind: int, vm_disks: bool) -> None:
    site.disk(7, 0, 64)
    read_monitor(site.monitor(kind, vm_disks, RESOURCE_GROUP="group"))
    assert site.silent()


def test_the_first_releases_with_monitord_read_no_time_stamp(tmp_path: Path) -> None:
    site = Site(tmp_path, version="5.12.1")
    try:
        site.disk(7, 0, 64)
        read_monitor(site.monitor(1, vm_disks=True, RESOURCE_GROUP="group"))
        assert re.match(rb"MONITOR_VM SUCCESS -1 [A-Za-z0-9+/=]{9,}\n\Z", site.received()[0])
    finally:
        site.close()


@pytest.mark.parametrize(
    "spoil, reason",
    [("unlink", "monitord.conf cannot be read"), ("key", "PUBKEY of"), ("address", "cannot be reached")],
)
def test_the_capacity_is_told_although_monitord_cannot_be(site: Site, spoil: str, reason: str) -> None:
    site.disk(7, 0, 64)
    if spoil == "unlink":
        (site.directory / "etc" / "monitord.conf").unlink()
    elif spoil == "key":
        (site.directory / "key").write_text("-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n")
        site.configure(f', PUBKEY = "{site.directory}/key"')
    else:
        site.configure(', MONITOR_ADDRESS = "no.such.name.invalid"')
    outcome = site.monitor(1, vm_disks=True, RESOURCE_GROUP="group")
    assert read_monitor(outcome)["TOTAL_MB"] > 0
    assert [log.severity for log in outcome.logs] == ["WARN"]
    assert reason in outcome.logs[0].text


@pytest.mark.parametrize("form", ["pkcs1", "x509"])
def test_a_public_key_encrypts_what_monitord_decrypts(site: Site, form: str) -> None:
    private, public = site.directory / "private.pem", site.directory / "public.pem"
    subprocess.run(["openssl", "genrsa", "-out", private, "2048"], check=True, capture_output=True)
    kind = "-RSAPublicKey_out" if form == "pkcs1" else "-pubout"
    subprocess.run(["openssl", "rsa", "-in", private, kind, "-out", public], check=True, capture_output=True)
    site.configure(f', PUBKEY = "{public}"')
    for vm in range(20):
        site.disk(vm, 0, 64)
    site.monitor(1, vm_disks=True, RESOURCE_GROUP="group")
    secret = unpacked(site.received()[0])
    text = b"".join(_decrypted(private, secret[start : start + 256]) for start in range(0, len(secret), 256))
    assert usage(text) == dict.fromkeys(range(20), "DISK_SIZE=[ID=0,SIZE=64]")


def _decrypted(key: Path, block: bytes) -> bytes:
    command = ["openssl", "pkeyutl", "-decrypt", "-inkey", str(key)]
    return subprocess.run(command, input=block, check=True, capture_output=True).stdout


@pytest.mark.slow
def test_many_disks_are_monitored_in_two_requests_and_a_second(site: Site) -> None:
    for vm in range(5000):
        site.disk(vm, 0, 64)
        site.disk(vm, 1, 32)
    before, log = os.times(), len(site.controller.faults.log)
    outcome = site.monitor(1, vm_disks=True, RESOURCE_GROUP="group")
    after = os.times()
    assert read_monitor(outcome)
    datagrams = site.received()
    assert all(len(datagram) < 65508 for datagram in datagrams)
    found = [number for datagram in datagrams for number in usage(unpacked(datagram))]
    assert len(found) == len(set(found)) and set(found) <= set(range(5000))
    asked = [entry for entry in site.controller.faults.log[log:] if entry["path"] != "/v1/controller/version"]
    assert len(asked) == 2
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    assert spent < 2.0, f"{spent:.2f} s of CPU"


def test_saved_memory_is_no_disk(site: Site) -> None:
    site.disk(7, 0, 1024)
    site.disk(7, 1, 512)
    checkpoint = site.cluster.definitions.pop("ONE-VM-7-DISK-1")
    checkpoint.name = "one-vm-7-checkpoint"
    del checkpoint.props["Aux/one/DISK_ID"]
    site.cluster.definitions["ONE-VM-7-CHECKPOINT"] = checkpoint
    site.monitor(1, vm_disks=True, STORAGE_POOL="thin", REPLICA_COUNT=2)
    (text,) = map(unpacked, site.received())
    assert usage(text) == {7: "DISK_SIZE=[ID=0,SIZE=1024]"}


def test_a_disk_that_is_going_is_not_counted(site: Site) -> None:
    site.disk(7, 0, 64)
    site.disk(7, 1, 64)
    site.cluster.definitions["ONE-VM-7-DISK-1"].flags.append("DELETE")
    site.monitor(1, vm_disks=True, RESOURCE_GROUP="group")
    assert usage(unpacked(site.received()[0])) == {7: "DISK_SIZE=[ID=0,SIZE=64]"}


@pytest.mark.parametrize(
    "address, monitor_address, reached",
    [("0.0.0.0", "auto", True), ("127.0.0.1", "auto", True), ("127.0.0.9", "auto", False), ("::", "127.0.0.1", True)],
)
def test_monitord_is_found_where_its_configuration_says(
    site: Site, address: str, monitor_address: str, reached: bool
) -> None:
    conf = site.directory / "etc" / "monitord.conf"
    text = conf.read_text().replace("0.0.0.0", address).replace("auto", monitor_address)
    conf.write_text(text)
    site.disk(7, 0, 64)
    read_monitor(site.monitor(1, vm_disks=True, RESOURCE_GROUP="group"))
    assert site.silent() is not reached
