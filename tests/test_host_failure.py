"""Nodes that are off, cut off or being emptied, and a controller that goes away, under whole actions."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab.controller import drbd_events, satellites
from lab.controller.faults import Fault
from lab.controller.server import Controller
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_monitor
from lab.site import Site
from linstor_un.adapters import controller_client, controller_link
from linstor_un.adapters.controller import LinstorController
from linstor_un.errors import Uncertain
from linstor_un.naming import by_res
from linstor_un.settings import Settings
from linstor_un.wiring import SystemClock
from scripted_controller import Memory
from site_support import cp, datablock, done, failed, later, marks, opened, rm

pytestmark = pytest.mark.slow

SITE = {"hosts": ("node1", "node2", "node3", "node4")}
DISK = "one-vm-7-disk-0"
VOLATILE = D.DiskDocument(0, size=8, kind="fs")


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on node1 and node2, and their tiebreaker on node3."""
    site.cluster.prefer = lambda _: ["node1", "node2", "node3"]
    yield
    site.cluster.prefer = lambda _: []


def volatile(site: Site, host: str = "node1") -> Outcome:
    site.documents.put(D.vm(7, [VOLATILE], hosts=[host]))
    return site.oned.tm("mkimage", 8, "raw", site.disk_word(host, 7, 0), 7, 101)


def delete(site: Site, host: str = "node1") -> Outcome:
    return site.oned.tm("delete", site.disk_word(host, 7, 0), 7, 101)


def power_off(site: Site, node: str) -> None:
    with site.cluster.lock:
        drbd_events.kill(site.cluster, node)


def power_on(site: Site, node: str) -> None:
    with site.cluster.lock:
        drbd_events.join(site.cluster, node)


# --- removing while a node is away ------------------------------------------------------------------------------


def test_a_disk_goes_while_a_node_with_a_replica_is_off_and_linstor_ends_it_later(site: Site) -> None:
    done(volatile(site))
    power_off(site, "node2")
    for _ in range(2):
        outcome = done(delete(site))
        assert "until node2 is connected to LINSTOR again" in outcome.stderr and "WARN" in outcome.stderr
        assert not site.link("node1", 7, 0)
    found = site.definition(DISK)
    assert found and "DELETE" in found.flags

    assert "waits for node2" in failed(volatile(site))
    power_on(site, "node2")
    assert not site.definition(DISK)
    done(volatile(site))


def test_a_disk_stays_while_only_a_satellite_is_stopped_on_a_node_that_may_use_it(site: Site) -> None:
    done(volatile(site, "node2"))
    with opened(site, "node2", by_res(DISK)):
        with site.cluster.lock:
            satellites.go_offline(site.cluster, "node2")
        assert f"{DISK} may be open on node2" in failed(delete(site, "node2"))
        found = site.definition(DISK)
        assert found and "DELETE" not in found.flags and len(site.holders(DISK)) == 2
        assert site.link("node2", 7, 0) == by_res(DISK) and marks(site, DISK)["STATE"] == "deleting"
    with site.cluster.lock:
        satellites.come_back(site.cluster, "node2")
    done(delete(site, "node2"))
    assert not site.definition(DISK)


def test_a_satellite_that_is_restarted_is_waited_for(site: Site) -> None:
    done(volatile(site))
    with site.cluster.lock:
        satellites.go_offline(site.cluster, "node2")
    with later(1.5, satellites.come_back, site.cluster, "node2"):
        assert done(delete(site)).stderr == ""
    assert not site.definition(DISK)


def test_an_image_is_not_removed_while_a_node_is_off(site: Site) -> None:
    name = datablock(site)
    power_off(site, "node2")
    assert f"{name} may be open on node2" in failed(rm(site))
    found = site.definition(name)
    assert found and "DELETE" not in found.flags and len(site.holders(name)) == 2
    power_on(site, "node2")
    done(rm(site))
    assert not site.definition(name)


