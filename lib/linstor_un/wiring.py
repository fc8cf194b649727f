"""The world of one run: adapters put behind the Protocols, each imported only when it is first needed."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence
from typing import Callable

from . import places, settings
from .errors import BadRequest
from .onexml import Datastore
from .settings import Settings
from .undo import Undo
from .world import Clock, Controller, FrontEnd, Trail, VmUsage, World


class SystemClock:
    """Time as it passes."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class LazyMonitord:
    """monitord as it is reached when there is something to report: few actions have that."""

    def __init__(self, conf: str, version: str) -> None:
        """Arguments: the paths of monitord.conf and of the remotes' VERSION."""
        self._paths = conf, version

    def report(self, usages: Sequence[VmUsage]) -> None:
        """See `world.Monitord.report`."""
        from .adapters.monitord import MonitordClient

        MonitordClient(*self._paths).report(usages)


def build(environ: Mapping[str, str], trail: Trail, undo: Undo) -> World:
    """Return the world of one run. Arguments: environ, for ONE_LOCATION and the adapters' own variables."""
    from .adapters.cloud import Oned
    from .adapters.hosts import SshHosts
    from .adapters.locks import FileLocks, lock_directory

    clock = SystemClock()
    front_end = FrontEnd(places.remotes(environ), places.var(environ), places.own_names(environ))
    return World(
        settings=_settings(front_end.remotes, trail),
        connect=_connect(clock, trail),
        hosts=SshHosts(environ),
        cloud=Oned(environ),
        monitord=LazyMonitord(f"{places.etc(environ)}/monitord.conf", f"{front_end.remotes}/VERSION"),
        locks=FileLocks(lock_directory(environ), clock),
        clock=clock,
        undo=undo,
        trail=trail,
        front_end=front_end,
        run=os.urandom(8).hex(),
    )


def _settings(remotes: str, trail: Trail) -> Callable[[Datastore], Settings]:
    path = f"{remotes}/etc/datastore/linstor_un/linstor_un.conf"

    @functools.cache
    def conf_text() -> str:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise BadRequest(f"{path} cannot be read ({error.strerror}); correct its permissions")

    def of(datastore: Datastore) -> Settings:
        try:
            loaded = settings.load(datastore.template, conf_text())
        except BadRequest as error:
            raise BadRequest(f"datastore {datastore.id} ({datastore.name}): {error}")
        for note in loaded.notes:
            trail.debug(f"{path}: {note}")
        for warning in loaded.warnings:
            trail.warn(warning)
        return loaded.settings

    return of


def _connect(clock: Clock, trail: Trail) -> Callable[[Settings], Controller]:
    """One connection for all datastores that name the same controllers in the same way."""
    open_ones: dict[tuple[object, ...], Controller] = {}

    def connect(wanted: Settings) -> Controller:
        from .adapters.controller import connect as open_controller

        key = (wanted.controllers, wanted.certfile, wanted.keyfile, wanted.cafile, wanted.token_file, wanted.timeout)
        if key not in open_ones:
            open_ones[key] = open_controller(wanted, clock, trail)
        return open_ones[key]

    return connect
