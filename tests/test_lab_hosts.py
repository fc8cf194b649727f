"""The lab's hosts are real ones, each lab is alone in its world, and nothing of it stays."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab.controller.volumes import Content, Opening
from lab.hosts import FileVolumes, Hosts, LabUnavailable, LoopVolumes, account, facts, isolation
from lab.hosts.leftovers import leftovers
from process_support import TESTS, eventually, lab_process, said

pytestmark = pytest.mark.slow

MIB = 1 << 20
DISK = Content("one-vm-7-disk-0", 0)
LINK = "/dev/drbd/by-res/one-vm-7-disk-0/0"


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    try:
        lab = Hosts(["node1", "node2", "node3"])
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    with lab:
        yield lab


@pytest.fixture
def volumes(hosts: Hosts) -> Iterator[LoopVolumes]:
    made = LoopVolumes(None, hosts)
    yield made
    made.close()


def ssh(hosts: Hosts, *words: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    argv = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=1", *options, *words]
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **hosts.as_oneadmin()
    )


def holding_open(hosts: Hosts, node: str, mode: str) -> subprocess.Popen[str]:
    argv = hosts.entering(node, ["sh", "-c", f"exec 9{mode}{LINK} && echo open && exec sleep 1000"])
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    return process


@contextlib.contextmanager
def opened(hosts: Hosts, node: str, mode: str) -> Iterator[None]:
    process = holding_open(hosts, node, mode)
    try:
        yield
    finally:
        for pid, argv in hosts.processes(node).items():
            # the shell may not have become the sleep yet
            if argv[-1].endswith("sleep 1000") or argv == ["sleep", "1000"]:
                os.kill(pid, signal.SIGKILL)
        process.wait()


# hosts


def test_a_command_by_ssh_finds_a_host_of_its_own(hosts: Hosts) -> None:
    answer = ssh(hosts, "node2", 'hostname; id -un; id -Gn; pwd; echo "$PATH"; ls /run; command -v blockdev')
    name, user, groups, home, path, run = answer.stdout.split("\n", 5)
    assert (name, user, home) == ("node2", "oneadmin", "/var/lib/one")
    assert set(groups.split()) == {"oneadmin", "disk"}
    assert path == "/usr/local/bin:/usr/bin:/bin:/usr/games"
    assert "lab" not in run.split() and "blockdev" not in run
    assert answer.stderr == ""


def test_hosts_share_neither_files_nor_devices_nor_processes(hosts: Hosts) -> None:
    places = ["/var/lib/one/datastores", "/var/tmp/one", "/var/tmp", "/tmp", "/run", "/dev/drbd", "/dev/shm"]
    for place in places:
        hosts.run("node1", ["touch", f"{place}/mine"], user="root")
        assert hosts.run("node2", ["test", "-e", f"{place}/mine"], check=False).returncode == 1
        assert not Path(place, "mine").exists()
        hosts.run("node1", ["rm", f"{place}/mine"], user="root")
    here = hosts.run("node1", ["ps", "-A", "-o", "pid="]).stdout.split()
    assert "1" in here and len(here) < 20
    assert not Path("/var/lib/one/.ssh/authorized_keys").exists()


def test_only_the_front_end_has_the_key_and_a_forwarded_agent_opens_other_hosts(hosts: Hosts) -> None:
    assert "id_ed25519" not in hosts.run("node1", ["ls", "/var/lib/one/.ssh"]).stdout
    without = ssh(hosts, "node1", "ssh -o BatchMode=yes node2 hostname", options=("-a",))
    assert (without.returncode, without.stdout) == (255, "")
    assert "Permission denied (publickey)" in without.stderr
    forwarded = ssh(hosts, "node1", "ssh -o BatchMode=yes node2 hostname", options=("-A",))
    assert (forwarded.returncode, forwarded.stdout) == (0, "node2\n")


def test_an_eleventh_session_over_one_connection_is_refused_and_falls_back(hosts: Hosts) -> None:
    master = ("-o", "ControlMaster=auto", "-o", "ControlPath=/run/one/%C", "-o", "ControlPersist=60")
    assert ssh(hosts, "node1", "true", options=master).returncode == 0
    running = [
        subprocess.Popen(
            ["ssh", "-o", "BatchMode=yes", *master, "node1", "echo up; read line"], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **hosts.as_oneadmin(),
        )
        for _ in range(12)
    ]
    assert [process.stdout.readline() for process in running if process.stdout] == ["up\n"] * 12
    complaints = [process.communicate("\n")[1] for process in running]
    refused = [text for text in complaints if "session request failed" in text]
    assert len(refused) == 2
    ssh(hosts, "-O", "exit", "node1", options=master)


def test_a_stopped_host_refuses_and_a_killed_one_is_silent(hosts: Hosts) -> None:
    hosts.run("node3", ["touch", "/var/lib/one/kept", "/run/lock/one/lost"])
    hosts.stop("node3")
    assert hosts.processes("node3") == {}
    assert "Connection refused" in ssh(hosts, "node3", "true").stderr
    hosts.start("node3")
    assert ssh(hosts, "node3", "ls /run/lock/one").stdout == "lost\n"
    hosts.kill("node3")
    assert "timed out" in ssh(hosts, "node3", "true").stderr
    with pytest.raises(ProcessLookupError):
        hosts.run("node3", ["true"])
    hosts.start("node3")
    assert ssh(hosts, "node3", "ls /var/lib/one /run/lock/one").stdout == (
        "/run/lock/one:\n\n/var/lib/one:\ndatastores\nkept\n"
    )


def test_a_partition_cuts_two_from_each_other_and_from_nobody_else(hosts: Hosts) -> None:
    hosts.partition("frontend", "node3")
    assert "timed out" in ssh(hosts, "node3", "true").stderr
    assert ssh(hosts, "node1", "ssh node3 hostname", options=("-A",)).stdout == "node3\n"
    hosts.heal("frontend", "node3")
    assert ssh(hosts, "node3", "hostname").stdout == "node3\n"


def test_a_hidden_tool_is_not_found_until_it_is_shown_again(hosts: Hosts) -> None:
    hosts.hide_tools("node1", "sha256sum", "blkid")
    assert ssh(hosts, "node1", "sha256sum /dev/null").returncode == 127
    assert hosts.run("node1", ["sh", "-c", "command -v blkid"], user="root", check=False).stdout == ""
    assert ssh(hosts, "node2", "sha256sum /dev/null").returncode == 0
    hosts.hide_tools("node1")
    assert ssh(hosts, "node1", "sha256sum /dev/null").returncode == 0


def test_processes_of_a_host_are_seen_and_its_orphans_are_reaped(hosts: Hosts) -> None:
    hosts.run("node1", ["sh", "-c", "sleep 4711 >/dev/null 2>&1 &"])
    (pid,) = [pid for pid, argv in hosts.processes("node1").items() if argv == ["sleep", "4711"]]
    assert pid not in hosts.pids("node2")
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: pid not in hosts.pids("node1"))


def test_three_hosts_stand_within_a_second_or_so(hosts: Hosts) -> None:
    hosts.close()
    started = time.monotonic()
    hosts.start()
    # 0.15 s on an idle machine; the bound leaves room for a busy one
    assert time.monotonic() - started < 5


# volumes


def test_a_volume_is_a_block_device_where_it_is_attached_and_nowhere_else(hosts: Hosts, volumes: LoopVolumes) -> None:
    volumes.create(DISK, 8 * MIB)
    assert volumes.attach(DISK, "node1", "/dev/drbd1000") == "/dev/drbd1000"
    assert volumes.attach(DISK, "node1", "/dev/drbd1000") == "/dev/drbd1000"
    assert hosts.run("node1", ["readlink", LINK]).stdout == "../../../drbd1000\n"
    assert hosts.run("node1", ["stat", "-L", "-c", "%F %U:%G %a", LINK]).stdout == "block special file root:disk 660\n"
    assert hosts.run("node2", ["ls", "/dev/drbd/by-res"]).stdout == ""
    volumes.detach(DISK, "node1")
    assert hosts.run("node1", ["sh", "-c", "ls /dev/drbd/by-res; ls /dev"]).stdout.find("drbd1000") == -1


def test_replicas_under_drbd_are_one_content_and_others_are_not(hosts: Hosts, volumes: LoopVolumes) -> None:
    volumes.create(DISK, 4 * MIB)
    for node in ("node1", "node2"):
        volumes.attach(DISK, node, "/dev/drbd1000")
    ssh(hosts, "node1", f"echo hello | dd of={LINK} conv=fsync,notrunc")
    assert hosts.run("node2", ["head", "-c", "5", LINK]).stdout == "hello"
    apart = [Content("plain", 0, node) for node in ("node1", "node2")]
    paths = []
    for content in apart:
        volumes.create(content, 4 * MIB)
        paths.append(volumes.attach(content, content.node, None))
    hosts.run("node1", ["sh", "-c", f"echo hello | dd of={paths[0]} conv=fsync,notrunc"])
    assert hosts.run("node2", ["head", "-c", "5", paths[1]]).stdout == "\0" * 5


def test_a_volume_is_larger_than_asked_for_and_thin(hosts: Hosts, volumes: LoopVolumes) -> None:
    volumes.create(DISK, 5 * MIB)
    volumes.attach(DISK, "node1", "/dev/drbd1000")
    size = hosts.run("node1", ["/sbin/blockdev", "--getsize64", LINK]).stdout
    assert int(size) == 8 * MIB + 65536
    assert facts.allocated(volumes.file(DISK)) == 0
    hosts.run("node1", ["dd", "if=/dev/urandom", f"of={LINK}", "bs=1M", "count=2", "conv=fsync"])
    assert facts.allocated(volumes.settled(DISK)) == 2 * MIB
    assert facts.is_zero_from(volumes.settled(DISK), 2 * MIB)
    assert not facts.is_zero_from(volumes.settled(DISK), 2 * MIB - 4096)
    hosts.run("node1", ["/sbin/blkdiscard", "-f", LINK], user="root")
    assert facts.allocated(volumes.settled(DISK)) == 0


def test_a_dirty_pool_gives_old_bytes(hosts: Hosts) -> None:
    dirty = LoopVolumes(None, hosts, grain=4096, extra=0, dirty=True)
    dirty.create(DISK, MIB)
    assert not facts.is_zero_from(dirty.file(DISK), MIB - 4096)
    assert dirty.file(DISK).stat().st_size == MIB
    dirty.close()


def test_an_open_device_sees_the_volume_grow_and_the_new_bytes_are_zero(hosts: Hosts, volumes: LoopVolumes) -> None:
    volumes.create(DISK, 4 * MIB)
    volumes.attach(DISK, "node1", "/dev/drbd1000")
    before = facts.fill(volumes.file(DISK), "guest", 4 * MIB)
    with opened(hosts, "node1", "<>"):
        volumes.resize(DISK, 12 * MIB)
        assert int(hosts.run("node1", ["/sbin/blockdev", "--getsize64", LINK]).stdout) == 12 * MIB + 65536
    assert facts.sha256(volumes.settled(DISK), 4 * MIB) == before
    assert facts.is_zero_from(volumes.settled(DISK), 4 * MIB)


def test_snapshots_hold_what_was_written_to_the_device(hosts: Hosts, volumes: LoopVolumes) -> None:
    volumes.create(DISK, 4 * MIB)
    volumes.attach(DISK, "node1", "/dev/drbd1000")
    hosts.run("node1", ["sh", "-c", f"printf first | dd of={LINK} conv=notrunc"])
    volumes.snapshot(DISK, "s1")
    hosts.run("node1", ["sh", "-c", f"printf other | dd of={LINK} conv=notrunc"])
    restored, cloned = Content("one-img-3", 0), Content("one-img-4", 0)
    volumes.restore(DISK, "s1", restored)
    volumes.clone(DISK, cloned)
    assert volumes.settled(restored).read_bytes()[:5] == b"first"
    assert volumes.settled(cloned).read_bytes()[:5] == b"other"
    volumes.rollback(DISK, "s1")
    assert hosts.run("node1", ["head", "-c", "5", LINK]).stdout == "first"
    assert facts.allocated(volumes.file(restored)) <= 4096
    volumes.delete(DISK)
    volumes.delete_snapshot(DISK, "s1")
    assert volumes.settled(restored).read_bytes()[:5] == b"first"


@pytest.mark.parametrize(("mode", "seen"), [("<", Opening.READ), ("<>", Opening.WRITE)])
def test_an_opener_is_seen_on_its_host_only(hosts: Hosts, volumes: LoopVolumes, mode: str, seen: Opening) -> None:
    volumes.create(DISK, 4 * MIB)
    for node in ("node1", "node2"):
        volumes.attach(DISK, node, "/dev/drbd1000")
    assert volumes.opening(DISK, "node1") is Opening.NO
    with opened(hosts, "node1", mode):
        assert volumes.opening(DISK, "node1") is seen
        assert volumes.opening(DISK, "node2") is Opening.NO
    assert eventually(lambda: volumes.opening(DISK, "node1") is Opening.NO)


def test_a_mounted_volume_is_open(hosts: Hosts, volumes: LoopVolumes) -> None:
    volumes.create(DISK, 16 * MIB)
    volumes.attach(DISK, "node1", "/dev/drbd1000")
    hosts.run("node1", ["sh", "-c", f"/sbin/mkfs.ext4 -q {LINK} && mount {LINK} /mnt"], user="root")
    assert volumes.opening(DISK, "node1") is Opening.WRITE
    assert volumes.opening(DISK, "node2") is Opening.NO
    hosts.run("node1", ["umount", "/mnt"], user="root")
    assert volumes.opening(DISK, "node1") is Opening.NO


def test_a_full_pool_fails_a_copy_in_its_middle(hosts: Hosts, volumes: LoopVolumes) -> None:
    volumes.create(DISK, 16 * MIB)
    volumes.attach(DISK, "node1", "/dev/drbd1000")
    volumes.leave_room("", 4 * MIB)
    copy = ["dd", "if=/dev/urandom", f"of={LINK}", "bs=1M", "count=8", "oflag=direct"]
    full = hosts.run("node1", copy, check=False)
    assert full.returncode == 1 and ("No space left on device" in full.stderr or "Input/output" in full.stderr)
    assert MIB <= facts.allocated(volumes.file(DISK)) <= 4 * MIB
    volumes.leave_all_room("")
    assert hosts.run("node1", copy, check=False).returncode == 0


def test_drbd_refuses_a_second_opener_in_its_own_words(hosts: Hosts, volumes: LoopVolumes) -> None:
    volumes.create(DISK, 4 * MIB)
    for node in ("node1", "node2"):
        volumes.attach(DISK, node, "/dev/drbd1000")
    try:
        volumes.only_open_on(DISK, "node1")
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    read, write = f"head -c 1 {LINK}", f"echo x > {LINK}"
    assert "Wrong medium type" in ssh(hosts, "node2", read).stderr
    assert "Read-only file system" in ssh(hosts, "node2", write).stderr
    assert "Wrong medium type" in hosts.run("node2", ["sh", "-c", read], user="root", check=False).stderr
    assert ssh(hosts, "node1", f"{read} && {write}").returncode == 0
    volumes.only_open_on(DISK, "node1", "node2")
    assert ssh(hosts, "node2", f"{read} && {write}").returncode == 0
    volumes.only_open_on(DISK, "node2")
    volumes.only_open_on(DISK)
    assert ssh(hosts, "node1", f"{read} && {write}").returncode == 0


def test_a_new_loop_device_of_the_same_number_is_not_refused(hosts: Hosts, volumes: LoopVolumes) -> None:
    volumes.create(DISK, 4 * MIB)
    volumes.attach(DISK, "node1", "/dev/drbd1000")
    try:
        volumes.only_open_on(DISK, "node2")
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    volumes.delete(DISK)
    volumes.create(DISK, 4 * MIB)
    volumes.attach(DISK, "node1", "/dev/drbd1001")
    assert ssh(hosts, "node1", f"head -c 1 {LINK}").returncode == 0


def test_fifty_volumes_take_little_time(volumes: LoopVolumes) -> None:
    started = time.monotonic()
    for number in range(50):
        content = Content(f"one-vm-{number}-disk-0", 0)
        volumes.create(content, 64 * MIB)
        volumes.attach(content, "node1", f"/dev/drbd{1000 + number}")
    assert time.monotonic() - started < 50 * 0.03


def test_plain_files_do_without_hosts(tmp_path: Path) -> None:
    plain = FileVolumes(tmp_path)
    plain.create(DISK, 4 * MIB)
    plain.attach(DISK, "node1", "/dev/drbd1000")
    plain.fill(DISK, "guest", MIB)
    plain.snapshot(DISK, "s1")
    plain.fill(DISK, "other", MIB)
    with plain.file(DISK).open("rb"):
        assert plain.opening(DISK, "node1") is Opening.READ
    plain.rollback(DISK, "s1")
    assert plain.file(DISK).read_bytes()[:MIB] == facts.pattern("guest", MIB)
    plain.delete(DISK)
    assert plain.devices() == {}


# labs among themselves and their end


@pytest.mark.usefixtures("hosts")
def test_two_labs_know_nothing_of_each_other() -> None:
    code = (
        "volumes.create(disk, 4 << 20); volumes.attach(disk, 'node1', '/dev/drbd1000')\n"
        "volumes.fill(disk, sys.argv[0] + str(os.getpid()), 4096)\n"
        "Path('/etc/mine').write_text(str(os.getpid()))\n"
        "ssh = ['ssh', '-o', 'BatchMode=yes', 'node1', 'head -c 4096 /dev/drbd1000 | sha256sum']\n"
        "seen = subprocess.run(ssh, capture_output=True, text=True, stdin=subprocess.DEVNULL, **hosts.as_oneadmin())\n"
        "say(seen=seen.stdout.split()[0], written=facts.sha256(volumes.settled(disk), 4096), mine=os.getpid(),\n"
        "    etc=Path('/etc/mine').read_text(), sshds=str(hosts.processes('node1')).count('[listener]'))\n"
    )
    labs = [lab_process(code), lab_process(code)]
    answers = [said(lab) for lab in labs]
    for answer in answers:
        assert answer["seen"] == answer["written"]
        assert answer["etc"] == str(answer["mine"])
        assert answer["sshds"] == 1
    assert answers[0]["written"] != answers[1]["written"]
    assert not Path("/etc/mine").exists()
    for lab in labs:
        lab.communicate()
        assert lab.returncode == 0


LEAVING = (
    "volumes.create(disk, 16 << 20); volumes.attach(disk, 'node1', '/dev/drbd1000')\n"
    "device = '/dev/drbd1000'\n"
    "hosts.run('node1', ['sh', '-c', f'/sbin/mkfs.ext4 -q {device}; mount {device} /mnt; sleep 1000 </mnt/. &'],\n"
    "          'root', capture_output=False, stdout=subprocess.DEVNULL)\n"
    "try: volumes.only_open_on(disk, 'node1')\n"
    "except Exception: pass\n"
    "subprocess.run(['ssh', '-f', '-o', 'ControlMaster=yes', '-o', 'ControlPersist=600',\n"
    "                '-o', 'ControlPath=/run/one/m', 'node1', 'sleep 900'], check=True, **hosts.as_oneadmin())\n"
    "say(token=isolation.token())\n"
)


@pytest.mark.usefixtures("hosts")
def test_a_lab_that_is_killed_leaves_nothing() -> None:
    lab = lab_process(LEAVING)
    token = said(lab)["token"]
    there = leftovers(token)
    assert any("sshd" in line for line in there) and any("loop" in line for line in there)
    assert any("(ssh)" in line for line in there)
    lab.kill()
    lab.wait()
    assert eventually(lambda: not leftovers(token)), leftovers(token)


@pytest.mark.usefixtures("hosts")
def test_a_lab_that_ends_leaves_nothing() -> None:
    lab = lab_process(LEAVING)
    token = said(lab)["token"]
    lab.communicate()
    assert lab.returncode == 0
    assert eventually(lambda: not leftovers(token)), leftovers(token)


@pytest.mark.usefixtures("hosts")
def test_a_lab_in_a_container_leaves_nothing_when_its_process_is_killed() -> None:
    process = lab_process(LEAVING, "-m", "lab.hosts.isolation", sys.executable)
    token = said(process)["token"]
    (inner,) = (int(name) for name in _children(_children(process.pid)[0]))
    assert leftovers(token)
    os.kill(inner, signal.SIGKILL)
    process.communicate()
    assert process.returncode == 137
    assert leftovers(token) == []


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()][:1]


def contained(*argv: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lab.hosts.isolation", *argv], text=True, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(TESTS)}, **options,
    )


@pytest.mark.usefixtures("hosts")
def test_what_runs_contained_has_its_exit_code_and_its_own_processes() -> None:
    process = contained("sh", "-c", "sleep 1000 & ls -d /proc/[0-9]* | wc -l; exit 7")
    assert process.stdout is not None and int(process.stdout.read()) < 6
    assert process.wait() == 7
    assert contained("sh", "-c", "kill -KILL $$").wait() == 137


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_runs_contained_ends_with_it(number: signal.Signals) -> None:
    marker = f"1{os.getpid():06}.{int(number)}"
    process = contained("sh", "-c", f"setsid sleep {marker} & echo up; exec sleep {marker}")
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.send_signal(number)
    process.stdout.close()
    process.wait(60)

    def still() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if marker.encode() in path.read_bytes().split(b"\0"):
                    found.append(str(path))
        return found

    assert eventually(lambda: not still()), still()


def test_an_ordinary_user_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert isolation.missing() == "the lab of real hosts needs root (namespaces, loop devices, sshd)"


def test_oneadmin_replaces_an_account_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\noneadmin:x:5:5::/home/o:/bin/false\n")
    (tmp_path / "shadow").write_text("root:*:1::::::\noneadmin:!:1::::::\n")
    (tmp_path / "group").write_text("disk:x:6:backup\noneadmin:x:5:\n")
    if os.geteuid() != 0:
        pytest.skip("giving a directory to another user needs root")
    account.create_oneadmin(tmp_path, tmp_path / "home")
    assert (tmp_path / "passwd").read_text().splitlines()[1:] == [
        f"oneadmin:x:9869:9869::{tmp_path}/home:/bin/bash"
    ]
    assert (tmp_path / "group").read_text() == "disk:x:6:backup,oneadmin\noneadmin:x:9869:\n"
    assert "oneadmin:*:" in (tmp_path / "shadow").read_text()
