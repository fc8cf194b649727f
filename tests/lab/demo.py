"""The life of a VM as a person wants to see it: python -m lab.demo, or ./install.sh --demo."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback

from lab import demo_small
from lab.demo_story import VERSION, Story
from lab.hosts import LabUnavailable, isolation
from lab.hosts.leftovers import leftovers
from lab.oned import answers
from lab.showing import Screen, Wrong
from lab.site import Site

LINSTOR = "1.33"
# The lab's keeper ends after the lab itself.
_PATIENCE = 10.0


def main() -> int:
    """Tell the whole story where real hosts can be had, else the part that needs none. Returns the exit code."""
    screen = Screen()
    reason = isolation.missing()
    return demo_small.tell(screen, reason) if reason else _whole(screen)


def _whole(screen: Screen) -> int:
    """Let a child be the lab, so that what it leaves is seen from outside."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_lab(screen, writing))
    os.close(writing)
    token = os.read(reading, 100).decode()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code or not token:
        return code
    deadline = time.monotonic() + _PATIENCE
    left = leftovers(token)
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = leftovers(token)
    return screen.failed("left behind: " + ", ".join(left)) if left else screen.clean()


def _lab(screen: Screen, token_to: int) -> int:
    begin = time.monotonic()
    screen.title(
        f"linstor_un at work: three hosts with sshd and real bytes, LINSTOR {LINSTOR} simulated,"
        f" called as OpenNebula {VERSION} calls"
    )
    try:
        os.write(token_to, isolation.enter().encode())
        with Site(VERSION, LINSTOR) as site:
            screen.note(f"the hosts were up after {time.monotonic() - begin:.1f} s")
            Story(site, screen).tell()
        return screen.done(time.monotonic() - begin)
    except LabUnavailable as unavailable:
        return demo_small.tell(screen, str(unavailable))
    except (Wrong, answers.Misread, subprocess.CalledProcessError) as wrong:
        return screen.failed(str(wrong))
    except BaseException:
        # this is a fork: nothing of the parent's clean-up may run in it
        traceback.print_exc()
        return 70


if __name__ == "__main__":
    sys.exit(main())
