"""The whole world as one comparable value: what exists on LINSTOR, on hosts and on the front-end, bytes included."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lab.controller.cluster import Definition
from lab.controller.drbd_kernel import TWO_PRIMARIES
from lab.hosts import account, facts
from lab.site import Site

# (kind, owner, detail): "attachment", "one-image-5", "node3"; of files the host and the path, of guests name and host.
Key = tuple[str, str, str]
State = dict[Key, str]

LOCKS = Path("/run/lock/one")
# Where each host's directories of drivers are, below the host's base and on the host itself.
HOST_TREES = {"one/datastores": "/var/lib/one/datastores", "vartmp": "/var/tmp", "tmp": "/tmp"}
# The rest of the front-end's /var/tmp is the machine's, seen through an overlay.
FRONTEND_TREES = ("/var/tmp/import", "/var/tmp/drivers", "/var/lib/one/datastores")
FRONTEND = "front-end"
_BLOCK = 1 << 16
_PATIENCE = 20.0


def look(site: Site) -> State:
    """Return all that is there now; wait for it to be `quiet` first."""
    state: State = {}
    with site.cluster.lock:
        for definition in site.cluster.sorted_definitions():
            state.update(_definition(site, definition))
    for host in site.hosts.names:
        base = site.hosts.device_directory(host).parent
        for tree, place in HOST_TREES.items():
            state.update(_files(host, base / tree, place))
    for name, host, kind in site.domains():
        state["guest", name, host] = kind
    for tree in FRONTEND_TREES:
        state.update(_files(FRONTEND, Path(tree), tree))
    for lock in LOCKS.glob("linstor_un-*"):
        if is_held(lock):
            state["lock", FRONTEND, lock.name] = "held"
    return state


def _definition(site: Site, one: Definition) -> Iterator[tuple[Key, str]]:
    sizes = " ".join(str(volume.size) for volume in one.volumes.values())
    yield ("definition", one.name, ""), f"{sizes} {' '.join(one.flags)}"
    for key, value in one.props.items():
        if key.startswith("Aux/"):
            # When a migration began is another time in each run.
            yield ("mark", one.name, key), value.rpartition("/")[0] if key.endswith("/MIGRATION") else value
    for nodes, props in one.pairs.items():
        if TWO_PRIMARIES in props:
            yield ("mark", one.name, f"two primaries of {' '.join(nodes).lower()}"), props[TWO_PRIMARIES]
    for resource in one.resources.values():
        if not resource.diskless or "TIE_BREAKER" not in resource.flags:
            kind = "attachment" if resource.diskless else "replica"
            # A tiebreaker that got a disk keeps the bit, which nothing shows then.
            flags = " ".join(flag for flag in resource.flags if flag != "TIE_BREAKER")
            pools = " ".join(volume.pool for volume in resource.volumes.values())
            yield (kind, one.name, resource.node), f"{flags} {pools}"
    for snapshot in one.snapshots.values():
        yield ("snapshot", one.name, snapshot.name), " ".join(sorted(snapshot.taken))
    if any(not resource.diskless for resource in one.resources.values()):
        for content in site.contents(one):
            with contextlib.suppress(FileNotFoundError):
                yield ("content", one.name, content.node), digest(site.volumes.settled(content))


def digest(path: Path) -> str:
    """Return what the bytes are, however much zero follows: equal for an image and a larger disk made of it.

    File systems and swap space carry random identifiers, memory is never twice the same: only the kind is told.
    """
    with open(path, "rb") as file:
        head = file.read(4096)
        if head[1080:1082] == b"\x53\xef":
            return "ext"
        if head[4086:4096] == b"SWAPSPACE2":
            return "swap"
        if head.startswith(b"LibvirtQemudSave"):
            return "memory"
        digest = hashlib.sha256()
        for begin, end in facts.data_extents(file.fileno(), os.fstat(file.fileno()).st_size):
            for at in range(begin // _BLOCK * _BLOCK, end, _BLOCK):
                data = os.pread(file.fileno(), _BLOCK, at).rstrip(b"\0")
                if data:
                    digest.update(b"%d %d " % (at, len(data)) + data)
        return digest.hexdigest()[:16]


def _files(owner: str, tree: Path, place: str) -> Iterator[tuple[Key, str]]:
    """Yield files and links, and directories only of staging: a VM's directory is removed by a call of its own."""
    for directory, names, files in os.walk(tree):
        where = place + directory[len(str(tree)) :]
        for name in files + [name for name in names if os.path.islink(os.path.join(directory, name))]:
            path = os.path.join(directory, name)
            with contextlib.suppress(FileNotFoundError):
                yield ("file", owner, f"{where}/{name}"), _file(path)
        for name in names:
            if name.startswith("linstor_un-"):
                yield ("file", owner, f"{where}/{name}"), "directory"


def _file(path: str) -> str:
    if os.path.islink(path):
        return f"-> {os.readlink(path)}"
    if os.path.basename(path) == "disk.4":
        return "context"  # an archive of files with their times
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def is_held(lock: Path) -> bool:
    """Return whether a process of a driver holds a lock alone. Arguments: lock, its file in LOCKS."""
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def quiet(site: Site) -> list[str]:
    """Wait until no request is handled and no process of a driver lives; return what still goes on after a while."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = _busy(site)
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def _busy(site: Site) -> list[str]:
    faults = site.controller.faults
    logged = sum(not entry["path"].endswith("/controller/version") for entry in list(faults.log))
    found = ["a request to LINSTOR"] if logged < faults.count else []
    if found:
        return found
    places = {os.readlink(f"/proc/{site.hosts.first_process(host)}/ns/pid"): host for host in site.hosts.names}
    own = os.readlink("/proc/self/ns/net")
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{name}/cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
                place = places.get(os.readlink(f"/proc/{name}/ns/pid"))
                if place is None and os.readlink(f"/proc/{name}/ns/net") == own:
                    place = FRONTEND if os.stat(f"/proc/{name}").st_uid == account.UID else None
                first = int(name) == site.hosts.first_process(place) if place not in (None, FRONTEND) else False
                if place and words[0] and not first and not _belongs_there(words):
                    found.append(f"process {name} on {place}: {' '.join(words)[:200]}")
    return found


def _belongs_there(words: list[str]) -> bool:
    """ssh's servers, sessions and agent, its masters that stay for a minute by design, libvirt's daemon, a guest."""
    name = os.path.basename(words[0])
    known = ("ssh-agent", "libvirtd", "qemu-system-x86_64")
    return words[0].startswith(("sshd:", "sshd-session:", "ssh:")) or name in known
