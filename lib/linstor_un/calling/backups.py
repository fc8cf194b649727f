"""How oned asks about a VM's backups.

The arguments of `prebackup` and `postbackup` have two forms: up to 6.6 the list of disks ends in a colon, and from 6.8
on the backup job, or `-`, comes before the VM. oned splits a line at its blanks, so that an empty list or domain is not
there at all: what follows is counted from the end. Standard input is the VM's document as it is, not in base64.
"""

from __future__ import annotations

import re

from ..errors import BadRequest
from ..naming import VmDirectory, vm_directory
from ..onexml import parse_backup
from ..request.backups import BackupRequest, InPlaceRequest
from . import forms
from .forms import Call

_DISKS = re.compile(r"[0-9]{1,9}(?::[0-9]{1,9})*:?\Z")
# What `restore` has for the last increment, and for all disks.
_NONE = "-1"


def backup(call: Call) -> BackupRequest:
    """Read `tm/prebackup`, `prebackup_live`, `postbackup` and `postbackup_live`. Raises BadRequest."""
    words = list(call.argv)
    if not 4 <= len(words) <= 6:
        raise BadRequest(
            f"the arguments are DIRECTORY DISKS [DEPLOY_ID] [BACKUP_JOB] VM_ID DATASTORE_ID, not {len(words)} of them"
        )
    if not _DISKS.match(words[1]):
        raise BadRequest(f"DISKS is {words[1][:100]!r}, which is no list such as 0:1; nothing can be backed up")
    forms.datastore(words[-1])
    directory = _directory(words[0], words[-2])
    document = call.stdin()
    vm, order = parse_backup(document)
    if vm.id != directory.vm_id:
        raise BadRequest(f"the VM's document is of VM {vm.id}, but the request is for VM {directory.vm_id}")
    disks = tuple(dict.fromkeys(int(word) for word in words[1].split(":") if word))
    return BackupRequest(directory, disks, vm, order, document)


def restore(call: Call) -> InPlaceRequest:
    """Read `tm/restore`, which has no datastore at its end. Raises BadRequest."""
    path, vm_id, image_id, increment, disk_id = forms.arguments(call, "DIRECTORY VM_ID IMAGE_ID INCREMENT_ID DISK_ID")
    return InPlaceRequest(
        _directory(path, vm_id),
        forms.natural("IMAGE_ID", image_id),
        None if increment == _NONE else forms.natural("INCREMENT_ID", increment),
        None if disk_id == _NONE else forms.natural("DISK_ID", disk_id),
    )


def _directory(argument: str, vm_id: str) -> VmDirectory:
    directory = vm_directory(argument)
    forms.same_vm(argument, directory.vm_id, vm_id)
    return directory
