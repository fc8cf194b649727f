"""A guest is kept quiet for a moment, and never stays so: real guests, and a virsh that says what a real one says."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from copy_support import HERE, make_world
from guest_support import disk_of, run
from lab.guests import Domain, Guests
from lab.hosts.machine import until
from lab.site import Site
from linstor_un.errors import DriverError
from linstor_un.naming import by_res
from linstor_un.operations import guest
from linstor_un.operations.virsh import settings as read_kvmrc
from test_hosts import become_oneadmin

NAME = "one-7"
_SECONDS = 60.0


class Driver:
    """A driver that keeps a guest quiet until it is told to go on; it is a process of its own, so that it can die."""

    def __init__(self, var: Path, host: str, domain: str = NAME, seconds: float = 60.0, path: str = "") -> None:
        reading, self._writing = os.pipe()
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for descriptor in (self._writing, self._reading):
                os.close(descriptor)
            with os.fdopen(writing, "w", buffering=1) as said:
                _be_driver(var, host, domain, seconds, path, reading, said)
            os._exit(0)
        for descriptor in (reading, writing):
            os.close(descriptor)
        self._said = os.fdopen(self._reading)

    def line(self) -> str:
        """What it says next: how the guest is kept, "done", or the sentence of its failure."""
        return self._said.readline().rstrip("\n")

    def go_on(self) -> str:
        """Let it end the block; returns what it says then."""
        os.close(self._writing)
        return self.line()

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)
        os.waitpid(self.pid, 0)


def _be_driver(var: Path, host: str, domain: str, seconds: float, path: str, reading: int, said: object) -> None:
    environ = become_oneadmin()
    if path:
        environ["PATH"] = f"{path}:{environ['PATH']}"
    try:
        with guest.quiet(make_world(var, environ), host, domain, seconds) as how:
            print(how, file=said)  # type: ignore[call-overload]
            os.read(reading, 1)
        print("done", file=said)  # type: ignore[call-overload]
    except DriverError as error:
        print(error, file=said)  # type: ignore[call-overload]
    except BaseException as error:
        print(f"bug: {error!r}", file=said)  # type: ignore[call-overload]


def frozen(guests: Guests) -> bool:
    asked = guests.virsh("node1", "qemu-agent-command", NAME, '{"execute":"guest-fsfreeze-status"}')
    return "frozen" in asked.stdout


# --- real guests --------------------------------------------------------------------------------------------------


@pytest.fixture
def linux(site: Site, guests: Guests) -> Guests:
    """A guest with an agent, which writes files all the time."""
    device = by_res(disk_of(site, 7))
    site.hosts.run("node1", ["/usr/sbin/mkfs.ext4", "-q", device])
    run(guests, "node1", Domain(NAME, 7, jobs=["files:vda"], agent=True))
    guests.await_words("node1", NAME, "wrote file 0")
    return guests


@pytest.fixture
def deaf(site: Site, guests: Guests) -> Guests:
    """A guest whose agent does not run."""
    disk_of(site, 7)
    run(guests, "node1", Domain(NAME, 7, deaf=True))
    return guests


@pytest.fixture
def var() -> Path:
    return Path("/var/lib/one")


@pytest.mark.slow
def test_a_guest_with_an_agent_is_frozen_and_thawed(linux: Guests, var: Path) -> None:
    for _ in range(2):
        driver = Driver(var, "node1")
        assert driver.line() == "frozen" and frozen(linux)
        assert driver.go_on() == "done" and not frozen(linux)
    assert linux.state("node1", NAME) == "running"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_dies_leaves_no_guest_frozen(linux: Guests, var: Path, number: int) -> None:
    driver = Driver(var, "node1")
    assert driver.line() == "frozen"
    driver.kill(number)
    until(lambda: not frozen(linux), "the thaw", _SECONDS)


@pytest.mark.slow
def test_a_host_that_loses_its_driver_thaws_by_itself(site: Site, linux: Guests, var: Path) -> None:
    driver = Driver(var, "node1", seconds=4)
    assert driver.line() == "frozen"
    site.hosts.partition("frontend", "node1")
    try:
        until(lambda: not frozen(linux), "the thaw", _SECONDS)
    finally:
        site.hosts.heal("frontend", "node1")
    assert "it was let go after 4 s, before all was done" in driver.go_on()


@pytest.mark.slow
def test_a_guest_that_somebody_else_froze_stays_frozen(linux: Guests, var: Path) -> None:
    linux.virsh("node1", "domfsfreeze", NAME)
    driver = Driver(var, "node1")
    assert driver.line() == "suspended"
    assert driver.go_on() == "done"
    assert linux.state("node1", NAME) == "running" and frozen(linux)
    linux.virsh("node1", "domfsthaw", NAME)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["go on", "kill"])
def test_a_guest_without_an_agent_is_suspended_and_resumed(deaf: Guests, var: Path, end: str) -> None:
    driver = Driver(var, "node1")
    assert driver.line() == "suspended" and deaf.reason("node1", NAME) == "paused (user)"
    if end == "kill":
        driver.kill()
        until(lambda: deaf.state("node1", NAME) == "running", "the resumption", _SECONDS)
    else:
        assert driver.go_on() == "done" and deaf.state("node1", NAME) == "running"


@pytest.mark.slow
def test_a_guest_that_was_paused_before_stays_paused(deaf: Guests, var: Path) -> None:
    deaf.virsh("node1", "suspend", NAME)
    driver = Driver(var, "node1")
    assert (driver.line(), driver.go_on()) == ("still", "done")
    assert deaf.reason("node1", NAME) == "paused (user)"


@pytest.mark.slow
def test_without_a_domain_there_is_nothing_to_keep_quiet_and_without_libvirt_nobody_knows(
    guests: Guests, var: Path
) -> None:
    driver = Driver(var, "node1")
    assert driver.line() == "still" and driver.go_on() == "done"
    guests.stop("node1")
    said = Driver(var, "node1").line()
    assert said.startswith(f"cannot keep the guest {NAME} quiet on node1: ") and "connect" in said


@pytest.mark.slow
def test_a_host_that_cannot_be_reached_is_a_failure(site: Site, var: Path) -> None:
    site.hosts.kill("node3")
    try:
        assert "host node3 cannot be reached" in Driver(var, "node3").line()
    finally:
        site.hosts.start("node3")


# --- what a real virsh says when more goes wrong ------------------------------------------------------------------

# Each line: the words of a question, its exit code, what is said. Every question is counted in `asked`.
_VIRSH = """#!{python}
import sys, time
words = " ".join(sys.argv[sys.argv.index("-c") + 2:])
with open("{place}/asked", "a") as file:
    file.write(words + "\\n")
