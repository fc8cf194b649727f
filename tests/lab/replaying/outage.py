"""A host that is dead for the length of a call: no process, no answer from its address, its satellite offline."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

from lab.controller import satellites
from lab.hosts.nodes import FRONTEND
from lab.replaying.world import World

_BRIDGE = "labbr"
_EVERYTHING, _IPV4, _TCP, _SYN = 0x0003, b"\x08\x00", 6, 0x02
"""What is sent is seen only by sockets for all protocols."""
_PATIENCE = 20.0
"""A call that waits for a dead host waits for a connection (10 s) or longer."""


class Watch:
    """What was sent to the dead host, and how long the call took."""

    def __init__(self, address: str) -> None:
        self._address = socket.inet_aton(address)
        self._started = time.monotonic()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_EVERYTHING))
        self._socket.bind((_BRIDGE, _EVERYTHING))
        self._socket.setblocking(False)
        self.wrong: list[str] = []

    def close(self) -> None:
        """Judge what was seen."""
        if time.monotonic() - self._started > _PATIENCE:
            self.wrong.append(f"took {time.monotonic() - self._started:.0f} s: it waited for the dead host")
        with contextlib.suppress(BlockingIOError):
            while True:
                if self._is_attempt(self._socket.recv(2048)):
                    self.wrong.append("tried to connect to the dead host")
                    break
        self._socket.close()

    def _is_attempt(self, frame: bytes) -> bool:
        packet = frame[14:]
        if frame[12:14] != _IPV4:
            return False
        header = (packet[0] & 15) * 4
        return packet[16:20] == self._address and packet[9] == _TCP and bool(packet[header + 13] & _SYN)


@contextlib.contextmanager
def dead(world: World, host: str) -> Iterator[list[str]]:
    """Let a host be dead; yields what the call did wrong, complete after the block."""
    if host not in world.hosts.names:
        yield []
        return
    node = world.linstor.cluster.nodes[host.upper()]
    others = [FRONTEND, *(name for name in world.hosts.names if name != host)]
    world.guests.stop_on(host)
    world.hosts.stop(host)
    for other in others:
        world.hosts.partition(other, host)
    satellites.go_offline(world.linstor.cluster, host)
    node.linked = False
    watch = Watch(world.hosts.address(host))
    try:
        yield watch.wrong
    finally:
        watch.close()
        for other in others:
            world.hosts.heal(other, host)
        world.hosts.start(host)
        node.linked = True
        satellites.come_back(world.linstor.cluster, host)
