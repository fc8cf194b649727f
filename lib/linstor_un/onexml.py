"""OpenNebula's XML as frozen values.

Documents come from oned, but most of their text comes from users: no entity is ever resolved,
nothing is fetched, and a document type declaration is refused, because oned writes none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Optional

from lxml import etree

from .errors import BadRequest
from .units import Kib, Mib

SAVE_AS = "save_as"
_NUMBER = r"-?[0-9]{1,18}\Z"
_VIDEO = r"[0-9]{1,9}\Z"
# 16 PiB in MiB: far beyond LINSTOR's largest volume, far below what overflows its KiB counters.
LARGEST_SIZE = 1 << 34
# IMAGE/STATE, the same in all releases.
_DELETE = 7
# FSTYPE of 5.12 holds either of two things that later releases keep apart.
_FORMATS_IN_FSTYPE = frozenset({"", "raw", "qcow2", SAVE_AS})


class Datastore(NamedTuple):
    """A datastore. `kind` is TYPE: 0 image, 1 system, 2 file, 3 backup."""

    id: int
    name: str
    kind: int
    ds_mad: str
    tm_mad: str
    base_path: str
    template: Mapping[str, str]


class Image(NamedTuple):
    """An image. Absent elements are empty strings; id is None in `stat`, which has none.

    `registered` is REGTIME, seconds: an id that is used again after a lost database has another.
    `format` and `filesystem` are FORMAT and FS (oned >= 6.0), or both told from FSTYPE (<= 5.12).
    """

    id: Optional[int]
    registered: str
    kind: str
    path: str
    source: str
    size: Optional[Mib]
    format: str
    filesystem: str
    persistent: bool
    md5: str
    sha1: str
    cloning_id: Optional[int]
    target_snapshot: Optional[int]
    snapshots: tuple[int, ...]
    state: Optional[int] = None
    datastore_id: Optional[int] = None

    @property
    def deleting(self) -> bool:
        """oned removes it, or is about to."""
        return self.state == _DELETE


class Disk(NamedTuple):
    """A VM's disk. `clone` is None for volatile disks, which have no CLONE."""

    id: int
    source: str
    image_id: Optional[int]
    clone: Optional[bool]
    persistent: bool
    size: Optional[Mib]
    original_size: Optional[Mib]
    kind: str
    format: str
    filesystem: str
    tm_mad: str
    datastore_id: Optional[int]
    read_only: bool


class History(NamedTuple):
    """One record of where a VM is or was; `action` is the number of what a user ordered of it last."""

    host: str
    datastore_id: int
    tm_mad: str
    action: str


class DiskSnapshot(NamedTuple):
    """A snapshot of a VM's disk, from the moment on when oned orders it: `date` is that moment, in seconds.

    `size` is DISK/SIZE of then.
    """

    disk_id: int
    id: int
    date: str
    size: Optional[Mib]


class Vm(NamedTuple):
    """A VM. `history` is oldest first."""

    id: int
    state: int
    lcm_state: int
    deploy_id: str
    disks: tuple[Disk, ...]
    history: tuple[History, ...]
    snapshots: tuple[DiskSnapshot, ...]

    def disk(self, disk_id: int) -> Optional[Disk]:
        """Return the disk of this id, or None."""
        return next((disk for disk in self.disks if disk.id == disk_id), None)

    def snapshot(self, disk_id: int, snapshot_id: int) -> Optional[DiskSnapshot]:
        """Return the snapshot of a disk, or None."""
        return next((one for one in self.snapshots if (one.disk_id, one.id) == (disk_id, snapshot_id)), None)


class BackupOrder(NamedTuple):
    """How a VM is to be backed up (oned >= 6.6). Absent elements are empty strings.

    `chain` is whether later backups are to hold changes only, and `since` the one that this one is to be of changes
    since, None for a whole one. `freeze` is FS_FREEZE; `bridge` is LAST_BRIDGE (>= 7.0.2), the host where the backup
    datastore looks for files instead of the VM's; `interactive` (>= 7.4) is whether another program is to read the
    disks itself; `tpm` whether the VM has a virtual TPM.
    """

    chain: bool
    since: Optional[int]
    freeze: str
    bridge: str
    interactive: bool
    tpm: bool


class Host(NamedTuple):
    """A host of the host pool. CPU in hundredths of a core: what VMs were promised, and what there is."""

    name: str
    state: int
    cpu_allocated: int
    cpu_total: int


class DriverAction(NamedTuple):
    """DS_DRIVER_ACTION_DATA. `image` is None for `monitor`.

    `location` and `vm_disks` are DATASTORE_LOCATION and MONITOR_VM_DISKS, which oned (>= 5.10) adds when
    it asks for a system datastore.
    """

    image: Optional[Image]
    datastore: Datastore
    location: str
    vm_disks: bool


