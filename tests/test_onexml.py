"""OpenNebula's documents as values, and what is refused in them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lab.oned import documents
from lab.oned.recordings import recordings
from linstor_un import onexml
from linstor_un.errors import BadRequest

RECORDINGS = Path(__file__).parent / "data" / "driver-calls"


def test_every_recorded_vm_of_every_release_is_read() -> None:
    seen: dict[str, set[object]] = {"clone": set(), "kind": set(), "version": set()}
    for recording in recordings(RECORDINGS):
        for text in recording.vm_documents.values():
            vm = onexml.parse_vm(text.encode())
            assert len(vm.disks) == len(re.findall("<DISK>", text))
            assert len(vm.history) == len(re.findall("<HISTORY>", text))
            seen["version"].add(recording.version)
            seen["clone"].update(disk.clone for disk in vm.disks)
            seen["kind"].update(disk.kind for disk in vm.disks)
    assert seen["clone"] == {True, False, None}
    assert {"BLOCK", "CDROM", "fs", "swap"} <= seen["kind"]
    assert {str(version)[:4] for version in seen["version"]} == {"5.12", "6.6.", "6.10", "7.4."}


def test_every_recorded_pool_is_read() -> None:
    pools = {pool for recording in recordings(RECORDINGS) for pool in recording.pools}
    for pool in pools:
        if "<HOST_POOL>" in pool:
            assert {host.name for host in onexml.parse_hosts(pool.encode())} == {"node1", "node2", "node3"}
        for text in re.findall(r"<DATASTORE><ID>.*?</TEMPLATE></DATASTORE>", pool, re.DOTALL):
            assert onexml.parse_datastore(text.encode()).id >= 0


def test_absent_and_empty_are_the_same() -> None:
    absent = onexml.parse_datastore(b"<DATASTORE><ID>1</ID></DATASTORE>")
    empty = onexml.parse_datastore(b"<DATASTORE><ID>1</ID><NAME/><TM_MAD></TM_MAD><TEMPLATE/></DATASTORE>")
    assert absent == empty
    assert absent.tm_mad == ""


def test_an_attribute_given_twice_has_both_values() -> None:
    text = documents.datastore(1, SAFE_DIRS="/a").replace("</SAFE_DIRS>", "</SAFE_DIRS><SAFE_DIRS>/b</SAFE_DIRS>")
    assert onexml.parse_datastore(text.encode()).template["SAFE_DIRS"] == "/a /b"


def test_a_vm_tells_persistent_cloned_and_volatile_disks_apart() -> None:
    disks = [
        documents.DiskDocument(0, image=5),
        documents.DiskDocument(1, image=6, clone=False),
        documents.DiskDocument(2, kind="fs"),
    ]
    vm = onexml.parse_vm(documents.vm(7, disks, hosts=("node1", "node2")).encode())
    assert [(disk.clone, disk.persistent, disk.image_id) for disk in vm.disks] == [
        (True, False, 5),
        (False, True, 6),
        (None, False, None),
    ]
    assert [record.host for record in vm.history] == ["node1", "node2"]
    assert vm.disk(1) is vm.disks[1] and vm.disk(9) is None


_BOMB = b'<!DOCTYPE VM [<!ENTITY a "aaaaaaaaaa">' + b"".join(
    b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9)
) + b"]><VM><ID>&j;</ID></VM>"


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (b"", "not usable XML"),
        (b"\0", "not usable XML"),
        (b"<VM>\xff</VM>", "not usable XML"),
        (b"<VM><ID>&b;</ID></VM>", "not usable XML"),
        (b'<?xml version="1.0" encoding="utf-99"?><VM/>', "not usable XML"),
        (_BOMB, "oned's document"),
        (b'<!DOCTYPE VM SYSTEM "file:///etc/passwd"><VM/>', "DOCTYPE"),
        (b'<!DOCTYPE VM [<!ENTITY a SYSTEM "file:///etc/passwd">]><VM><ID>&a;</ID></VM>', "DOCTYPE"),
        (b"<IMAGE/>", "'IMAGE' where VM was expected"),
        (b"<VM/>", "VM/ID is missing"),
        (b"<VM><ID>-3</ID></VM>", "VM/ID is missing or negative"),
        (b"<VM><ID>0x10</ID></VM>", "VM/ID is '0x10', which is not a whole number"),
        ("<VM><ID>\u0663</ID></VM>".encode(), "which is not a whole number"),
        (b"<VM><ID>" + b"9" * 40 + b"</ID></VM>", "which is not a whole number"),
        (b"<VM>" * 5000, "not usable XML"),
    ],
)
def test_what_oned_never_writes_is_refused(document: bytes, sentence: str) -> None:
    with pytest.raises(BadRequest) as raised:
        onexml.parse_vm(document)
    assert sentence in str(raised.value)


def test_nothing_outside_of_the_document_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("7")
    document = f'<!DOCTYPE VM [<!ENTITY a SYSTEM "{secret}">]><VM><ID>&a;</ID></VM>'
    with pytest.raises(BadRequest):
        onexml.parse_vm(document.encode())
