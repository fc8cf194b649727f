"""The run of one action: the only place that prints, exits, unwinds, and knows signals."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Optional, Union

from . import places
from .errors import BUG, FAILED, LEFT_BEHIND, DriverError, Terminated, one_line
from .log import Log, Relayed, write
from .undo import Undo

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_OBJECTS_BETWEEN_COLLECTIONS = 100_000
# OpenNebula's backup_cancel sends TERM to what is called `ruby` and has the VM's domain among its arguments.
_CANCELLED_AS_RUBY = {"tm.prebackup", "tm.prebackup_live"}


def run(action: str, usage: str) -> int:
    """Do an action as its script was called, and end the process with its exit code.

    Arguments: action, a row of the table of actions: "tm.clone"; usage, the script's text for --help.
    oned never sends a first argument that begins with `--`: that is a person, for whom it returns the exit code.
    """
    if sys.argv[1:] and sys.argv[1].startswith("--"):
        from . import byhand

        return byhand.run(action, usage, sys.argv[1:])
    # Most actions end before there is garbage worth a look at everything that was imported.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    stdout = _own_stdout()
    log, undo = Log(action.partition(".")[2]), Undo()
    code, sentence, answer = _run(action, log, undo)
    log.finish(sentence, f"{places.remotes(os.environ)}/scripts_common.sh")
    if isinstance(answer, Relayed):
        code = answer.code
        write(2, answer.stderr)
        write(stdout, answer.stdout)
    elif answer:
        write(stdout, f"{answer}\n")
    # Python would tidy up for longer than a short action takes besides, and would give up our signal handlers first:
    # a signal then would make a failure of what is done.
    os._exit(code)


def _run(action: str, log: Log, undo: Undo) -> tuple[int, str, Union[str, Relayed]]:
    """Return the exit code, the user's sentence on failure, and what oned reads on success."""
    try:
        stop = _Stop()
        try:
            answer = _do(action, log, undo)
        finally:
            stop.disarm()
    except DriverError as error:
        code, sentence = error.exit_code, str(error)
    except Terminated as error:
        code, sentence = FAILED, str(error)
    except ImportError as error:
        log.error(_traceback())
        code, sentence = FAILED, f"{one_line(str(error))}; install the driver and its Python packages with install.sh"
    except BaseException as error:
        log.error(_traceback())
        code, sentence = BUG, f"{type(error).__name__}: {one_line(str(error))}; this is a bug, syslog has its traceback"
    else:
        for label in undo.settle():
            log.warn(f"left behind: {label}")
        return 0, "", answer
    left = undo.unwind()
    if left:
        return LEFT_BEHIND, f"{sentence}; left behind: {', '.join(left)}", ""
    return code, sentence, ""


def _do(action: str, log: Log, undo: Undo) -> Union[str, Relayed]:
    from .actions import ACTIONS, HOOKS
    from .calling.forms import Call, standard_input

    row = ACTIONS.get(action) or HOOKS[action]
    if action in _CANCELLED_AS_RUBY:
        _be_called("ruby")
    request = row.read(Call(sys.argv[1:], standard_input))
    # Not the request itself: its document may hold a marketplace's credentials.
    log.debug("called with " + " ".join(argument if len(argument) < 300 else "..." for argument in sys.argv[1:]))
    from . import wiring

    return row.run(wiring.build(os.environ, log, undo), request)


def _be_called(name: str) -> None:
    """Let this process have another name in the list of processes, where the kernel has one."""
    with suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)


def _traceback() -> str:
    import traceback

    return traceback.format_exc()


class _Stop:
    """Signals that end a run: the first raises Terminated, all later ones are ignored.

    The handler stays a Python function, for an ignored signal would stay ignored in every
    command that is started afterwards, and those must be able to end.
    """

    def __init__(self) -> None:
        self._armed = True
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def disarm(self) -> None:
        """It is decided how the run ends: from now on nothing interrupts it."""
        self._armed = False

    def _handle(self, number: int, _frame: Optional[FrameType]) -> None:
        if self._armed:
            self._armed = False
            raise Terminated(signal.Signals(number).name)


def _own_stdout() -> int:
    """Return a descriptor for the one line that oned reads, and keep everybody else from writing to it.

    Descriptors 0 to 2 that were closed are opened, or the next file or socket would take their numbers.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    stdout = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return stdout
