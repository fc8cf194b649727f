"""Hosts that a front-end reaches by ssh: each with a network, directories, processes and an sshd of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from lab.hosts import account, isolation
from lab.hosts.isolation import BASE, SBIN_PATH
from lab.hosts.machine import Machine, until
from lab.hosts.refusal import Refusals

FRONTEND = "frontend"
FRONTEND_ADDRESS = "10.77.0.1"
_BRIDGE = "labbr"
_NOWHERE = "02:00:00:00:ff:ff"
_AGENT = Path("/run/one/ssh-agent.sock")


class Hosts:
    """A front-end (this process) and its hosts, on one bridge.

    oneadmin of the front-end has a key, and an agent with it, for oneadmin of every host; the hosts have no key
    and reach each other with a forwarded agent only. The front-end's state is the process's: one Hosts at a time.

    Arguments:
        names: the hosts' names, at most 200; they resolve from everywhere, as does "frontend".
        max_sessions: sshd's MaxSessions, 10 as sshd has it: more sessions over one connection are refused.
        max_startups: sshd's MaxStartups.

    Raises:
        LabUnavailable: what is missing here.
    """

    def __init__(self, names: Iterable[str], max_sessions: int = 10, max_startups: str = "10:30:100") -> None:
        isolation.enter()
        self._hosts = {name: Machine(name, number) for number, name in enumerate(names)}
        self._sshd_limits = (max_sessions, max_startups)
        self._agent: Optional[subprocess.Popen[bytes]] = None

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
        """Start hosts (default: all) and wait until their sshd answers; those that run already are left alone.

        A host that was stopped gets its sshd again; one that was killed is booted: an empty /run and no
        processes, but the devices, directories and keys it had.
        """
        if self._agent is None:
            self._install()
        wanted = self._chosen(names)
        fresh = [host for host in wanted if not host.running]
        for host in fresh:
            host.boot(*self._sshd_limits)
        for host in fresh:
            host.booted()
        if fresh:
            _ip(*(f"link set {host.port} master {_BRIDGE} up" for host in fresh))
        for host in wanted:
            host.start_sshd()
        for host in wanted:
            _await_port(host.address, 22)

    def stop(self, *names: str) -> None:
        """End every process of hosts (default: of all) but let their network answer: connections are refused."""
        hosts = self._chosen(names)
        for host in hosts:
            for pid in host.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        until(lambda: not any(host.pids() for host in hosts), "processes to end")

    def kill(self, name: str) -> None:
        """Cut a host's power: its processes are gone and its address does not answer at all."""
        host = self._hosts[name]
        if host.running:
            host.cut()
            subprocess.run(["ip", "link", "del", host.port], stderr=subprocess.DEVNULL, check=False)

    def close(self) -> None:
        """End all hosts and the agent, and forget their directories."""
        for name in self._hosts:
            self.kill(name)
        if self._agent is not None:
            self._agent.kill()
            self._agent.wait()
            self._agent = None
            subprocess.run(["ip", "link", "del", _BRIDGE], check=False)
            shutil.rmtree(BASE / "hosts")

    def partition(self, one: str, other: str) -> None:
        """Let everything sent between two running hosts (or a host and "frontend") vanish without an answer."""
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

        Raises:
            ProcessLookupError: the host does not run.
        """
        return self._hosts[name].enter(argv, user, check, **options)

    def entering(self, name: str, argv: Sequence[str], user: str = account.NAME) -> list[str]:
        """Return the command that runs `argv` on a host; for those who want the process and not its result."""
        return self._hosts[name].entering(argv, user)

    def processes(self, name: str) -> dict[int, list[str]]:
        """Return the processes of a host, without its process 1: the number as seen here -> argv."""
        return self._hosts[name].processes()

    def pids(self, name: str) -> list[int]:
        """Return the numbers, as seen here, of all processes of a host but its process 1."""
        return self._hosts[name].pids()

    def first_process(self, name: str) -> int:
        """Return the number of a host's process 1 as seen here, 0 while the host does not run."""
        return self._hosts[name].pid

    def hide_tools(self, name: str, *tools: str) -> None:
        """Let programs be "command not found" on a running host; without names all are there again."""
        self._hosts[name].hide_tools(*tools)

    def hold_tools(self, name: str, *tools: str) -> None:
        """Let programs stop, as by SIGSTOP, before their first step on a running host; without names all run again."""
        self._hosts[name].hold_tools(*tools)

    def overhear_tool(self, name: str, tool: str, path: str) -> None:
        """Let what a program of a running host says on stderr go to a file of that host too, once it was passed on.

        `hide_tools` without names ends that.
        """
        self._hosts[name].overhear_tool(tool, path)

    def refusals(self, name: str) -> Refusals:
        """Return what decides which devices a running host may not open (it holds for all processes there).

        Raises:
            LabUnavailable: this kernel cannot refuse as DRBD does.
        """
        return self._hosts[name].refusals()

    def device_directory(self, name: str) -> Path:
        """Return what is /dev on a host, as seen from here; it is there while the host is down, too."""
        if name not in self._hosts:
            raise FileNotFoundError(f"no host {name} in this lab")
        return self._hosts[name].base / "dev"

    def frontend_env(self) -> dict[str, str]:
        """Return the environment of oned, and so of its drivers: a service's, with the agent of oneadmin."""
        return {
            "HOME": str(account.HOME), "USER": account.NAME, "LOGNAME": account.NAME, "SHELL": "/bin/bash",
            "PATH": SBIN_PATH, "SSH_AUTH_SOCK": str(_AGENT),
        }

    def as_oneadmin(self) -> Mapping[str, Any]:
        """Return the arguments of subprocess.run that make its command one of oned's on the front-end."""
        return {
            "user": account.UID, "group": account.GID, "extra_groups": [account.disk_group()],
            "cwd": str(account.HOME), "env": self.frontend_env(), "umask": 0o022,
        }

    def _chosen(self, names: Sequence[str]) -> list[Machine]:
        return [self._hosts[name] for name in names or self._hosts]

    def _install(self) -> None:
        ssh = account.HOME / ".ssh"
        account.own_directory(ssh, 0o700)
        key = account.make_key(ssh / "id_ed25519")
        for name in ("id_ed25519", "id_ed25519.pub"):
            os.chown(ssh / name, account.UID, account.GID)
        lines = ["127.0.0.1 localhost", f"{FRONTEND_ADDRESS} {FRONTEND}"]
        lines += [f"{host.address} {host.name}" for host in self._hosts.values()]
        Path("/etc/hosts").write_text("\n".join(lines) + "\n")
        known = "".join([host.install(key) for host in self._hosts.values()])
        for host in self._hosts.values():
            host.know(known)
        account.own_file(ssh / "known_hosts", known)
        _ip(
            f"link add {_BRIDGE} address 02:00:00:00:00:01 type bridge",
            f"addr add {FRONTEND_ADDRESS}/24 dev {_BRIDGE}",
            f"link set {_BRIDGE} up",
        )
        _AGENT.unlink(missing_ok=True)
        serve = ["ssh-agent", "-D", "-a", str(_AGENT)]
        self._agent = subprocess.Popen(serve, stdout=subprocess.DEVNULL, **self.as_oneadmin())
        until(lambda: _listens(_AGENT), "ssh-agent")
        subprocess.run(["ssh-add", "-q", str(ssh / "id_ed25519")], check=True, **self.as_oneadmin())

    def _neighbour(self, name: str, command: str) -> None:
        if name == FRONTEND:
            _ip(f"{command} dev {_BRIDGE}")
        else:
            self.run(name, ["ip", *command.split(), "dev", "eth0"], "root")


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True, env={"PATH": SBIN_PATH})


def _listens(path: Path) -> bool:
    """Return whether somebody answers at a socket: its file is there before that."""
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(str(path)) == 0


def _await_port(address: str, port: int) -> None:
    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
            return True
        return False

    until(answers, f"{address}:{port} to answer")
