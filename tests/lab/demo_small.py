"""The part of the demo that needs no hosts, for a user who is not root."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from lab.controller.cluster import Cluster, Group
from lab.controller.server import Controller
from lab.oned import answers, documents
from lab.oned.answers import Outcome
from lab.oned.driver import Oned
from lab.opennebula import install_frontend
from lab.showing import Screen, Wrong

MONITORD_PORT = 4124
_VERSION = "7.4.0"
_GIB_IN_KIB = 1 << 20


@contextlib.contextmanager
def monitord() -> Iterator[Callable[[], list[str]]]:
    """Be OpenNebula's monitord; the function returns the lines that it was told."""
    conf = Path("/etc/one/monitord.conf")
    conf.parent.mkdir(parents=True, exist_ok=True)
    conf.write_text(f'NETWORK = [ ADDRESS = "0.0.0.0", MONITOR_ADDRESS = "auto", PORT = {MONITORD_PORT} ]\n')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", MONITORD_PORT))
        listener.settimeout(5)
        yield lambda: _lines(listener.recv(65536))


def _lines(datagram: bytes) -> list[str]:
    text = zlib.decompress(base64.b64decode(datagram.split()[-1])).decode()
    return [
        f"VM {number}: {' '.join(base64.b64decode(encoded).decode().split())}"
        for number, encoded in re.findall(r'VM=\[ID=(\d+), MONITOR="([^"]*)"\]', text)
    ]


def tell(screen: Screen, reason: str) -> int:
    """Show the actions that need no host: sizes, capacity, an empty image. Returns the exit code."""
    begin = time.monotonic()
    screen.title("linstor_un at work, as far as it goes here")
    screen.note(f"left out: everything on hosts, because {reason}")
    with tempfile.TemporaryDirectory() as directory, _controller() as controller:
        frontend = install_frontend(Path(directory) / "var", _VERSION)
        oned = Oned(_VERSION, frontend.remotes, env=frontend.env())
        datastore = documents.datastore(
            100, RESOURCE_GROUP="opennebula", LS_CONTROLLERS=f"127.0.0.1:{controller.port}", SAFE_DIRS=directory
        )
        try:
            _images(screen, oned, datastore, Path(directory), controller.cluster)
        except (Wrong, answers.Misread) as wrong:
            return screen.failed(str(wrong))
    return screen.done(time.monotonic() - begin)


@contextlib.contextmanager
def _controller() -> Iterator[Controller]:
    cluster = Cluster("1.33")
    for name in ("node1", "node2", "node3"):
        cluster.add_node(name)
        cluster.add_pool(name, "thin", "LVM_THIN", 8 * _GIB_IN_KIB)
    cluster.groups["OPENNEBULA"] = Group("opennebula", select={"place_count": 2, "storage_pool_list": ["thin"]})
    with Controller(cluster).start() as controller:
        yield controller


def _images(screen: Screen, oned: Oned, datastore: str, directory: Path, cluster: Cluster) -> None:
    screen.chapter("Capacity, and the size of a file")
    before = answers.read_monitor(_show(screen, oned.monitor(datastore)))
    path = directory / "disk.raw"
    path.write_bytes(b"x" * (3 << 20))
    size = answers.read_stat(_show(screen, oned.ds("stat", documents.image(_VERSION, 5, path=str(path)), datastore)))
    screen.check(size == 3, "stat tells 3 MiB")
    screen.chapter("An empty image comes and goes")
    image = documents.image(_VERSION, 6, size=64, format="raw")
    stored = answers.read_mkfs(_show(screen, oned.ds("mkfs", image, datastore)))
    definition = cluster.definition("one-image-6")
    nodes = [item.node for item in definition.resources.values() if not item.diskless] if definition else []
    screen.check(len(nodes) == 2, f"LINSTOR has one-image-6 with replicas on {' and '.join(sorted(nodes))}")
    _show(screen, oned.ds("rm", documents.image(_VERSION, 6, source=stored.source), datastore))
    screen.check(not cluster.definitions, "nothing is left on LINSTOR")
    after = answers.read_monitor(_show(screen, oned.monitor(datastore)))
    screen.check(after == before, "the datastore has the capacity that it had at the start")


def _show(screen: Screen, outcome: Outcome) -> Outcome:
    screen.call(outcome)
    if not outcome.success:
        raise Wrong(f"exit code {outcome.code}: {outcome.stderr.strip()}")
    return outcome
