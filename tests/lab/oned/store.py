"""The documents oned would answer with: XML by kind and id, and the pools made of them."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Optional

from lxml import etree

KINDS = {"VM": "virtual machine", "DATASTORE": "datastore", "HOST": "host", "IMAGE": "image", "USER": "user"}

_SHORT_VM = {
    "ID", "UID", "GID", "UNAME", "GNAME", "NAME", "LAST_POLL", "STATE", "LCM_STATE", "RESCHED", "STIME", "ETIME",
    "DEPLOY_ID", "LOCK", "TEMPLATE", "MONITORING", "USER_TEMPLATE", "HISTORY_RECORDS",
}
_SHORT_TEMPLATE = {"CPU", "MEMORY", "VCPU", "DISK", "NIC", "GRAPHICS"}
_SHORT_DISK = {
    "DISK_ID", "DATASTORE", "DATASTORE_ID", "IMAGE", "IMAGE_ID", "SIZE", "TYPE", "CLONE", "CLONE_TARGET", "LN_TARGET",
    "DISK_SNAPSHOT_TOTAL_SIZE",
}
_SHORT_HISTORY = {"OID", "SEQ", "HOSTNAME", "HID", "CID", "DS_ID", "VM_MAD", "TM_MAD", "ACTION"}


class Documents:
    """Thread-safe store of one XML document an object; tests and the replay fill it before each call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._documents: dict[str, dict[int, str]] = {kind: {} for kind in KINDS}

    def put(self, *documents: str) -> None:
        """Add or replace objects; the root element (VM, DATASTORE, HOST, IMAGE, USER) tells the kind."""
        for document in documents:
            root = _parse(document)
            with self._lock:
                self._documents[root.tag][int(root.findtext("ID", ""))] = document

    def put_pool(self, pool: str) -> None:
        """Add or replace every object of a pool document such as `onedatastore list -x` prints."""
        self.put(*(etree.tostring(child, encoding="unicode") for child in _parse(pool)))

    def remove(self, kind: str, number: int) -> None:
        """Forget an object; unknown ids are no error."""
        with self._lock:
            self._documents[kind].pop(number, None)

    def clear(self) -> None:
        """Forget all documents."""
        with self._lock:
            for documents in self._documents.values():
                documents.clear()

    def get(self, kind: str, number: int) -> Optional[str]:
        """Return the document as it was put, None when there is no such object."""
        with self._lock:
            return self._documents[kind].get(number)

    def all(self, kind: str) -> list[tuple[int, str]]:
        """Return (id, document) of a kind, the newest id first, as oned lists them by default."""
        with self._lock:
            return sorted(self._documents[kind].items(), reverse=True)


def pool(kind: str, documents: Iterable[str]) -> str:
    """Join documents into the pool document of their kind."""
    return f"<{kind}_POOL>{''.join(documents)}</{kind}_POOL>"


def short_vm(document: str) -> str:
    """Return what one.vmpool.info tells of a VM: no disk sources, no snapshots, only the last history record."""
    vm = _parse(document)
    _keep(vm, _SHORT_VM)
    template = vm.find("TEMPLATE")
    if template is not None:
        _keep(template, _SHORT_TEMPLATE)
        for disk in template.findall("DISK"):
            _keep(disk, _SHORT_DISK)
    records = vm.find("HISTORY_RECORDS")
    if records is not None:
        for record in records[:-1]:
            records.remove(record)
        for record in records:
            _keep(record, _SHORT_HISTORY)
    return etree.tostring(vm, encoding="unicode")


def _keep(element: etree._Element, names: set[str]) -> None:
    for child in list(element):
        if child.tag not in names:
            element.remove(child)


def _parse(document: str) -> etree._Element:
    return etree.fromstring(document.encode())
