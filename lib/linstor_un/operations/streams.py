"""Bytes carried from a command on one host into a command on another: directly where the one can log in at the
other, else through the front-end."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple, Optional

from ..errors import Failed
from ..units import Bytes
from ..world import Command, Outcome, World

# The sender's ssh has the front-end's keys by the forwarded agent; the host has none of its own.
_SEND = """set -o pipefail
host=$1 receive=$2
shift 2
"$@" | ssh -T -o BatchMode=yes -o ConnectTimeout=5 -o ServerAliveInterval=15 -- "$host" "$receive"
"""
# What the receiver says first: without it, nobody could log in there, and nothing was written.
_RECEIVING = "linstor_un-receiving"
_NO_LOGIN = 255
_HERE = """set -o pipefail
first=$1
shift
"${@:1:first}" | "${@:first + 1}"
"""


class Carried(NamedTuple):
    """How a transfer ended: `sent`, in bytes, is None where they did not pass this process.

    `outcome` is of the receiving command; where it is None, its stderr also has what the sender said.
    """

    sent: Optional[Bytes]
    outcome: Outcome


def carry(
    world: World, source: str, reading: Sequence[str], target: str, writing: Sequence[str], seconds: float, doing: str
) -> Carried:
    """Run a command on one host and give what it writes to a command on another.

    Arguments: source and target, hosts as oned names them, the front-end included; reading and writing, the commands;
    seconds, for both; doing, for the sentence. Raises Unreachable, TimedOut, and Failed when either command fails.
    """
    origin, destination = world.front_end.host(source), world.front_end.host(target)
    if origin == destination:
        argv = ["bash", "-c", _HERE, "bash", str(len(reading)), *reading, *writing]
        return Carried(None, world.hosts.run(Command(origin, argv), seconds=seconds, doing=doing))
    if origin and destination:
        argv = ["bash", "-c", _SEND, "bash", destination, _limited(writing, seconds), *reading]
        command = Command(origin, argv, forward_agent=True)
        outcome = world.hosts.run(command, seconds=seconds, accept=(0, _NO_LOGIN), doing=doing)
        if outcome.code == 0:
            return Carried(None, outcome)
        if _RECEIVING in outcome.stderr:
            raise Failed(f"cannot {doing}: the connection from {source} to {target} broke")
        world.trail.debug(f"{source} cannot log in at {target}: copying through the front-end")
    piped = world.hosts.pipe(Command(origin, reading), Command(destination, writing), seconds=seconds, doing=doing)
    return Carried(piped.sent, piped.target)


def _limited(argv: Sequence[str], seconds: float) -> str:
    """Return a command for the shell at the other end of ssh: quoted, with a time limit, sbin in PATH, in English."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    limited = shlex.join(["env", f"PATH={path}", "LC_ALL=C", "timeout", "-k", "10", str(int(seconds)), *argv])
    return f"echo {_RECEIVING} >&2; exec {limited}"
