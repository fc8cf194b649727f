"""What an action works on: Protocols of the outside world, and the World bundle.

Operations get a `World`; adapters implement its Protocols; only `main` knows both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Callable, NamedTuple, Optional, Protocol

from .inventory import Capacity, Definition, Group, Node, Pool, Replica, Snapshot
from .onexml import Datastore, Image, Vm
from .settings import Settings
from .undo import Undo
from .units import Bytes, Kib, Mib


class Controller(Protocol):
    """LINSTOR, with one request a method unless it says otherwise.

    Every method raises Unreachable when no controller can be reached, Refused or a subclass when
    LINSTOR refused and nothing happened, Failed when a satellite failed half-way, and Uncertain when the
    answer was lost and reading back did not tell what happened. Reads never ask satellites.
    """

    def definitions(self, names: Sequence[str]) -> dict[str, Definition]:
        """Return those of the definitions that exist, by the name asked for."""

    def marked(self, marks: Mapping[str, str]) -> list[Definition]:
        """Return all definitions that carry these properties; an empty value asks for the key alone."""

    def replicas(self, name: str) -> list[Replica]:
        """Return the resources of a definition on all nodes. Raises NotFound when there is no definition."""

    def snapshots(self, name: str, *, safety: bool = False) -> list[Snapshot]:
        """Return the definition's snapshots in the order of their creation; none for an unknown one.

        Arguments: safety, whether those count that LINSTOR takes for the time of its own rollbacks.
        """

    def nodes(self) -> list[Node]:
        """Return all nodes."""

    def group(self, name: str) -> Group:
        """Return a resource group. Raises NotFound."""

    def pools(self, names: Sequence[str]) -> list[Pool]:
        """Return the pools of these names, all without names, from memory; without DISKLESS ones."""

    def capacity(self, settings: Settings) -> Capacity:
        """Return the capacity for volumes placed as these settings say; one or two requests."""

    def quorum(self, settings: Settings) -> dict[str, str]:
        """Return the properties that make a new definition do without quorum what the settings say.

        None for a stack without DRBD. No request from LINSTOR 1.31 on, before that two.
        """

    def spawn(self, name: str, size: Kib, settings: Settings, marks: Mapping[str, str]) -> dict[str, str]:
        """Create definition, volume and replicas of the settings' group in one request.

        Returns the provider kind of each replica's pool by node ("" where the answer does not say it).
        Raises Exists, NotEnoughSpace, Unsupported (LINSTOR < 1.27 knows no properties there).
        """

    def define(self, name: str, settings: Settings, marks: Mapping[str, str]) -> None:
        """Create a definition with its layer stack and its marks. Raises Exists."""

    def add_volume(self, name: str, size: Kib) -> None:
        """Add volume 0, size in KiB."""

    def place(
        self, name: str, settings: Settings, *, nodes: Sequence[str] = (), count: Optional[int] = None
    ) -> dict[str, str]:
        """Let LINSTOR place replicas up to the settings' (or group's) count in all.

        Arguments: nodes, the only nodes to choose from; count, instead of the settings' REPLICA_COUNT.
        Returns the provider kind of each new replica's pool by node ("" where the answer does not say it).
        Raises NotEnoughSpace; then nothing was placed.
        """

    def add_replicas(self, name: str, nodes: Sequence[str], settings: Settings) -> None:
        """Create replicas on exactly these nodes, none of which has one."""

    def attach(self, name: str, node: str, settings: Settings, layers: Sequence[str]) -> None:
        """Make the device available on a node; done already is success.

        Arguments: layers, the stack the definition is known to have.
        """

    def release(self, name: str, node: str) -> None:
        """Remove a node's diskless resource; LINSTOR keeps it where it needs a tiebreaker; absent is success.

        Raises InUse (997), Refused for a volume whose replicas differ.
        """

    def delete(self, name: str) -> None:
        """Delete a definition with all its replicas; absent is success.

        Raises InUse, Exists (it has snapshots, 514), Pending when an offline node keeps LINSTOR from ending it.
        """

    def mark(
        self, name: str, marks: Mapping[str, str], clear: Sequence[str] = (), *, followed: bool = False
    ) -> None:
        """Set and remove properties of a definition in one request.

        Arguments: followed, whether it is for what the nodes do then: at each change of a property LINSTOR lets
        them bring DRBD to all options. Raises Failed when one could not, although the properties are stored.
        """

    def allow_two_primaries(self, name: str, one: str, other: str) -> None:
        """Let two nodes, which both have the volume, write to it at the same time; no third one may."""

    def forbid_two_primaries(self, name: str, one: str, other: str) -> None:
        """Take that back; done already is success, and a node that has the volume no more.

        At most one of them may have it open: while both do, DRBD goes on allowing what LINSTOR has forgotten.
        Raises Failed then. What was forgotten before is not told to DRBD again: mark the definition with `followed`.
        """

    def resize(self, definition: Definition, replicas: Sequence[Replica], size: Kib) -> None:
        """Grow volume 0 to size in KiB; the same size is success. Never shrinks; two requests.

        Arguments: definition and replicas, as they were read. Raises NotEnoughSpace when the pools have no room,
        Refused for a smaller size, and while a replica is offline or not up to date (974).
        """

    def up_to_date(self, name: str) -> frozenset[str]:
        """Return the nodes whose replica has all data, as DRBD says; this one asks satellites."""

    def remove_replica(self, name: str, node: str, keep: int) -> None:
        """Remove a replica when others have all data; LINSTOR may keep the node as tiebreaker.

        Arguments: keep, how many others have to be up to date. Raises Refused otherwise, NotFound when there is none
        online, InUse while it is open there.
        """

    def regroup(self, name: str, group: str) -> None:
        """Put a definition into another resource group; LINSTOR adds replicas if that has more. Raises NotFound."""

    def snapshot(self, name: str, snapshot: str) -> None:
        """Take a snapshot on all online replicas; success only if it is usable."""

    def snapshots_at_once(self) -> bool:
        """Return whether `snapshot_all` is there (LINSTOR >= 1.22)."""

    def snapshot_all(self, names: Sequence[str], snapshot: str) -> None:
        """Take a snapshot of each of these definitions, all of one moment; success only if all are usable.

        What a satellite failed at is deleted again. One request, and one more for each to see them.
        """

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """Delete a snapshot; absent is success."""

    def rolls_back_to_any(self) -> bool:
        """Return whether any snapshot can be rolled back to (LINSTOR >= 1.31); before, only the newest of all."""

    def rolls_back_safely(self) -> bool:
        """Return whether no rollback of this LINSTOR is known to lose the volume (1.31.0 to .2 and 1.32.0 to .2 do)."""

    def rollback(self, name: str, snapshot: str, replicas: Sequence[Replica]) -> None:
        """Bring a snapshot's bytes back into a volume that nobody has open; all snapshots stay.

        Done again it changes nothing. The device is away for seconds. LINSTOR >= 1.31 deletes all resources and
        restores them: it gives the definition the snapshot's size and properties, drops the replicas of nodes without
        the snapshot, forgets all layers but DRBD and storage, and makes the tiebreaker an ordinary attachment.
        Arguments: replicas, as they were read before.
        Raises InUse, Uncertain when nothing tells whether a lost request was carried out.
        """

    def rolling_back(self, name: str) -> bool:
        """Return whether LINSTOR is still about to roll a definition back."""

    def restore(self, name: str, snapshot: str, target: str) -> None:
        """Fill a defined, empty target with volumes and replicas from a snapshot; two requests.

        LINSTOR copies the source's properties over the target's: mark it again afterwards. Its layer stack cannot be
        set again: LINSTOR >= 1.31 empties it, and refuses another one (502) as long as there are replicas.
        """

    def clones_marked(self) -> bool:
        """Return whether a clone is born with its marks; LINSTOR before 1.32 gives it its source's."""

    def clone(self, name: str, target: str, settings: Settings, marks: Mapping[str, str], clear: Sequence[str]) -> None:
        """Let LINSTOR begin to clone a definition.

        Arguments: marks and clear, properties of the clone set and left out, where `clones_marked`. Raises Unsupported.
        """

    def await_clone(self, name: str, target: str, size: Kib) -> None:
        """Wait until the clone of a definition is complete.

        Arguments: size, of the source. Raises Failed, and TimedOut when it takes longer than copying so much may.
        """


