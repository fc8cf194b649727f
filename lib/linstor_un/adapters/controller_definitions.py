"""Definitions: creating, marking, growing and deleting them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from ..errors import DriverError, Exists, Failed, NotEnoughSpace, NotFound, Pending, Refused, Unsupported
from ..inventory import Definition, Replica
from ..placement import layer_stack
from ..retry import until
from ..settings import Settings
from ..units import Kib, mib_from_kib
from . import controller_answers as answers
from .controller_answers import Entry
from .controller_bodies import definition_body, placement_filter
from .controller_capacity import room_in
from .controller_reads import Reads
from .controller_session import Seen, path

# LINSTOR's own default for thin pools (MaxOversubscriptionRatio), where it cannot be asked for what it allows.
THIN_RATIO = 20


class Definitions(Reads):
    """The part of `world.Controller` that changes definitions and volumes."""

    def spawn(self, name: str, size: Kib, settings: Settings, marks: Mapping[str, str]) -> dict[str, str]:
        """See `world.Controller.spawn`. LINSTOR takes all back when it finds no place (996)."""
        doing = f"create {name} in resource group {settings.resource_group}"
        if not self._understands("spawn_marks"):
            raise Unsupported(f"cannot {doing} in one request: this needs LINSTOR 1.27")
        select = placement_filter(settings, nodes=settings.node_list, layers=self._stack(settings))
        body: dict[str, object] = {
            "resource_definition_name": name,
            "volume_sizes": [size],
            "resource_definition_props": dict(marks),
        }
        if select:
            body["select_filter"] = select
        address = path("resource-groups", settings.resource_group, "spawn")
        with self._telling_room(settings):
            found = self._change(doing, "POST", address, body, lambda: self._spawned(name, settings, marks))
        placed = placed_on(found or []) or {item.node: "" for item in self.replicas(name) if item.diskful}
        if not placed:
            raise Failed(f"cannot {doing}: LINSTOR created it without replicas; check the group's place count")
        return placed

    def _spawned(self, name: str, settings: Settings, marks: Mapping[str, str]) -> Seen:
        seen = self._defined(name, marks)
        if seen is not Seen.DONE:
            return seen
        count = settings.replica_count or self.group(settings.resource_group).replicas
        return Seen.DONE if self._deployed(name, count) is Seen.DONE else Seen.PARTLY

    @contextmanager
    def _telling_room(self, settings: Settings) -> Iterator[None]:
        """Add to LINSTOR's "not enough available nodes" what room the pools have that it could choose from."""
        try:
            yield
        except NotEnoughSpace as refusal:
            try:
                names = settings.storage_pools
                if not names and settings.resource_group:
                    names = self.group(settings.resource_group).pools
                room = room_in(self.pools(names))
            except DriverError:
                raise refusal from None
            raise NotEnoughSpace(f"{refusal}; {room}") from refusal

    def _deployed(self, name: str, count: int) -> Seen:
        """Tell whether so many replicas have their devices; while LINSTOR makes one it is listed without."""
        there = [item for item in self.replicas(name) if item.diskful]
        ready = [item for item in there if item.device and item.usable]
        if len(ready) >= count:
            return Seen.DONE
        return Seen.NOTHING if len(ready) == len(there) else Seen.PARTLY

    def _defined(self, name: str, marks: Mapping[str, str]) -> Seen:
        """Tell whether the definition with our marks is there. Raises Exists when it is another's."""
        found = self.definitions([name]).get(name)
        if not found:
            return Seen.NOTHING
        if any(found.props.get(key) != value for key, value in marks.items()):
            raise Exists(f"cannot create {name}: the name is taken by another definition")
        return Seen.DONE

    def _stack(self, settings: Settings) -> tuple[str, ...]:
        """The layers to ask for; the group is only read where encryption adds a layer to its stack."""
        inherits = settings.encryption and not settings.layer_list and settings.resource_group
        return layer_stack(settings, self.group(settings.resource_group).layers if inherits else ())

    def define(self, name: str, settings: Settings, marks: Mapping[str, str]) -> None:
        """See `world.Controller.define`."""
        body = definition_body(name, settings, dict(marks), self._stack(settings))
        look = lambda: self._defined(name, marks)  # noqa: E731
        found = self._change(f"create {name}", "POST", path("resource-definitions"), body, look)
        if any(entry.code == answers.NO_MASTER_KEY for entry in found or ()):
            raise Failed(
                f"cannot encrypt {name}: LINSTOR has no master passphrase; run `linstor encryption create-passphrase` "
                f"(or `enter-passphrase`), or switch ENCRYPTION off"
            )

    def add_volume(self, name: str, size: Kib) -> None:
        """See `world.Controller.add_volume`."""

        def look() -> Seen:
            found = self.definitions([name]).get(name)
            return Seen.DONE if found and found.size == size else Seen.NOTHING

        body = {"volume_definition": {"size_kib": size, "volume_number": 0}}
        address = path("resource-definitions", name, "volume-definitions")
        self._change(f"add a volume of {size} KiB to {name}", "POST", address, body, look)

    def mark(
        self, name: str, marks: Mapping[str, str], clear: Sequence[str] = (), *, followed: bool = False
    ) -> None:
        """See `world.Controller.mark`. LINSTOR deletes after it sets, so a key must not be in both."""

        def look() -> Seen:
            found = self.definitions([name]).get(name)
            if not found:
                raise NotFound(f"cannot mark {name}: it does not exist")
            there = all(found.props.get(key) == value for key, value in marks.items())
            return Seen.DONE if there and not set(clear) & set(found.props) else Seen.NOTHING

        body = {"override_props": dict(marks), "delete_props": [key for key in clear if key not in marks]}
        found = self._change(f"mark {name}", "PUT", path("resource-definitions", name), body, look, proof=not followed)
        if followed and found is None:
            raise Failed(f"cannot mark {name}: its answer was lost, so it is not known whether all nodes followed")

    def delete(self, name: str) -> None:
        """See `world.Controller.delete`.

        LINSTOR up to 1.33.1 flags the definition DELETE before it looks for openers, so the caller looks first.
        Only DRBD's openers are known to LINSTOR: elsewhere it deletes what is mounted.
        """
        doing = f"delete {name}"

        def look() -> Seen:
            found = self.definitions([name]).get(name)
            if not found:
                return Seen.DONE
            return Seen.PARTLY if found.deleting else Seen.NOTHING

        found = self._change(doing, "DELETE", path("resource-definitions", name), None, look, proof=True)
        if found is None or _surely_gone(found):
            return
        # Nothing ends the wait for an offline node; another deletion that is under way ends soon.
        waits = answers.NOT_CONNECTED in {entry.code for entry in found}
        seconds = 0 if waits else self._settings.timeout / 10
        if not until(self._clock, seconds, lambda: look() is Seen.DONE or None):
            offline = ", ".join(self._offline(name)) or "a node"
            raise Pending(
                f"cannot {doing} now: it stays marked for deletion until {offline} is connected to LINSTOR again; "
                f"for a node that is lost for good there is `linstor node lost`"
            )

    def _offline(self, name: str) -> list[str]:
        """The nodes that keep a deletion pending. After the deletion no replica shows whether its node answers."""
        holders = {item.node for item in self.replicas(name)}
        return [node.name for node in self.nodes() if node.name in holders and not node.online]

    def resize(self, definition: Definition, replicas: Sequence[Replica], size: Kib) -> None:
        """See `world.Controller.resize`.

        LINSTOR up to 1.33.2 cuts the data when asked to shrink, and no version compares the growth of a
        thin volume with its pools: both are checked here first. After a lost answer the new size is certain
        in LINSTOR, but a device may get it a little later.
        """
        name = definition.name
        doing = f"grow {name} to {mib_from_kib(size)} MiB"
        if definition.size is None:
            raise NotFound(f"cannot {doing}: it has no volume")
        if size == definition.size:
            return
        if size < definition.size:
            raise Refused(f"cannot {doing}: it has {mib_from_kib(definition.size)} MiB already and never shrinks")
        self._check_room(doing, definition.group, Kib(size - definition.size), replicas)

        def look() -> Seen:
            now = self.definitions([name]).get(name)
            return Seen.DONE if now and now.size == size else Seen.NOTHING

        address = path("resource-definitions", name, "volume-definitions", "0")
        self._change(doing, "PUT", address, {"size_kib": size}, look)

    def _check_room(self, doing: str, group: str, growth: Kib, replicas: Sequence[Replica]) -> None:
        """Raise NotEnoughSpace when a pool of the volume cannot take the growth.

        What is free in the pools settles most cases from memory; only growing beyond it, into the
        over-commitment of a thin pool, asks LINSTOR how much it allows.
        """
        holders = {(item.node, item.pool) for item in replicas if item.diskful}
        names = sorted({pool for _, pool in holders if pool})
        pools = [pool for pool in self.pools(names) if (pool.node, pool.name) in holders] if names else []
        tight = [pool for pool in pools if pool.free is not None and pool.free < growth]
        if not tight:
            return
        full = next((pool for pool in tight if not pool.thin or (pool.free or 0) * THIN_RATIO < growth), None)
        if not full and self._understands("size_info"):
            nodes = sorted(node for node, _ in holders)
            select = {"place_count": len(nodes), "node_name_list": nodes, "storage_pool_list": names}
            full = tight[0] if self._size_info(group, select).largest < growth else None
        if full:
            raise NotEnoughSpace(
                f"cannot {doing}: {mib_from_kib(growth)} MiB more do not fit into pool {full.name} on {full.node}, "
                f"which has {(full.free or 0) // 1024} MiB free"
            )


def placed_on(found: Sequence[Entry]) -> dict[str, str]:
    """Return the provider kind of each replica that an answer of the autoplacer names, by node.

    Its "autoplaced" entry refers to Node/0, Node/1, ... and, as "POOL,KIND", to StoragePool/0/0, StoragePool/1/0, ...
    """
    for entry in found:
        nodes = {key[5:]: node for key, node in entry.objects.items() if key.startswith("Node/")}
        if nodes:
            kinds = {number: entry.objects.get(f"StoragePool/{number}/0", "") for number in nodes}
            return {node: kinds[number].rpartition(",")[2] for number, node in nodes.items()}
    return {}


def _surely_gone(found: Sequence[Entry]) -> bool:
    """Tell whether the answer proves the deletion.

    An offline holder gets a warning, and the definition stays with the flag DELETE; when all goes well
    the last entry says that the definition is deleted, or that there was none.
    """
    if any(entry.code == answers.NOT_CONNECTED for entry in found) or not found:
        return False
    last = found[-1]
    return last.code == answers.NOT_THERE or (last.code == answers.DELETED and last.about == answers.OBJECT_DEFINITION)
