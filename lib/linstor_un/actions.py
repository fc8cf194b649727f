"""The table of actions: how each is read, and which operation does it."""

from __future__ import annotations

import importlib
from typing import Any, Callable, NamedTuple, Union

from .calling.forms import Call
from .log import Relayed
from .world import World


class Action(NamedTuple):
    """One row: its reader in `calling` and its operation, as MODULE.FUNCTION; only what is to run is imported."""

    reader: str
    operation: str

    def read(self, call: Call) -> Any:
        """Return the request. Raises BadRequest."""
        return _found("calling", self.reader)(call)

    def run(self, world: World, request: Any) -> Union[str, Relayed]:
        """Do the action. Raises DriverError.

        Returns what oned reads from stdout, "" where it reads nothing, or what OpenNebula's own script said that
        did the action.
        """
        answer: Union[str, Relayed] = _found("operations", self.operation)(world, request)
        return answer


def _found(package: str, name: str) -> Callable[..., Any]:
    module, _, function = name.partition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(f".{package}.{module}", __package__), function)
    return found


ACTIONS = {
    "datastore.stat": Action("datastore.stat", "registration.stat"),
    "datastore.cp": Action("datastore.cp", "registration.cp"),
    "datastore.mkfs": Action("datastore.mkfs", "images.mkfs"),
    "datastore.clone": Action("datastore.image_clone", "images.clone"),
    "datastore.rm": Action("datastore.rm", "images.rm"),
    "datastore.export": Action("datastore.export", "exporting.export"),
    "datastore.export_done": Action("datastore.export_done", "exporting.export_done"),
    "datastore.snap_delete": Action("datastore.image_snapshot", "image_snapshots.delete"),
    "datastore.snap_revert": Action("datastore.image_snapshot", "image_snapshots.revert"),
    "datastore.snap_flatten": Action("datastore.image_snapshot", "image_snapshots.flatten"),
    "datastore.monitor": Action("datastore.monitor", "monitoring.datastore"),
    "tm.clone": Action("disks.clone", "disks.clone"),
    "tm.ln": Action("disks.ln", "disks.ln"),
    "tm.mkimage": Action("disks.mkimage", "disks.mkimage"),
    "tm.mkswap": Action("disks.mkswap", "disks.mkswap"),
    "tm.context": Action("disks.context", "disks.context"),
    "tm.delete": Action("disks.delete", "disks.delete"),
    "tm.mv": Action("disks.mv", "moving.mv"),
    "tm.premigrate": Action("vms.migrate", "migration.premigrate"),
    "tm.postmigrate": Action("vms.migrate", "migration.postmigrate"),
    "tm.failmigrate": Action("vms.migrate", "migration.failmigrate"),
    "tm.mvds": Action("disks.mvds", "disks.mvds"),
    "tm.cpds": Action("disks.cpds", "saving.cpds"),
    "tm.resize": Action("disks.resize", "resizing.resize"),
    "tm.snap_create": Action("disks.disk_snapshot", "disk_snapshots.create"),
    "tm.snap_create_live": Action("disks.disk_snapshot", "disk_snapshots.create_live"),
    "tm.snap_delete": Action("disks.disk_snapshot", "disk_snapshots.delete"),
    "tm.snap_revert": Action("disks.disk_snapshot", "disk_snapshots.revert"),
    "tm.prebackup": Action("backups.backup", "backups.prebackup"),
    "tm.prebackup_live": Action("backups.backup", "backups.prebackup_live"),
    "tm.postbackup": Action("backups.backup", "backups.postbackup"),
    "tm.postbackup_live": Action("backups.backup", "backups.postbackup"),
    "tm.restore": Action("backups.restore", "backup_restore.restore"),
    "tm.monitor": Action("datastore.monitor", "monitoring.system_datastore"),
    "vmm.save_linstor_un": Action("vms.save", "checkpoints.save"),
    "vmm.restore_linstor_un": Action("vms.restore", "checkpoints.restore"),
}
# What runs on hosts, below OpenNebula's own scripts.
HOOKS = {
    "vmm.save.linstor_un": Action("vms.save_hook", "checkpoint_hooks.keep"),
    "vmm.restore.linstor_un": Action("vms.restore_hook", "checkpoint_hooks.fetch"),
}
