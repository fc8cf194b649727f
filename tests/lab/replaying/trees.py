"""What recordings of mixed mode tell of the VM's directory before and after a call, on each host or where all see it.

A tree is {place: names}, the place a host, the front-end or SHARED; a name may end as `ls -F` marks it. Our own links
are judged by the rules, for the recorder did not make them as a driver does; all else was real.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from lab.oned.recordings import Call
from lab.replaying import facts
from lab.replaying.world import DATASTORES, FRONTEND, World

_SHARED = "SHARED"


def before(world: World, call: Call) -> None:
    """Put in place the files that the recorded directory had and that nobody made here."""
    for host, directory, told in _places(world, call, "tree_before"):
        for name in told - _ours(call) - _present(world, host, directory):
            world.write_file(host, f"{directory}/{name}", b"recorded")


def after_ours(world: World, call: Call) -> list[str]:
    """Return what others have in the directory after the recorded call and not after ours."""
    found = []
    for host, directory, told in _places(world, call, "tree_after"):
        missing = sorted(told - _ours(call) - _present(world, host, directory))
        found += [f"{host}:{directory} had {missing} after the recorded call"] if missing else []
    return found


def after_others(world: World, call: Call) -> list[str]:
    """Make the directory what another driver left, and return which of our links it would have carried and had not."""
    found = []
    for host, directory, told in _places(world, call, "tree_after"):
        present, ours = _present(world, host, directory), _ours(call)
        lost = sorted(told & ours - present)
        found += [f"{host}:{directory} has no {', '.join(lost)}, the recorded one had"] if lost else []
        for name in told - ours - present:
            world.write_file(host, f"{directory}/{name}", b"recorded")
        for name in present - ours - told:
            path = world.host_path(host, f"{directory}/{name}")
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return found


def _places(world: World, call: Call, key: str) -> Iterator[tuple[str, str, set[str]]]:
    """Yield host, directory and the names told in it, as far as the recording tells them."""
    tree, directory = call.more.get(key), _directory(world, call)
    if not isinstance(tree, Mapping) or directory is None:
        return
    for place, content in tree.items():
        host = FRONTEND if place == _SHARED else str(place)
        if host == FRONTEND or host in world.hosts.names:
            yield host, directory, set(names(content))


def names(content: Any) -> Iterator[str]:
    """Yield the names at the top of a directory, from a list, a mapping or the words of a text."""
    for word in content.split() if isinstance(content, str) else content or ():
        yield re.sub(r"[@/*|=]$", "", str(word)).split("/", 1)[0]


def _directory(world: World, call: Call) -> Optional[str]:
    """Return the VM's directory, None for one that is our own driver's: there the recorder moved nothing."""
    spots, vm = facts.places(call), facts.vm_of(call.vm_document)
    datastores = {spot.datastore for spot in spots} or ({vm.datastore} if vm else set())
    if len(datastores) != 1 or call.vm_id is None:
        return None
    datastore = datastores.pop()
    return None if world.tm_mad(datastore) == facts.LINSTOR_UN else f"{DATASTORES}/{datastore}/{call.vm_id}"


def _ours(call: Call) -> set[str]:
    vm = facts.vm_of(call.vm_document)
    return {f"disk.{disk.number}" for disk in vm.on_linstor()} if vm else set()


def _present(world: World, host: str, directory: str) -> set[str]:
    path = world.host_path(host, directory)
    return {entry.name for entry in path.iterdir()} if path.is_dir() else set()
