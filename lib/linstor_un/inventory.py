"""What LINSTOR holds, as values that decisions are made on."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Optional

from .naming import CREATING, STATE
from .units import Kib

DRBD = "DRBD"
STORAGE = "STORAGE"
LUKS = "LUKS"


class Definition(NamedTuple):
    """A resource definition as the controller's memory has it.

    `size` is what was asked for volume 0; the device is larger on pools with a granularity.
    `layers` is empty after a rollback or restore on LINSTOR >= 1.31: the stack is then unknown, not default.
    """

    name: str
    flags: frozenset[str]
    props: Mapping[str, str]
    group: str
    layers: tuple[str, ...]
    size: Optional[Kib]

    @property
    def deleting(self) -> bool:
        """LINSTOR finishes the deletion later; the name stays taken and must not be used."""
        return "DELETE" in self.flags

    @property
    def complete(self) -> bool:
        """No action of ours is still filling it."""
        return self.props.get(STATE) != CREATING


class Replica(NamedTuple):
    """One node's resource: a replica (diskful), a diskless attachment or a tiebreaker.

    `online` is whether the node's satellite reports on it: where it does not, nothing is known about
    openers. `in_use` is DRBD's word about read-write openers; it is None for stacks without DRBD, and
    read-only openers never show. `apart` is whether DRBD keeps it from another replica because both were
    written to while they did not see each other (StandAlone). `sees` is whether DRBD has a connection to each of the
    other nodes that it tells about. `uuid` tells it from a later one on that node. `allocated` is what its data takes
    in its pool, None where LINSTOR does not tell.
    """

    node: str
    flags: frozenset[str]
    layers: tuple[str, ...]
    pool: str
    device: Optional[str]
    online: bool
    in_use: Optional[bool]
    apart: bool = False
    sees: Mapping[str, bool] = MappingProxyType({})
    uuid: str = ""
    allocated: Optional[Kib] = None

    @property
    def diskful(self) -> bool:
        """Holds the data, as far as the flags say."""
        return not self.flags & {"DISKLESS", "DRBD_DISKLESS", "TIE_BREAKER", "INACTIVE", "EVICTED"}

    @property
    def diskless(self) -> bool:
        """Has no disk; includes tiebreakers."""
        return bool(self.flags & {"DISKLESS", "DRBD_DISKLESS"})

    @property
    def tiebreaker(self) -> bool:
        """LINSTOR's own diskless resource for quorum."""
        return "TIE_BREAKER" in self.flags

    @property
    def deleting(self) -> bool:
        """Half gone: LINSTOR retries its deletion."""
        return bool(self.flags & {"DELETE", "DRBD_DELETE"})

    @property
    def usable(self) -> bool:
        """A device is there and its node's satellite answers."""
        return self.online and not self.deleting and not self.flags & {"INACTIVE", "EVICTED"}


class Snapshot(NamedTuple):
    """A snapshot definition. `sequence` orders them; names do not (snapshot-10 sorts before snapshot-9).

    `pools` is where its nodes have it, which LINSTOR tells from 1.30 on: a replica may be in another pool by now.
    """

    definition: str
    name: str
    flags: frozenset[str]
    nodes: tuple[str, ...]
    sequence: int
    size: Optional[Kib]
    pools: Mapping[str, str] = MappingProxyType({})

    @property
    def usable(self) -> bool:
        """Taken on every node that was asked."""
        return "SUCCESSFUL" in self.flags

    @property
    def safety(self) -> bool:
        """LINSTOR (1.31 on; before 1.31.2 by the second name) took it for the time of a rollback of its own."""
        return self.name.startswith(("safety-snap-", ".safety-snap"))

    @property
    def pending(self) -> bool:
        """LINSTOR is about to take it: it has neither succeeded nor failed."""
        return not self.flags


class Node(NamedTuple):
    """A LINSTOR node."""

    name: str
    online: bool
    flags: frozenset[str]

    @property
    def usable(self) -> bool:
        """New resources may go there: it is online, and nobody moves its resources away."""
        return self.online and not self.flags & {"EVACUATE", "EVICTED", "DELETE"}


class Group(NamedTuple):
    """A resource group's placement rules."""

    name: str
    replicas: int
    pools: tuple[str, ...]
    layers: tuple[str, ...]
    providers: tuple[str, ...] = ()


class Pool(NamedTuple):
    """A storage pool on one node. Capacities are None while its satellite is offline.

    `snapshots` is whether it can take them: thick LVM and files without reflinks cannot.
    """

    name: str
    node: str
    provider: str
    free: Optional[Kib]
    total: Optional[Kib]
    shared_space: str
    snapshots: bool = True

    @property
    def thin(self) -> bool:
        """Fresh volumes read as zeroes and unwritten space costs nothing."""
        return self.provider in {"LVM_THIN", "ZFS_THIN", "FILE_THIN"}

    @property
    def clonable(self) -> bool:
        """LINSTOR's own clone works (others are refused with 227)."""
        return self.provider in {"LVM", "LVM_THIN", "ZFS", "ZFS_THIN"}


class Capacity(NamedTuple):
    """What volumes can still be asked for, after replication: KiB."""

    total: Kib
    available: Kib
    largest: Kib
