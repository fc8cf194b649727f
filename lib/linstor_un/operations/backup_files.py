"""The directory that a backup datastore reads: vm.xml and a qcow2 file for each disk, on the VM's host or a bridge.

Every script is fixed text; names and paths reach it as arguments only.
"""

from __future__ import annotations

import base64
import os
from typing import NamedTuple

from .. import conffile, copying, places
from ..errors import BadRequest
from ..request.backups import BackupRequest
from ..units import Bytes
from ..world import Command, World
from . import contents
from .contents import Device

_SECONDS = 60.0
# Files of users' data: nobody but oneadmin reads them.
_MAKE = """set -e
umask 077
rm -rf --one-file-system -- "$1"
mkdir -p -- "$1"
cat >"$1/vm.xml"
"""
# The directory above is the VM's own on its host, and only this one's elsewhere: then it is empty.
_REMOVE = """rm -rf --one-file-system -- "$1" || exit
rmdir -- "${1%/*}" 2>/dev/null
exit 0
"""
_PACK = """umask 077
exec "$@"
"""
# libvirt's files are root's; OpenNebula's own script, where sudo allows it, copies them to the VM's directory.
_PACK_TPM = """umask 077
if sudo -n -l 2>/dev/null | grep -q vtpm_setup; then sudo -n "$4/vtpm_setup" backup "$3" "$2" >&2 || exit; fi
[ -d "$2/tpm" ] || { echo "there is no $2/tpm" >&2; exit 1; }
exec tar -czf "$1/disk.tpm.0" -C "$2" tpm
"""


class Place(NamedTuple):
    """The directory of a VM's backup, and the host that it is on."""

    host: str
    path: str


def place(world: World, request: BackupRequest) -> Place:
    """Return where the backup datastore looks. Raises BadRequest for a BACKUP_BASE_PATH that is no directory's name."""
    path = os.path.join(world.front_end.remotes, "etc/datastore/datastore.conf")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            base = conffile.parse(file.read()).values.get("BACKUP_BASE_PATH", "")
    except FileNotFoundError:
        base = ""
    except OSError as error:
        raise BadRequest(f"{path} cannot be read ({error.strerror}); correct its permissions") from error
    host = request.order.bridge or request.directory.host
    if not base:
        return Place(host, f"{request.directory.path}/backup")
    if not base.startswith("/") or not base.isprintable() or ".." in base.split("/"):
        raise BadRequest(f"BACKUP_BASE_PATH in {path} is {base[:200]!r}, which is not an absolute path")
    return Place(host, f"{os.path.normpath(base)}/{request.directory.vm_id}/backup")


def make(world: World, spot: Place, document: bytes) -> None:
    """Make the directory anew with the VM's document in it, in base64 as its readers expect."""
    command = Command(world.front_end.host(spot.host), ["sh", "-c", _MAKE, "sh", spot.path])
    world.hosts.run(command, seconds=_SECONDS, stdin=base64.encodebytes(document), doing=f"make {spot.path}")


def remove(world: World, spot: Place) -> None:
    """Remove the directory with everything in it; absent is success."""
    command = Command(world.front_end.host(spot.host), ["sh", "-c", _REMOVE, "sh", spot.path])
    world.hosts.run(command, seconds=_SECONDS, doing=f"remove {spot.path}")


def pack(world: World, spot: Place, source: Device, name: str, disk_id: int) -> None:
    """Write a device to `disk.N.0`: as large as was asked for, or all of it where something is beyond that.

    A backup that is larger than its disk cannot become an image of the size that OpenNebula takes from the disk. Zero
    clusters are not in the file, so that what is thin stays thin.
    Arguments: name, the volume that this is a backup of, for the sentence.
    """
    end = contents.measure(world, source).ends[0]
    length = copying.copied_length(end, end)
    host, doing = world.front_end.host(source.host), f"back {name} up to {spot.path}"
    if end.actual > end.asked and not _beyond(world, source, end, doing):
        length = end.asked
    argv = copying.packing(end, length, f"{spot.path}/disk.{disk_id}.0")
    command = Command(host, ["sh", "-c", _PACK, "sh", *argv])
    world.hosts.run(command, seconds=copying.seconds_for(length), doing=doing)


def _beyond(world: World, source: Device, end: copying.End, doing: str) -> bool:
    """Return whether a device holds anything but zeroes beyond the size that was asked for."""
    length = Bytes(end.actual - end.asked)
    argv = ["cmp", "-s", f"--ignore-initial={end.asked}:0", f"--bytes={length}", "--", source.path, "/dev/zero"]
    command = Command(world.front_end.host(source.host), argv)
    return world.hosts.run(command, seconds=copying.seconds_for(length), accept=(0, 1), doing=doing).code == 1


def pack_tpm(world: World, spot: Place, request: BackupRequest) -> None:
    """Put the state of the VM's virtual TPM beside the disks: without it, what is encrypted with its keys is lost."""
    scripts = places.scripts_on_hosts(world.front_end.var)
    words = [spot.path, request.directory.path, request.vm.deploy_id, scripts]
    command = Command(world.front_end.host(spot.host), ["sh", "-c", _PACK_TPM, "sh", *words])
    world.hosts.run(command, seconds=_SECONDS, doing=f"save the TPM state of VM {request.vm.id}")
