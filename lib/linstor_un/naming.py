"""Names on LINSTOR and on hosts: an on-disk format that sites upgrade in place.

    image            one-image-IMAGE        IMAGE/SOURCE is /dev/drbd/by-res/one-image-IMAGE/0
    VM disk          one-vm-VM-disk-DISK    cloned or volatile
    saved memory     one-vm-VM-checkpoint   while the VM is suspended, stopped or on its way to another host
    disk snapshot    snapshot-NUMBER        on the disk's or image's definition
    clone snapshot   named as the VM disk   on the image's definition, CLONE_MODE=snapshot
    saving           named as the image     snapshot on the disk's definition while the disk is saved as an image;
                     one-image-IMAGE-restored   what it holds, for the time of the copy
    backup           one-vm-VM-backup       snapshot on the definitions of a running VM's disks while it is backed up;
                     one-vm-VM-backup-DISK  what it holds, for the time of the copy

The properties `Aux/one/...` of a definition say whose it is.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NewType, Optional

from .errors import BadRequest

DefinitionName = NewType("DefinitionName", str)

AUX = "Aux/one/"
VM_ID = AUX + "VM_ID"
DISK_ID = AUX + "DISK_ID"
DS_ID = AUX + "DS_ID"
IMAGE_ID = AUX + "IMAGE_ID"
# Which registration of the image, or which image under the disk: a name that is used
# again after a forgotten deletion must not be taken for the same content.
ORIGIN = AUX + "ORIGIN"
STATE = AUX + "STATE"
CREATING = "creating"
# A deletion that was refused: the content is not wanted any more and must not be taken for a complete disk.
DELETING = "deleting"
# The definition that a half-made one is a copy of, by way of a snapshot named as the half-made one: who finds that
# later also finds the snapshot.
COPY_OF = AUX + "COPY_OF"
# LINSTOR's own: the definition that one was cloned from.
CLONED_FROM = "cloned-from"
# The node whose replica of a persistent image a VM wrote to last, where no DRBD keeps the replicas equal.
WRITTEN_ON = AUX + "WRITTEN_ON"
# A live migration, while two hosts may write: VM/SOURCE/TARGET/SECONDS, these since 1970.
MIGRATION = AUX + "MIGRATION"
# Where the disk was on hosts that died: HOST:DATASTORE/VM/DISK, with blanks between.
LOST_HOSTS = AUX + "LOST_HOSTS"
# One run of one action: tells our own half-made object from one of a rival with the same name.
RUN = AUX + "RUN"

# What DRBD does with I/O while it has no quorum; LINSTOR up to 1.30 overwrites it with its own AUTO_QUORUM.
ON_NO_QUORUM = "DrbdOptions/Resource/on-no-quorum"
AUTO_QUORUM = "DrbdOptions/auto-quorum"

# A copy of an older state is written over it, or was until an action was killed: what it holds is of two states.
REVERTING = "reverting"

_SNAPSHOT = re.compile(r"snapshot-(0|[1-9][0-9]{0,17})\Z")
_SNAPSHOT_MARK = re.compile(re.escape(AUX) + r"SNAPSHOT_([0-9]{1,18})/")
_DEFINITION = r"[A-Za-z_][A-Za-z0-9_-]{1,47}\Z"
_SOURCE = r"/dev/drbd/by-res/(?P<name>[^/]+)/0\Z"
_DISK_PATH = r"(?P<base>/.*)/(?P<ds>[0-9]+)/(?P<vm>[0-9]+)/disk\.(?P<disk>[0-9]+)\Z"
_MIGRATION = r"(?P<vm>[0-9]{1,18})/(?P<source>[^/]+)/(?P<target>[^/]+)/(?P<since>[0-9]{1,18})\Z"
_LOST = r"(?P<host>[A-Za-z0-9_.-]+):(?P<ds>[0-9]{1,18})/(?P<vm>[0-9]{1,18})/(?P<disk>[0-9]{1,18})\Z"
_VM_DIR = r"(?P<base>/.*)/(?P<ds>[0-9]+)/(?P<vm>[0-9]+)\Z"


def image_definition(image_id: int) -> DefinitionName:
    """Return the resource definition of an image. Arguments: image_id, as oned counts."""
    return DefinitionName(f"one-image-{image_id}")


def disk_definition(vm_id: int, disk_id: int) -> DefinitionName:
    """Return the resource definition of a VM's own disk, cloned or volatile."""
    return DefinitionName(f"one-vm-{vm_id}-disk-{disk_id}")