class Command(NamedTuple):
    """A program with its arguments on a host; None is the front-end. Nothing is ever read by a shell.

    `forward_agent` lets it reach other hosts with the front-end's keys, over a connection of its own.
    """

    host: Optional[str]
    argv: Sequence[str]
    env: Mapping[str, str] = MappingProxyType({})
    forward_agent: bool = False


class Outcome(NamedTuple):
    """How a command ended. Bytes that are not UTF-8 are kept as `surrogateescape` gives them."""

    code: int
    stdout: str
    stderr: str


class Piped(NamedTuple):
    """How a pair of commands ended: bytes that the source wrote, and the target's outcome."""

    sent: Bytes
    target: Outcome


class Hosts(Protocol):
    """Commands on hosts and on the front-end.

    Every method raises HostUnreachable when ssh does not get into the host and nothing ran, TimedOut after
    `seconds` (the remote command is ended as well), Failed when a command ends with a code that is
    not in `accept`. The exception's sentence has the last line of stderr.
    """

    def run(
        self, command: Command, *, seconds: float, stdin: bytes = b"", accept: Sequence[int] = (0,), doing: str
    ) -> Outcome:
        """Run one command. Arguments: doing, for the sentence: "copy X to Y"."""

    def pipe(self, source: Command, target: Command, *, seconds: float, doing: str) -> Piped:
        """Run both, the source's stdout into the target's stdin; success only if both succeed.

        The target sees its stdin end when the source ends, whether well or not: nothing that it did
        counts before this method has returned, and before the bytes it says it got are those sent.
        """

    def beside(self, command: Command, *, seconds: float, doing: str) -> AbstractContextManager[str]:
        """Run one command while a block runs; enters when it has written its first line, which is yielded.

        The end of its stdin tells it that the block is over, or that the driver died, and then its own end is
        waited for. It fails as with `run`; when the block fails too, the sentence has both reasons.
        """


