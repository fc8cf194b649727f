"""What oned asks about a whole VM."""

from __future__ import annotations

from typing import NamedTuple

from ..naming import VmDirectory
from ..onexml import Vm


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
