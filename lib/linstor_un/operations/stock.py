"""OpenNebula's own scripts on hosts, run as oned runs them where this driver has no part in a VM."""

from __future__ import annotations

from .. import places
from ..errors import Refused
from ..log import Relayed
from ..request.vms import StockRequest
from ..world import Command, World

# oned sets no limit; this one ends what nobody waits for any more.
_SECONDS = 86400.0
_EVERY_CODE = range(256)
_MISSING = "there is no such script"
_RUN = f"""[ -x "$1" ] || {{ echo '{_MISSING}' >&2; exit 42; }}
exec "$@"
"""


def run(world: World, request: StockRequest) -> Relayed:
    """Run a script of vmm/kvm on its host and return how it ended, for oned to read.

    oned's own connection gives it the document as XML, not in base64, and the script looks for DATASTORE/TM_MAD in it
    to run a hook of that driver (save.ceph).
    Raises Refused when the host has no such script, Unreachable, Failed when the connection is lost.
    """
    path = f"{places.scripts_on_hosts(world.front_end.var)}/vmm/kvm/{request.script}"
    command = Command(world.front_end.host(request.host), ["sh", "-c", _RUN, "sh", path, *request.arguments])
    ended = world.hosts.run(
        command, seconds=_SECONDS, stdin=request.document, accept=_EVERY_CODE, doing=f"run {request.script}"
    )
    if ended.code == 42 and ended.stderr.strip() == _MISSING:
        raise Refused(f"{path} is missing on {request.host}; run `onehost sync --force {request.host}` and retry")
    return Relayed(ended.code, ended.stdout, ended.stderr)
