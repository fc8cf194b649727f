"""Be one host: make its namespaces, then stay as its process 1 until the lab ends or somebody kills it.

Runs as a script with one argument, the host's description as JSON; says "<pid>" when the host stands. It ends
with its standard input, so a lab that was killed takes its hosts, and all that runs on them, along.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).parents[2]))

from lab.hosts import kernel  # noqa: E402  (the script is started with -I: it has to find the package itself)


def connect(host: dict[str, str]) -> None:
    """Give the host its network: eth0 here, its other end among the front-end's interfaces."""
    commands = [
        "link set lo up",
        f"link add eth0 address {host['mac']} type veth peer name {host['port']} netns {host['frontend_pid']}",
        f"addr add {host['address']}/24 dev eth0",
        "link set eth0 up",
    ]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def furnish(host: dict[str, str]) -> None:
    """Lay the host's own directories over the front-end's."""
    kernel.mount("none", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    base = host["base"]
    # libvirt gives each QEMU a /dev of its own, and cannot where several are on top of each other
    while os.path.ismount("/dev"):
        kernel.unmount("/dev")
    # /run goes last: it hides the base that the others come from
    places = {"dev": "/dev", "one": "/var/lib/one", "vartmp": "/var/tmp", "tmp": "/tmp", "run": "/run"}
    for name, target in places.items():
        kernel.mount(f"{base}/{name}", target, "", kernel.MS_BIND)
    if not os.path.islink("/var/lock"):
        kernel.mount("/run/lock", "/var/lock", "", kernel.MS_BIND)
    kernel.mount("proc", "/proc", "proc")
    kernel.mount("sysfs", "/sys", "sysfs")
    kernel.set_host_name(host["name"])
    os.chdir("/")


def stay() -> NoReturn:
    """Reap what becomes an orphan here, until standard input ends."""
    awake, alarm = os.pipe()
    os.set_blocking(awake, False)
    os.set_blocking(alarm, False)
    signal.set_wakeup_fd(alarm, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([0, awake], [], [])
        if 0 in ready and not os.read(0, 1):
            os._exit(0)
        with contextlib.suppress(BlockingIOError):
            os.read(awake, 512)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def main() -> None:
    """Make the host, tell its process 1, wait for its end."""
    host = json.loads(sys.argv[1])
    kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWUTS | kernel.CLONE_NEWIPC)
    connect(host)
    kernel.unshare(kernel.CLONE_NEWPID)
    standing, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(standing)
        furnish(host)
        os.write(said, b"+")
        os.close(said)
        os.close(1)
        stay()
    os.close(said)
    if os.read(standing, 1):
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    os.close(1)
    os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
