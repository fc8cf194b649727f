"""The simulated cluster: what the controller's database and its satellites hold. Plain dicts, keys in upper case."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from .features import Version
from .properties import table
from .volumes import NoVolumes, Volumes

THIN_KINDS = ("LVM_THIN", "ZFS_THIN", "FILE_THIN")
SNAPSHOT_KINDS = (*THIN_KINDS, "ZFS", "FILE")
CLONE_KINDS = ("LVM", "LVM_THIN", "ZFS", "ZFS_THIN")
DISKLESS_POOL = "DfltDisklessStorPool"
DEFAULT_GROUP = "DfltRscGrp"
UNLIMITED = (1 << 63) - 1
# Order of the layer kinds in LINSTOR's documents, top to bottom.
LAYERS = ("DRBD", "LUKS", "NVME", "WRITECACHE", "CACHE", "BCACHE", "STORAGE")


def new_uuid() -> str:
    return str(uuid.uuid4())


def milliseconds() -> int:
    return int(time.time() * 1000)


@dataclass
class Pool:
    """A storage pool of one node. Sizes are KiB; `used_elsewhere` is what the file system itself takes."""

    name: str
    node: str
    kind: str
    total: int = UNLIMITED
    used_elsewhere: int = 0
    props: dict[str, str] = field(default_factory=dict)
    uuid: str = field(default_factory=new_uuid)

    @property
    def thin(self) -> bool:
        return self.kind in THIN_KINDS

    @property
    def diskless(self) -> bool:
        return self.kind == "DISKLESS"


@dataclass
class Node:
    """A node and its satellite.

    `behind` is true from a reconnect until the satellite has caught up, `linked` false while no other node reaches it.
    `directories` are the places pools may be in (any if None), `capacities` their KiB where known.
    """

    name: str
    address: str = "127.0.0.1"
    kind: str = "SATELLITE"
    online: bool = True
    behind: bool = False
    linked: bool = True
    layers: tuple[str, ...] = ("DRBD", "STORAGE")
    providers: tuple[str, ...] = ("DISKLESS", "LVM", "LVM_THIN", "FILE", "FILE_THIN")
    directories: Optional[set[str]] = None
    capacities: dict[str, int] = field(default_factory=dict)
    props: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    pools: dict[str, Pool] = field(default_factory=dict)
    interfaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    evict_at: int = 0
    uuid: str = field(default_factory=new_uuid)


@dataclass
class Group:
    """A resource group; `select` holds the select_filter as it was given, layer names in upper case."""

    name: str
    description: str = ""
    props: dict[str, str] = field(default_factory=dict)
    select: dict[str, Any] = field(default_factory=lambda: {"place_count": 2})
    volume_groups: dict[int, dict[str, Any]] = field(default_factory=dict)
    uuid: str = field(default_factory=new_uuid)


@dataclass
class VolumeDefinition:
    """One volume of a definition. `size` is net KiB; `minor` is set under DRBD."""

    number: int
    size: int
    props: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    drbd: Optional[dict[str, Any]] = None
    uuid: str = field(default_factory=new_uuid)


@dataclass
class Volume:
    """What a satellite holds for one volume: sizes in KiB as it last reported them.

    `size` is 0 until it is deployed; `blocks` are the allocated 4 KiB blocks of a thin FILE volume; `chunks` those of
    a thin LV, by place, with a number for their content; `links` how many links udev ever made to its DRBD device;
    `dead` is a loop device whose file went away under an open handle; `lost` one that was detached behind the
    satellite's back.
    """

    number: int
    pool: str
    size: int = 0
    allocated: int = -1
    usable: int = 0
    blocks: set[int] = field(default_factory=set)
    chunks: dict[int, int] = field(default_factory=dict)
    links: int = 0
    device: Optional[str] = None
    dead: bool = False
    lost: bool = False
    flags: list[str] = field(default_factory=list)
    state: str = "UpToDate"
    uuid: str = field(default_factory=new_uuid)


@dataclass
class Resource:
    """A definition on a node: a replica, a diskless or a tiebreaker, told apart by flags.

    `known` says whether the satellite has it and reported a state; `failing` is why its satellite cannot apply it.
    Of DRBD, nodes in upper case: `peers` as configured last, those `two_primaries` is allowed with, `outdated` ones,
    those it is StandAlone from (`strayed`), those whose reconnection waits for a satellite (`late`), and those whose
    connection broke by itself (`broken`).
    """

    definition: Definition
    node: str
    layers: list[str]
    flags: list[str] = field(default_factory=list)
    props: dict[str, str] = field(default_factory=dict)
    volumes: dict[int, Volume] = field(default_factory=dict)
    created: int = 0
    known: bool = False
    failing: str = ""
    node_id: int = 0
    ports: list[int] = field(default_factory=list)
    drbd_flags: list[str] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)
    two_primaries: set[str] = field(default_factory=set)
    outdated: set[str] = field(default_factory=set)
    strayed: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)
    uuid: str = field(default_factory=new_uuid)

    @property
    def diskless(self) -> bool:
        return "DISKLESS" in self.flags

    @property
    def deleting(self) -> bool:
        return "DELETE" in self.flags or "DRBD_DELETE" in self.flags


@dataclass
class Snapshot:
    """A snapshot of a definition; `taken` names the nodes whose satellite really made it."""

    name: str
    sequence: int
    sizes: dict[int, int]
    volume_props: dict[int, dict[str, str]]
    resources: dict[str, dict[str, Any]]
    definition_props: dict[str, str]
    props: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    created: int = field(default_factory=milliseconds)
    layers: list[str] = field(default_factory=list)
    uuid: str = field(default_factory=new_uuid)


@dataclass
class Definition:
    """A resource definition. `layers` may be empty: then the stack is decided with the first resource.

    `pairs` are the properties of resource connections, by nodes in upper case; `diverged` are cut off nodes that write
    while others do too; `unfinished` is a deletion that waits for an offline satellite.
    """

    name: str
    group: str
    external_name: str = ""
    layers: list[str] = field(default_factory=list)
    props: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)
    drbd: Optional[dict[str, Any]] = None
    volumes: dict[int, VolumeDefinition] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    sequence: int = 0
    clone_of: str = ""
    poisoned: bool = False
    pairs: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    diverged: set[str] = field(default_factory=set)
    resizing: bool = False
    unfinished: bool = False
    uuid: str = field(default_factory=new_uuid)

    def stacks(self) -> list[list[str]]:
        """Return the distinct layer stacks of the deployed resources."""
        found: list[list[str]] = []
        for resource in self.resources.values():
            if resource.layers and resource.layers not in found:
                found.append(resource.layers)
        return found

    def drop(self, node: str) -> None:
        """Forget the resource on a node, and the connections that it had."""
        self.resources.pop(node.upper(), None)
        self.pairs = {nodes: props for nodes, props in self.pairs.items() if node.upper() not in nodes}


class Cluster:
    """All state of one simulated controller with its satellites, and the lock around it.

    `volumes` holds the bytes. `prefer` may name, for a definition, the nodes a free placement is to take first;
    constraints come before it. `openers` are what the lab holds open besides what `volumes` reports.
    `reachable` says whether a satellite listens at a new node's address; `new_pool_size` is the KiB of a new pool.
    `hardware` are what nodes registered later have (members of Node); `stuck` are nodes where DRBD's next attach of
    a disk hangs; work that goes on after an answer takes `work_seconds`. `settled` is called before each answer.
    """

    def __init__(self, version: str = "1.33", volumes: Optional[Volumes] = None) -> None:
        self.version = Version(version)
        self.volumes: Volumes = volumes if volumes is not None else NoVolumes()
        self.lock = threading.RLock()
        self.prefer: Callable[[str], list[str]] = lambda definition: []
        self.at_pause: Optional[Callable[[], None]] = None
        self.settled: Callable[[], None] = lambda: None
        self.work_seconds = 0.5
        self.reachable: Callable[[str, str], bool] = lambda name, address: True
        self.new_pool_size = 10 * 1024 * 1024
        self.hardware: dict[str, Any] = {}
        self.clear()

    def clear(self) -> None:
        """Forget everything but the version and the volumes, as a new database does."""
        self.nodes: dict[str, Node] = {}
        self.pool_names: dict[str, str] = {"DFLTSTORPOOL": "DfltStorPool"}
        self.groups: dict[str, Group] = {DEFAULT_GROUP.upper(): Group(DEFAULT_GROUP)}
        self.definitions: dict[str, Definition] = {}
        self.stores: dict[str, tuple[str, dict[str, str]]] = {}
        self.reports: list[dict[str, Any]] = []
        self.passphrase: Optional[str] = None
        self.unlocked = False
        self.openers: dict[tuple[str, str], str] = {}
        self.works: list[Any] = []
        self.stuck: set[str] = set()
        self.orphans: dict[str, set[str]] = {}
        self.held: set[tuple[str, str, int]] = set()
        self.stale: set[tuple[str, str]] = set()
        self.broken_pools: set[tuple[str, str]] = set()
        self.poisoned: set[str] = set()
        # The uuids of resources whose satellites have not told a restarted controller of their devices.
        self.untold: set[str] = set()
        self.ghosts: set[str] = set()
        self.props: dict[str, str] = {
            **table(self.version, "defaults"), "Cluster/LocalID": new_uuid(),
        }

    # --- finding things -----------------------------------------------------------------------------------

    def node(self, name: str) -> Optional[Node]:
        return self.nodes.get(name.upper())

    def definition(self, name: str) -> Optional[Definition]:
        return self.definitions.get(name.upper())

    def group(self, name: str) -> Optional[Group]:
        return self.groups.get(name.upper())

    def pool(self, node: str, name: str) -> Optional[Pool]:
        found = self.node(node)
        return found.pools.get(name.upper()) if found else None

    def group_of(self, definition: Definition) -> Group:
        return self.groups[definition.group.upper()]

    def online(self, node: str) -> bool:
        found = self.node(node)
        return bool(found and found.online)

    def sorted_definitions(self) -> list[Definition]:
        return [self.definitions[key] for key in sorted(self.definitions)]

    def resources_on(self, node: str) -> Iterator[Resource]:
        """Yield every resource of a node, by definition name."""
        for definition in self.sorted_definitions():
            resource = definition.resources.get(node.upper())
            if resource is not None:
                yield resource

    def effective(self, definition: Definition, key: str) -> Optional[str]:
        """Return a property where it is set first: definition, its group, controller."""
        for props in (definition.props, self.group_of(definition).props, self.props):
            if key in props:
                return props[key]
        return None

    # --- building one -------------------------------------------------------------------------------------

    def add_node(self, name: str, **more: Any) -> Node:
        """Register a satellite that is ONLINE, with its diskless pool."""
        node = Node(name, **more)
        node.props = {"CurStltConnName": "default", "NodeUname": name, **node.props}
        node.interfaces.setdefault("DEFAULT", {
            "name": "default", "address": node.address, "satellite_port": 3366,
            "satellite_encryption_type": "PLAIN", "is_active": True, "uuid": new_uuid(),
        })
        node.pools[DISKLESS_POOL.upper()] = Pool(DISKLESS_POOL, name, "DISKLESS")
        self.nodes[name.upper()] = node
        return node

    def add_pool(self, node: str, name: str, kind: str, total: int, **more: Any) -> Pool:
        """Register a pool of `total` KiB on a registered node."""
        pool = Pool(name, self.nodes[node.upper()].name, kind, total, **more)
        self.nodes[node.upper()].pools[name.upper()] = pool
        self.pool_names.setdefault(name.upper(), name)
        return pool

    # --- time ---------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Let other requests in, as the controller does while it waits for satellites."""
        if self.at_pause is not None:
            self.at_pause()

    @contextlib.contextmanager
    def unlocked_for_others(self) -> Iterator[None]:
        """Give the lock away for the length of the block (used by schedulers of parallel requests)."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def report(self, message: str) -> str:
        """File an error report and return its id."""
        name = f"{0x6B02EFB7:08X}-00000-{len(self.reports):06d}"
        self.reports.append({
            "node_name": "controller", "error_time": milliseconds(), "filename": f"ErrorReport-{name}.log",
            "module": "CONTROLLER", "version": self.version.release, "exception": "ApiRcException",
            "exception_message": message, "text": f"ERROR REPORT {name}\n\nReported error:\n{message}\n",
        })
        return name


def at_once(event: Callable[..., None]) -> Callable[..., None]:
    """Let something happen to a cluster between two requests, and not in the middle of one that is still handled."""

    @functools.wraps(event)
    def happen(cluster: Cluster, *words: Any, **options: Any) -> None:
        with cluster.lock:
            event(cluster, *words, **options)

    return happen