class VmmAction(NamedTuple):
    """VMM_DRIVER_ACTION_DATA. `datastore` is the system datastore that the VM is in, of whatever driver.

    `memory` is the most that oned lets the VM have: MEMORY, or MEMORY_MAX (oned >= 6.2) where that is more.
    `video` is the memory that its graphics card was given, if oned gave it one.
    """

    vm_id: int
    memory: Mib
    video: Kib
    datastore: Datastore


def parse_vmm_action(document: bytes) -> VmmAction:
    """Read what oned hands to `save` and `restore`. Raises BadRequest naming the element that is wrong."""
    root = _root(document, "VMM_DRIVER_ACTION_DATA")
    vm, datastore = root.find("VM"), root.find("DATASTORE")
    if vm is None or datastore is None:
        raise BadRequest("the request has no VM or no DATASTORE element; oned sends both to save and restore")
    memory = [_size(vm, path) or Mib(0) for path in ("TEMPLATE/MEMORY", "TEMPLATE/MEMORY_MAX")]
    # A user's word, which oned leaves alone when it is no number.
    video = _text(vm, "TEMPLATE/VIDEO/VRAM")
    return VmmAction(
        _required(vm, "ID"), max(memory), Kib(int(video) if re.match(_VIDEO, video) else 0), _datastore(datastore)
    )


def parse_driver_action(document: bytes) -> DriverAction:
    """Read what oned hands to a datastore script. Raises BadRequest naming the element that is wrong."""
    root = _root(document, "DS_DRIVER_ACTION_DATA")
    image, datastore = root.find("IMAGE"), root.find("DATASTORE")
    if datastore is None:
        raise BadRequest("the request has no DATASTORE element; oned sends one with every datastore action")
    return DriverAction(
        None if image is None else _image(image),
        _datastore(datastore),
        _text(root, "DATASTORE_LOCATION"),
        _text(root, "MONITOR_VM_DISKS") not in ("", "0"),
    )


def parse_datastore(document: bytes) -> Datastore:
    """Read the answer to one.datastore.info. Raises BadRequest naming the element that is wrong."""
    return _datastore(_root(document, "DATASTORE"))


def parse_image(document: bytes) -> Image:
    """Read the answer to one.image.info. Raises BadRequest naming the element that is wrong."""
    return _image(_root(document, "IMAGE"))


def parse_vm(document: bytes) -> Vm:
    """Read the answer to one.vm.info. Raises BadRequest naming the element that is wrong."""
    return _vm(_root(document, "VM"))


def parse_backup(document: bytes) -> tuple[Vm, BackupOrder]:
    """Read what oned hands to `prebackup` and `postbackup`. Raises BadRequest naming the element that is wrong."""
    root = _root(document, "VM")
    config = root.find("BACKUPS/BACKUP_CONFIG")
    chain = config is not None and _text(config, "MODE").upper() == "INCREMENT"
    order = BackupOrder(
        chain,
        _natural(root, "BACKUPS/BACKUP_CONFIG/LAST_INCREMENT_ID") if chain else None,
        _text(root, "BACKUPS/BACKUP_CONFIG/FS_FREEZE").upper(),
        _text(root, "BACKUPS/BACKUP_CONFIG/LAST_BRIDGE"),
        _text(root, "BACKUPS/BACKUP_CONFIG/INTERACTIVE").upper() == "YES",
        bool(_text(root, "TEMPLATE/TPM/MODEL")),
    )
    return _vm(root), order


def _vm(root: etree._Element) -> Vm:
    return Vm(
        _required(root, "ID"),
        _required(root, "STATE"),
        _required(root, "LCM_STATE"),
        _text(root, "DEPLOY_ID"),
        tuple(_disk(disk) for disk in root.iterfind("TEMPLATE/DISK")),
        tuple(
            History(
                _text(record, "HOSTNAME"),
                _required(record, "DS_ID"),
                _text(record, "TM_MAD"),
                _text(record, "ACTION"),
            )
            for record in root.iterfind("HISTORY_RECORDS/HISTORY")
        ),
        tuple(_snapshots(root)),
    )


def parse_hosts(document: bytes) -> tuple[Host, ...]:
    """Read the answer to one.hostpool.info. Raises BadRequest naming the element that is wrong."""
    return tuple(
        Host(
            _text(host, "NAME"),
            _required(host, "STATE"),
            _number(host, "HOST_SHARE/CPU_USAGE") or 0,
            _number(host, "HOST_SHARE/MAX_CPU") or 0,
        )
        for host in _root(document, "HOST_POOL").iterfind("HOST")
    )


