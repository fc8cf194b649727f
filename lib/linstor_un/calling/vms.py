"""How oned asks about a whole VM.

Live migration has two forms. Up to 5.8 the VM's document is the sixth argument; from 5.10 on it is on standard
input. In both, another driver whose system datastore the VM is in adds its own name as the last argument.
"""

from __future__ import annotations

import re

from ..errors import BadRequest
from ..naming import place, vm_directory
from ..onexml import parse_vm
from ..request.vms import MigrateRequest
from . import forms
from .forms import Call


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
