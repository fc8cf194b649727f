"""Locks exclude other processes, in an order that cannot deadlock, and die with their holders."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest
from linstor_un.adapters.locks import FileLocks, lock_directory
from linstor_un.errors import Failed, TimedOut


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.time = 0.0
        self.naps: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.time += seconds


def held_elsewhere(directory: Path, *names: str) -> int:
    """Start a process that holds the locks; returns its id once it has them."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with FileLocks(str(directory), Clock(), 1).hold(*names):
            os.write(writing, b"x")
            signal.pause()
    os.close(writing)
    assert os.read(reading, 1) == b"x"
    os.close(reading)
    return pid


def test_a_second_process_waits_and_then_names_lock_and_holder(tmp_path: Path) -> None:
    holder = held_elsewhere(tmp_path, "one-vm-7-disk-0")
    clock = Clock()
    try:
        said = rf"one-vm-7-disk-0 is in use by another action \(process {holder}\) for more than 30 s"
        with pytest.raises(TimedOut, match=said):
            with FileLocks(str(tmp_path), clock, 30).hold("one-vm-7-disk-0"):
                pytest.fail("two hold the same lock")
        assert clock.time == pytest.approx(30)
        with pytest.raises(TimedOut, match="for more than 70 s"):
            with FileLocks(str(tmp_path), clock, 30).hold("one-vm-7-disk-0", seconds=70):
                pytest.fail("two hold the same lock")
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    assert clock.time == pytest.approx(100)
    assert max(clock.naps) <= 0.5


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    holder = held_elsewhere(tmp_path, "a", "b")
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with FileLocks(str(tmp_path), Clock(), 0).hold("b", "a"):
        pass


def test_other_names_do_not_wait(tmp_path: Path) -> None:
    holder = held_elsewhere(tmp_path, "one-vm-7-disk-0")
    try:
        with FileLocks(str(tmp_path), Clock(), 0).hold("one-vm-7-disk-1"):
            pass
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)


def test_a_failure_to_take_the_second_lets_go_of_the_first(tmp_path: Path) -> None:
    holder = held_elsewhere(tmp_path, "b")
    locks = FileLocks(str(tmp_path), Clock(), 0)
    try:
        with pytest.raises(TimedOut, match="^b is in use"):
            with locks.hold("b", "a", "a"):
                pytest.fail("b is held elsewhere")
        with locks.hold("a"):
            pass
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)


def test_files_stay_and_hostile_names_stay_in_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "locks"
    directory.mkdir()
    with FileLocks(str(directory), Clock(), 0).hold("../../evil", "a/b", "x" * 5000, "é\n"):
        pass
    names = {path.name for path in directory.iterdir()}
    assert len(names) == 4 and all(name.startswith("linstor_un-") for name in names)
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


def test_a_link_in_the_place_of_a_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "linstor_un-a").symlink_to(tmp_path / "victim")
    with pytest.raises(Failed, match="cannot open the lock file .*linstor_un-a"):
        with FileLocks(str(tmp_path), Clock(), 0).hold("a"):
            pass
    assert not (tmp_path / "victim").exists()


def test_the_directory_of_opennebula_is_preferred_unless_everybody_can_write_there(tmp_path: Path) -> None:
    preferred = tmp_path / "one"
    preferred.mkdir(mode=0o750)
    environ = {"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": "/nosuch"}
    assert lock_directory(environ, str(preferred)) == str(preferred)
    preferred.chmod(0o777)
    other = lock_directory(environ, str(preferred))
    assert other != str(preferred)
    assert stat.S_IMODE(os.stat(other).st_mode) == 0o700
    assert lock_directory(environ, "/nosuch") == other
