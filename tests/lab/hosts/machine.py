"""One host of the lab: its directories, its boot and its end, and a way in that is not ssh."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

from lab.hosts import account, isolation
from lab.hosts.isolation import BASE, GROUPS, SBIN_PATH, LabUnavailable
from lab.hosts.refusal import Refusals

# what sshd gives an ordinary user on Debian when PAM does not: no directory of administrators' tools
BIN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/games"
_TOOL_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/lib/libvirt")
_PATIENCE = 10.0

# The key exchange that OpenSSH 9 prefers takes more of the processor than all the rest of a connection.
_SSHD = """\
Port 22
KexAlgorithms curve25519-sha256
HostKey /run/ssh_host_ed25519_key
PidFile /run/sshd.pid
AuthorizedKeysFile .ssh/authorized_keys
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
AcceptEnv LANG LC_*
MaxSessions {max_sessions}
MaxStartups {max_startups}
Subsystem sftp internal-sftp
"""


class Machine:
    """A host with the name, the address on the lab's network, and the front-end's network port it is wired to."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.address = f"10.77.0.{number + 11}"
        self.port = f"lab{number}"
        self.base = BASE / "hosts" / name
        self.pid = 0
        self._mac = f"02:00:00:00:01:{number + 1:02x}"
        self._holder: Optional[subprocess.Popen[bytes]] = None
        self._covered: list[str] = []
        self._refusals: Optional[Refusals] = None

    @property
    def running(self) -> bool:
        """Whether it has power."""
        return self._holder is not None

    def install(self, oneadmin_key: str) -> str:
        """Make the directories that outlive a boot; return the line of known_hosts for this host.

        Arguments:
            oneadmin_key: the public key that oneadmin may come with.
        """
        for name, mode in (("dev", 0o755), ("vartmp", 0o1777), ("tmp", 0o1777), ("keys", 0o700)):
            (self.base / name).mkdir(parents=True, mode=mode)
            os.chmod(self.base / name, mode)
        isolation.make_devices(self.base / "dev")
        os.chmod(self.base / "dev" / "shm", 0o1777)
        (self.base / "dev" / "drbd" / "by-res").mkdir(parents=True)
        home = self.base / "one"
        for directory, mode in ((home, 0o755), (home / ".ssh", 0o700), (home / "datastores", 0o755)):
            account.own_directory(directory, mode)
        account.own_directory(self.base / "vartmp" / "one")
        account.own_file(home / ".ssh" / "authorized_keys", oneadmin_key + "\n")
        key = account.make_key(self.base / "keys" / "ssh_host_ed25519_key")
        return f"{self.name},{self.address} {key}\n"

    def know(self, known_hosts: str) -> None:
        """Let oneadmin of this host know the keys of the others."""
        account.own_file(self.base / "one" / ".ssh" / "known_hosts", known_hosts)

    def boot(self, max_sessions: int, max_startups: str) -> None:
        """Give it power; `booted` waits until it stands."""
        run = self.base / "run"
        shutil.rmtree(run, ignore_errors=True)
        for name, mode in (("lock", 0o1777), ("sshd", 0o755)):
            (run / name).mkdir(parents=True)
            os.chmod(run / name, mode)
        account.own_directory(run / "lock" / "one")
        (run / "sshd_config").write_text(_SSHD.format(max_sessions=max_sessions, max_startups=max_startups))
        shutil.copy(self.base / "keys" / "ssh_host_ed25519_key", run)
        os.chmod(run / "ssh_host_ed25519_key", 0o600)
        description = {
            "name": self.name, "base": str(self.base), "address": self.address, "mac": self._mac,
            "port": self.port, "frontend_pid": str(os.getpid()),
        }
        script = str(Path(__file__).with_name("holder.py"))
        self._holder = subprocess.Popen(
            [sys.executable, "-I", "-S", script, json.dumps(description)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env={"PATH": SBIN_PATH},
        )

    def booted(self) -> None:
        """Wait until a host that was given power has its network and its directories.

        Raises:
            LabUnavailable: it does not come up.
        """
        holder = self._holder
        assert holder is not None and holder.stdout is not None and holder.stderr is not None
        line = holder.stdout.readline()
        if not line:
            reason = holder.stderr.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            self.cut()
            raise LabUnavailable(f"host {self.name} does not start: {' '.join(reason)}")
        self.pid = int(line)

    def cut(self) -> None:
        """Cut the power: all its processes end, its directories but /run stay."""
        if self._holder is None:
            return
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        for stream in (self._holder.stdin, self._holder.stdout, self._holder.stderr):
            assert stream is not None
            stream.close()
        self._holder.wait(_PATIENCE)
        self._holder, self.pid, self._covered = None, 0, []
        if self._refusals is not None:
            self._refusals.close()
            self._refusals = None

    def start_sshd(self) -> None:
        """Start sshd unless it runs; it takes connections some milliseconds later."""
        if not any(argv[0].startswith("sshd: /usr/sbin/sshd") for argv in self.processes().values()):
            sshd = ["/usr/sbin/sshd", "-f", "/run/sshd_config", "-E", "/run/sshd.log"]
            subprocess.run(self.entering(sshd, "root"), check=True, env=environment("root"), stdin=subprocess.DEVNULL)

    def entering(self, argv: Sequence[str], user: str) -> list[str]:
        """Return the command that runs `argv` inside.

        Raises:
            ProcessLookupError: the host does not run.
        """
        if not self.pid:
            raise ProcessLookupError(f"host {self.name} does not run")
        command = ["nsenter", "-t", str(self.pid), "-m", "-n", "-u", "-i", "-p", "-r", "--"]
        if self._refusals is not None:
            joining = 'echo $$ > "$0" && exec "$@"'
            command = ["sh", "-c", joining, str(GROUPS / self._refusals.group / "cgroup.procs"), *command]
        if user != "root":
            command += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return [*command, *argv]

    def enter(self, argv: Sequence[str], user: str, check: bool, **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command inside; see Hosts.run."""
        settings: dict[str, Any] = {"capture_output": True, "text": True, **options}
        if "input" not in settings:
            settings.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(self.entering(argv, user), check=check, env=environment(user), **settings)

    def pids(self) -> list[int]:
        """Return the numbers, as seen from outside, of all processes but process 1."""
        if not self.pid:
            return []
        wanted = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != self.pid:
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{entry}/ns/pid") == wanted:
                        found.append(int(entry))
        return found

    def processes(self) -> dict[int, list[str]]:
        """Return number -> argv of all processes but process 1 and those that are only waited for."""
        found = {}
        for pid in self.pids():
            with contextlib.suppress(OSError):
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
                if argv:
                    found[pid] = argv.rstrip("\0").split("\0")
        return found

    def refusals(self) -> Refusals:
        """Return what decides which devices may not be opened here; it holds for every process of the host."""
        if self._refusals is None:
            self._refusals = Refusals(self.name)
            for pid in [self.pid, *self.pids()]:
                self._refusals.take(pid)
        return self._refusals

    def hide_tools(self, *tools: str) -> None:
        """Let programs be "not found" and all others be there."""
        # a device 0, 0 is the kernel's mark for "deleted" in the upper layer of an overlay
        self._cover(tools, lambda _, upper: os.mknod(upper, stat.S_IFCHR, 0))

    def hold_tools(self, *tools: str) -> None:
        """Let programs stop before their first step, until SIGCONT, and all others run as ever."""

        def lay(tool: Path, upper: Path) -> None:
            shutil.copy2(tool, f"{upper}.held")
            upper.write_text(f'#!/bin/sh\nkill -STOP $$\nexec {tool}.held "$@"\n')
            upper.chmod(0o755)

        self._cover(tools, lay)

    def overhear_tool(self, tool: str, path: str) -> None:
        """Let what a program says on stderr go to a file of this host too, after those have it who listen to it."""

        def lay(tool: Path, upper: Path) -> None:
            shutil.copy2(tool, f"{upper}.heard")
            upper.write_text(f'#!/bin/bash\nexec {tool}.heard "$@" 2> >(exec tee {path} >&2)\n')
            upper.chmod(0o755)

        self._cover([tool], lay)

    def _cover(self, tools: Sequence[str], lay: Callable[[Path, Path], object]) -> None:
        """Lay overlays over the directories of some programs, in place of those of before.

        Arguments:
            lay: is called with each program and its place in an overlay's upper layer, and puts there what is seen.
        """
        for directory in self._covered:
            self.enter(["umount", "-l", directory], "root", True)
        self._covered = []
        for directory in _TOOL_DIRECTORIES:
            here = [tool for tool in tools if os.path.lexists(f"{directory}/{tool}")]
            if not here or os.path.islink(directory):
                continue
            # its /run hides the base from the host: what it is to mount must lie in a directory that it sees
            name = f"covered-{time.monotonic_ns()}"
            layer = self.base / "tmp" / name
            for kind in ("upper", "work"):
                (layer / kind).mkdir(parents=True)
            os.chmod(layer / "upper", stat.S_IMODE(os.stat(directory).st_mode))
            for tool in here:
                lay(Path(directory, tool), layer / "upper" / tool)
            options = f"lowerdir={directory},upperdir=/tmp/{name}/upper,workdir=/tmp/{name}/work"
            self.enter(["mount", "-t", "overlay", "-o", options, "covered", directory], "root", True)
            self._covered.append(directory)


def environment(user: str) -> dict[str, str]:
    """Return what a command of a user finds in its environment when it comes by ssh."""
    home, path = ("/root", SBIN_PATH) if user == "root" else (str(account.HOME), BIN_PATH)
    return {"HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", "PATH": path}


def until(condition: Callable[[], object], what: str, seconds: float = _PATIENCE, pause: float = 0.003) -> None:
    """Wait until something is true, and look again after each pause of so many seconds.

    Raises:
        TimeoutError: it is not after so many seconds; `what` says what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(pause)
