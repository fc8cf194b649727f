"""Snapshots, restoring them, and LINSTOR's own clone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Optional

from .. import placement
from ..errors import DriverError, Exists, Failed, NotFound, Refused, TimedOut, Unsupported
from ..inventory import DRBD, Definition
from ..retry import until
from ..settings import Settings
from ..units import Kib
from . import controller_answers as answers
from .controller_answers import Entry
from .controller_moves import Moves
from .controller_session import Seen, path

# KiB a second: a clone copies where the pool cannot share blocks, and no pool in use is slower than this.
SLOWEST_COPY = 10 * 1024


class Snapshots(Moves):
    """The part of `world.Controller` that deals with snapshots and clones."""

    def snapshot(self, name: str, snapshot: str) -> None:
        """See `world.Controller.snapshot`.

        Nodes are never named: LINSTOR reports success for a named node that is offline, without a snapshot there.
        A snapshot that failed is deleted again. LINSTOR gives up after two minutes, and a node on which it then did not
        resume I/O shows nowhere but in DRBD: a warning says how to look.
        """
        address = path("resource-definitions", name, "snapshots")
        self._take([name], snapshot, address, {"name": snapshot})

    def snapshots_at_once(self) -> bool:
        """See `world.Controller.snapshots_at_once`."""
        return self._understands("snapshots_at_once")

    def snapshot_all(self, names: Sequence[str], snapshot: str) -> None:
        """See `world.Controller.snapshot_all`; of each of them is true what is said of one."""
        asked = [{"resource_name": name, "name": snapshot} for name in names]
        self._take(names, snapshot, path("actions", "snapshot", "multi"), {"snapshots": asked})

    def _take(self, names: Sequence[str], snapshot: str, address: str, body: Mapping[str, Any]) -> None:
        shown = " ".join(names)
        doing = f"take snapshot {snapshot} of {shown}"

        def look() -> Seen:
            found = [self._snapshot(name, snapshot) for name in names]
            if all(one is not None and one.usable for one in found):
                return Seen.DONE
            return Seen.PARTLY if any(found) else Seen.NOTHING

        try:
            entries = self._change(doing, "POST", address, body, look)
            if entries is None or (len(names) == 1 and _surely_taken(entries)) or look() is Seen.DONE:
                return
            raise Failed(f"cannot {doing}: LINSTOR does not call it successful")
        except Failed:
            for name in names:
                self._clean_up(f"failed snapshot {snapshot} of {name}", partial(self.delete_snapshot, name, snapshot))
            self._trail.warn(
                f"a node may have been left with the I/O of {shown} suspended: look at `drbdadm status {shown}` on its "
                f"nodes, and end that with `drbdadm resume-io {shown}`"
            )
            raise

    def _snapshot(self, name: str, snapshot: str) -> Any:
        found = self.snapshots(name, safety=True)
        return next((item for item in found if item.name.lower() == snapshot.lower()), None)

    def _clean_up(self, what: str, step: Any) -> None:
        """Delete what a failure left; the failure itself stays the news."""
        try:
            step()
        except DriverError as error:
            self._trail.warn(f"left behind: {what} ({error})")

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """See `world.Controller.delete_snapshot`.

        A node that is offline keeps its part for ever, because LINSTOR forgets it at once: a warning names the node.
        """
        doing = f"delete snapshot {snapshot} of {name}"

        def look() -> Seen:
            found = self._snapshot(name, snapshot)
            return Seen.DONE if found is None else Seen.NOTHING

        address = path("resource-definitions", name, "snapshots", snapshot)
        try:
            found = self._change(doing, "DELETE", address, None, look, proof=True)
        except NotFound:
            # LINSTOR up to 1.30 says so when the definition is missing.
            return
        for entry in found or ():
            if entry.code == answers.NOT_CONNECTED:
                self._trail.warn(f"{doing}: its data may stay on a disconnected node: {entry.message}")

    def restore(self, name: str, snapshot: str, target: str) -> None:
        """See `world.Controller.restore`."""
        doing = f"restore snapshot {snapshot} of {name} into {target}"
        body = {"to_resource": target}

        def volumes() -> Seen:
            found = self.definitions([target]).get(target)
            return Seen.DONE if found and found.size is not None else Seen.NOTHING

        def replicas() -> Seen:
            there = [item for item in self.replicas(target) if item.diskful]
            wanted = self._snapshot(name, snapshot)
            if wanted and len([item for item in there if item.device]) >= len(wanted.nodes):
                return Seen.DONE
            return Seen.PARTLY if there else Seen.NOTHING

        address = path("resource-definitions", name, "snapshot-restore-volume-definition", snapshot)
        self._change(doing, "POST", address, body, volumes)
        address = path("resource-definitions", name, "snapshot-restore-resource", snapshot)
        found = self._change(doing, "POST", address, body, replicas)
        for entry in found or ():
            if entry.code == answers.NOT_THERE:
                raise Failed(f"cannot {doing}: {entry.message.rstrip('.')}; its replicas are empty")
            if entry.code == answers.NOT_CONNECTED:
                raise Failed(f"cannot {doing}: {entry.message.rstrip('.')}")

    def clones_marked(self) -> bool:
        """See `world.Controller.clones_marked`."""
        return self._understands("clone_marks")

    def clone(self, name: str, target: str, settings: Settings, marks: Mapping[str, str], clear: Sequence[str]) -> None:
        """See `world.Controller.clone`; raises Exists when the target's name is taken.

        What LINSTOR would refuse is refused here first: a refused clone of a definition that lost its layer stack
        in a rollback or a restore leaves LINSTOR 1.33 unable to delete the source until it is restarted.
        """
        doing = f"clone {name} to {target}"
        source = self._clonable(doing, name, target)
        body: dict[str, Any] = {"name": target}
        if settings.resource_group and settings.resource_group != source.group and self._understands("clone_group"):
            body["resource_group"] = settings.resource_group
        at_once = self.clones_marked()
        if at_once:
            body["override_props"] = dict(marks)
            body["delete_props"] = [key for key in clear if key not in marks]

        def look() -> Seen:
            found = self.definitions([target]).get(target)
            if found is None:
                return Seen.NOTHING
            if at_once and any(found.props.get(key) != value for key, value in marks.items()):
                raise Exists(f"cannot {doing}: the name is taken by another definition")
            return Seen.DONE

        self._change(doing, "POST", path("resource-definitions", name, "clone"), body, look)

    def _clonable(self, doing: str, name: str, target: str) -> Definition:
        """Return the source. Raises what stands against cloning it."""
        known = self.definitions([name, target])
        source = known.get(name)
        if source is None or source.deleting:
            raise NotFound(f"cannot {doing}: {name} {'is being deleted' if source else 'does not exist'}")
        if target in known:
            raise Exists(f"cannot {doing}: the name {target} is taken")
        holders = [item for item in self.replicas(name) if item.diskful]
        if not holders or not all(item.usable for item in holders):
            raise Refused(f"cannot {doing}: not all replicas of {name} are online")
        # LINSTOR calls them up to date when each is so on its own.
        placement.require_together(name, holders)
        if not source.layers:
            raise Unsupported(
                f"cannot {doing}: LINSTOR forgot the layers of {name} when it was made or rolled back from a snapshot; "
                f"copy it instead"
            )
        places = {(item.node, item.pool) for item in holders}
        for pool in self.pools(sorted({item.pool for item in holders if item.pool})):
            if (pool.node, pool.name) in places and not pool.clonable:
                raise Unsupported(f"cannot {doing}: LINSTOR cannot clone in pool {pool.name} of kind {pool.provider}")
        if DRBD in source.layers:
            address = path("resource-definitions", name, "sync-status")
            if not self._read(doing, address, dict).get("synced_on_all"):
                raise Refused(f"cannot {doing}: not all replicas of {name} are up to date; wait for its resync")
        return source

    def await_clone(self, name: str, target: str, size: Kib) -> None:
        """See `world.Controller.await_clone`."""
        doing = f"clone {name} to {target}"
        address = path("resource-definitions", name, "clone", target)

        def status() -> Optional[str]:
            now = str(self._read(doing, address, dict).get("status"))
            return now if now in ("COMPLETE", "FAILED") else None

        seconds = self._settings.timeout + size / SLOWEST_COPY
        ended = until(self._clock, seconds, status)
        if ended == "FAILED":
            self._clean_up(f"failed clone {target}", lambda: self.delete(target))
            raise Failed(f"cannot {doing}: LINSTOR says that the clone failed; see `linstor error-reports list`")
        if ended is None:
            raise TimedOut(f"cannot {doing}: it is not complete after {seconds:.0f} s")


def _surely_taken(found: Sequence[Entry]) -> bool:
    """Tell whether the answer proves the snapshot: registered, and nothing but successes after it."""
    registered = any(e.code == answers.CREATED and e.about == answers.OBJECT_SNAPSHOT for e in found)
    return registered and all(entry.kind == answers.SUCCESS for entry in found)
