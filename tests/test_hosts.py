"""Commands on hosts over real ssh: nothing is read by a shell, nothing outlives its driver, no doubt about what ran."""

from __future__ import annotations

import ctypes
import hashlib
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from lab.hosts import Hosts, LabUnavailable, account
from linstor_un.adapters.directories import private
from linstor_un.adapters.hosts import SshHosts
from linstor_un.errors import BadRequest, DriverError, Failed, HostUnreachable, TimedOut, Unreachable
from linstor_un.world import Command, Outcome

pytestmark = pytest.mark.slow

LIB = Path(__file__).resolve().parents[1] / "lib"
HOSTILE = [
    "'",
    '"',
    "$(touch boom)",
    "`touch boom`",
    "a b",
    "",
    "-n",
    "*",
    "\\",
    "a\nb\n",
    "~",
    "ä\udcff",
    ";exit 3",
    "!!",
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Hosts]:
    try:
        hosts = Hosts(["node1", "node2"])
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    with hosts:
        yield hosts


@pytest.fixture(params=[None, "node1"], ids=["front-end", "host"])
def place(request: pytest.FixtureRequest) -> Optional[str]:
    if request.param:
        request.getfixturevalue("lab")
    return request.param  # type: ignore[no-any-return]


def by_driver(work: Callable[[SshHosts], Any]) -> Any:
    """Run work as oneadmin in a process of its own, with the environment of a driver; give back or raise its result."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            result: Any = (True, work(SshHosts(become_oneadmin())))
        except BaseException as error:
            result = (False, error)
        with os.fdopen(writing, "wb") as file:
            pickle.dump(result, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        good, value = pickle.load(file)
    os.waitpid(pid, 0)
    if good:
        return value
    raise value


def become_oneadmin() -> dict[str, str]:
    environ = dict(os.environ)
    if os.geteuid() == 0 and Path("/var/lib/one/.ssh").is_dir():
        environ = {
            "HOME": str(account.HOME), "USER": account.NAME, "LOGNAME": account.NAME, "PATH": os.environ["PATH"],
            "SSH_AUTH_SOCK": os.environ.get("LAB_AGENT", ""),
        }  # fmt: skip
        os.setgroups([account.disk_group()])
        os.setgid(account.GID)
        os.setuid(account.UID)
        # A process that changed its user may not be looked at by others of that user; oned's drivers never changed.
        ctypes.CDLL(None).prctl(4, 1)
        os.chdir("/")
    return environ


def running(place: Optional[str], word: str, lab: Optional[Hosts] = None) -> bool:
    """Whether a process with this argument runs on the host; the word is in no other command line."""
    if place is None:
        listing = subprocess.run(["ps", "-e", "-ww", "-o", "args="], capture_output=True, text=True, check=True).stdout
        return any(line.split()[-1:] == [word] and line.startswith("sleep") for line in listing.splitlines())
    assert lab is not None
    return any(argv == ["sleep", word] for argv in lab.processes(place).values())


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_arguments_arrive_as_they_are(place: Optional[str]) -> None:
    outcome: Outcome = by_driver(
        lambda hosts: hosts.run(Command(place, ["printf", r"%s\0", *HOSTILE]), seconds=20, doing="print")
    )
    assert outcome.stdout.split("\0")[:-1] == HOSTILE
    assert outcome.stderr == ""


def test_environment_arrives_as_it_is(place: Optional[str]) -> None:
    env = {"A": "x'y\n$(z)", "B": ""}
    command = Command(place, ["sh", "-c", 'printf %s "$A|$B|$LC_ALL|$PATH"'], env)
    outcome = by_driver(lambda hosts: hosts.run(command, seconds=20, doing="print"))
    first, second, language, path = outcome.stdout.split("|")
    assert (first, second, language) == (env["A"], "", "C")
    assert {"/usr/sbin", "/sbin"} <= set(path.split(":"))


def test_stdin_arrives_whole(place: Optional[str]) -> None:
    data = os.urandom(3 << 20)
    command = Command(place, ["sha256sum"])
    outcome = by_driver(lambda hosts: hosts.run(command, stdin=data, seconds=20, doing="hash"))
    assert outcome.stdout.split()[0] == hashlib.sha256(data).hexdigest()


def test_a_nul_byte_and_a_hostile_host_are_refused() -> None:
    hosts = SshHosts()
    with pytest.raises(BadRequest, match="contains a NUL byte"):
        hosts.run(Command(None, ["echo", "a\0b"]), seconds=5, doing="x")
    for name in ("-oProxyCommand=reboot", "a b", "a;b", "", "a\n", "$(x)"):
        with pytest.raises(BadRequest, match="is not a host name"):
            hosts.run(Command(name, ["true"]), seconds=5, doing="x")


@pytest.mark.parametrize("code", [1, 124, 137, 255])
def test_every_code_of_a_command_is_its_own(place: Optional[str], code: int) -> None:
    argv = ["sh", "-c", f"echo some; echo first >&2; echo no such volume >&2; exit {code}"]

    def work(hosts: SshHosts) -> Outcome:
        with pytest.raises(Failed, match=rf"cannot do it.*: no such volume \(exit code {code}\)"):
            hosts.run(Command(place, argv), seconds=20, doing="do it")
        return hosts.run(Command(place, argv), seconds=20, accept=(0, code), doing="do it")

    assert by_driver(work) == Outcome(code, "some\n", "first\nno such volume\n")


@pytest.mark.parametrize(
    "before, after", [("", ""), ("ERROR MESSAGE --8<------\n", "ERROR MESSAGE ------>8--\n")], ids=["6.0.1", "5.12"]
)
@pytest.mark.parametrize("reason", ["Error copying /var/tmp/nosuch to /tmp/x", "ERROR MESSAGE --8<------ of it"])
def test_the_reason_that_a_script_of_opennebula_gives_is_told_and_not_its_markers(
    before: str, after: str, reason: str
) -> None:
    said = (
        "INFO: context: Generating context block device at node1:/var/lib/one/datastores/101/7/disk.1\n"
        "ERROR: context: Command \"cp -R /var/tmp/nosuch /var/lib/one/x\" failed: cp: cannot stat '/var/tmp/nosuch'\n"
        f"{before}{reason}\n{after}"
    )
    with pytest.raises(Failed) as caught:
        SshHosts().run(
            Command(None, ["sh", "-c", 'printf %s "$1" >&2; exit 1', "sh", said]), seconds=5, doing="make the image"
        )
    assert str(caught.value) == f"cannot make the image: {reason} (exit code 1)"


def test_stderr_of_a_successful_command_is_no_error(place: Optional[str]) -> None:
    argv = ["sh", "-c", "echo mux_client_request_session: session request failed >&2; echo good"]
    assert by_driver(lambda hosts: hosts.run(Command(place, argv), seconds=20, doing="x")).stdout == "good\n"


def test_output_is_bounded_and_never_blocks(place: Optional[str]) -> None:
    noisy = ["sh", "-c", "yes noise | head -c 5000000 >&2; echo the end >&2; yes data | head -c 3000000"]
    outcome = by_driver(lambda hosts: hosts.run(Command(place, noisy), seconds=60, doing="x"))
    assert len(outcome.stdout) == 3000000
    assert len(outcome.stderr) <= 65536 and outcome.stderr.endswith("the end\n")
    with pytest.raises(Failed, match="more than 4 MiB"):
        by_driver(lambda hosts: hosts.run(Command(place, ["yes"]), seconds=60, doing="x"))


def test_a_time_limit_ends_the_command_itself(place: Optional[str], request: pytest.FixtureRequest) -> None:
    lab = request.getfixturevalue("lab") if place else None
    began = time.monotonic()
    with pytest.raises(TimedOut, match=r"cannot wait.* within 1 s; it was stopped"):
        by_driver(lambda hosts: hosts.run(Command(place, ["sleep", "7001"]), seconds=1, doing="wait"))
    assert time.monotonic() - began < 15
    assert not running(place, "7001", lab)


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_dies_takes_its_command_along(
    place: Optional[str], request: pytest.FixtureRequest, death: signal.Signals
) -> None:
    lab = request.getfixturevalue("lab") if place else None
    word = f"70{int(death):02}"
    pid = os.fork()
    if pid == 0:
        # The command's own child must go, too.
        SshHosts(become_oneadmin()).run(Command(place, ["sh", "-c", f"sleep {word}; true"]), seconds=9000, doing="wait")
        os._exit(0)
    assert eventually(lambda: running(place, word, lab))
    os.kill(pid, death)
    os.waitpid(pid, 0)
    assert eventually(lambda: not running(place, word, lab))


def test_a_command_that_was_ended_is_over_when_all_that_it_started_is(place: Optional[str]) -> None:
    # As a copy whose last writes are under way: it ends, but not at once.
    slow, ended = 'trap "" TERM; (sleep 3; mkdir "$1") & trap - TERM; wait', "/var/tmp/ended"

    def work(hosts: SshHosts) -> bool:
        with pytest.raises(TimedOut):
            hosts.run(Command(place, ["sh", "-c", slow, "sh", ended]), seconds=1, doing="copy")
        return hosts.run(Command(place, ["rmdir", ended]), seconds=9, accept=(0, 1), doing="look").code == 0

    assert by_driver(work)


def test_an_unreachable_host_is_told_from_a_failing_command(lab: Hosts) -> None:
    def work(hosts: SshHosts) -> None:
        hosts.run(Command("node2", ["true"]), seconds=5, doing="look")

    lab.stop("node2")
    try:
        said = "cannot look: host node2 cannot be reached: .*(refused|route|timed out)"
        with pytest.raises(HostUnreachable, match=said):
            by_driver(work)
    finally:
        lab.start("node2")
    by_driver(work)
    with pytest.raises(HostUnreachable, match="host nosuch cannot be reached: ssh: Could not resolve"):
        by_driver(lambda hosts: hosts.run(Command("nosuch", ["true"]), seconds=5, doing="look"))


def test_a_front_end_that_is_too_busy_is_no_host_that_is_dead() -> None:
    with pytest.raises(Unreachable, match="no answer within 0 s") as caught:
        SshHosts(start_seconds=0).run(Command(None, ["true"]), seconds=5, doing="look")
    assert not isinstance(caught.value, HostUnreachable)


@pytest.mark.usefixtures("lab")
def test_a_connection_that_breaks_in_the_middle_is_no_unreachable_host() -> None:
    def work(hosts: SshHosts) -> None:
        hosts.run(Command("node2", ["sh", "-c", "kill -9 $(ps -o ppid= -p $PPID) $PPID"]), seconds=20, doing="write")

    with pytest.raises(
        DriverError, match="cannot write on node2: the connection ended before the command did"
    ) as caught:
        by_driver(work)
    assert not isinstance(caught.value, Unreachable)


@pytest.mark.usefixtures("lab")
def test_many_commands_share_one_connection() -> None:
    def work(hosts: SshHosts) -> list[str]:
        script = 'echo "$SSH_CONNECTION"'
        return [hosts.run(Command("node1", ["sh", "-c", script]), seconds=20, doing="x").stdout for _ in range(5)]

    assert len(set(by_driver(work))) == 1


@pytest.mark.usefixtures("lab")
def test_more_commands_at_once_than_sshd_allows_over_one_connection() -> None:
    def work(hosts: SshHosts) -> list[str]:
        with ThreadPoolExecutor(14) as pool:
            command = Command("node1", ["sh", "-c", "sleep 1; echo done"])
            outcomes = pool.map(lambda _: hosts.run(command, seconds=60, doing="x"), range(14))
            return [each.stdout + each.stderr for each in outcomes]

    assert by_driver(work) == ["done\n"] * 14


@pytest.mark.usefixtures("lab")
def test_without_a_private_directory_it_works_without_sharing() -> None:
    def work(hosts: SshHosts) -> str:
        hosts._sockets = None
        return hosts.run(Command("node1", ["hostname"]), seconds=20, doing="x").stdout

    assert by_driver(work) == "node1\n"


def test_the_agent_is_there_only_where_it_was_asked_for(lab: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_AGENT", lab.frontend_env()["SSH_AUTH_SOCK"])
    hop = ["ssh", "-o", "BatchMode=yes", "--", "node2", "hostname"]

    def work(hosts: SshHosts) -> list[Outcome]:
        commands = [Command("node1", hop), Command("node1", hop, forward_agent=True), Command("node1", hop)]
        return [hosts.run(each, seconds=20, accept=(0, 255), doing="hop") for each in commands]

    before, asked, after = by_driver(work)
    assert (before.code, asked.stdout, after.code) == (255, "node2\n", 255)


# pipes


def test_a_pipe_carries_all_bytes_and_counts_them(place: Optional[str]) -> None:
    source = Command(None, ["head", "-c", "30000000", "/dev/zero"])
    piped = by_driver(lambda hosts: hosts.pipe(source, Command(place, ["wc", "-c"]), seconds=60, doing="x"))
    assert (piped.sent, piped.target.stdout) == (30000000, "30000000\n")
    piped = by_driver(
        lambda hosts: hosts.pipe(
            Command(place, ["head", "-c", "5000000", "/dev/zero"]), Command(None, ["wc", "-c"]), seconds=60, doing="x"
        )
    )
    assert (piped.sent, piped.target.stdout) == (5000000, "5000000\n")


def test_how_the_source_ends_counts_although_the_target_has_had_enough(place: Optional[str]) -> None:
    """As tar has, at the end of its archive, while the other end has yet to say that all was well."""
    target = Command(None, ["head", "-n", "1"])
    well, ill = (Command(place, ["sh", "-c", f"echo first; sleep 0.5; exit {code}"]) for code in (0, 3))
    piped = by_driver(lambda hosts: hosts.pipe(well, target, seconds=20, doing="carry"))
    assert (piped.sent, piped.target.stdout) == (6, "first\n")
    with pytest.raises(Failed, match="exit code 3"):
        by_driver(lambda hosts: hosts.pipe(ill, target, seconds=20, doing="carry"))


def test_a_failing_end_of_a_pipe_is_a_failure(place: Optional[str]) -> None:
    half = ["sh", "-c", "head -c 1000000 /dev/zero; echo disk on fire >&2; exit 5"]
    with pytest.raises(Failed, match=r"cannot carry.*: disk on fire \(exit code 5\)"):
        by_driver(lambda hosts: hosts.pipe(Command(None, half), Command(place, ["cat"]), seconds=20, doing="carry"))
    stops = Command(place, ["sh", "-c", "head -c 10 >/dev/null; echo No space left >&2; exit 1"])
    with pytest.raises(Failed, match=r"cannot carry.*: No space left \(exit code 1\)"):
        by_driver(lambda hosts: hosts.pipe(Command(None, ["yes"]), stops, seconds=20, doing="carry"))
    with pytest.raises(TimedOut):
        by_driver(
            lambda hosts: hosts.pipe(Command(None, ["yes"]), Command(place, ["sleep", "7002"]), seconds=1, doing="x")
        )
    with pytest.raises(TimedOut):
        by_driver(
            lambda hosts: hosts.pipe(Command(None, ["sleep", "7003"]), Command(place, ["cat"]), seconds=1, doing="x")
        )


@pytest.mark.usefixtures("lab")
def test_a_pipe_to_an_unreachable_host_starts_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(Unreachable):
        by_driver(
            lambda hosts: hosts.pipe(
                Command(None, ["touch", f"{tmp_path}/ran"]), Command("nosuch", ["cat"]), seconds=9, doing="x"
            )
        )
    assert not (tmp_path / "ran").exists()


# the directory of the sockets


def test_sockets_are_in_a_directory_of_ones_own(tmp_path: Path) -> None:
    made = private({"TMPDIR": str(tmp_path)}, longest=4096)
    assert made is not None
    if made.startswith(str(tmp_path)):
        assert stat.S_IMODE(os.stat(made).st_mode) == 0o700


def test_somebody_elses_directory_is_not_used(tmp_path: Path) -> None:
    name = tmp_path / f"linstor_un-{os.geteuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    for prepare in (lambda: name.symlink_to(elsewhere), name.mkdir, name.touch):
        prepare()
        if name.is_dir() and not name.is_symlink():
            name.chmod(0o770)
        assert private({"TMPDIR": str(tmp_path), "XDG_RUNTIME_DIR": "/nosuch"}, longest=4096) != str(name)
        name.rmdir() if name.is_dir() and not name.is_symlink() else name.unlink()


def test_nothing_heavy_is_loaded_for_it() -> None:
    code = "import sys, linstor_un.adapters.channel; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(LIB)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"asyncio", "linstor", "lxml", "pyone", "click"} & set(loaded)
