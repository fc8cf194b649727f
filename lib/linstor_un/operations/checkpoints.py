"""A VM's memory, saved and restored: on LINSTOR for VMs in our datastores, by OpenNebula's own scripts for all others.

For the others nothing more is imported than it takes to hand them over.
"""

from __future__ import annotations

from typing import Union

from ..log import Relayed
from ..request.vms import RestoreRequest, SaveRequest, StockRequest
from ..world import World
from . import stock


def save(world: World, request: Union[SaveRequest, StockRequest]) -> Union[str, Relayed]:
    """Save a VM's memory and end it."""
    if isinstance(request, StockRequest):
        return stock.run(world, request)
    from . import checkpoint_save

    return checkpoint_save.save(world, request)


def restore(world: World, request: Union[RestoreRequest, StockRequest]) -> Union[str, Relayed]:
    """Let a VM go on from its saved memory."""
    if isinstance(request, StockRequest):
        return stock.run(world, request)
    from . import checkpoint_restore

    return checkpoint_restore.restore(world, request)
