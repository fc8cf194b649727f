"""What a refused clone of a definition without layers leaves in the controller until it is restarted.

Measured on 1.33.3 after a rollback on a storage stack. Only the codes and the named exceptions are known: no
recording has these answers, so the rest of the texts is not LINSTOR's.
"""

from __future__ import annotations

from . import properties
from .answers import ERROR, Refused
from .cluster import Cluster, Definition

CREATE, SPAWN = "create", "spawn"


def clone_refused(cluster: Cluster, source: Definition, ghost: Definition) -> Refused:
    """Leave the clone behind as a ghost, spoil the next create, the next spawn and the source; return the answer."""
    ghost.flags, ghost.clone_of = ["CLONING"], source.name.upper()
    cluster.definitions[ghost.name.upper()] = ghost
    cluster.ghosts.add(ghost.name.upper())
    source.poisoned = True
    cluster.poisoned = {CREATE, SPAWN}
    return properties.unhandled(f"Creation of resource definition '{ghost.name}'", "ImplementationError",
                                "Cannot access Key[type=TransactionMgr]")


def check(cluster: Cluster, doing: str) -> None:
    """Refuse the one create or spawn that meets what the clone left."""
    if doing not in cluster.poisoned:
        return
    cluster.poisoned.discard(doing)
    if doing == CREATE:
        raise Refused(ERROR | 999, "attempt to replace an active transMgr", report=True)
    raise properties.unhandled("Registration of resource group", "ImplementationError")


def check_delete(definition: Definition) -> None:
    """Refuse to delete the source of such a clone."""
    if definition.poisoned:
        raise properties.unhandled(f"Deletion of resource definition '{definition.name}'", "ApiDatabaseException")


def restarted(cluster: Cluster) -> None:
    """Forget it all, as a controller does that reads its database anew.

    Satellites tell it of devices some two seconds after it calls them online (measured on 1.33.3 without DRBD); here
    the first answer about a resource comes too early.
    """
    cluster.poisoned.clear()
    for key in cluster.ghosts:
        cluster.definitions.pop(key, None)
    cluster.ghosts.clear()
    for definition in cluster.definitions.values():
        definition.poisoned = False
    resources = [one for definition in cluster.definitions.values() for one in definition.resources.values()]
    cluster.untold = {one.uuid for one in resources if "DRBD" not in one.layers}