class CloudHost(NamedTuple):
    """A host as oned knows it. `load` orders hosts by how busy they are; smaller is idler."""

    name: str
    usable: bool
    load: float


class Cloud(Protocol):
    """oned. Every method raises Unreachable or NotFound."""

    def vm(self, vm_id: int) -> Vm:
        """Return a VM with its disks and history."""

    def datastore(self, datastore_id: int) -> Datastore:
        """Return a datastore with its decrypted template."""

    def image(self, image_id: int) -> Image:
        """Return an image."""

    def hosts(self) -> list[CloudHost]:
        """Return all hosts."""

    def document(self, kind: str, number: int) -> str:
        """Return the document of a "vm", "image" or "datastore" as oned writes it, for a script of OpenNebula's."""


class SnapshotUsage(NamedTuple):
    """A disk snapshot as oned numbers it, and its size in MiB."""

    disk_id: int
    snapshot_id: int
    size: Mib


class VmUsage(NamedTuple):
    """What a VM's disks take: MiB by disk id, and its disk snapshots."""

    vm_id: int
    disks: Mapping[int, Mib]
    snapshots: tuple[SnapshotUsage, ...]


class Monitord(Protocol):
    """oned's monitoring daemon."""

    def report(self, usages: Sequence[VmUsage]) -> None:
        """Tell the usage of VMs' disks; nothing confirms that it arrived.

        Raises BadRequest for an unusable monitord.conf, Unreachable when the message cannot be sent.
        """


class Shared(Protocol):
    """A lock held together with others."""

    def alone(self) -> bool:
        """Try, without waiting, to be its only holder until the block ends; return whether it worked."""


class Locks(Protocol):
    """Mutual exclusion between the driver's processes on this front-end."""

    def hold(self, *names: str, seconds: Optional[float] = None) -> AbstractContextManager[None]:
        """Hold locks, taken in sorted order. Raises TimedOut naming the lock.

        Arguments: seconds, how long to wait for all of them, None for as long as an action that oned repeats may.
        """

    def share(self, name: str) -> AbstractContextManager[Shared]:
        """Hold a lock that others may share. Raises TimedOut naming the lock."""


class Clock(Protocol):
    """Time."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def date(self) -> float:
        """Return seconds since 1970, which other machines and later runs count alike."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class Trail(Protocol):
    """What happened, for the administrator: syslog, and a few INFO or WARN lines for oned's log."""

    def debug(self, text: str) -> None:
        """Into syslog only."""

    def info(self, text: str) -> None:
        """Also a line on stderr at the end."""

    def warn(self, text: str) -> None:
        """Also a line on stderr at the end."""


class FrontEnd(NamedTuple):
    """Where things are on this machine.

    `remotes` is OpenNebula's remotes directory (/var/lib/one/remotes or $ONE_LOCATION/var/remotes);
    `var` is /var/lib/one or $ONE_LOCATION/var; `names` are this machine's host names.
    """

    remotes: str
    var: str
    names: frozenset[str]

    def host(self, name: str) -> Optional[str]:
        """Return the name for `Command.host`: None when it is this machine (oned names it as HOST of FE:PATH)."""
        return None if name in self.names else name


class World(NamedTuple):
    """Everything an operation may touch.

    `settings` reads a datastore's attributes over linstor_un.conf; it raises BadRequest for an invalid value.
    """

    settings: Callable[[Datastore], Settings]
    connect: Callable[[Settings], Controller]
    hosts: Hosts
    cloud: Cloud
    monitord: Monitord
    locks: Locks
    clock: Clock
    undo: Undo
    trail: Trail
    front_end: FrontEnd
    # Tells this run's half-made objects from those of another run.
    run: str
