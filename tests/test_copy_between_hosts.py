"""Copies over the network: from host to host with the front-end's keys, through the front-end where that fails."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from copy_support import MIB, Notes, image, make_world, sparse_bytes
from lab.controller.volumes import Content
from lab.hosts import Hosts, LabUnavailable, LoopVolumes, account, facts
from lab.opennebula.frontend import install_frontend
from linstor_un.adapters.hosts import SshHosts
from linstor_un.errors import DriverError
from linstor_un.operations.contents import Device, copy_device
from linstor_un.operations.importing import import_image
from linstor_un.settings import Settings
from linstor_un.units import Bytes
from linstor_un.world import World
from test_hosts import become_oneadmin, by_driver, eventually

pytestmark = pytest.mark.slow

SIZE = 12 * MIB
DISK = Content("one-image-5", 0, "node1")
COPY = Content("one-vm-7-disk-0", 0, "node2")


@pytest.fixture(scope="module")
def lab() -> Iterator[Hosts]:
    try:
        hosts = Hosts(["node1", "node2"])
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    with hosts:
        install_frontend(Path("/var/lib/one"), owner=(account.UID, account.GID))
        yield hosts


@pytest.fixture
def volumes(lab: Hosts) -> Iterator[LoopVolumes]:
    made = LoopVolumes(None, lab)
    yield made
    made.close()


@pytest.fixture
def agent(lab: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_AGENT", lab.frontend_env()["SSH_AUTH_SOCK"])


def in_driver(work: Callable[[World], object]) -> list[str]:
    """Run work as a driver does; returns what its trail says. What it took is given back when it fails."""

    def inside(hosts: SshHosts) -> list[str]:
        world = make_world(Path("/var/lib/one"), names=("frontend",))._replace(hosts=hosts)
        try:
            work(world)
        except DriverError:
            assert world.undo.unwind() == []
            raise
        assert world.undo.settle() == []
        assert isinstance(world.trail, Notes)
        return world.trail.lines

    lines: list[str] = by_driver(inside)
    return lines


def filled(volumes: LoopVolumes, size: int = SIZE, room: int = SIZE, dirty: bool = False) -> tuple[Device, Device]:
    """Return a source with bytes on node1 and a target on node2."""
    volumes.create(DISK, size)
    volumes.create(COPY, room)
    source, target = volumes.attach(DISK, "node1", None), volumes.attach(COPY, "node2", None)
    put(volumes, DISK, sparse_bytes("a", size))
    if dirty:
        put(volumes, COPY, b"\xa5OLD" * (room // 4))
    return Device("node1", source, Bytes(size)), Device("node2", target, Bytes(room), zero=not dirty)


def put(volumes: LoopVolumes, content: Content, data: bytes) -> None:
    with open(volumes.settled(content), "r+b") as file:
        file.write(data)


@pytest.mark.parametrize("dirty", [True, False], ids=["dirty", "zero"])
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the front-end"])
def test_a_copy_to_another_host_has_the_source_and_then_zeroes(
    volumes: LoopVolumes, request: pytest.FixtureRequest, direct: bool, dirty: bool
) -> None:
    if direct:
        request.getfixturevalue("agent")
    source, target = filled(volumes, room=SIZE + 8 * MIB, dirty=dirty)
    said = in_driver(lambda world: copy_device(world, source, target))
    whole = volumes.settled(COPY).read_bytes()
    assert whole[:SIZE] == sparse_bytes("a", SIZE)
    assert not any(whole[SIZE + MIB :]) and b"OLD" not in whole
    assert [line for line in said if "through the front-end" in line] == (
        [] if direct else ["node1 cannot log in at node2: copying through the front-end"]
    )
    if not dirty:
        assert facts.allocated(volumes.file(COPY)) <= SIZE * 2 // 3


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "through the front-end"])
def test_a_full_pool_on_the_other_host_is_a_failure(
    volumes: LoopVolumes, request: pytest.FixtureRequest, direct: bool
) -> None:
    if direct:
        request.getfixturevalue("agent")
    source, target = filled(volumes)
    volumes.leave_room("node2", 2 * MIB)
    try:
        with pytest.raises(DriverError, match="cannot copy .*(space|I/O|Input/output)"):
            in_driver(lambda world: copy_device(world, source, target))
    finally:
        volumes.leave_all_room("node2")


@pytest.mark.usefixtures("agent")
def test_a_connection_that_breaks_in_the_middle_is_a_failure_and_no_reason_to_begin_again(
    volumes: LoopVolumes, lab: Hosts
) -> None:
    source, target = filled(volumes)
    # not read by a command on the host: the driver is forked beside this, and would keep its pipes open
    heard = Path(f"/proc/{lab.first_process('node1')}/root/tmp/heard")

    def begun() -> bool:
        # a connection that breaks before this word came back is one of which nobody knows that it began
        said = heard.read_text() if heard.exists() else ""
        return "linstor_un-receiving" in said and bool(writers(lab))

    def break_it() -> None:
        assert eventually(begun)
        lab.hold_tools("node2")  # a copy that begins again is to end
        for pid, argv in lab.processes("node2").items():
            if argv[0].startswith("sshd") and "oneadmin" in argv[0]:
                os.kill(pid, signal.SIGKILL)
        for pid in writers(lab):
            os.kill(pid, signal.SIGKILL)

    lab.overhear_tool("node1", "ssh", "/tmp/heard")
    lab.hold_tools("node2", "dd")
    breaker = threading.Thread(target=break_it)
    breaker.start()
    try:
        with pytest.raises(DriverError, match="the connection from node1 to node2 broke"):
            in_driver(lambda world: copy_device(world, source, target))
    finally:
        breaker.join()
        lab.hold_tools("node2")
        lab.hide_tools("node1")


def test_images_come_from_the_front_end_to_a_host_and_nothing_stays_staged(volumes: LoopVolumes, lab: Hosts) -> None:
    source, _ = filled(volumes)
    path = Path("/var/tmp/one/image.qcow2")
    raw = path.with_suffix(".raw")
    raw.write_bytes(sparse_bytes("b", SIZE))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    for each in (raw, path):
        each.chmod(0o644)
        target = source._replace(zero=False)
        in_driver(lambda world, each=each, target=target: import_image(world, image(str(each)), Settings(), target, ""))
        assert volumes.settled(DISK).read_bytes()[:SIZE] == sparse_bytes("b", SIZE)
        put(volumes, DISK, bytes(SIZE))
    assert "linstor_un-" not in lab.run("node1", ["ls", "/var/tmp"]).stdout


def test_a_killed_driver_leaves_no_copy_running(volumes: LoopVolumes, lab: Hosts) -> None:
    source, target = filled(volumes, 400 * MIB, 400 * MIB)
    lab.hold_tools("node2", "dd")
    pid = os.fork()
    if pid == 0:
        hosts = SshHosts(become_oneadmin())
        world = make_world(Path("/var/lib/one"), names=("frontend",))._replace(hosts=hosts)
        copy_device(world, source, target)
        os._exit(0)
    try:
        assert eventually(lambda: writers(lab))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for writer in writers(lab):
            os.kill(writer, signal.SIGCONT)
        assert eventually(lambda: not writers(lab) and not any(a[0] == "dd" for a in lab.processes("node1").values()))
    finally:
        lab.hold_tools("node2")


def writers(lab: Hosts) -> list[int]:
    """Return the processes of node2 that are dd, or the script that holds it."""
    running = lab.processes("node2").items()
    return [pid for pid, argv in running if any(word.startswith("/usr/bin/dd") for word in argv)]
