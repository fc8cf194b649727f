"""What tests of whole actions on a site do and look at again and again."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from lab.controller import drbd_events
from lab.controller.faults import Fault
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_cp
from lab.site import Site
from linstor_un.naming import RUN, STATE, by_res

MIB = 1 << 20
# Neither its size nor its content is regular: a hole inside, and an end in the middle of a MiB.
DATA = os.urandom(MIB) + bytes(MIB) + os.urandom(MIB // 2)
INCOMING = Path("/var/tmp")


def done(outcome: Outcome) -> Outcome:
    """Return the outcome of an action that must have succeeded."""
    assert outcome.success, outcome.stderr
    return outcome


def failed(outcome: Outcome, code: int = 1) -> str:
    """Return what the user reads of an action that must have failed with this code: one line and nothing else."""
    assert outcome.code == code, (outcome.code, outcome.stderr)
    assert not outcome.stdout
    assert len([line for line in outcome.stderr.splitlines() if not line.startswith("INFO")]) == 1, outcome.stderr
    return outcome.user_message


def incoming(data: bytes = DATA, name: str = "image.raw") -> str:
    """Put a file where the datastore takes images from; returns its path."""
    path = INCOMING / name
    path.write_bytes(data)
    path.chmod(0o644)
    return str(path)


def source(image: int) -> str:
    """SOURCE of an image."""
    return f"/dev/drbd/by-res/one-image-{image}/0"


def cp(site: Site, image: int = 5, size: int = 8) -> str:
    """Register DATA as an image of `size` MiB; returns its definition's name."""
    path = incoming()
    done(site.oned.ds("cp", D.image(site.oned.release, image, path=path, size=size), site.image_datastore))
    return f"one-image-{image}"


def datablock(site: Site, image: int = 5, size: int = 8) -> str:
    """Make an empty image of `size` MiB; returns its definition's name."""
    done(site.oned.ds("mkfs", D.image(site.oned.release, image, size=size), site.image_datastore))
    return f"one-image-{image}"


def rm(site: Site, image: int = 5) -> Outcome:
    """Remove an image."""
    document = D.image(site.oned.release, image, size=8, source=source(image))
    return site.oned.ds("rm", document, site.image_datastore)


def identity(site: Site, name: str) -> str:
    """What tells a definition from a later one of the same name."""
    found = site.definition(name)
    assert found
    return found.uuid


def marks(site: Site, name: str) -> dict[str, str]:
    """The driver's marks of a definition, by their names below Aux/one/."""
    found = site.definition(name)
    assert found
    return {key[len("Aux/one/") :]: value for key, value in found.props.items() if key.startswith("Aux/one/")}


def leave_half_made(site: Site, name: str) -> str:
    """Let a complete volume be what a killed run leaves: marked so, with other bytes. Returns its identity."""
    found = site.definition(name)
    assert found
    found.props.update({STATE: "creating", RUN: "of-a-killed-run"})
    for content in site.contents(found):
        site.volumes.fill(content, "half of it", 4 * MIB)
    return found.uuid


def whole(site: Site, name: str, node: str = "") -> bytes:
    """All bytes of a volume; it is larger than what was asked for, and a VM reads all of it."""
    return site.read(name, 64 * MIB, node)


def padded(data: bytes, volume: bytes) -> bytes:
    """The bytes a volume has to have: the data, and zeroes up to its end."""
    return data.ljust(len(volume), b"\0")


def device(site: Site, name: str, node: str) -> str:
    """The path of a volume's device on a node: by its name under DRBD, as LINSTOR reports it without."""
    definition = site.definition(name)
    assert definition
    resource = definition.resources[node.upper()]
    if "DRBD" in resource.layers:
        return by_res(name)
    found = resource.volumes[0].device
    assert found
    return found


def elsewhere(site: Site, name: str) -> str:
    """A host without a replica."""
    return next(host for host in site.hosts.names if host not in site.holders(name))


def kind_of(site: Site, name: str) -> str:
    """What blkid finds on a volume, "" for nothing."""
    node = site.holders(name)[0]
    blkid = ["/usr/sbin/blkid", "-p", "-s", "TYPE", "-o", "value", device(site, name, node)]
    found = site.hosts.run(node, blkid, check=False)
    assert found.returncode in (0, 2), found.stderr
    return str(found.stdout).strip()


@contextmanager
def opened(site: Site, node: str, path: str, mode: str = "<>") -> Iterator[None]:
    """Hold a device open on a host, mode < for reading, <> for writing, as a VM's process does."""
    argv = site.hosts.entering(node, ["sh", "-c", f'exec 9{mode}"$1" && echo open && read -r end', "sh", path])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin and process.stdout and process.stdout.readline() == "open\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait()


def written_apart(site: Site, name: str, first: str = "node1", second: str = "node2") -> None:
    """Let a volume be written to on one host, and on another while the first is cut off, and connect them again."""
    drbd_events.open_device(site.cluster, name, first, "rw")
    drbd_events.cut(site.cluster, first)
    drbd_events.open_device(site.cluster, name, second, "rw")
    drbd_events.join(site.cluster, first)
    for node in (first, second):
        drbd_events.close_device(site.cluster, name, node)


def cut_off(site: Site, name: str, node: str, *others: str) -> None:
    """Let only DRBD's connections of a volume between a node and others break; LINSTOR reaches all of them."""
    for other in others:
        drbd_events.lose(site.cluster, name, node, other)


class _At(Fault):
    deed: Callable[[], object]

    def hits(self, method: str, path: str) -> bool:
        if super().hits(method, path):
            self.deed()
        return False


def meanwhile(site: Site, method: str, path: str, deed: Callable[[], object]) -> None:
    """Do something right before the first such request to LINSTOR is handled."""
    at = _At("drop", method=method, path=path)
    at.deed = deed
    site.controller.faults.add(at)


@contextmanager
def later(seconds: float, deed: object, *arguments: object) -> Iterator[None]:
    """Do something while the block runs."""
    timer = threading.Timer(seconds, deed, arguments)  # type: ignore[arg-type]
    timer.start()
    yield
    timer.join()


def stored(outcome: Outcome) -> str:
    """SOURCE of an action that printed SOURCE and FORMAT, and oned's reading of it."""
    answer = read_cp(done(outcome))
    assert answer.format == "raw"
    return answer.source
