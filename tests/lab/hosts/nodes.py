"""Hosts that a front-end reaches by ssh: each with a network, directories, processes and an sshd of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from lab.hosts import account, isolation
from lab.hosts.isolation import BASE, GROUPS, MARK, LabUnavailable
from lab.hosts.refusal import Refusals

FRONTEND = "frontend"
FRONTEND_ADDRESS = "10.77.0.1"
_BRIDGE = "labbr"
_NOWHERE = "02:00:00:00:ff:ff"
_AGENT = Path("/run/one/ssh-agent.sock")
_SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# what sshd gives an ordinary user on Debian when PAM does not: no directory of administrators' tools
_BIN = "/usr/local/bin:/usr/bin:/bin:/usr/games"
_TOOL_DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_PATIENCE = 10.0

_SSHD = """\
Port 22
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


@dataclass
class _Host:
    name: str
    address: str
    mac: str
    port: str
    key: str
    pid: int = 0
    holder: Optional[subprocess.Popen[bytes]] = None
    hidden: list[str] = field(default_factory=list)
    refusals: Optional[Refusals] = None

    @property
    def base(self) -> Path:
        return BASE / "hosts" / self.name


class Hosts:
    """A front-end (this process) and its hosts, on one bridge.

    Arguments:
        names: the hosts' names, at most 200; they resolve from everywhere, as does "frontend".
        max_sessions: sshd's MaxSessions, 10 as sshd has it: more sessions over one connection are refused.
        max_startups: sshd's MaxStartups.

    Raises:
        LabUnavailable: what is missing here.
    """

    def __init__(self, names: Iterable[str], max_sessions: int = 10, max_startups: str = "10:30:100") -> None:
        isolation.enter()
        self._hosts: dict[str, _Host] = {}
        for number, name in enumerate(names):
            mac = f"02:00:00:00:01:{number + 1:02x}"
            self._hosts[name] = _Host(name, f"10.77.0.{number + 11}", mac, f"lab{number}", "")
        self._sshd = _SSHD.format(max_sessions=max_sessions, max_startups=max_startups)
        self._agent: Optional[subprocess.Popen[bytes]] = None
        self._prepared = False

    def __enter__(self) -> Hosts:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> list[str]:
        """The names of all hosts, running or not."""
        return list(self._hosts)

    def start(self, *names: str) -> None:
        """Start hosts (default: all that do not run) and wait until their sshd answers.

        A host that was stopped gets its sshd again; one that was killed is booted: an empty /run and no
        processes, but the disks, directories and keys it had.
        """
        if not self._prepared:
            self._prepare()
        wanted = [self._hosts[name] for name in names or self._hosts]
        fresh = [host for host in wanted if host.holder is None]
        for host in fresh:
            self._boot(host)
        for host in fresh:
            self._await_boot(host)
        if fresh:
            _ip(*(f"link set {host.port} master {_BRIDGE} up" for host in fresh))
        for host in wanted:
            if not self._sshd_runs(host):
                self._in_host(host, ["/usr/sbin/sshd", "-f", "/run/sshd_config", "-E", "/run/sshd.log"], "root")
        for host in wanted:
            _await_port(host.address, 22)

    def stop(self, *names: str) -> None:
        """End every process of hosts (default: of all) but let their network answer: connections are refused."""
        for name in names or self._hosts:
            for pid in self.processes(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _until(lambda: not any(self.processes(name) for name in names or self._hosts), "processes to end")

    def kill(self, name: str) -> None:
        """Cut a host's power: its processes are gone and its address does not answer at all."""
        host = self._hosts[name]
        if host.holder is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(host.pid, signal.SIGKILL)
        _end(host.holder)
        host.holder, host.pid, host.hidden = None, 0, []
        if host.refusals is not None:
            host.refusals.close()
            host.refusals = None
        subprocess.run(["ip", "link", "del", host.port], stderr=subprocess.DEVNULL, check=False)

    def close(self) -> None:
        """End all hosts and the agent, and forget their directories."""
        for name in self._hosts:
            self.kill(name)
        if self._agent is not None:
            self._agent.kill()
            self._agent.wait()
            self._agent = None
        if self._prepared:
            subprocess.run(["ip", "link", "del", _BRIDGE], check=False)
            shutil.rmtree(BASE / "hosts", ignore_errors=True)
            self._prepared = False

    def partition(self, one: str, other: str) -> None:
        """Let everything sent between two hosts (or a host and "frontend") vanish without an answer."""
        for here, there in ((one, other), (other, one)):
            self._neighbour(here, f"neigh replace {self.address(there)} lladdr {_NOWHERE} nud permanent")

    def heal(self, one: str, other: str) -> None:
        """End a partition."""
        for here, there in ((one, other), (other, one)):
            self._neighbour(here, f"neigh del {self.address(there)}")

    def address(self, name: str) -> str:
        """Return the address of a host or of "frontend"."""
        return FRONTEND_ADDRESS if name == FRONTEND else self._hosts[name].address

    def run(
        self, name: str, argv: Sequence[str], user: str = account.NAME, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Run a command on a host without ssh, with the environment that ssh would give that user there.

        Arguments:
            user: "oneadmin" or "root".
            check: raise CalledProcessError when it fails.
            options: further arguments of subprocess.run; output is caught as text unless they say otherwise.
        """
        settings: dict[str, Any] = {"capture_output": True, "text": True, "stdin": subprocess.DEVNULL, **options}
        if "input" in settings:
            del settings["stdin"]
        return subprocess.run(self.entering(name, argv, user), check=check, env=_environment(user), **settings)

    def entering(self, name: str, argv: Sequence[str], user: str = account.NAME) -> list[str]:
        """Return the command that runs `argv` on a host; for those who want the process and not its result."""
        host = self._hosts[name]
        if not host.pid:
            raise ProcessLookupError(f"host {name} does not run")
        command = ["nsenter", "-t", str(host.pid), "-m", "-n", "-u", "-i", "-p", "-r", "--"]
        if host.refusals is not None:
            join = 'echo $$ > "$0" && exec "$@"'
            command = ["sh", "-c", join, str(GROUPS / host.refusals.group / "cgroup.procs"), *command]
        if user != "root":
            command += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return [*command, *argv]

    def processes(self, name: str) -> dict[int, list[str]]:
        """Return the processes of a host, without its process 1: the lab's process number -> argv."""
        found = {}
        for pid in self.pids(name):
            with contextlib.suppress(OSError):
                argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
                if argv:
                    found[pid] = argv.rstrip("\0").split("\0")
        return found

    def pids(self, name: str) -> list[int]:
        """Return the numbers, as seen here, of all processes of a host but its process 1."""
        host = self._hosts[name]
        if not host.pid:
            return []
        wanted = os.readlink(f"/proc/{host.pid}/ns/pid")
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != host.pid:
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{entry}/ns/pid") == wanted:
                        found.append(int(entry))
        return found

    def first_process(self, name: str) -> int:
        """Return the number of a host's process 1 as seen here, 0 while the host does not run."""
        return self._hosts[name].pid

    def hide_tools(self, name: str, *tools: str) -> None:
        """Let programs be "command not found" on a running host; without names all are there again."""
        host = self._hosts[name]
        for directory in host.hidden:
            self.run(name, ["umount", "-l", directory], "root")
        host.hidden = []
        for directory in _TOOL_DIRECTORIES:
            here = [tool for tool in tools if os.path.lexists(f"{directory}/{tool}")]
            if here and not os.path.islink(directory):
                self._cover(host, directory, here)

    def refusals(self, name: str) -> Refusals:
        """Return what decides which devices a running host may not open (it holds for all processes there).

        Raises:
            LabUnavailable: this kernel cannot refuse as DRBD does.
        """
        host = self._hosts[name]
        if host.refusals is None:
            host.refusals = Refusals(name)
            for pid in [host.pid, *self.pids(name)]:
                host.refusals.take(pid)
        return host.refusals

    def path(self, name: str, path: str) -> Path:
        """Return where a file of a running host is seen from here; links in it lead to the front-end's files."""
        return Path(f"/proc/{self._hosts[name].pid}/root") / path.lstrip("/")

    def device_directory(self, name: str) -> Path:
        """Return what is /dev on a host, as seen from here; it is there while the host is down, too."""
        if name not in self._hosts:
            raise FileNotFoundError(f"no host {name} in this lab")
        return self._hosts[name].base / "dev"

    def frontend_env(self) -> dict[str, str]:
        """Return the environment of oned, and so of its drivers: a service's, with the agent of oneadmin."""
        return {
            "HOME": str(account.HOME), "USER": account.NAME, "LOGNAME": account.NAME, "SHELL": "/bin/bash",
            "PATH": _SBIN, "SSH_AUTH_SOCK": str(_AGENT),
        }

    def as_oneadmin(self) -> Mapping[str, Any]:
        """Return the arguments of subprocess.run that make its command one of oned's on the front-end."""
        return {
            "user": account.UID, "group": account.GID, "extra_groups": [account.disk_group()],
            "cwd": str(account.HOME), "env": self.frontend_env(), "umask": 0o022,
        }

    def _prepare(self) -> None:
        ssh = account.HOME / ".ssh"
        account.own_directory(ssh, 0o700)
        key = account.make_key(ssh / "id_ed25519")
        for name in ("id_ed25519", "id_ed25519.pub"):
            os.chown(ssh / name, account.UID, account.GID)
        lines = ["127.0.0.1 localhost", f"{FRONTEND_ADDRESS} {FRONTEND}"]
        lines += [f"{host.address} {host.name}" for host in self._hosts.values()]
        Path("/etc/hosts").write_text("\n".join(lines) + "\n")
        for host in self._hosts.values():
            (host.base / "keys").mkdir(parents=True, mode=0o755)
            host.key = account.make_key(host.base / "keys" / "ssh_host_ed25519_key")
        known = "".join(f"{host.name},{host.address} {host.key}\n" for host in self._hosts.values())
        account.own_file(ssh / "known_hosts", known)
        for host in self._hosts.values():
            _make_directories(host, key, known)
        _ip(
            f"link add {_BRIDGE} address 02:00:00:00:00:01 type bridge",
            f"addr add {FRONTEND_ADDRESS}/24 dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
        )
        self._start_agent(ssh / "id_ed25519")
        self._prepared = True

    def _start_agent(self, key: Path) -> None:
        _AGENT.unlink(missing_ok=True)
        self._agent = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(_AGENT)], stdout=subprocess.DEVNULL, **self.as_oneadmin()
        )
        _until(_AGENT.exists, "ssh-agent")
        subprocess.run(["ssh-add", "-q", str(key)], check=True, **self.as_oneadmin())

    def _boot(self, host: _Host) -> None:
        run = host.base / "run"
        shutil.rmtree(run, ignore_errors=True)
        for name, mode in (("lock", 0o1777), ("sshd", 0o755)):
            (run / name).mkdir(parents=True)
            os.chmod(run / name, mode)
        account.own_directory(run / "lock" / "one")
        (run / "sshd_config").write_text(self._sshd)
        key = run / "ssh_host_ed25519_key"
        shutil.copy(host.base / "keys" / key.name, key)
        key.chmod(0o600)
        description = {
            "name": host.name, "base": str(host.base), "address": host.address, "mac": host.mac,
            "port": host.port, "frontend_pid": str(os.getpid()), "mark": MARK + isolation.token(),
        }
        holder = [sys.executable, "-I", "-S", str(Path(__file__).with_name("holder.py")), json.dumps(description)]
        host.holder = subprocess.Popen(
            holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, env={"PATH": _SBIN},
        )

    def _await_boot(self, host: _Host) -> None:
        holder = host.holder
        assert holder is not None and holder.stdout is not None and holder.stderr is not None
        line = holder.stdout.readline()
        if not line:
            reason = holder.stderr.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            _end(holder)
            host.holder = None
            raise LabUnavailable(f"host {host.name} does not start: {' '.join(reason)}")
        host.pid = int(line)

    def _sshd_runs(self, host: _Host) -> bool:
        return any(argv[0].startswith("sshd: /usr/sbin/sshd") for argv in self.processes(host.name).values())

    def _in_host(self, host: _Host, argv: list[str], user: str) -> None:
        self.run(host.name, argv, user, capture_output=False, stdout=subprocess.DEVNULL)

    def _neighbour(self, name: str, command: str) -> None:
        if name == FRONTEND:
            _ip(f"{command} dev {_BRIDGE}")
        elif self._hosts[name].pid:
            self.run(name, ["ip", *command.split(), "dev", "eth0"], "root")

    def _cover(self, host: _Host, directory: str, tools: list[str]) -> None:
        """Lay an overlay over a directory that has the kernel's mark for "deleted" in place of some names."""
        layer = host.base / f"hidden{len(host.hidden)}-{time.monotonic_ns()}"
        for kind in ("upper", "work"):
            (layer / kind).mkdir(parents=True)
        os.chmod(layer / "upper", stat.S_IMODE(os.stat(directory).st_mode))
        for tool in tools:
            os.mknod(layer / "upper" / tool, stat.S_IFCHR, 0)
        # the host's /run hides the base: its own mount namespace reaches it only through a directory it has
        seen = host.base / "tmp" / layer.name
        layer.rename(seen)
        options = f"lowerdir={directory},upperdir=/tmp/{layer.name}/upper,workdir=/tmp/{layer.name}/work"
        self.run(host.name, ["mount", "-t", "overlay", "-o", options, "hidden", directory], "root")
        host.hidden.append(directory)