def disk_snapshot(snapshot_id: int) -> str:
    """Return the name of a disk's or image's snapshot. Arguments: snapshot_id, as oned counts."""
    return f"snapshot-{snapshot_id}"


# The snapshot that an image was flattened to last, until it has snapshots again.
FLATTENED = AUX + "FLATTENED"
# What a volume held before a copy of an older state was written over it.
BEFORE_REVERT = "before-revert"


def snapshot_number(name: str) -> Optional[int]:
    """Return the number of a snapshot that oned knows, None for anybody else's."""
    match = _SNAPSHOT.match(name)
    return int(match[1]) if match else None


def snapshot_size(snapshot_id: int) -> str:
    """Return the mark that has a snapshot's size in KiB, for the monitoring: it is found with the definition."""
    return f"{AUX}SNAPSHOT_{snapshot_id}/DISK_SIZE"


def snapshot_date(snapshot_id: int) -> str:
    """Return the mark that has the time at which oned ordered a snapshot.

    oned up to 5.12 counts from 0 again when a disk has no snapshots any more, so that a number does not tell
    whether a snapshot is the ordered one or a forgotten one.
    """
    return f"{AUX}SNAPSHOT_{snapshot_id}/DATE"


def marked_snapshot(mark: str) -> Optional[int]:
    """Return the number of the snapshot that a mark is about, None for other marks."""
    match = _SNAPSHOT_MARK.match(mark)
    return int(match[1]) if match else None


def checkpoint_definition(vm_id: int) -> DefinitionName:
    """Return the resource definition of a VM's saved memory."""
    return DefinitionName(f"one-vm-{vm_id}-checkpoint")


class Migration(NamedTuple):
    """A live migration of a VM between two hosts; `since` are seconds since 1970."""

    vm_id: int
    source: str
    target: str
    since: int

    def mark(self) -> str:
        """Return it as the value of MIGRATION."""
        return f"{self.vm_id}/{self.source}/{self.target}/{self.since}"


def migration(mark: str) -> Optional[Migration]:
    """Return the migration that a value of MIGRATION tells of, None for one that this driver did not write."""
    match = re.match(_MIGRATION, mark)
    return Migration(int(match["vm"]), match["source"], match["target"], int(match["since"])) if match else None


def by_res(definition: str) -> str:
    """Return the device path that drbd-utils' udev rule gives volume 0 of a DRBD resource."""
    return f"/dev/drbd/by-res/{definition}/0"


def definition_of_source(source: str) -> DefinitionName:
    """Return the resource definition that an image's SOURCE stands for.

    Arguments: source, a path as `cp`, `mkfs` and `clone` print it.
    Raises BadRequest when it is not of the form /dev/drbd/by-res/NAME/0.
    """
    match = re.match(_SOURCE, re.sub("/+", "/", source))
    if not match or not re.match(_DEFINITION, match["name"]):
        raise BadRequest(f"image source {source!r} is not of the form /dev/drbd/by-res/NAME/0; check IMAGE/SOURCE")
    return DefinitionName(match["name"])


def image_number(definition: str) -> int:
    """Return the id of the image that a resource definition is of. Raises BadRequest when it is of none."""
    match = re.match(r"one-image-([0-9]{1,18})\Z", definition)
    if not match:
        raise BadRequest(f"{definition!r} is no image's definition one-image-ID; check the image's SOURCE")
    return int(match[1])


