"""Messages to OpenNebula's monitord: UDP datagrams, as its own drivers and probes send them.

    MONITOR_VM SUCCESS -1 0 BASE64(zlib(TEXT))

TEXT has a line `VM=[ID=7, MONITOR="BASE64"]` for each VM. It is encrypted with RSA, block by block, where
monitord.conf names a public key.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from .. import places
from ..errors import BadRequest, Unreachable
from ..world import VmUsage

_PORT = "4124"
_EVERYWHERE = {"0.0.0.0", "::", ""}
# Releases from 5.12 to before this one read no time stamp.
_TIME_STAMP_SINCE = (5, 12, 2)
# Bytes of text in a datagram: a datagram holds 65507, base64 makes 4 of 3, a short RSA key 64 of 53.
_MOST_TEXT = 32 * 1024
_PADDING = 11

_COMMENT = re.compile(r"#.*")
_NETWORK = re.compile(r"^\s*NETWORK\s*=\s*\[(.*?)\]", re.MULTILINE | re.DOTALL)
_PAIR = re.compile(r'([A-Z_]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))')
_PEM = re.compile(r"-----BEGIN (RSA )?PUBLIC KEY-----(.*?)-----END", re.DOTALL)


class RsaKey(NamedTuple):
    """A public key."""

    modulus: int
    exponent: int

    def encrypt(self, text: bytes) -> bytes:
        """Return the text encrypted in blocks as PKCS #1 v1.5 pads them."""
        import secrets

        size = (self.modulus.bit_length() + 7) // 8
        length = size - _PADDING
        blocks = []
        for start in range(0, len(text), length):
            part = text[start : start + length]
            # Padding has no zero byte: one ends it.
            padding = bytes(secrets.randbelow(255) + 1 for _ in range(size - 3 - len(part)))
            block = int.from_bytes(b"\0\2" + padding + b"\0" + part, "big")
            blocks.append(pow(block, self.exponent, self.modulus).to_bytes(size, "big"))
        return b"".join(blocks)


def read_key(pem: str) -> RsaKey:
    """Return the RSA key of a PEM text, in the form of PKCS #1 or in that of X.509. Raises ValueError."""
    found = _PEM.search(pem)
    if not found:
        raise ValueError("it has no PUBLIC KEY block")
    content = _members(base64.b64decode(found[2]))[0]
    if not found[1]:
        # X.509 wraps the same sequence into a bit string whose first byte counts unused bits.
        content = _members(_members(content)[1][1:])[0]
    modulus, exponent = _members(content)[:2]
    return RsaKey(int.from_bytes(modulus, "big"), int.from_bytes(exponent, "big"))


def _members(der: bytes) -> list[bytes]:
    """Return the contents of the values that stand one after another in DER."""
    found = []
    place = 0
    while place < len(der):
        length = der[place + 1]
        place += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(der[place : place + count], "big")
            place += count
        found.append(der[place : place + length])
        place += length
    return found


class MonitordClient:
    """`world.Monitord` over UDP.

    Arguments: conf, the path of monitord.conf; remotes, OpenNebula's, which say its release.
    """

    def __init__(self, conf: str, remotes: str) -> None:
        self._conf = conf
        self._remotes = remotes

    def report(self, usages: Sequence[VmUsage]) -> None:
        """See `world.Monitord.report`; as many datagrams as needed, each with whole VMs."""
        if not usages:
            return
        network = self._network()
        key = self._key(network.get("PUBKEY", ""))
        stamp = "0 " if self._has_time_stamp() else ""
        datagrams = []
        for text in _texts(usages):
            packed = base64.b64encode(zlib.compress(key.encrypt(text) if key else text, 9)).decode("ascii")
            datagrams.append(f"MONITOR_VM SUCCESS -1 {stamp}{packed}\n".encode("ascii"))
        _send(_address(network), network.get("PORT", _PORT), datagrams)

    def _network(self) -> dict[str, str]:
        try:
            with open(self._conf, encoding="utf-8", errors="replace") as file:
                found = _NETWORK.search(_COMMENT.sub("", file.read()))
        except OSError as error:
            raise BadRequest(f"{self._conf} cannot be read ({error.strerror}), so monitord's address is unknown")
        return {name: quoted or bare for name, quoted, bare in _PAIR.findall(found[1])} if found else {}

    def _key(self, path: str) -> Optional[RsaKey]:
        if not path:
            return None
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                return read_key(file.read())
        except OSError as error:
            raise BadRequest(f"{path}, PUBKEY of {self._conf}, cannot be read ({error.strerror})")
        except (ValueError, IndexError) as error:
            raise BadRequest(f"{path}, PUBKEY of {self._conf}, is no RSA public key: {error}")

    def _has_time_stamp(self) -> bool:
        return not (5, 12) <= places.release(self._remotes) < _TIME_STAMP_SINCE


def _address(network: dict[str, str]) -> str:
    """Return where monitord listens, seen from its own machine: `auto` is the address that hosts find out."""
    wanted = network.get("MONITOR_ADDRESS", "auto")
    if wanted != "auto":
        return wanted
    listens = network.get("ADDRESS", "")
    return "127.0.0.1" if listens in _EVERYWHERE else listens


def _texts(usages: Sequence[VmUsage]) -> Iterator[bytes]:
    """Yield the lines of all VMs in parts that fit into datagrams."""
    part = b""
    for usage in usages:
        line = _line(usage)
        if part and len(part) + len(line) > _MOST_TEXT:
            yield part
            part = b""
        part += line
    if part:
        yield part


def _line(usage: VmUsage) -> bytes:
    disks = [f"DISK_SIZE=[ID={number},SIZE={size}]" for number, size in sorted(usage.disks.items())]
    snapshots = [
        f"SNAPSHOT_SIZE=[ID={snapshot.snapshot_id},DISK_ID={snapshot.disk_id},SIZE={snapshot.size}]"
        for snapshot in usage.snapshots
    ]
    monitor = base64.b64encode("\n".join(disks + snapshots).encode("ascii")).decode("ascii")
    return f'VM=[ID={usage.vm_id}, MONITOR="{monitor}"]\n'.encode("ascii")


def _send(address: str, port: str, datagrams: Sequence[bytes]) -> None:
    import socket

    try:
        family, kind, protocol, _, target = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as sender:
            for datagram in datagrams:
                sender.sendto(datagram, target)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        place = f"monitord at {address}:{port}"
        raise Unreachable(f"{place} cannot be reached ({reason}); look at NETWORK in monitord.conf")
