"""What tests of snapshots do: a disk with bytes of its VM, orders of oned, and what a snapshot holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab.controller.cluster import Snapshot
from lab.controller.volumes import Content
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import Site
from site_support import datablock, done, marks

VM = 7
DISK, IMAGE = "one-vm-7-disk-0", "one-image-5"
HOST = "node3"
CLONED = D.DiskDocument(0, size=8, image=5)
PERSISTENT = D.DiskDocument(0, size=8, image=5, clone=False, more={"PERSISTENT": "YES"})


def make_vm(site: Site, disk: D.DiskDocument = CLONED, host: str = HOST) -> str:
    """Give VM 7 a disk on a host; returns the definition behind it."""
    datablock(site)
    know(site, disk, host=host)
    action = "clone" if disk.clone else "ln"
    done(site.oned.tm(action, site.source_word(5), site.disk_word(host, VM, disk.number), VM, 100))
    return DISK if disk.clone else IMAGE


def know(
    site: Site, disk: D.DiskDocument = CLONED, *ordered: D.Snapshot, host: str = HOST, lcm_state: int = 51
) -> None:
    """Let oned know VM 7 with these snapshots."""
    site.documents.put(D.vm(VM, [disk], hosts=[host], lcm_state=lcm_state, snapshots=ordered))


def order(
    site: Site, number: int, disk: D.DiskDocument = CLONED, *, date: int = 1000, live: bool = False, host: str = HOST,
    known: Sequence[D.Snapshot] = (),
) -> Outcome:
    """Let oned order snapshot `number`, as it does: the VM's document has it, with its time, before the call."""
    know(site, disk, *known, D.Snapshot(number, date=date, size=disk.size), host=host, lcm_state=57 if live else 51)
    action = "snap_create_live" if live else "snap_create"
    return site.oned.tm(action, site.disk_word(host, VM, disk.number), number, VM, 100)


def delete(site: Site, number: int, host: str = HOST) -> Outcome:
    return site.oned.tm("snap_delete", site.disk_word(host, VM, 0), number, VM, 100)


def revert(site: Site, number: int, host: str = HOST) -> Outcome:
    return site.oned.tm("snap_revert", site.disk_word(host, VM, 0), number, VM, 100)


def write(site: Site, name: str, text: str, host: str = HOST, at: int = 0) -> None:
    """Let the VM write a few bytes to its disk."""
    script = 'printf %s "$2" | dd of="$1" bs=1 seek="$3" conv=notrunc,fsync status=none'
    site.hosts.run(host, ["sh", "-c", script, "sh", device_path(name), text, str(at)])


def device_path(name: str) -> str:
    return f"/dev/drbd/by-res/{name}/0"


def begins(site: Site, name: str, length: int) -> str:
    """The first bytes of a volume as text."""
    return site.read(name, length).decode()


def names(site: Site, name: str) -> list[str]:
    """The snapshots of a definition."""
    found = site.definition(name)
    assert found
    return sorted(snapshot.name for snapshot in found.snapshots.values())


def snapshot(site: Site, name: str, snapshot: str) -> Snapshot:
    found = site.definition(name)
    assert found
    return found.snapshots[snapshot.upper()]


@contextmanager
def looked_at(site: Site, name: str, snapshot: str) -> Iterator[Path]:
    """Restore a snapshot for a look at its bytes."""
    address = f"/v1/resource-definitions/{name}"
    site.rest("POST", "/v1/resource-definitions", {"resource_definition": {"name": "looked-at"}})
    for step in ("volume-definition", "resource"):
        site.rest("POST", f"{address}/snapshot-restore-{step}/{snapshot}", {"to_resource": "looked-at"})
    try:
        yield site.volumes.settled(Content("looked-at", 0))
    finally:
        site.rest("DELETE", "/v1/resource-definitions/looked-at")


def held(site: Site, name: str, snapshot: str, length: int) -> str:
    """The first bytes that a snapshot holds."""
    with looked_at(site, name, snapshot) as file:
        return file.read_bytes()[:length].decode()


def snapshot_marks(site: Site, name: str) -> dict[str, str]:
    """The marks about snapshots, without the number's prefix: "0/DISK_SIZE"."""
    prefix = "SNAPSHOT_"
    return {key[len(prefix) :]: value for key, value in marks(site, name).items() if key.startswith(prefix)}


def by_somebody_else(site: Site, name: str, snapshot: str) -> None:
    """Take a snapshot that is not the driver's doing."""
    site.rest("POST", f"/v1/resource-definitions/{name}/snapshots", {"name": snapshot})