with open("{place}/answers") as file:
    for line in file:
        question, code, said = line.rstrip("\\n").split("|")
        if words.startswith(question):
            if code == "hangs":
                time.sleep(1000)
            print(said, file=sys.stderr if code != "0" else sys.stdout)
            sys.exit(int(code))
sys.exit(99)
"""


class Virsh:
    """A virsh of which each question has its answer."""

    def __init__(self, place: Path) -> None:
        self.place = place
        # Far from pytest's private directories, for oneadmin runs it.
        program = place / "virsh"
        program.write_text(_VIRSH.format(python=sys.executable, place=place))
        program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        self.place.joinpath("asked").touch()
        os.chmod(self.place / "asked", 0o666)
        os.chmod(place, 0o777)

    def answers(self, *lines: str) -> None:
        (self.place / "answers").write_text("".join(f"{line}\n" for line in lines))

    def asked(self) -> list[str]:
        return (self.place / "asked").read_text().split("\n")[:-1]


@contextmanager
def _public(tmp_path: Path) -> Iterator[Path]:
    for directory in [tmp_path, *list(tmp_path.parents)[:3]]:
        os.chmod(directory, os.stat(directory).st_mode | 0o055)
    yield tmp_path


@pytest.fixture
def virsh(tmp_path: Path) -> Iterator[Virsh]:
    with _public(tmp_path) as place:
        yield Virsh(place)


def quietly(virsh: Virsh, seconds: float = 60.0) -> list[str]:
    """Keep a guest quiet on this machine; returns all that the driver says."""
    driver = Driver(virsh.place, HERE, seconds=seconds, path=str(virsh.place))
    lines = [driver.line()]
    if not lines[0].startswith("cannot"):
        lines.append(driver.go_on())
    return lines


RUNNING = "domstate|0|running"
NO_AGENT = "domfsfreeze|1|error: Guest agent is not responding: QEMU guest agent is not connected"
NO_CHANNEL = "domfsfreeze|1|error: argument unsupported: QEMU guest agent is not configured"


@pytest.mark.parametrize("reason", [NO_AGENT, NO_CHANNEL])
def test_what_an_absent_agent_makes_virsh_say_leads_to_a_suspension(virsh: Virsh, reason: str) -> None:
    virsh.answers(RUNNING, reason, "suspend|0|", "resume|0|")
    assert quietly(virsh) == ["suspended", "done"]
    assert virsh.asked() == ["domstate one-7", "domfsfreeze one-7", "suspend one-7", "resume one-7"]


def test_an_agent_that_answers_too_late_is_told_to_thaw_and_refused(virsh: Virsh) -> None:
    late = "error: Guest agent is not responding: guest agent didn't respond to command within '5' seconds"
    virsh.answers(RUNNING, f"domfsfreeze|1|{late}", "domfsthaw|0|")
    (said,) = quietly(virsh)
    assert "its guest agent does not answer; restart qemu-guest-agent in it" in said
    assert virsh.asked()[-1] == "domfsthaw one-7"


@pytest.mark.slow
def test_a_guest_that_cannot_be_thawed_is_named_with_the_command(virsh: Virsh) -> None:
    virsh.answers(RUNNING, "domfsfreeze|0|Froze 1 filesystem(s)", "domfsthaw|1|error: Guest agent is not responding")
    how, said = quietly(virsh)
    assert how == "frozen" and "it is still held, end that with: virsh -c qemu:///system domfsthaw one-7" in said
    assert virsh.asked().count("domfsthaw one-7") == 4


def test_a_guest_that_ends_meanwhile_is_no_failure(virsh: Virsh) -> None:
    gone = "1|error: Requested operation is not valid: domain is not running"
    virsh.answers(RUNNING, "domfsfreeze|0|", f"domfsthaw|{gone}")
    assert quietly(virsh) == ["frozen", "done"]
    virsh.answers(RUNNING, NO_AGENT, f"suspend|{gone}")
    assert quietly(virsh) == ["still", "done"]


def test_a_guest_that_can_neither_be_frozen_nor_suspended_is_refused(virsh: Virsh) -> None:
    virsh.answers(RUNNING, NO_AGENT, "suspend|1|error: Timed out during operation: cannot acquire state change lock")
    (said,) = quietly(virsh)
    assert "Timed out during operation: cannot acquire state change lock" in said


@pytest.mark.parametrize("state", ["paused", "shut off", "crashed", "pmsuspended"])
def test_what_does_not_run_is_left_as_it_is(virsh: Virsh, state: str) -> None:
    virsh.answers(f"domstate|0|{state}")
    assert quietly(virsh) == ["still", "done"] and virsh.asked() == ["domstate one-7"]


def test_the_time_limit_is_the_hosts_own(virsh: Virsh) -> None:
    virsh.answers(RUNNING, "domfsfreeze|0|", "domfsthaw|0|")
    driver = Driver(virsh.place, HERE, seconds=1, path=str(virsh.place))
    assert driver.line() == "frozen"
    until(lambda: virsh.asked()[-1] == "domfsthaw one-7", "the thaw", _SECONDS)
    assert "it was let go after 1 s, before all was done" in driver.go_on()


def test_kvmrc_says_where_libvirt_is(virsh: Virsh) -> None:
    world = make_world(virsh.place)
    assert read_kvmrc(world).uri == "qemu:///system"
    kvmrc = virsh.place / "remotes/etc/vmm/kvm/kvmrc"
    kvmrc.parent.mkdir(parents=True)
    kvmrc.write_text("export LANG=C\nexport LIBVIRT_URI='qemu+tcp://localhost/system'\nMORE=$(id)\n")
    assert read_kvmrc(world).uri == "qemu+tcp://localhost/system"


@pytest.mark.slow
def test_a_failure_of_the_block_and_one_of_the_thaw_are_both_told(virsh: Virsh) -> None:
    virsh.answers(RUNNING, "domfsfreeze|0|", "domfsthaw|1|error: Guest agent is not responding")
    environ = {**os.environ, "PATH": f"{virsh.place}:{os.environ['PATH']}"}
    began = time.monotonic()
    with pytest.raises(DriverError, match="it is still held.*before that: no space"):
        with guest.quiet(make_world(virsh.place, environ), HERE, NAME):
            raise DriverError("no space")
    assert time.monotonic() - began < _SECONDS