def restored_definition(definition: str) -> DefinitionName:
    """Return the definition that holds a snapshot while it is copied into another one.

    It is named by what is made of it, so that no two actions ever mean the same one.
    """
    return DefinitionName(f"{definition}-restored")


def backup_snapshot(vm_id: int) -> str:
    """Return the snapshot that all disks of a running VM have while it is backed up."""
    return f"one-vm-{vm_id}-backup"


def backup_definition(vm_id: int, disk_id: int) -> DefinitionName:
    """Return the definition that holds that snapshot of a disk while it is copied."""
    return DefinitionName(f"one-vm-{vm_id}-backup-{disk_id}")


class Place(NamedTuple):
    """A path on a host, as oned writes it in transfer files: HOST:PATH."""

    host: str
    path: str


class DiskPlace(NamedTuple):
    """Where a VM's disk is to be found: HOST:.../datastores/DS/VM/disk.N.

    `datastore_id` is the system datastore, whatever datastore id came as an argument.
    """

    host: str
    path: str
    directory: str
    datastore_id: int
    vm_id: int
    disk_id: int


_HOST = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z"


def place(argument: str) -> Place:
    """Split HOST:PATH at the first colon and fold double slashes, as oned's shell library does.

    Raises BadRequest when there is no host, no absolute path, a `..` or a control character.
    """
    host, colon, path = argument.partition(":")
    path = re.sub("/+", "/", path).rstrip("/")
    clean = path.isprintable() and ".." not in path.split("/")
    if not (colon and re.match(_HOST, host) and path.startswith("/") and clean):
        raise BadRequest(f"{argument!r} is not of the form HOST:/PATH")
    return Place(host, path)


def disk_place(argument: str) -> Optional[DiskPlace]:
    """Return the disk that HOST:PATH names, or None when it names something else.

    Only a last component `disk.N` is a disk: host names contain dots, and KERNEL and INITRD
    files are cloned to .../kernel. Raises BadRequest when the argument is not HOST:PATH.
    """
    spot = place(argument)
    match = re.match(_DISK_PATH, spot.path)
    if not match:
        return None
    directory = spot.path.rpartition("/")[0]
    return DiskPlace(spot.host, spot.path, directory, int(match["ds"]), int(match["vm"]), int(match["disk"]))


class VmDirectory(NamedTuple):
    """A VM's directory on a host: HOST:.../datastores/DS/VM."""

    host: str
    path: str
    datastore_id: int
    vm_id: int


def vm_directory(argument: str) -> VmDirectory:
    """Return the VM directory that HOST:PATH names. Raises BadRequest when it names none."""
    spot = place(argument)
    match = re.match(_VM_DIR, spot.path)
    if not match:
        raise BadRequest(f"{argument!r} is not a VM directory HOST:/.../DATASTORE/VM")
    return VmDirectory(spot.host, spot.path, int(match["ds"]), int(match["vm"]))


def disk_in(directory: VmDirectory, disk_id: int) -> DiskPlace:
    """Return where a disk is in its VM's directory."""
    host, path, datastore_id, vm_id = directory
    return DiskPlace(host, f"{path}/disk.{disk_id}", path, datastore_id, vm_id, disk_id)


def lost_place(place: DiskPlace) -> str:
    """Return one word of LOST_HOSTS."""
    return f"{place.host}:{place.datastore_id}/{place.vm_id}/{place.disk_id}"


def lost_places(mark: str, root: str) -> list[DiskPlace]:
    """Return the places that a value of LOST_HOSTS tells of, without words that this driver did not write.

    Arguments: root, the directory of all system datastores on hosts.
    """
    found = [match for match in (re.match(_LOST, word) for word in mark.split()) if match]
    directories = [
        VmDirectory(match["host"], f"{root}/{match['ds']}/{match['vm']}", int(match["ds"]), int(match["vm"]))
        for match in found
    ]
    return [disk_in(directory, int(match["disk"])) for directory, match in zip(directories, found)]
