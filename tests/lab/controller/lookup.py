"""Finding what a path or a body names, or the refusal LINSTOR gives when it is not there."""

from __future__ import annotations

from . import names
from .answers import ERROR, WARN, Answer, Refused
from .cluster import DEFAULT_GROUP, Cluster, Definition, Group, Node, Resource, Snapshot, VolumeDefinition


def definition(cluster: Cluster, name: object, *, masked: bool = True) -> Definition:
    """Return a definition; 202 for an impossible name, 301 for an unknown one."""
    found = cluster.definitions.get(names.check(names.RESOURCE_NAME, name, masked=masked))
    if found is None:
        raise Refused(ERROR | 301, f"Resource definition '{name}' not found.", masked=masked,
                      cause=f"The specified resource definition '{name}' could not be found in the database",
                      correction=f"Create a resource definition with the name '{name}' first.")
    return found


def listed(cluster: Cluster, name: str) -> Definition:
    """Return a definition as a list filtered by its name has it: an impossible name is just not there, 301."""
    if not names.valid(names.RESOURCE_NAME, name):
        raise Refused(ERROR | 301, f"Resource definition '{name}' not found.", masked=False)
    return definition(cluster, name, masked=False)


def node(cluster: Cluster, name: str, *, masked: bool = True, status: int = 0) -> Node:
    """Return a node; 200 for an impossible name, 300 for an unknown one."""
    found = cluster.nodes.get(names.check(names.NODE_NAME, name, masked=masked, status=status))
    if found is None:
        raise Refused(ERROR | 300, f"Node '{name}' not found.", masked=masked,
                      cause=f"The specified node '{name}' could not be found in the database",
                      correction=f"Create a node with the name '{name}' first.")
    return found


def group(cluster: Cluster, name: str, *, masked: bool = True) -> Group:
    """Return a resource group; 237 for an impossible name, 317 for an unknown one."""
    found = cluster.groups.get(names.check(names.GROUP_NAME, name, masked=masked))
    if found is None:
        raise Refused(ERROR | 317, f"Resource group '{name}' not found.", masked=masked)
    return found


def default_group(cluster: Cluster) -> Group:
    """Return the default group, made anew where somebody deleted it."""
    key = DEFAULT_GROUP.upper()
    if key not in cluster.groups:
        cluster.groups[key] = Group(DEFAULT_GROUP, description="Default resource group")
    return cluster.groups[key]


def resource(owner: Definition, name: str, *, masked: bool = True, text: str = "") -> Resource:
    """Return the resource of a definition on a node, or refuse with 302."""
    found = owner.resources.get(name.upper())
    if found is None:
        words = text or f"Resource '{owner.name}' on node '{name}' not found."
        raise Refused(ERROR | 302, words, masked=masked)
    return found


def resource_on(cluster: Cluster, name: str, place: str) -> Resource:
    """Return the resource of the definition `name` on a node; of what is missing the node is told first."""
    names.check(names.NODE_NAME, place)
    names.check(names.RESOURCE_NAME, name)
    node(cluster, place)
    return resource(definition(cluster, name), place)


def volume(owner: Definition, number: int) -> VolumeDefinition:
    """Return a volume definition, or refuse with 303."""
    found = owner.volumes.get(number)
    if found is None:
        raise Refused(ERROR | 303, f"Volume definition '{owner.name}' with volume number '{number}' not found.")
    return found


def snapshot(owner: Definition, name: str) -> Snapshot:
    """Return a snapshot; 218 for an impossible name, 313 for an unknown one."""
    found = owner.snapshots.get(names.check(names.SNAPSHOT_NAME, name))
    if found is None:
        raise Refused(ERROR | 313, f"Snapshot '{name}' of resource '{owner.name}' not found.",
                      details=f"Resource: {owner.name}, Snapshot: {name}")
    return found


def nothing(answer: Answer, text: str) -> Answer:
    """Answer a deletion of what does not exist: a warning, HTTP 200."""
    answer.add(WARN | 3000, text)
    return answer
