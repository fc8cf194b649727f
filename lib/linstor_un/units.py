"""Sizes as distinct types: oned speaks MiB, LINSTOR KiB, devices bytes.

Growing a unit rounds up, so that a volume never ends up smaller than its content.
"""

from __future__ import annotations

from typing import NewType

Bytes = NewType("Bytes", int)
Kib = NewType("Kib", int)
Mib = NewType("Mib", int)


def kib_from_mib(size: Mib) -> Kib:
    """Return the size in KiB. Arguments: size in MiB."""
    return Kib(size * 1024)


def mib_from_bytes(size: Bytes) -> Mib:
    """Return the size in MiB, rounded up. Arguments: size in bytes."""
    return Mib(-(-size // (1024 * 1024)))


def mib_from_kib(size: Kib) -> Mib:
    """Return the size in MiB, rounded up. Arguments: size in KiB."""
    return Mib(-(-size // 1024))


def bytes_from_kib(size: Kib) -> Bytes:
    """Return the size in bytes. Arguments: size in KiB."""
    return Bytes(size * 1024)
