"""Small OpenNebula documents for tests, with the elements a release would send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Optional, Union
from xml.sax.saxutils import escape

from lab.oned.release import Release, release

Values = Mapping[str, Union[str, int]]


def element(tag: str, content: str = "", **attributes: Union[str, int]) -> str:
    """Return <tag>content<NAME>value</NAME>...</tag>; `content` is XML, values are text and get quoted."""
    return f"<{tag}>{content}{_values(**attributes)}</{tag}>"


def _values(**attributes: Union[str, int]) -> str:
    return "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in attributes.items())


def datastore(
    number: int, kind: int = 0, *, tm_mad: str = "linstor_un", ds_mad: str = "linstor_un",
    **template: Union[str, int],
) -> str:
    """A datastore; `kind` is TYPE: 0 images, 1 system, 2 files, 3 backups. `template` is what is under TEMPLATE."""
    head = _values(
        ID=number, UID=0, GID=0, UNAME="oneadmin", GNAME="oneadmin", NAME=f"ds{number}",
        DS_MAD="-" if kind == 1 else ds_mad, TM_MAD=tm_mad, BASE_PATH=f"/var/lib/one//datastores/{number}",
        TYPE=kind, DISK_TYPE=0 if kind == 1 else 2, STATE=0, TOTAL_MB=0, FREE_MB=0, USED_MB=0,
    )
    clusters = "<CLUSTERS><ID>0</ID></CLUSTERS><IMAGES></IMAGES>"
    return element("DATASTORE", head + clusters + element("TEMPLATE", TM_MAD=tm_mad, **template))


def image(
    version: Union[str, Release], number: int, *, path: str = "", source: str = "", size: int = 64, kind: int = 0,
    format: str = "", fs: str = "", template: Optional[Values] = None, target: int = -1,
    snapshots: Sequence[int] = (), **more: Union[str, int],
) -> str:
    """An image of `size` MiB; up to 5.12 `fs` (or "save_as" as format) is sent as FSTYPE, later as FORMAT and FS.

    Arguments: target, the snapshot that an action is about; snapshots, the numbers of all that oned knows.
    """
    wanted = version if isinstance(version, Release) else release(version)
    shape: Values = {"FORMAT": format, "FS": fs} if wanted.has_image_format else {"FSTYPE": fs or format}
    head = _values(
        ID=number, UID=0, GID=0, UNAME="oneadmin", GNAME="oneadmin", NAME=f"image{number}", TYPE=kind,
        DISK_TYPE=2, PERSISTENT=0, SOURCE=source, PATH=path, **shape, SIZE=size, STATE=4, TARGET_SNAPSHOT=target,
        **more,
    )
    listed = _snapshots([Snapshot(number, size=size) for number in snapshots])
    return element("IMAGE", head + element("TEMPLATE", **(template or {})) + listed)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of a disk or image as oned lists it, from the moment on when it orders it (`date`, seconds)."""

    number: int
    disk: int = 0
    date: int = 1795327207
    size: int = 64


def _snapshots(listed: Sequence[Snapshot], **head: int) -> str:
    every = "".join(
        element("SNAPSHOT", ID=one.number, DATE=one.date, NAME=f"s{one.number}", PARENT=-1, SIZE=one.size)
        for one in listed
    )
    following = max((one.number for one in listed), default=-1) + 1
    return element("SNAPSHOTS", every, ALLOW_ORPHANS="YES", CURRENT_BASE=-1, **head, NEXT_SNAPSHOT=following)


