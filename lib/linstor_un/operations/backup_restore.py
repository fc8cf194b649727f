"""A backup is written over the disks of a VM that is off: all disks that were asked for, or none.

FETCH     every disk's file to the VM's host, where it is looked at: nothing of the VM is touched yet
WRITE     per disk: a snapshot of now, `before-revert`; `STATE=reverting`; the VM's link goes; the file over the disk
END       the links are back, then the snapshots of before go, and then STATE, of all disks
FAILED    back to the snapshots of before, as long as all of them are there
KILLED    the state stays, so that a rerun begins again, with the first run's snapshots to fall back to
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NamedTuple

from .. import copying
from ..errors import Failed, NotFound, Refused, Unsupported
from ..naming import DiskPlace, backup_snapshot, disk_in
from ..onexml import parse_datastore, parse_image, parse_vm
from ..request.backups import InPlaceRequest
from ..units import Bytes, bytes_from_kib
from ..world import Command, World
from . import backup_disks, contents, importing, overwriting, removal, sources, vm_disks
from .contents import Device
from .rollbacks import Subject

# A backup datastore asks its server what there is, and sends the few KiB of a TPM.
_SERVER_SECONDS = 300.0
_SECONDS = 60.0
# IMAGE/TYPE of a backup.
_BACKUP = "6"
_TPM = "tpm"
# The state of before stays beside that of the backup until all is done.
_EXCHANGE_TPM = """set -e
new=$2/.linstor_un.tpm.new before=$2/.linstor_un.tpm.before
rm -rf --one-file-system -- "$new"
mkdir -m 700 -- "$new"
tar -xzf "$1" -C "$new"
[ -d "$new/tpm" ] || { echo 'it has no directory tpm' >&2; exit 1; }
[ -e "$before" ] || [ ! -e "$2/tpm" ] || mv -T -- "$2/tpm" "$before"
rm -rf --one-file-system -- "$2/tpm"
mv -T -- "$new/tpm" "$2/tpm"
rmdir -- "$new"
"""
_PUT_TPM_BACK = """rm -rf --one-file-system -- "$1/.linstor_un.tpm.new"
[ -e "$1/.linstor_un.tpm.before" ] || exit 0
rm -rf --one-file-system -- "$1/tpm" && mv -T -- "$1/.linstor_un.tpm.before" "$1/tpm"
"""


class _Fetched(NamedTuple):
    """A disk's file on the VM's host, as large as `size` bytes when it is unpacked, and what it is for."""

    found: backup_disks.Subject
    subject: Subject
    file: str
    size: Bytes

    @property
    def place(self) -> DiskPlace:
        """Where the VM has the disk."""
        assert self.subject.place is not None
        return self.subject.place

    def over(self) -> overwriting.Over:
        """Return what is written over."""
        controller = self.found.controller
        return overwriting.Over(controller, self.subject, self.found.volume, controller.snapshots(self.subject.name))


def restore(world: World, request: InPlaceRequest) -> str:
    """Write a backup over a VM's disks, which keep their sizes; what is beyond the backup is zero then.

    Raises NotFound for a disk that the backup has not, Unsupported where a failure could not be taken back, InUse for
    a disk that is open; nothing has happened then.
    """
    document = world.cloud.document("vm", request.directory.vm_id)
    vm = parse_vm(document.encode())
    urls = _urls(world, request, document)
    numbers = sorted(int(key) for key in urls if key != _TPM)
    with world.locks.hold(backup_snapshot(vm.id)), ExitStack() as held:
        found = [
            one._replace(volume=removal.reporting(world, one.controller, one.volume))
            for one in backup_disks.subjects(world, vm, request.directory, numbers, halfway=True)
        ]
        held.enter_context(world.locks.hold(*(one.name for one in found)))
        _require_writable(world, request, found)
        fetched = [_fetch(world, request, one, urls[str(one.disk.id)]) for one in found]
        tpm = _fetch_tpm(world, fetched[0], urls[_TPM]) if _TPM in urls else ""
        together = [each.over() for each in fetched]
        for number, each in enumerate(fetched):
            overwriting.begin(world, together, number)
            _write(world, each)
        if tpm:
            _exchange_tpm(world, request, tpm, together)
        world.undo.give_back()
        overwriting.end(world, together)
        if tpm:
            argv = ["rm", "-rf", "--one-file-system", "--", f"{request.directory.path}/.linstor_un.tpm.before"]
            _run(world, request, argv, "remove the TPM state of before")
    return ""


def _urls(world: World, request: InPlaceRequest, document: str) -> dict[str, str]:
    """Return where what is wanted of the backup can be fetched, by the disk's number or `tpm`.

    The state of the TPM goes with disk 0 only, as OpenNebula's own drivers have it.
    """
    image_document = world.cloud.document("image", request.image_id)
    image = parse_image(image_document.encode())
    if image.kind != _BACKUP or image.datastore_id is None:
        raise Refused(f"image {request.image_id} is no backup; look at `oneimage list`")
    store_document = world.cloud.document("datastore", image.datastore_id)
    mad = parse_datastore(store_document.encode()).ds_mad
    if not re.match(r"[A-Za-z0-9][A-Za-z0-9_-]*\Z", mad):
        raise Refused(f"DS_MAD of datastore {image.datastore_id} is {mad[:100]!r}, which is not the name of a driver")
    listing = os.path.join(world.front_end.remotes, "datastore", mad, "ls")
    argv = [listing, "-i", "-1" if request.increment is None else str(request.increment)]
    action = f"<DS_DRIVER_ACTION_DATA>{store_document}{document}{image_document}</DS_DRIVER_ACTION_DATA>"
    doing = f"list what backup {request.image_id} has"
    said = world.hosts.run(Command(None, argv), seconds=_SERVER_SECONDS, stdin=action.encode(), doing=doing).stdout
    listed = _listed(said, doing)
    wanted = {key: url for key, url in listed.items() if request.disk_id is None or key == str(request.disk_id)}
    if not wanted:
        raise NotFound(f"backup {request.image_id} has no disk {'' if request.disk_id is None else request.disk_id}")
    if _TPM in listed and "0" in wanted:
        wanted[_TPM] = listed[_TPM]
    for url in wanted.values():
        sources.require_remote(url)
    return wanted


def _listed(said: str, doing: str) -> dict[str, str]:
    """Return the disks of a backup. Raises Failed for an answer that is none."""
    try:
        answer = json.loads(said)
        return {str(key): str(url) for key, url in answer.items() if re.match(r"[0-9]{1,9}\Z|tpm\Z", str(key))}
    except (ValueError, AttributeError) as error:
        raise Failed(f"cannot {doing}: the datastore's driver said {said[:100]!r}") from error


def _require_writable(world: World, request: InPlaceRequest, found: list[backup_disks.Subject]) -> None:
    """Raise what stands against writing over the disks."""
    hosts = {host.name for host in world.cloud.hosts() if host.usable} | {request.directory.host}
    for one in found:
        here = one.volume.on(request.directory.host)
        if here is None or not here.usable or here.tiebreaker:
            raise Unsupported(
                f"{one.name} is not attached on {request.directory.host}, where VM {request.directory.vm_id} is off; "
                f"undeploy the VM and deploy it again, turn it off, and retry"
            )
        # There would be nothing to fall back to.
        one.require_snapshots(request.directory.host)
        removal.require_closed(world, one.volume, readers_on=hosts)


def _fetch(world: World, request: InPlaceRequest, one: backup_disks.Subject, url: str) -> _Fetched:
    place = disk_in(request.directory, one.disk.id)
    device = Device(place.host, one.volume.device(place.host), bytes_from_kib(one.volume.size))
    file, size = importing.staged_backup(world, url, device, one.settings)
    room = contents.measure(world, device).ends[0].actual
    if size > room:
        raise Refused(
            f"disk {one.disk.id} of the backup has {size} bytes, more than the {room} of {one.name}; "
            f"grow it with `onevm disk-resize` and retry"
        )
    own = one.disk.clone is not False or one.disk.persistent
    marks = vm_disks.marks(place) if own else {}
    return _Fetched(one, Subject(one.definition, one.settings, marks, (), one.volume.size, place), file, size)


def _write(world: World, each: _Fetched) -> None:
    volume, host = each.found.volume, each.place.host
    target = Device(host, volume.device(host), bytes_from_kib(volume.size), volume=volume.name)
    measured = contents.measure(world, target)
    end = measured.ends[0]
    plan = copying.conversion(each.file, "qcow2", each.size, end._replace(asked=end.actual), False, measured.tools)
    contents.apply_plan(world, target, plan, f"write the backup to {volume.name}")


def _fetch_tpm(world: World, first: _Fetched, url: str) -> str:
    """Fetch the state of the VM's TPM, beside the file of disk 0; returns its path."""
    file = f"{os.path.dirname(first.file)}/tpm"
    fetch = sources.download(world, url, first.found.settings, "", options=("--nodecomp",))
    host = world.front_end.host(first.place.host)
    doing = f"fetch {url}"
    world.hosts.pipe(fetch, Command(host, ["dd", f"of={file}", "status=none"]), seconds=_SERVER_SECONDS, doing=doing)
    return file


def _exchange_tpm(
    world: World, request: InPlaceRequest, file: str, together: Sequence[overwriting.Over]
) -> None:
    doing = f"bring back the TPM state of VM {request.directory.vm_id}"
    with world.undo.by(f"TPM state of VM {request.directory.vm_id}", _put_tpm_back, world, request, together):
        _run(world, request, ["sh", "-c", _EXCHANGE_TPM, "sh", file, request.directory.path], doing)


def _put_tpm_back(world: World, request: InPlaceRequest, together: Sequence[overwriting.Over]) -> None:
    overwriting.require_return(together)
    _run(world, request, ["sh", "-c", _PUT_TPM_BACK, "sh", request.directory.path], "put the TPM state back")


def _run(world: World, request: InPlaceRequest, argv: list[str], doing: str) -> None:
    command = Command(world.front_end.host(request.directory.host), argv)
    world.hosts.run(command, seconds=_SECONDS, doing=doing)
