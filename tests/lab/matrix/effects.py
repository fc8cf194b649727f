"""The effects of a run, found by recording one, and the ways in which each of them may go wrong."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from lab.controller.faults import Fault
from lab.hosts import account
from lab.oned.process import Running
from lab.site import Site

DIRECTORY = Path("/run/one/matrix")
CALLS = DIRECTORY / "calls"
# Asking is no effect; POSTs that only ask are named.
_CHANGING = "POST|PUT|DELETE|PATCH"
_EFFECT = r"^(?!.*/(query-|queries/))"
_EVERYTHING = 1_000_000

# What may happen to a request, and to a command on a host.
REQUEST_FAULTS = ("refused", "lost", "term", "kill", "shut")
COMMAND_FAULTS = ("refused", "lost", "term", "kill", "kill-done", "shut")


@dataclass(frozen=True)
class Effect:
    """One effect of an action: the n-th (from 1) changing request, or the n-th command."""

    kind: str
    number: int
    label: str

    @property
    def faults(self) -> tuple[str, ...]:
        """Return the ways in which it may go wrong."""
        return COMMAND_FAULTS if self.kind == "command" else REQUEST_FAULTS


class Strike(Fault):
    """At one request do something to the driver; the request itself is handled as always."""

    deed: Callable[[], None]

    def hits(self, method: str, path: str) -> bool:
        if super().hits(method, path):
            self.deed()
        return False


class Shut(Fault):
    """Once everything is shut, refuse every change."""

    def hits(self, method: str, path: str) -> bool:
        return super().hits(method, path) and (DIRECTORY / "shut").exists()


class Saboteur:
    """Lets one effect of the next run go wrong. `reads` makes requests that only ask count as effects, too."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._victim: Optional[Running] = None
        self.reads = False
        account.own_directory(DIRECTORY)
        for name in ("ssh", "sh"):
            shutil.copy(Path(__file__).with_name("wrapper.sh"), DIRECTORY / name)
            os.chmod(DIRECTORY / name, stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)
        account.own_directory(Path("/var/tmp/drivers"), 0o700)
        site.oned.env = {
            **site.oned.env, "PATH": f"{DIRECTORY}:{site.oned.env['PATH']}", "TMPDIR": "/var/tmp/drivers",
        }
        self.clear()

    def clear(self) -> None:
        """Let nothing go wrong, and count from the beginning."""
        self._site.controller.faults.clear()
        self._victim = None
        for name in ("fault", "shut"):
            (DIRECTORY / name).unlink(missing_ok=True)
        shutil.rmtree(CALLS, ignore_errors=True)
        account.own_directory(CALLS)

    def aim(self, effect: Effect, how: str) -> None:
        """Let an effect go wrong."""
        self.clear()
        self._site.controller.faults.add(self._fault(Shut, "refuse", 1, _EVERYTHING))
        if effect.kind == "command":
            (DIRECTORY / "fault").write_text(f"{effect.number} {how}\n")
        elif how in ("refused", "lost"):
            kind = {"refused": "refuse", "lost": "lose_answer"}[how]
            self._site.controller.faults.add(self._fault(Fault, kind, effect.number))
        else:
            strike = self._fault(Strike, "drop", effect.number)
            strike.deed = lambda: self._strike(how)  # type: ignore[attr-defined]
            self._site.controller.faults.add(strike)

    def watch(self, running: Running) -> Running:
        """Know the process that is to be hit."""
        self._victim = running
        return running

    def effects(self) -> list[Effect]:
        """Return the effects of the run since `clear`."""
        log = [entry for entry in self._site.controller.faults.log if not entry["path"].endswith("/version")]
        counted = [entry for entry in log if self._fault(Fault, "drop", 1).hits(entry["method"], entry["path"])]
        requests = [
            Effect("request", number, f"{entry['method']} {entry['path'].partition('/v1/')[2]}")
            for number, entry in enumerate(counted, 1)
        ]
        numbers = sorted(int(path.name) for path in CALLS.iterdir())
        return [*requests, *(Effect("command", number, _label(CALLS / str(number))) for number in numbers)]

    def _fault(self, cls: type[Fault], kind: str, at: int, times: int = 1) -> Fault:
        return cls(kind, at=at, method=".*" if self.reads else _CHANGING, path=_EFFECT, times=times)

    def _strike(self, how: str) -> None:
        assert self._victim is not None
        if how == "shut":
            (DIRECTORY / "shut").touch()
        os.kill(self._victim.script, signal.SIGKILL if how == "kill" else signal.SIGTERM)


def _label(call: Path) -> str:
    """Return where a command ran, and its first words."""
    argv = call.joinpath("argv").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
    words = shlex.split(argv[-1]) if argv[0] == "ssh" else argv
    host = argv[argv.index("--") + 1] if argv[0] == "ssh" else "front-end"
    # sh -c SCRIPT sh LIMIT INPUT COMMAND...
    start = words.index("-c") + 5
    script = " ".join(" ".join(word.split())[:60] for word in words[start:])
    return f"{host}: {script[:140]}"
