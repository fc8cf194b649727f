"""Rolling a volume back to a snapshot."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import NotFound
from ..inventory import Replica
from .controller_features import loses_in_rollbacks
from .controller_session import Seen, path
from .controller_snapshots import Snapshots

# Each rollback asks every satellite about ten times, where a snapshot asks three times.
_TIME_LIMITS = 4


class Rollbacks(Snapshots):
    """The part of `world.Controller` that rolls back."""

    def rolls_back_to_any(self) -> bool:
        """See `world.Controller.rolls_back_to_any`."""
        return self._understands("rollback_any")

    def rolls_back_safely(self) -> bool:
        """See `world.Controller.rolls_back_safely`."""
        return not loses_in_rollbacks(self._link.release)

    def rollback(self, name: str, snapshot: str, replicas: Sequence[Replica]) -> None:
        """See `world.Controller.rollback`.

        A rollback that was done may answer 404, because LINSTOR gave a node its replica not back. What it restored are
        new resources; where it works in place (before 1.31, and ZFS) a lost answer leaves no trace to look for.
        """
        doing = f"roll {name} back to {snapshot}"
        former = {item.uuid for item in replicas}

        def look() -> Seen:
            if self.rolling_back(name):
                return Seen.PARTLY
            wanted = self._snapshot(name, snapshot)
            there = [item for item in self._there(name) if item.diskful and item.uuid not in former]
            ready = {item.node for item in there if item.usable and item.device}
            if wanted is not None and set(wanted.nodes) <= ready:
                return Seen.DONE
            return Seen.PARTLY if there else Seen.UNTOLD

        address = path("resource-definitions", name, "snapshot-rollback", snapshot)
        self._change(doing, "POST", address, {}, look, proof=True, times=_TIME_LIMITS)

    def _there(self, name: str) -> list[Replica]:
        try:
            return self.replicas(name)
        except NotFound:
            return []
