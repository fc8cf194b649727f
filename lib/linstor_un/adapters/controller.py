"""LINSTOR behind `world.Controller`: the adapter, put together.

controller_access        addresses, TLS files, token
controller_client        python-linstor's connection as it is used here
controller_link          a connection: with which controller, for how long, and what if it goes away
controller_answers       answer -> entries or an error; the low bits of ret_code
controller_features      REST version -> what may be sent
controller_session       reads are asked again, changes are read back
controller_reads         and _definitions, _replicas, _connections, _moves, _snapshots, _rollback: its methods
controller_parsing       documents -> values; controller_bodies: settings -> requests
controller_capacity      pools -> what fits
"""

from __future__ import annotations

from ..settings import Settings
from ..world import Clock, Controller, Trail
from .controller_rollback import Rollbacks


class LinstorController(Rollbacks):
    """All of `world.Controller`; each part adds its methods to the one before."""


def connect(settings: Settings, clock: Clock, trail: Trail) -> Controller:
    """Return a controller; the connection is opened by the first question.

    Raises nothing here. The first question raises BadRequest for unusable LS_* settings.
    """
    return LinstorController(settings, clock, trail)
