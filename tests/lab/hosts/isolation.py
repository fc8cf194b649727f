"""Put a process, and all it starts, into a place of its own, so that nothing it makes reaches the machine.

    enter()                              from now on this process is the lab's front-end
    python -m lab.hosts.isolation CMD    run CMD so that killing this very process ends everything below it

Inside, /etc and /var are overlays, /dev and /run are private; all of it is memory and vanishes with the last
process. /tmp, /proc and the rest stay the machine's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import NoReturn, Optional

from lab.hosts import account, keeper, kernel

BASE = Path("/run/lab")
MARK = "linstor-un-lab-"
GROUPS = BASE / "cgroup"
SBIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "loop-control", "fuse", "kvm", "net/tun")
_TOOLS = ("sshd", "ssh", "ssh-keygen", "ssh-agent", "ssh-add", "ip", "nsenter", "setpriv")

_RUN = "LINSTOR_UN_LAB_RUN"

_token: Optional[str] = None
_keeper: Optional[subprocess.Popen[bytes]] = None


class LabUnavailable(Exception):
    """The lab cannot be had here; the text says what is missing and how to get it."""


def missing() -> str:
    """Return in one sentence what keeps the lab from starting, "" when nothing does."""
    if os.geteuid() != 0:
        return "the lab of real hosts needs root (namespaces, loop devices, sshd)"
    absent = [tool for tool in _TOOLS if not shutil.which(tool, path=SBIN_PATH)]
    if absent:
        return f"the lab needs {', '.join(absent)}: apt-get install openssh-server openssh-client iproute2 util-linux"
    if not Path("/dev/loop-control").exists():
        return "the lab needs loop devices, and /dev/loop-control is not there (modprobe loop)"
    return ""


def token() -> str:
    """Return the random name that marks everything this lab makes.

    Raises:
        LabUnavailable: enter() was not called.
    """
    if _token is None:
        raise LabUnavailable("this process is not in a lab: call enter() first")
    return _token


def enter() -> str:
    """Make the calling process the front-end of a new lab; a second call changes nothing.

    Call it before threads are started: a thread keeps the namespaces that it was born in.

    Returns:
        the lab's token (see `leftovers`).

    Raises:
        LabUnavailable: with what is missing.
    """
    global _token, _keeper  # noqa: PLW0603  (a process has one set of namespaces)
    if _token is not None:
        return _token
    reason = missing()
    if reason:
        raise LabUnavailable(reason)
    name = os.environ.get(_RUN, "") + secrets.token_hex(6)
    try:
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC)
        # first of all: when the rest fails, what runs on in this process still has its loopback
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, env={"PATH": SBIN_PATH})
        _private_tree(MARK + name)
        kernel.set_host_name("frontend")
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabUnavailable(f"the kernel refuses private namespaces here: {error}")
    account.create_oneadmin(Path("/etc"), Path("/var/lib/one"))
    for path in ("/var/tmp/one", "/run/lock/one", "/run/one", "/var/log/one", "/var/lib/one/datastores"):
        account.own_directory(Path(path))
    # /tmp is the machine's: sockets of ssh masters in it would lead one lab's drivers to the hosts of another
    account.own_directory(Path(f"/run/user/{account.UID}"), 0o700)
    _keeper = _start_keeper(GROUPS / f"{MARK}{name}")
    _token = name
    return name


def _private_tree(mark: str) -> None:
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    _private_dev(mark)
    kernel.mount(mark, "/run", "tmpfs", kernel.MS_NOSUID, "mode=755")
    # devices and set-uid files are wanted below the base, whatever the machine's /run forbids
    BASE.mkdir(mode=0o755)
    kernel.mount(mark, str(BASE), "tmpfs", 0, "mode=755")
    for name in ("/run/lock", "/run/sshd"):
        os.mkdir(name, 0o755)
    os.chmod("/run/lock", 0o1777)
    for top in ("/etc", "/var"):
        upper, work = (BASE / f"overlay{top}-{kind}" for kind in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir()
        shutil.copystat(top, upper)
        kernel.mount(mark, top, "overlay", 0, f"lowerdir={top},upperdir={upper},workdir={work}")
    if not os.path.islink("/var/lock"):
        os.makedirs("/var/lock", exist_ok=True)
        kernel.mount("/run/lock", "/var/lock", "", kernel.MS_BIND)
    for directory in ("/var/tmp", "/var/lib", "/var/log"):
        os.makedirs(directory, exist_ok=True)
    # What the machine keeps there may be large, and is nobody's in the lab.
    kernel.mount(mark, "/var/tmp", "tmpfs", kernel.MS_NOSUID, "mode=1777")


def _private_dev(mark: str) -> None:
    """Put together a /dev whose nodes and permissions are ours alone, for /dev is one for the whole machine."""
    stage = "/dev/shm" if os.path.isdir("/dev/shm") else "/mnt"
    kernel.mount(mark, stage, "tmpfs", kernel.MS_NOSUID, "mode=755")
    make_devices(Path(stage))
    kernel.mount("/dev/pts", f"{stage}/pts", "", kernel.MS_BIND)
    kernel.mount(stage, "/dev", "", kernel.MS_MOVE)
    os.chmod("/dev/shm", 0o1777)


def make_devices(directory: Path) -> None:
    """Fill a directory with the nodes and links that a /dev has, opened to everybody as udev does."""
    for name in _DEVICES:
        source = Path("/dev", name)
        if source.exists() and stat.S_ISCHR(source.stat().st_mode):
            node = directory / name
            node.parent.mkdir(exist_ok=True)
            private = name == "loop-control"
            os.mknod(node, stat.S_IFCHR, source.stat().st_rdev)
            os.chmod(node, 0o660 if private else 0o666)
    for name in ("pts", "shm"):
        (directory / name).mkdir()
    links = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2", "ptmx": "pts/ptmx"}
    for name, target in links.items():
        (directory / name).symlink_to(target)


def _start_keeper(groups: Path) -> subprocess.Popen[bytes]:
    """Start the process that ends what this one leaves: agents and ssh masters outlive a SIGKILL otherwise."""
    script = str(Path(__file__).with_name("keeper.py"))
    # a bare descriptor: it is closed by the kernel when this process is gone, not by Python while it is ending
    end, _ = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", script, str(groups)],
        stdin=end, stdout=subprocess.PIPE, start_new_session=True, env={"PATH": SBIN_PATH},
    )
    os.close(end)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def contained(argv: list[str]) -> int:
    """Run a command so that no process of it outlives this one, not even after a SIGKILL.

    Without root the command just runs.

    Returns:
        the command's exit code, 128 + n after signal n.
    """
    if missing():
        return _exit_code(subprocess.call(argv))
    kernel.unshare(kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWNET)
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    run = secrets.token_hex(4) + "-"
    init = os.fork()
    if init == 0:
        os.environ[_RUN] = run
        _be_init(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: os.kill(init, received))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    code = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
    _remove_groups(run)
    return code


def _remove_groups(run: str) -> None:
    """Remove the control groups of the labs of one run, whose keepers ended with it."""
    with contextlib.suppress(OSError):
        kernel.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
        for lab in Path("/sys/fs/cgroup").glob(f"{MARK}{run}*"):
            keeper.remove_groups(lab)


def _be_init(argv: list[str]) -> NoReturn:
    """Be process 1 of the new namespace: with its end the kernel ends every other process of it."""
    code = 70
    try:
        kernel.die_with_parent(signal.SIGKILL)
        kernel.mount("proc", "/proc", "proc")
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True, env={"PATH": SBIN_PATH})
        code = _reap_until(_start(argv).pid)
    except OSError as error:
        print(f"cannot run {argv[0]} in a namespace of its own: {error}", file=sys.stderr)
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _start(argv: list[str]) -> subprocess.Popen[bytes]:
    """Start the command, which gets process 1's signals: also one of now, which without a handler would be lost."""
    early: list[int] = []
    command: Optional[subprocess.Popen[bytes]] = None

    def forward(number: int, _: object) -> None:
        if command is None:
            early.append(number)
        else:
            command.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    command = subprocess.Popen(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in early:
        command.send_signal(number)
    return command


def _reap_until(wanted: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == wanted:
            return _exit_code(os.waitstatus_to_exitcode(status))


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(contained(sys.argv[1:]))
