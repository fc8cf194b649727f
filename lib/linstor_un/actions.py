"""The table of actions: how each is read, and which operation does it."""

from __future__ import annotations

import importlib
from typing import Any, Callable, NamedTuple

from . import calling
from .calling import Call
from .world import World


class Action(NamedTuple):
    """One row. `module` and `function` name the operation, which is imported only when it is to run."""

    parse: Callable[[Call], Any]
    module: str
    function: str

    def operation(self) -> Callable[[World, Any], str]:
        """Return the operation; the text it returns is what oned reads from stdout, "" where it reads nothing."""
        found: Callable[[World, Any], str] = getattr(
            importlib.import_module(f".operations.{self.module}", __package__), self.function
        )
        return found


ACTIONS = {
    "datastore.stat": Action(calling.stat, "images", "stat"),
    "datastore.cp": Action(calling.cp, "images", "cp"),
    "datastore.mkfs": Action(calling.mkfs, "images", "mkfs"),
    "datastore.clone": Action(calling.image_clone, "images", "clone"),
    "datastore.rm": Action(calling.rm, "images", "rm"),
    "datastore.monitor": Action(calling.monitor, "monitoring", "datastore"),
    "tm.clone": Action(calling.clone, "disks", "clone"),
    "tm.ln": Action(calling.ln, "disks", "ln"),
    "tm.mkimage": Action(calling.mkimage, "disks", "mkimage"),
    "tm.mkswap": Action(calling.mkswap, "disks", "mkswap"),
    "tm.context": Action(calling.context, "disks", "context"),
    "tm.delete": Action(calling.delete, "disks", "delete"),
    "tm.mvds": Action(calling.mvds, "disks", "mvds"),
    "tm.monitor": Action(calling.monitor, "monitoring", "system_datastore"),
}