def _root(document: bytes, name: str) -> etree._Element:
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(document, parser)
    except (etree.XMLSyntaxError, ValueError, LookupError) as error:
        raise BadRequest(f"oned's document is not usable XML: {error}")
    if root.getroottree().docinfo.internalDTD is not None:
        raise BadRequest("oned's document has a DOCTYPE, which oned never writes; it is refused")
    if root.tag != name:
        raise BadRequest(f"oned's document is {str(root.tag)[:100]!r} where {name} was expected")
    return root


def _datastore(element: etree._Element) -> Datastore:
    return Datastore(
        _required(element, "ID"),
        _text(element, "NAME"),
        _number(element, "TYPE") or 0,
        _text(element, "DS_MAD"),
        _text(element, "TM_MAD"),
        _text(element, "BASE_PATH"),
        _attributes(element.find("TEMPLATE")),
    )


def _image(element: etree._Element) -> Image:
    format, filesystem = _format(element)
    return Image(
        id=_natural(element, "ID"),
        registered=_text(element, "REGTIME"),
        kind=_text(element, "TYPE"),
        path=_text(element, "PATH"),
        source=_text(element, "SOURCE"),
        size=_size(element, "SIZE"),
        format=format,
        filesystem=filesystem,
        persistent=_text(element, "PERSISTENT") in ("1", "YES"),
        md5=_text(element, "TEMPLATE/MD5"),
        sha1=_text(element, "TEMPLATE/SHA1"),
        cloning_id=_natural(element, "CLONING_ID"),
        target_snapshot=_natural(element, "TARGET_SNAPSHOT"),
        snapshots=tuple(_required(snapshot, "ID") for snapshot in element.iterfind("SNAPSHOTS/SNAPSHOT")),
        state=_natural(element, "STATE"),
        datastore_id=_natural(element, "DATASTORE_ID"),
    )


def _format(element: etree._Element) -> tuple[str, str]:
    fstype = _text(element, "FSTYPE")
    if element.find("FORMAT") is not None or not fstype:
        return _text(element, "FORMAT"), _text(element, "FS")
    return (fstype, "") if fstype in _FORMATS_IN_FSTYPE else ("raw", fstype)


def _disk(element: etree._Element) -> Disk:
    clone = _text(element, "CLONE")
    return Disk(
        id=_required(element, "DISK_ID"),
        source=_text(element, "SOURCE"),
        image_id=_natural(element, "IMAGE_ID"),
        clone=None if not clone else clone.upper() == "YES",
        persistent="YES" in (_text(element, "PERSISTENT").upper(), _text(element, "SAVE").upper()),
        size=_size(element, "SIZE"),
        original_size=_size(element, "ORIGINAL_SIZE"),
        kind=_text(element, "TYPE"),
        format=_text(element, "FORMAT"),
        filesystem=_text(element, "FS"),
        tm_mad=_text(element, "TM_MAD"),
        datastore_id=_natural(element, "DATASTORE_ID"),
        read_only=_text(element, "READONLY").upper() == "YES",
    )


def _snapshots(vm: etree._Element) -> Iterator[DiskSnapshot]:
    for disk in vm.iterfind("SNAPSHOTS"):
        for one in disk.iterfind("SNAPSHOT"):
            yield DiskSnapshot(_required(disk, "DISK_ID"), _required(one, "ID"), _text(one, "DATE"), _size(one, "SIZE"))


def _attributes(template: Optional[etree._Element]) -> dict[str, str]:
    """Single attributes of a template; one that is given several times has all values, as xpath.rb's %m% joins them."""
    values: dict[str, str] = {}
    for element in template if template is not None else ():
        if len(element) == 0:
            name = str(element.tag)
            values[name] = " ".join(filter(None, (values.get(name, ""), (element.text or "").strip())))
    return values


def _text(element: etree._Element, path: str) -> str:
    return str(element.findtext(path, default="")).strip()


def _number(element: etree._Element, path: str) -> Optional[int]:
    text = _text(element, path)
    if not text:
        return None
    if not re.match(_NUMBER, text):
        raise BadRequest(f"{element.tag}/{path} is {text[:100]!r}, which is not a whole number")
    return int(text)


def _natural(element: etree._Element, path: str) -> Optional[int]:
    """A number that oned gives as -1 where there is none."""
    number = _number(element, path)
    return None if number is None or number < 0 else number


def _required(element: etree._Element, path: str) -> int:
    number = _number(element, path)
    if number is None or number < 0:
        raise BadRequest(f"{element.tag}/{path} is missing or negative; oned always gives it")
    return number


def _size(element: etree._Element, path: str) -> Optional[Mib]:
    number = _natural(element, path)
    if number is not None and number > LARGEST_SIZE:
        raise BadRequest(f"{element.tag}/{path} is {number} MiB; the largest size is {LARGEST_SIZE} MiB")
    return None if number is None else Mib(number)
