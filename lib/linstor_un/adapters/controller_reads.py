"""What LINSTOR's memory knows: none of these questions goes to a satellite, except capacity with a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Optional

from .. import placement
from ..errors import Failed, NotFound
from ..inventory import Capacity, Definition, Group, Node, Pool, Replica, Snapshot
from ..naming import AUTO_QUORUM, ON_NO_QUORUM
from ..retry import until
from ..settings import Settings
from ..units import Kib
from . import controller_answers as answers
from . import controller_parsing as parsing
from .controller_bodies import placement_filter
from .controller_capacity import capacity_of
from .controller_session import Session, path

# About 8 KB of address are safe; a name has at most 48 characters.
NAMES_PER_REQUEST = 100
# Capacity is asked every few minutes by several datastores; a query costs a round trip to every thin pool.
CACHE_SECONDS = 60
# The group of definitions that name none.
DEFAULT_GROUP = "DfltRscGrp"


class Reads(Session):
    """The reading half of `world.Controller`."""

    def definitions(self, names: Sequence[str]) -> dict[str, Definition]:
        """See `world.Controller.definitions`; one request for each 100 names."""
        found: dict[str, Definition] = {}
        for start in range(0, len(names), NAMES_PER_REQUEST):
            part = list(names[start : start + NAMES_PER_REQUEST])
            doing = f"look up {', '.join(part[:3])}{' and more' if len(part) > 3 else ''}"
            query = {"resource_definitions": part, "with_volume_definitions": "true"}
            document = self._read(doing, path("resource-definitions", query=query), list)
            # LINSTOR's names keep their case but do not differ by it.
            asked = {name.lower(): name for name in part}
            for item in self._parse(doing, parsing.definition, document):
                if item.name.lower() in asked:
                    found[asked[item.name.lower()]] = item
        return found

    def marked(self, marks: Mapping[str, str]) -> list[Definition]:
        """See `world.Controller.marked`; the controller filters, from REST 1.1 on."""
        doing = "list the definitions marked " + ", ".join(f"{k}={v}" if v else k for k, v in marks.items())
        terms = [f"{key}={value}" if value else key for key, value in marks.items()]
        query = {"props": terms, "with_volume_definitions": "true"}
        document = self._read(doing, path("resource-definitions", query=query), list)
        return self._parse(doing, parsing.definition, document)

    def replicas(self, name: str) -> list[Replica]:
        """See `world.Controller.replicas`.

        A controller that was restarted takes some seconds to reach its satellites, and knows devices and openers two
        seconds after it calls them online: it is given some time, once in a run.
        """

        def told() -> Optional[list[Replica]]:
            now = self._resources(name)
            return None if _too_early(now) else now

        found = self._resources(name)
        if not self._patience or not _too_early(found):
            return found
        began = self._clock.now()
        found = until(self._clock, self._patience, told) or self._resources(name)
        self._patience = max(0.0, self._patience - (self._clock.now() - began))
        return found

    def _resources(self, name: str) -> list[Replica]:
        doing = f"look up the replicas of {name}"
        document = self._read(doing, path("resource-definitions", name, "resources"), list)
        return self._parse(doing, parsing.replica, document)

    def snapshots(self, name: str, *, safety: bool = False) -> list[Snapshot]:
        """See `world.Controller.snapshots`."""
        doing = f"list the snapshots of {name}"
        document = self._read(doing, path("view", "snapshots", query={"resources": name}), list)
        found = self._parse(doing, parsing.snapshot, document)
        return sorted((item for item in found if safety or not item.safety), key=lambda item: item.sequence)

    def rolling_back(self, name: str) -> bool:
        """See `world.Controller.rolling_back`. Its safety snapshot is there from the first step to the last but one."""
        return any(item.safety for item in self.snapshots(name, safety=True))

    def nodes(self) -> list[Node]:
        """See `world.Controller.nodes`."""
        return self._parse("list the nodes", parsing.node, self._read("list the nodes", path("nodes"), list))

    def group(self, name: str) -> Group:
        """See `world.Controller.group`."""
        doing = f"look up resource group {name}"
        return self._parse(doing, parsing.group, [self._read(doing, path("resource-groups", name), dict)])[0]

    def quorum(self, settings: Settings) -> dict[str, str]:
        """See `world.Controller.quorum`. The quorum itself stays LINSTOR's: a value of ours would end its care for it.

        LINSTOR up to 1.30 sets both quorum and on-no-quorum of a definition after each change of its resources, the
        latter to the value of auto-quorum; where an administrator switched that off, it has to stay off.
        """
        if settings.on_no_quorum == "linstor" or placement.alone(settings):
            return {}
        automatic = not self._understands("on_no_quorum_kept") and self._sets_quorum(settings.resource_group)
        return {AUTO_QUORUM if automatic else ON_NO_QUORUM: settings.on_no_quorum}

    def _sets_quorum(self, group: str) -> bool:
        """Tell whether a LINSTOR up to 1.30 decides about quorum by itself for the definitions of a group."""
        doing = "look up whether LINSTOR sets quorum"
        props: dict[str, str] = dict(self._read(doing, path("controller", "properties"), dict))
        with suppress(NotFound):
            props.update(self._read(doing, path("resource-groups", group or DEFAULT_GROUP), dict).get("props") or {})
        return props.get(AUTO_QUORUM, "disabled") != "disabled"

    def pools(self, names: Sequence[str]) -> list[Pool]:
        """See `world.Controller.pools`."""
        doing = f"look up storage pool {', '.join(names)}" if names else "list the storage pools"
        query: dict[str, object] = {"cached": "true"} if self._understands("cached_pools") else {}
        if names:
            query["storage_pools"] = list(names)
        found = self._parse(doing, parsing.pool, self._read(doing, path("view", "storage-pools", query=query), list))
        return [pool for pool in found if pool.provider != "DISKLESS"]

    def capacity(self, settings: Settings) -> Capacity:
        """See `world.Controller.capacity`.

        With a group LINSTOR computes it (REST 1.17 on); a placement that is impossible has capacity 0.
        Without one, and on the nodes of NODE_LIST, which may be some of a volume's, it follows from the cached pools.
        Raises NotFound for an unknown group or pool.
        """
        if settings.resource_group and not settings.node_list and self._understands("size_info"):
            return self._size_info(settings.resource_group, placement_filter(settings))
        if settings.resource_group:
            settings = placement.completed(settings, self.group(settings.resource_group))
        names = settings.storage_pools
        pools = self.pools(names)
        if not pools:
            raise NotFound(f"storage pool {', '.join(names) or '(any)'} does not exist on LINSTOR; check STORAGE_POOL")
        return capacity_of(pools, settings.node_list, settings.replica_count or 1, settings.providers)

    def _size_info(self, group: str, select: Mapping[str, object]) -> Capacity:
        doing = f"query the capacity of resource group {group}"
        body: dict[str, object] = {"select_filter": dict(select)} if select else {}
        if self._understands("size_info_cache"):
            body["ignore_cache_older_than_sec"] = CACHE_SECONDS
        address = path("resource-groups", group, "query-size-info")
        document = self._read(doing, address, dict, method="POST", body=body)
        space = document.get("space_info")
        if not isinstance(space, dict):
            # LINSTOR answers 200 with reports alone when the group is unknown.
            raise answers.error_of(answers.entries(document) or [], doing) or Failed(f"cannot {doing}: no answer")
        return Capacity(
            total=Kib(int(space.get("capacity_in_kib") or 0)),
            available=Kib(int(space.get("available_size_in_kib") or 0)),
            largest=Kib(int(space.get("max_vlm_size_in_kib") or 0)),
        )


def _too_early(found: Sequence[Replica]) -> bool:
    """Tell whether these may be what a controller shows before its satellites have told it."""
    silent = bool(found) and not any(replica.online for replica in found)
    return silent or bool(placement.untold(found))
