"""All modules with handlers: importing this registers every route."""

from __future__ import annotations

from . import (
    autoplace,
    clones,
    controllers,
    definitions,
    groups,
    nodes,
    pools,
    resources,
    restore,
    snapshots,
    spawn,
    volume_definitions,
)

ALL_HANDLERS = (autoplace, clones, controllers, definitions, groups, nodes, pools, resources, restore, snapshots, spawn,
                volume_definitions)
