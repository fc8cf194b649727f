"""A snapshot as a volume of its own, for the time of a copy."""

from __future__ import annotations

from collections.abc import Mapping

from .. import placement
from ..errors import Exists
from ..inventory import Definition
from ..naming import CREATING, RUN, STATE, restored_definition
from ..settings import Settings
from ..world import Controller, World
from . import volumes
from .volumes import Volume, Wanted


def lend(
    world: World, controller: Controller, definition: Definition, source: Volume, snapshot: str, target: Wanted
) -> Volume:
    """Restore a snapshot into a definition that goes again before the action is complete; returns its volume.

    It lies where the snapshot is, on the layers that the source has.
    Arguments: definition and source, whose snapshot it is, the source as large as it was then; target, what is to be
    made of it: the name follows from its name, and so do the marks. Raises Exists when somebody else has that name.
    """
    return lend_as(world, controller, definition, source, snapshot, restored_definition(target.name), target.marks)


def lend_as(
    world: World,
    controller: Controller,
    definition: Definition,
    source: Volume,
    snapshot: str,
    name: str,
    whose: Mapping[str, str],
) -> Volume:
    """Restore a snapshot into a definition of this name, as `lend` does. Arguments: whose, its marks."""
    settings = Settings(resource_group=definition.group, layer_list=source.layers)
    marks = {**whose, STATE: CREATING, RUN: world.run}
    with world.undo.borrow(name, volumes.discard, world, controller, name):
        _define(world, controller, name, settings, marks)
    controller.restore(definition.name, snapshot, name)
    controller.mark(name, marks, clear=volumes.inherited(definition, marks))
    return volumes.look(controller, name, source.settings, source.size)


def _define(world: World, controller: Controller, name: str, settings: Settings, marks: Mapping[str, str]) -> None:
    try:
        controller.define(name, settings, marks)
    except Exists:
        found = controller.definitions([name]).get(name)
        if found is None or not placement.half_made(found):
            raise
        volumes.discard_half_made(world, controller, found)
        controller.define(name, settings, marks)