def _make_directories(host: _Host, key: str, known: str) -> None:
    for name, mode in (("dev", 0o755), ("var", 0o755), ("var-work", 0o755), ("tmp", 0o1777)):
        (host.base / name).mkdir(mode=mode)
        os.chmod(host.base / name, mode)
    isolation.make_devices(host.base / "dev")
    os.chmod(host.base / "dev" / "shm", 0o1777)
    (host.base / "dev" / "drbd" / "by-res").mkdir(parents=True)
    for name in ("lib", "tmp"):
        (host.base / "var" / name).mkdir()
    os.chmod(host.base / "var" / "tmp", 0o1777)
    home = host.base / "var" / "lib" / "one"
    # what the front-end keeps in these directories must not shine through on a host
    for directory in (home, host.base / "var" / "tmp"):
        directory.mkdir(exist_ok=True)
        os.setxattr(directory, "trusted.overlay.opaque", b"y")
    for directory, mode in ((home, 0o755), (home / ".ssh", 0o700), (home / "datastores", 0o755)):
        account.own_directory(directory, mode)
    account.own_directory(host.base / "var" / "tmp" / "one")
    account.own_file(home / ".ssh" / "authorized_keys", key + "\n")
    account.own_file(home / ".ssh" / "known_hosts", known)


def _environment(user: str) -> dict[str, str]:
    if user == "root":
        return {"HOME": "/root", "USER": "root", "LOGNAME": "root", "SHELL": "/bin/bash", "PATH": _SBIN}
    return {"HOME": str(account.HOME), "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", "PATH": _BIN}


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True, env={"PATH": _SBIN})


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the pipes of a holder, which ends its host, and wait for it."""
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    process.wait(_PATIENCE)


def _await_port(address: str, port: int) -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
            return True
        return False

    _until(answers, f"{address}:{port} to answer")


def _until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_PATIENCE:.0f} s in vain for {what}")
        time.sleep(0.003)
