"""What a lab left on the machine; nothing, it is hoped."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lab.hosts.isolation import MARK


def leftovers(token: str = "") -> list[str]:
    """Name all that labs left behind: processes (and so namespaces), mounts, control groups, loop devices, files.

    Arguments:
        token: what enter() of that lab returned; "" for every lab, those running now too.

    Returns:
        one line for each thing, e.g. "process 4711 (sshd)".
    """
    mark = MARK + token
    return [*_processes(mark), *_loops(mark), *_files(mark)]


def _processes(mark: str) -> list[str]:
    """Name processes that see a mount of the lab: each of its namespaces has one, under the lab's name."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if f" {mark}" in Path(f"/proc/{name}/mountinfo").read_text():
                    found.append(f"process {name} ({Path(f'/proc/{name}/comm').read_text().strip()})")
    return found


def _loops(mark: str) -> list[str]:
    found = []
    for device in Path("/sys/block").glob("loop*"):
        with contextlib.suppress(OSError):
            backing = (device / "loop" / "backing_file").read_text().strip()
            if mark in backing:
                found.append(f"loop device /dev/{device.name} over {backing}")
    return found


def _files(mark: str) -> list[str]:
    places = ["/tmp", "/var/tmp", "/run", "/dev", "/dev/shm", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
    found = [str(path) for place in places for path in Path(place).glob(f"{mark}*")]
    return [f"file {path}" for path in found]
