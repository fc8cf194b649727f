"""What can go wrong, as exceptions: nouns in, one sentence and an exit code out.

Exit codes that oned and a person at a terminal see:

    0   done
    1   failed, nothing left behind
    2   bad request: arguments, XML or settings were wrong and nothing was touched
    3   failed and something is left behind, which the sentence names
    70  a bug in the driver

oned treats every code but 0 as failure; the others are for people and tests.
"""

from __future__ import annotations

FAILED = 1
BAD_REQUEST = 2
LEFT_BEHIND = 3
BUG = 70


class DriverError(Exception):
    """A failure told in one sentence: the object, the reason, what to do.

    Line breaks and control characters are folded into blanks, because oned reads
    stderr line by line and LINSTOR and remote tools answer in several lines.
    """

    exit_code = FAILED

    def __init__(self, sentence: str) -> None:
        super().__init__(one_line(sentence))


class BadRequest(DriverError):
    """Arguments, standard input or settings are wrong; nothing was touched."""

    exit_code = BAD_REQUEST


class Refused(DriverError):
    """The other side said no before it did anything: certainly nothing happened."""


class NotEnoughSpace(Refused):
    """LINSTOR finds no place for a volume (996, 206, 980) and created nothing."""


class NotFound(Refused):
    """The object asked for does not exist (LINSTOR 3xx)."""


class Exists(Refused):
    """The name asked for is taken (LINSTOR 501, 502, 503, 514)."""


class InUse(Refused):
    """A device is open, or may be (LINSTOR 997, or a node whose state is unknown)."""


class Unsupported(Refused):
    """This controller, provider or layer stack cannot do it."""


class Unreachable(Refused):
    """Nothing answers there: controller, oned or host; the request was not delivered."""


class HostUnreachable(Unreachable):
    """ssh does not get into a host, so that nothing was run there."""


class Uncertain(DriverError):
    """The answer was lost: it may have happened or not, and reading back did not tell."""


class Failed(DriverError):
    """It was begun and failed: the state has to be read before it is trusted."""


class Pending(Failed):
    """LINSTOR has taken a deletion and ends it when a node that is away is back; until then the name is taken."""


class TimedOut(Failed):
    """A deadline passed; the other side may still be at work."""


class Incomplete(Failed):
    """Parts of it were done and stay; the sentence names those that were not."""

    exit_code = LEFT_BEHIND


class Terminated(BaseException):
    """SIGTERM, SIGINT or SIGHUP arrived.

    Not an Exception, so that no handler on the way mistakes it for a failure of its own.
    """

    def __init__(self, signal_name: str) -> None:
        super().__init__(f"stopped by {signal_name}")


def one_line(text: str) -> str:
    """Return the text with every run of blanks and control characters folded into one blank.

    Arguments: text, any characters. Returns at most 2000 characters, because oned stores
    the sentence in the VM's template. Raises nothing.
    """
    printable = "".join(c if c.isprintable() else " " for c in text)
    folded = " ".join(printable.split())
    return folded if len(folded) <= 2000 else folded[:1997] + "..."
