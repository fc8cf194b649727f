"""How oned asks about a whole VM.

`save` and `restore` stand in for scripts of OpenNebula's that run on the VM's host, if the option -l of VM_MAD says so:
for every VM of that hypervisor, also for those of other drivers. Their document is on standard input, in base64.

Live migration has two forms. Up to 5.8 the VM's document is the sixth argument; from 5.10 on it is on standard
input. In both, another driver whose system datastore the VM is in adds its own name as the last argument.
"""

from __future__ import annotations

import re
from typing import Union

from ..errors import BadRequest
from ..naming import VmDirectory, place, vm_directory
from ..onexml import VmmAction, parse_vm, parse_vmm_action
from ..request.vms import MigrateRequest, RestoreRequest, SaveRequest, StockRequest
from . import forms
from .forms import Call

TM_MAD = "linstor_un"


def migrate(call: Call) -> MigrateRequest:
    """Read `tm/premigrate`, `postmigrate` and `failmigrate`. Raises BadRequest."""
    words = list(call.argv)
    if not 5 <= len(words) <= 7:
        raise BadRequest(
            f"the arguments are SOURCE_HOST TARGET_HOST DIRECTORY VM_ID DATASTORE_ID [CALLER], not {len(words)} of them"
        )
    document = call.stdin()
    if not document and len(words) > 5:
        document = words.pop(5).encode("utf-8", "surrogateescape")
    caller = words[5] if len(words) == 6 else ""
    if len(words) > 6 or not re.match(r"[A-Za-z0-9_.-]{0,64}\Z", caller):
        raise BadRequest(f"{words[5][:100]!r} is not the name of a transfer manager")
    source, target, path, vm_id, datastore_id = words[:5]
    directory = vm_directory(f"{target}:{path}")
    forms.same_vm(path, directory.vm_id, vm_id)
    vm = parse_vm(forms.decode(document))
    if vm.id != directory.vm_id:
        raise BadRequest(f"the VM's document is of VM {vm.id}, but the request is for VM {vm_id}")
    origin = place(f"{source}:{path}").host
    return MigrateRequest(origin, directory.host, directory, vm, forms.datastore(datastore_id), caller)


def save(call: Call) -> Union[SaveRequest, StockRequest]:
    """Read `vmm/kvm/save_linstor_un`. Raises BadRequest."""
    deploy_id, file, host, vm_id, _ = forms.arguments(call, "DEPLOY_ID CHECKPOINT_FILE HOST VM_ID HOST")
    action, stock = _vmm_action(call, "save", host, file)
    if action.datastore.tm_mad != TM_MAD:
        return stock
    directory, file = _checkpoint_file(host, file, vm_id, action)
    return SaveRequest(_deploy_id(deploy_id), directory, file, action.memory, action.video, action.datastore)


def restore(call: Call) -> Union[RestoreRequest, StockRequest]:
    """Read `vmm/kvm/restore_linstor_un`. Raises BadRequest."""
    file, host, deploy_id, vm_id, _ = forms.arguments(call, "CHECKPOINT_FILE HOST DEPLOY_ID VM_ID HOST")
    action, stock = _vmm_action(call, "restore", host, file)
    if action.datastore.tm_mad != TM_MAD:
        return stock
    directory, file = _checkpoint_file(host, file, vm_id, action)
    return RestoreRequest(_deploy_id(deploy_id), directory, file, action.datastore, stock)


def save_hook(call: Call) -> SaveRequest:
    """Read `vmm/kvm/save.linstor_un`, which the stock `save` runs with its own words; the document is XML as it is.

    Raises BadRequest.
    """
    deploy_id, file, host, vm_id, _ = forms.arguments(call, "DEPLOY_ID CHECKPOINT_FILE HOST VM_ID HOST")
    action = parse_vmm_action(call.stdin())
    directory, file = _checkpoint_file(host, file, vm_id, action)
    return SaveRequest(_deploy_id(deploy_id), directory, file, action.memory, action.video, action.datastore)


def restore_hook(call: Call) -> RestoreRequest:
    """Read `vmm/kvm/restore.linstor_un`, which the stock `restore` runs with its own words. Raises BadRequest."""
    file, host, deploy_id, vm_id, _ = forms.arguments(call, "CHECKPOINT_FILE HOST DEPLOY_ID VM_ID HOST")
    document = call.stdin()
    action = parse_vmm_action(document)
    stock = StockRequest("restore", host, tuple(call.argv), document)
    directory, file = _checkpoint_file(host, file, vm_id, action)
    return RestoreRequest(_deploy_id(deploy_id), directory, file, action.datastore, stock)


def _vmm_action(call: Call, script: str, host: str, file: str) -> tuple[VmmAction, StockRequest]:
    document = forms.decode(call.stdin())
    return parse_vmm_action(document), StockRequest(script, place(f"{host}:{file}").host, tuple(call.argv), document)


def _checkpoint_file(host: str, file: str, vm_id: str, action: VmmAction) -> tuple[VmDirectory, str]:
    spot = place(f"{host}:{file}")
    directory = vm_directory(f"{host}:{spot.path.rpartition('/')[0]}")
    forms.same_vm(file, directory.vm_id, vm_id)
    if action.vm_id != directory.vm_id:
        raise BadRequest(f"the VM's document is of VM {action.vm_id}, but the request is for VM {vm_id}")
    return directory, spot.path


def _deploy_id(argument: str) -> str:
    """Return how libvirt knows the VM: a name that oned (up to 6.8) or a user gave it, or a UUID."""
    if not argument or not argument.isprintable() or argument.startswith("-") or len(argument) > 255:
        raise BadRequest(f"DEPLOY_ID is {argument[:100]!r}, which is no name of a domain; look at `onevm show`")
    return argument