@dataclass(frozen=True)
class DiskDocument:
    """A DISK of a VM of `size` MiB. Without `image` it is a volatile one, then `kind` is fs or swap."""

    number: int
    size: int = 64
    image: Optional[int] = None
    source: str = ""
    clone: bool = True
    kind: str = "BLOCK"
    datastore: int = 100
    tm_mad: str = "linstor_un"
    more: Values = field(default_factory=dict)

    def xml(self) -> str:
        """Return the DISK element; a persistent image has CLONE=NO, SAVE=YES."""
        values: dict[str, Union[str, int]] = {
            "DISK_ID": self.number, "SIZE": self.size, "TM_MAD": self.tm_mad, "TYPE": self.kind,
            "DATASTORE_ID": self.datastore, "TARGET": f"sd{chr(97 + self.number)}",
        }
        if self.image is not None:
            values.update(
                IMAGE_ID=self.image, SOURCE=self.source or f"/dev/drbd/by-res/one-image-{self.image}/0",
                CLONE="YES" if self.clone else "NO", SAVE="NO" if self.clone else "YES", ORIGINAL_SIZE=self.size,
            )
        return element("DISK", **{**values, **self.more})


def vm(
    number: int, disks: Sequence[DiskDocument] = (), *, hosts: Sequence[str] = ("node1",), datastore: int = 101,
    state: int = 3, lcm_state: int = 1, context: int = -1, tm_mad: str = "linstor_un",
    records: Sequence[tuple[str, int]] = (), actions: Sequence[int] = (), snapshots: Sequence[Snapshot] = (),
    backup: Optional[Values] = None, **more: Values,
) -> str:
    """A VM on the last of `hosts` in system datastore `datastore`; `context` is the disk id of its context.

    Arguments: records, in place of hosts and datastore: where it was, each a host and a system datastore; actions, what
    was ordered last of each record, nothing of those that follow; snapshots, of its disks; backup, its BACKUP_CONFIG;
    more, sections of its template.
    """
    head = _values(
        ID=number, UID=0, GID=0, UNAME="oneadmin", GNAME="oneadmin", NAME=f"vm{number}", LAST_POLL=0,
        STATE=state, LCM_STATE=lcm_state, PREV_STATE=state, PREV_LCM_STATE=lcm_state, RESCHED=0, STIME=0, ETIME=0,
        DEPLOY_ID=f"one-{number}",
    )
    template = "".join(disk.xml() for disk in disks)
    if context >= 0:
        template += element("CONTEXT", DISK_ID=context, NETWORK="NO")
    places = records or [(host, datastore) for host in hosts]
    history = "".join(
        element("HISTORY", OID=number, SEQ=sequence, HOSTNAME=host, HID=sequence, CID=0, STIME=0, ETIME=0,
                VM_MAD="kvm", TM_MAD=tm_mad, DS_ID=system, ACTION=action)
        for sequence, ((host, system), action) in enumerate(zip(places, chain(actions, repeat(0))))
    )
    template += "".join(element(name, **values) for name, values in more.items())
    template = element("TEMPLATE", template, MEMORY=128, CPU="0.1", TM_MAD_SYSTEM=tm_mad, VMID=number)
    body = head + "<MONITORING></MONITORING>" + template + "<USER_TEMPLATE></USER_TEMPLATE>"
    numbers = sorted({one.disk for one in snapshots})
    listed = "".join(_snapshots([one for one in snapshots if one.disk == disk], DISK_ID=disk) for disk in numbers)
    backups = element("BACKUPS", element("BACKUP_CONFIG", **backup) + "<BACKUP_IDS/>") if backup is not None else ""
    return element("VM", body + element("HISTORY_RECORDS", history) + listed + backups)


def vmm_action(number: int, store: str, **template: Union[str, int, Values]) -> str:
    """What `save` and `restore` get: a VM with these attributes in its template, and its system datastore."""
    inside = "".join(
        element(name, **value) if isinstance(value, Mapping) else _values(**{name: value})
        for name, value in {"MEMORY": 128, **template}.items()
    )
    body = _values(ID=number, NAME=f"vm{number}", DEPLOY_ID=f"one-{number}") + element("TEMPLATE", inside)
    return element("VMM_DRIVER_ACTION_DATA", element("VM", body) + store)


def host(number: int, name: str, state: int = 2) -> str:
    """A KVM host; STATE 2 is monitored (on), 3 error, 4 disabled, 8 offline."""
    return element(
        "HOST", ID=number, NAME=name, STATE=state, PREV_STATE=state, IM_MAD="kvm", VM_MAD="kvm", CLUSTER_ID=0,
        CLUSTER="default",
    )
