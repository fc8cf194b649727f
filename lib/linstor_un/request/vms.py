"""What oned asks about a whole VM."""

from __future__ import annotations

from typing import NamedTuple

from ..naming import VmDirectory
from ..onexml import Datastore, Vm
from ..units import Kib, Mib


class MigrateRequest(NamedTuple):
    """Prepare, finish or call off a live migration from `source` to `target`, both hosts.

    `directory` is the VM's, on the target, in the system datastore that it moves to. `caller` is the transfer
    manager of that datastore when it is another driver's and calls this one for its disks, else "".
    """

    source: str
    target: str
    directory: VmDirectory
    vm: Vm
    datastore_id: int
    caller: str


class StockRequest(NamedTuple):
    """Let OpenNebula's own script (`save`, `restore`) do it on the VM's host, as if this driver were not there.

    `arguments` are those that came; `document` is the XML as the script reads it, not in base64.
    """

    script: str
    host: str
    arguments: tuple[str, ...]
    document: bytes


class SaveRequest(NamedTuple):
    """Save the memory of domain `deploy_id` and end it.

    `file` is where the stock script would write: checkpoint in the VM's `directory`. `memory` is the most that the VM
    may have, `video` that of its graphics card.
    """

    deploy_id: str
    directory: VmDirectory
    file: str
    memory: Mib
    video: Kib
    datastore: Datastore


class RestoreRequest(NamedTuple):
    """Let domain `deploy_id` go on from its saved memory, on the host of its `directory`.

    `file` is what the stock script would read, and `stock` the request for it: where memory was saved without this
    driver, it is there.
    """

    deploy_id: str
    directory: VmDirectory
    file: str
    datastore: Datastore
    stock: StockRequest
