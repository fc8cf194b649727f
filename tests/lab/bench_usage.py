"""What an action takes: requests, commands, connections, processor time, memory."""

from __future__ import annotations

import compileall
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from lab.controller.features import Version
from lab.hosts import account
from lab.matrix import scene
from lab.matrix.actions import Action
from lab.matrix.effects import CALLS, Saboteur
from lab.oned.answers import Outcome
from lab.oned.driver import Oned
from lab.oned.process import Running

REFERENCE = "import linstor, lxml.etree"
_METER = Path(__file__).with_name("bench_meter.py")
_RESULT = Path("/run/one/bench/result")
_SECONDS = 120.0


@dataclass(frozen=True)
class Traffic:
    """What an action asked of others: requests to LINSTOR (without those for its version), commands by ssh.

    `connections` are what the commands need when no connection is open yet: one a host, and one for each command
    that takes the keys along. `asks_oned` is whether it asked oned at all.
    """

    requests: tuple[str, ...]
    commands: int
    connections: int
    asks_oned: bool


@dataclass(frozen=True)
class Taken:
    """What a process took: seconds of the processor of its own and with its children, of the clock, peak memory
    in KiB."""

    own: float
    cpu: float
    wall: float
    memory: int


class ActionFailed(Exception):
    """The action that was to be measured does not work; the text has its sentence."""


def prepare(site: scene.Stage, action: Action) -> scene.State:
    """Set the scene of an action: any host may copy, as without BRIDGE_LIST. Returns its state, for `Scene.restore`."""
    scene.furnish(site, action.lcm_state, action.hosts)
    site.datastores(RESOURCE_GROUP="opennebula", **action.attributes)
    site.cluster.version = Version(action.linstor)
    return action.scene.establish(site)


def traffic(site: scene.Stage, saboteur: Saboteur, action: Action) -> Traffic:
    """Run an action in its scene, which is set before, and return what it asked of others."""
    prepare(site, action)
    saboteur.clear()
    asked = len(site.xmlrpc.calls)
    _succeed(action, site.oned.finish(action.start(site), _SECONDS))
    log = [entry for entry in site.controller.faults.log if not entry["path"].endswith("/controller/version")]
    commands = [path.joinpath("argv").read_bytes().decode().split("\0") for path in CALLS.iterdir()]
    remote = [argv for argv in commands if argv[0] == "ssh"]
    own = [argv for argv in remote if "ControlMaster=no" in argv]
    shared = {argv[argv.index("--") + 1] for argv in remote if argv not in own}
    requests = tuple(f"{entry['method']} {entry['path'].partition('/v1/')[2]}" for entry in log)
    return Traffic(requests, len(remote), len(shared) + len(own), len(site.xmlrpc.calls) > asked)


def _succeed(action: Action, outcome: Outcome) -> None:
    if not outcome.success:
        raise ActionFailed(f"{action.name}: exit code {outcome.code}: {outcome.stderr.strip()}")


class _MeteredOned(Oned):
    def _start(
        self, command: str, stdin: bytes, timeout: Optional[float], env: Optional[Mapping[str, str]] = None
    ) -> Running:
        metered = f"{sys.executable} -I -S {_METER} {_RESULT} {command}"
        return super()._start(metered, stdin, timeout, env)


class Meter:
    """Measures actions of a site, whose driver is byte-compiled first, as the installation does it."""

    def __init__(self, site: scene.Stage) -> None:
        self._site = site
        account.own_directory(_RESULT.parent)
        if not compileall.compile_dir(site.frontend.remotes / "lib", quiet=1):
            raise ActionFailed("the driver's library cannot be compiled")
        oned = site.oned
        self._oned = _MeteredOned(oned.version, oned.remotes, env=oned.env, cwd=oned.cwd, user=oned.user)

    def reference(self) -> Taken:
        """Measure Python with the packages that every action on LINSTOR needs."""
        command = f"{sys.executable} -I -S {_METER} {_RESULT} {sys.executable} -c '{REFERENCE}'"
        oned = self._oned
        running = Running(command, b"", env=oned.env, cwd=oned.cwd, user=oned.user)
        if running.wait(_SECONDS).code != 0:
            raise ActionFailed(f"`{REFERENCE}` fails here")
        return self._taken()

    def action(self, action: Action) -> Taken:
        """Measure an action in its scene, which must have been set."""
        site = self._site
        unmetered, site.oned = site.oned, self._oned
        try:
            _succeed(action, site.oned.finish(action.start(site), _SECONDS))
        finally:
            site.oned = unmetered
        return self._taken()

    @staticmethod
    def _taken() -> Taken:
        taken = Taken(**json.loads(_RESULT.read_text()))
        _RESULT.unlink()
        return taken
