"""Work that goes on after its request was answered: initial sync, copies of clones, moves of replicas."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable

from .cluster import Cluster


@dataclass
class Work:
    """What is done once `due` (monotonic seconds) has come. Until then what it concerns is unfinished."""

    due: float
    finish: Callable[[], None]


def begin(cluster: Cluster, finish: Callable[[], None]) -> None:
    """Let `finish` happen `cluster.work_seconds` from now, at the first request after that."""
    cluster.works.append(Work(time.monotonic() + cluster.work_seconds, finish))


def pass_by(cluster: Cluster) -> None:
    """Finish all work that is due."""
    now = time.monotonic()
    for work in [work for work in cluster.works if work.due <= now]:
        cluster.works.remove(work)
        work.finish()


def complete(cluster: Cluster) -> None:
    """Let time pass until all work that is under way now is done; what it begins in turn goes on."""
    for work in list(cluster.works):
        cluster.works.remove(work)
        work.finish()
