"""End every process of this network namespace, and its control groups, once the lab that started us has gone.

Runs alone, as a script: it knows of its lab's end by the end of its standard input.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

_PATIENCE = 10.0


def others(namespace: str) -> list[int]:
    """Return the processes, other than this one, that live in a network namespace."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/net") == namespace:
                    found.append(int(name))
    return found


def remove_groups(lab: Path) -> bool:
    """Remove the control groups of a lab as far as they are empty; tell whether nothing of them is left."""
    with contextlib.suppress(OSError):
        for host in lab.iterdir():
            if host.is_dir():
                with contextlib.suppress(OSError):
                    host.rmdir()
        lab.rmdir()
    return not lab.exists()


def main() -> None:
    """Wait for the end of the lab, then leave nothing of it."""
    groups = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.close()
    sys.stdin.read()
    namespace = os.readlink("/proc/self/ns/net")
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        left = others(namespace)
        if not left and remove_groups(groups):
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    main()
