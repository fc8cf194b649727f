"""Read recorded lifecycles: one file each, with the calls of oned's driver processes and the documents of the time."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional


@dataclass(frozen=True)
class Call:
    """One recorded call; `vm_document` is what `onevm show -x` said at that moment, None for calls without a VM."""

    seq: int
    kind: str
    driver: str
    action: str
    script: str
    argv: list[str]
    stdin: str
    stdin_encoding: str
    host: str
    vm_id: Optional[int]
    vm_lcm_state: Optional[int]
    vm_document: Optional[str]
    answer: dict[str, Any]
    more: dict[str, Any]

    @property
    def failure_injected(self) -> bool:
        """The recorder answered with a failure; oned went on accordingly."""
        return bool(self.answer.get("injected_failure")) or self.answer.get("exit_code", 0) != 0


@dataclass(frozen=True)
class Recording:
    """One file: its calls in order, the VM documents by key, and the pools of that daemon."""

    path: Path
    scenario: str
    version: str
    calls: list[Call]
    vm_documents: dict[str, str]
    pools: list[str]


def recordings(directory: Path) -> Iterator[Recording]:
    """Yield every recording below `directory`, plain or gzipped, in the order of their names.

    The datastore and host pools lie beside the files; one named PREFIX-datastorepool.xml goes over the common one
    for the scenarios PREFIX-*.
    """
    for path in sorted(directory.rglob("*.json*")):
        if path.name.endswith((".json", ".json.gz")):
            recording = read_recording(path)
            if recording:
                yield recording


def read_recording(path: Path) -> Optional[Recording]:
    """Return the recording in a file, None when the file holds something else."""
    data = json.loads(_read(path))
    if not isinstance(data, dict) or "calls" not in data:
        return None
    documents = data.get("vm_documents", {})
    known = {"seq", "kind", "driver", "action", "script", "argv", "stdin", "stdin_encoding", "host", "vm_id"}
    calls = [
        Call(
            **{name: item[name] for name in known},
            vm_lcm_state=item.get("vm_lcm_state"),
            vm_document=documents.get(item.get("vm_xml")),
            answer=item["answer"],
            more={name: value for name, value in item.items() if name not in known},
        )
        for item in data["calls"]
    ]
    calls.sort(key=lambda call: call.seq)
    version = data.get("version") or path.parent.name
    return Recording(path, data.get("scenario", path.stem), version, calls, documents, _pools(path))


def _pools(path: Path) -> list[str]:
    """Return the pool documents for a recording, the general ones first so that special ones go over them."""
    general, special = [], []
    for pool in sorted(path.parent.glob("*pool.xml*")):
        prefix, dash, _ = pool.name.rpartition("-")
        if not dash:
            general.append(_read(pool))
        elif path.name.startswith(prefix + "-"):
            special.append(_read(pool))
    return general + special


def _read(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
