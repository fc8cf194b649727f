"""python -I -S bench_meter.py RESULT COMMAND...: run a command, and write to the file RESULT what it took, as JSON.

A process of its own, and a small one: a child's peak memory begins with that of the process it was forked from.
The command has this process's stdin, stdout and stderr; its code is this process's code.
"""

import json
import os
import sys
import time


def _own_seconds(pid: int) -> float:
    """Return the CPU seconds of an ended process without its children's; the kernel keeps them until it is reaped."""
    with open(f"/proc/{pid}/schedstat") as file:
        return int(file.read().split()[0]) / 1e9


def main() -> int:
    began = time.perf_counter()
    pid = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    wall = time.perf_counter() - began
    own = _own_seconds(pid)
    _, status, used = os.wait4(pid, 0)
    # With the ended children that it waited for; memory, in KiB, is that of the largest of them.
    total = used.ru_utime + used.ru_stime
    with open(sys.argv[1], "w") as file:
        json.dump({"own": own, "cpu": total, "wall": wall, "memory": used.ru_maxrss}, file)
    return os.waitstatus_to_exitcode(status) & 255


sys.exit(main())