def test_a_name_that_linstor_is_about_to_free_is_waited_for(site: Site) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=60)
    done(volatile(site))
    first = site.definition(DISK)
    assert first
    first.flags.append("DELETE")

    def end() -> None:
        first.flags.clear()
        site.rest("DELETE", f"/v1/resource-definitions/{DISK}")

    with later(1.5, end):
        done(volatile(site))
    second = site.definition(DISK)
    assert second and second is not first


# --- placing and copying while nodes are away or leave ----------------------------------------------------------


def test_images_come_and_capacity_is_told_while_a_node_is_off(site: Site) -> None:
    before = read_monitor(done(site.oned.monitor(site.image_datastore)))["TOTAL_MB"]
    power_off(site, "node2")
    assert 0 < read_monitor(done(site.oned.monitor(site.image_datastore)))["TOTAL_MB"] < before
    name = cp(site)
    assert site.holders(name) == ["node1", "node3"]


def test_a_node_that_is_being_emptied_copies_only_when_nobody_else_can(site: Site) -> None:
    cp(site)
    site.documents.put(D.vm(7, [D.DiskDocument(0, size=8, image=5)], hosts=["node3"]))
    found = site.definition("one-image-5")
    assert found
    site.rest("PUT", "/v1/nodes/node1/evacuate")
    found.resources["NODE1"].flags.append("EVACUATE")
    site.hosts.hide_tools("node1", "qemu-img")
    try:
        done(site.oned.tm("clone", site.source_word(5), site.disk_word("node3", 7, 0), 7, 100))
    finally:
        site.hosts.hide_tools("node1")
    assert "node1" not in site.holders(DISK)


def test_a_node_of_node_list_that_is_being_emptied_gets_nothing(site: Site) -> None:
    site.rest("PUT", "/v1/nodes/node2/evacuate")
    site.datastores(NODE_LIST="node1 node2", STORAGE_POOL="thin")
    assert "cannot be placed on node2" in failed(volatile(site))
    assert not site.cluster.definitions


# --- what monitoring tells --------------------------------------------------------------------------------------


def test_volumes_that_nobody_wants_any_more_are_told_in_one_line(site: Site) -> None:
    for number in range(7, 15):
        site.documents.put(D.vm(number, [VOLATILE]))
        done(site.oned.tm("mkimage", 8, "raw", site.disk_word("node1", number, 0), number, 101))
        found = site.definition(f"one-vm-{number}-disk-0")
        assert found
        if number < 14:
            found.props["Aux/one/STATE"] = "deleting"
    outcome = done(site.oned.monitor(site.system_datastore, vm_disks=True))
    told = [line for line in outcome.stderr.splitlines() if "one-vm-" in line]
    assert len(told) == 1 and "7 volumes" in told[0] and "one-vm-7-disk-0" in told[0] and "and 2 more" in told[0]
    assert "one-vm-14" not in outcome.stderr


# --- a controller that is away ----------------------------------------------------------------------------------


@pytest.mark.parametrize("request_number", range(1, 7))
def test_a_controller_that_restarts_in_the_middle_of_a_clone_is_waited_for(site: Site, request_number: int) -> None:
    cp(site)
    site.documents.put(D.vm(7, [D.DiskDocument(0, size=8, image=5)], hosts=["node4"]))
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=30)
    restart = Fault("restart", at=request_number, seconds=1.0)
    site.controller.faults.add(restart)
    outcome = site.oned.tm("clone", site.source_word(5), site.disk_word("node4", 7, 0), 7, 100)
    assert restart.seen >= request_number
    if not outcome.success:
        # The change that was in flight was not carried out: nothing is left of the rest.
        assert "nothing happened" in failed(outcome) and not site.definition(DISK)
        outcome = site.oned.tm("clone", site.source_word(5), site.disk_word("node4", 7, 0), 7, 100)
    done(outcome)
    assert "STATE" not in marks(site, DISK) and site.link("node4", 7, 0) == by_res(DISK)
    assert site.holders(DISK) == ["node1", "node2"] and site.attached(DISK) == ["node4"]


