"""The world of one run: adapters put behind the Protocols, each imported only when it is first needed."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from typing import Any, Callable, cast

from . import places, settings
from .errors import BadRequest
from .onexml import Datastore
from .settings import Settings
from .undo import Undo
from .world import Clock, Cloud, Controller, FrontEnd, Hosts, Locks, Monitord, Trail, World


class SystemClock:
    """Time as it passes."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def date(self) -> float:
        """Return seconds since 1970."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


class Late:
    """An adapter that is imported and made when it is first asked: few actions need all of them."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """Arguments: make, imports the adapter and returns it."""
        self._make = make

    def __getattr__(self, name: str) -> Any:
        if "_made" not in self.__dict__:
            self._made = self._make()
        return getattr(self._made, name)


def build(environ: Mapping[str, str], trail: Trail, undo: Undo) -> World:
    """Return the world of one run. Arguments: environ, for ONE_LOCATION and the adapters' own variables."""
    clock = SystemClock()
    front_end = FrontEnd(places.remotes(environ), places.var(environ), places.own_names(environ))
    return World(
        settings=_settings(front_end.remotes, trail),
        connect=_connect(clock, trail),
        hosts=cast(Hosts, Late(lambda: _hosts(environ))),
        cloud=cast(Cloud, Late(lambda: _cloud(environ))),
        monitord=cast(Monitord, Late(lambda: _monitord(environ, front_end))),
        locks=cast(Locks, Late(lambda: _locks(environ, clock))),
        clock=clock,
        undo=undo,
        trail=trail,
        front_end=front_end,
        run=os.urandom(8).hex(),
    )


def _hosts(environ: Mapping[str, str]) -> Hosts:
    from .adapters.hosts import SshHosts

    return SshHosts(environ)


def _cloud(environ: Mapping[str, str]) -> Cloud:
    from .adapters.cloud import Oned

    return Oned(environ)


def _monitord(environ: Mapping[str, str], front_end: FrontEnd) -> Monitord:
    from .adapters.monitord import MonitordClient

    return MonitordClient(f"{places.etc(environ)}/monitord.conf", front_end.remotes)


def _locks(environ: Mapping[str, str], clock: Clock) -> Locks:
    from .adapters.locks import FileLocks, lock_directory

    return FileLocks(lock_directory(environ), clock)


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