def test_a_controller_that_stays_away_ends_an_action_in_bounded_time_and_a_rerun_succeeds(site: Site) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=10)
    site.controller.faults.add(Fault("restart", at=2, seconds=1e6))
    began = time.monotonic()
    outcome = volatile(site)
    assert time.monotonic() - began < 10
    assert outcome.code == 3 and f"left behind: {DISK}" in outcome.user_message
    began = time.monotonic()
    assert "no LINSTOR controller answers" in failed(volatile(site))
    assert time.monotonic() - began < 10

    site.controller.faults.clear()
    done(volatile(site))
    assert "STATE" not in marks(site, DISK) and len(site.holders(DISK)) == 2


def test_an_action_goes_on_with_the_controller_that_takes_over(site: Site) -> None:
    cp(site)
    site.documents.put(D.vm(7, [D.DiskDocument(0, size=8, image=5)], hosts=["node4"]))
    site.datastores(RESOURCE_GROUP="opennebula", LS_CONTROLLERS="127.0.0.1:3370,127.0.0.1:3371", LS_TIMEOUT=30)
    with Controller(site.cluster).start("127.0.0.1", 3371) as second:
        second.faults.go_down(2.0)
        # The third request creates the disk: done, but the answer is lost with its controller.
        site.controller.faults.clear()
        site.controller.faults.add(Fault("lose_answer", at=3))
        site.controller.faults.before(3, lambda: site.controller.faults.go_down(1e6))
        done(site.oned.tm("clone", site.source_word(5), site.disk_word("node4", 7, 0), 7, 100))
        assert not any(entry["path"].endswith("/spawn") for entry in second.faults.log) and second.faults.log
    site.controller.faults.clear()
    assert "STATE" not in marks(site, DISK) and site.holders(DISK) == ["node1", "node2"]


_SILENT = """
import socket
with socket.create_server(("0.0.0.0", 3370)) as server:
    print("listening", flush=True)
    connection = server.accept()[0]
    connection.recv(65536)
    body = b'{"rest_api_version": "1.27.0", "version": "test"}'
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    while connection.recv(65536):
        pass
"""


@contextmanager
def dying_controller(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[LinstorController]:
    """A driver's connection to a controller on node4, which is cut off during the first request, and a second one."""
    for module, name, seconds in (
        (controller_client, "GONE_SECONDS", 2),
        (controller_client, "_ASK_AFTER", 1),
        (controller_client, "_ASK_EVERY", 1),
        (controller_link, "CONNECT_SECONDS", 1),
    ):
        monkeypatch.setattr(module, name, seconds)
    # Neither this checkout nor root's own Python can be reached from there.
    argv = site.hosts.entering("node4", ["/usr/bin/python3", "-I", "-S", "-c", _SILENT])
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout and controller.stdout.readline() == "listening\n"
        addresses = (f"{site.hosts.address('node4')}:3370", "127.0.0.1:3370")
        lin = LinstorController(Settings(controllers=addresses, timeout=40), SystemClock(), Memory())
        assert lin._link.rest == (1, 27, 0) and not site.controller.faults.log
        try:
            with later(0.5, site.hosts.partition, "node4", "frontend"):
                yield lin
        finally:
            site.hosts.heal("node4", "frontend")
            # The process that entered the host is another than the one that listens there.
            site.hosts.run("node4", ["pkill", "-KILL", "-f", "create_server"], user="root", check=False)
            controller.kill()


def test_a_question_to_a_machine_that_dies_is_put_to_the_next_controller(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dying_controller(site, monkeypatch) as lin:
        began = time.monotonic()
        assert [node.name for node in lin.nodes()] == list(site.hosts.names)
        assert time.monotonic() - began < 30


def test_a_change_on_a_machine_that_dies_stays_uncertain(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether the other side is dead, or only cut off and still at work."""
    name = datablock(site)
    site.controller.faults.clear()
    with dying_controller(site, monkeypatch) as lin, pytest.raises(Uncertain, match="so far nothing happened"):
        lin.mark(name, {"Aux/one/X": "1"})
    assert "X" not in marks(site, name)
