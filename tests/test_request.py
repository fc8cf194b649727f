"""Every calling form of oned ends as the same request; what is no such form ends as one sentence."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from lab.oned import documents
from lab.oned.recordings import Call as Recorded
from lab.oned.recordings import recordings
from linstor_un.actions import ACTIONS
from linstor_un.calling import backups, datastore, disks, vms
from linstor_un.calling.forms import Call
from linstor_un.errors import BadRequest
from linstor_un.naming import DiskPlace
from linstor_un.request.vms import RestoreRequest, SaveRequest, StockRequest

RECORDINGS = Path(__file__).parent / "data" / "driver-calls"
CHECKPOINT = "/var/lib/one//datastores/101/7/checkpoint"
DISK = "node1:/var/lib/one//datastores/101/7/disk.0"
KERNEL = DISK.replace("disk.0", "kernel")
SOURCE = "/dev/drbd/by-res/one-image-5/0"


def call(*argv: str, stdin: bytes = b"") -> Call:
    return Call(argv, lambda: stdin)


def unread(*argv: str) -> Call:
    def never() -> bytes:
        raise AssertionError("standard input was read")

    return Call(argv, never)


def action(image: str = "", datastore: str = documents.datastore(100), more: str = "") -> bytes:
    text = f"<DS_DRIVER_ACTION_DATA>{image}{datastore}{more}</DS_DRIVER_ACTION_DATA>"
    return base64.b64encode(text.encode())


def image(**values: object) -> bytes:
    return action(documents.image("7.4", 5, **values))  # type: ignore[arg-type]


def _action(call: Recorded) -> str:
    return call.script.replace("linstor_un/", "").replace("kvm/", "").replace("/", ".")


def _recorded() -> list[Recorded]:
    found = [
        call
        for recording in recordings(RECORDINGS)
        for call in recording.calls
        if _action(call) in ACTIONS and "linstor_un" in call.script
    ]
    assert len(found) > 500
    return found


def test_every_recorded_call_of_every_release_is_understood() -> None:
    kernels = 0
    for recorded in _recorded():
        row = ACTIONS[_action(recorded)]
        try:
            request = row.read(Call(recorded.argv, lambda text=recorded.stdin: text.encode()))  # type: ignore[misc]
        except BadRequest as error:
            assert recorded.argv[1].endswith("/kernel"), f"{recorded.script} {recorded.argv}: {error}"
            kernels += 1
            continue
        assert request is not None
        if hasattr(request, "image_id") and hasattr(request, "datastore"):
            assert request.image_id == int(recorded.argv[-1])
            assert request.datastore.template["TM_MAD"] == "linstor_un"
    assert kernels <= 2


@pytest.mark.parametrize(
    ("argv", "stdin"),
    [
        (lambda xml: (xml.decode(), "5"), lambda _: b""),
        (lambda _: ("-", "5"), lambda xml: xml),
        (lambda _: ("5",), lambda xml: xml),
    ],
    ids=["argument", "dash", "stdin"],
)
def test_the_three_datastore_forms_give_the_same_request(argv, stdin) -> None:  # type: ignore[no-untyped-def]
    xml = image(path="/var/tmp/a.img", size=64)
    request = datastore.cp(call(*argv(xml), stdin=stdin(xml)))
    assert (request.image_id, request.image.path, request.image.size) == (5, "/var/tmp/a.img", 64)
    assert base64.b64decode(request.document) == base64.b64decode(xml)


def test_standard_input_is_read_only_by_the_forms_that_need_it() -> None:
    datastore.cp(unread(image(path="/a").decode(), "5"))
    disks.clone(unread(f"fe:{SOURCE}", DISK, "7", "100"))
    disks.delete(unread(DISK, "7", "100"))
    disks.context(unread("/var/lib/one/vms/7/context.sh", DISK, "7", "101"))


@pytest.mark.parametrize("broken", [lambda xml: xml.rstrip(b"="), lambda xml: b"\n".join([xml[:60], xml[60:], b""])])
def test_base64_is_read_as_ruby_reads_it(broken) -> None:  # type: ignore[no-untyped-def]
    assert datastore.cp(call("5", stdin=broken(image(path="/a")))).image_id == 5


@pytest.mark.parametrize("version", ["5.12", "6.6", "7.4"])
def test_save_as_is_seen_in_both_places(version: str) -> None:
    for format, expected in (("save_as", True), ("raw", False), ("", False)):
        xml = action(documents.image(version, 5, format=format, size=64))
        assert datastore.mkfs(call("5", stdin=xml)).save_as is expected


def document_of(vm_id: int = 7) -> bytes:
    return base64.b64encode(documents.vm(vm_id, [], hosts=["node1"]).encode()) + b"\n"


MIGRATION = ("node1", "node2", "/var/lib/one//datastores/101/7", "7", "101")


@pytest.mark.parametrize(
    ("more", "stdin", "caller"),
    [
        ((), document_of(), ""),
        (("ssh",), document_of(), "ssh"),
        ((document_of().decode(),), b"", ""),
        ((document_of().decode(), "shared"), b"", "shared"),
    ],
    ids=["5.10 and later", "called by ssh", "up to 5.8", "up to 5.8, called by shared"],
)
def test_a_live_migration_is_read_in_every_form(more: tuple[str, ...], stdin: bytes, caller: str) -> None:
    request = vms.migrate(call(*MIGRATION, *more, stdin=stdin))
    assert (request.source, request.target, request.caller, request.vm.id) == ("node1", "node2", caller, 7)
    assert (request.directory.host, request.directory.path) == ("node2", "/var/lib/one/datastores/101/7")


BACKUP = ("node1:/var/lib/one//datastores/101/7", "0:1")


def backed_up(vm_id: int = 7, **config: object) -> bytes:
    return documents.vm(vm_id, [], hosts=["node1"], backup={"MODE": "FULL", **config}).encode()  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "argv",
    [
        (BACKUP[0], "0:1:", "one-7", "7", "101"),
        (*BACKUP, "one-7", "-", "7", "101"),
        (*BACKUP, "one-7", "12", "7", "101"),
        (*BACKUP, "-", "7", "101"),
        (*BACKUP, "7", "101"),
    ],
    ids=["6.6", "6.8 and later", "of a backup job", "without a domain", "6.6 without a domain"],
)
def test_a_backup_is_read_in_every_form(argv: tuple[str, ...]) -> None:
    document = backed_up()
    request = backups.backup(call(*argv, stdin=document))
    assert (request.disk_ids, request.vm.deploy_id, request.document) == ((0, 1), "one-7", document)
    assert (request.directory.host, request.directory.path) == ("node1", "/var/lib/one/datastores/101/7")


@pytest.mark.parametrize(
    ("config", "chain", "since"),
    [
        ({}, False, None),
        ({"LAST_INCREMENT_ID": 3}, False, None),
        ({"MODE": "INCREMENT", "LAST_INCREMENT_ID": -1}, True, None),
        ({"MODE": "INCREMENT", "LAST_INCREMENT_ID": 0}, True, 0),
    ],
)
def test_what_a_backup_is_of_is_read_from_the_vms_document(
    config: dict[str, object], chain: bool, since: Optional[int]
) -> None:
    order = backups.backup(call(*BACKUP, "7", "101", stdin=backed_up(**config))).order
    assert (order.chain, order.since, order.bridge, order.interactive, order.tpm) == (chain, since, "", False, False)
    config |= {"LAST_BRIDGE": "node9", "FS_FREEZE": "agent", "INTERACTIVE": "yes"}
    order = backups.backup(call(*BACKUP, "7", "101", stdin=backed_up(**config))).order
    assert (order.bridge, order.freeze, order.interactive) == ("node9", "AGENT", True)


def test_a_backup_is_restored_as_a_whole_or_one_disk_of_it() -> None:
    whole = backups.restore(unread(BACKUP[0], "7", "53", "-1", "-1"))
    assert (whole.image_id, whole.increment, whole.disk_id) == (53, None, None)
    one = backups.restore(unread(BACKUP[0], "7", "53", "2", "0"))
    assert (one.directory.vm_id, one.increment, one.disk_id) == (7, 2, 0)


def vmm_action(vm_id: int = 7, tm_mad: str = "linstor_un", **template: Any) -> bytes:
    store = documents.datastore(101, 1, tm_mad=tm_mad)
    return base64.b64encode(documents.vmm_action(vm_id, store, **template).encode())


def test_saving_and_restoring_are_asked_for_with_the_words_in_another_order() -> None:
    document = vmm_action(MEMORY=128, MEMORY_MAX=512)
    saved = vms.save(call("one-7", CHECKPOINT, "node1", "7", "node1", stdin=document))
    restored = vms.restore(call(CHECKPOINT, "node2", "one-7", "7", "node2", stdin=document))
    assert isinstance(saved, SaveRequest) and isinstance(restored, RestoreRequest)
    assert (saved.deploy_id, saved.directory.host, saved.memory, saved.datastore.id) == ("one-7", "node1", 512, 101)
    assert (restored.deploy_id, restored.directory.host, restored.directory.vm_id) == ("one-7", "node2", 7)
    assert saved.file == restored.file == "/var/lib/one/datastores/101/7/checkpoint"


def test_what_a_user_says_of_a_graphics_card_is_only_used_when_it_is_a_number() -> None:
    for vram, video in (("65536", 65536), ("", 0), ("lots", 0), ("-1", 0)):
        document = vmm_action(MEMORY=128, VIDEO={"VRAM": vram})
        saved = vms.save(call("one-7", CHECKPOINT, "node1", "7", "node1", stdin=document))
        assert isinstance(saved, SaveRequest) and (saved.memory, saved.video) == (128, video)


@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: b"\n".join([text[:60], text[60:], b""])])
def test_a_vm_of_another_driver_is_for_the_stock_script(wrap) -> None:  # type: ignore[no-untyped-def]
    document = vmm_action(tm_mad="ceph")
    words = (CHECKPOINT, "node2", "a domain's name", "7", "node2")
    request = vms.restore(call(*words, stdin=wrap(document)))
    assert request == StockRequest("restore", "node2", words, base64.b64decode(document))


def test_a_move_is_of_a_disk_or_of_the_directory() -> None:
    there = DISK.replace("node1", "frontend").replace("/101/", "/102/")
    disk = disks.mv(call(DISK, there, "7", "100"))
    directory = disks.mv(call(DISK.rpartition("/")[0], there.rpartition("/")[0], "7", "102"))
    assert disk.source_disk and disk.target_disk and disk.target_disk.datastore_id == 102
    assert directory.source_disk is None and directory.target_disk is None
    assert (disk.source, disk.target) == (directory.source, directory.target)


def test_a_disk_is_saved_as_it_is_or_from_a_snapshot() -> None:
    assert disks.cpds(call(DISK, SOURCE, "-1", "7", "100")).snapshot_id is None
    assert disks.cpds(call(DISK, SOURCE, "0", "7", "100")).snapshot_id == 0


def test_a_file_system_of_5_12_is_told_from_a_format() -> None:
    old = datastore.mkfs(call("5", stdin=action(documents.image("5.12", 5, fs="ext4")))).image
    new = datastore.mkfs(call("5", stdin=action(documents.image("7.4", 5, format="raw", fs="ext4")))).image
    assert (old.format, old.filesystem) == (new.format, new.filesystem) == ("raw", "ext4")


def test_a_disk_is_told_by_its_path() -> None:
    request = disks.clone(call(f"fe:{SOURCE}", DISK, "7", "100"))
    path = "/var/lib/one/datastores/101/7/disk.0"
    assert request.target == DiskPlace("node1", path, path[: -len("/disk.0")], 101, 7, 0)
    assert (request.source, request.datastore_id) == ("one-image-5", 100)


def test_a_directory_is_deleted_only_when_a_directory_is_named() -> None:
    disk = disks.delete(call(DISK, "7", "100"))
    directory = disks.delete(call(DISK.rpartition("/")[0], "7", "101"))
    assert disk.disk is not None and directory.disk is None
    assert disk.directory == directory.directory


def test_context_hands_all_its_arguments_on() -> None:
    words = ("/var/lib/one/vms/7/context.sh", "/tmp/a b.txt:'c.txt'", DISK, "7", "101")
    request = disks.context(call(*words))
    assert request.argv == words
    assert request.target.disk_id == 0


def test_monitor_says_whether_disks_are_asked_for() -> None:
    more = "<DATASTORE_LOCATION>/var/lib/one//datastores</DATASTORE_LOCATION><MONITOR_VM_DISKS>%s</MONITOR_VM_DISKS>"
    for said, expected in (("1", True), ("0", False), ("", False)):
        request = datastore.monitor(call("101", stdin=action("", documents.datastore(101, 1), more % said)))
        assert (request.vm_disks, request.location, request.datastore.kind) == (expected, "/var/lib/one//datastores", 1)


_WRONG: list[tuple[str, Sequence[str], bytes, str]] = [
    ("datastore.cp", [], b"", "takes XML64 ID, - ID or ID"),
    ("datastore.cp", ["a", "b", "5"], b"", "takes XML64 ID, - ID or ID"),
    ("datastore.cp", ["five"], b"", "ID is 'five'"),
    ("datastore.cp", ["5"], b"", "not usable XML"),
    ("datastore.cp", ["5"], b"%%%", "not usable XML"),
    ("datastore.cp", ["6"], image(path="/a"), "IMAGE/ID is 5, but the request is for image 6"),
    ("datastore.cp", ["5"], image(), "IMAGE/PATH of image 5 is empty"),
    ("datastore.cp", ["5"], action(), "no IMAGE element"),
    ("datastore.cp", ["5"], action(documents.image("7.4", 5), ""), "no DATASTORE element"),
    ("datastore.mkfs", ["5"], image(size=0), "IMAGE/SIZE of image 5 is missing or 0"),
    ("datastore.mkfs", ["5"], image(size=1 << 40), "the largest size is"),
    ("datastore.mkfs", ["5"], image(size="ten"), "IMAGE/SIZE is 'ten'"),
    ("datastore.clone", ["5"], image(path="/etc/passwd"), "not of the form /dev/drbd/by-res/NAME/0"),
    ("datastore.rm", ["5"], image(source="/dev/drbd/by-res/../0"), "not of the form /dev/drbd/by-res/NAME/0"),
    ("tm.clone", [f"fe:{SOURCE}", DISK, "7"], b"", "SOURCE DESTINATION VM_ID DATASTORE_ID, not 3"),
    ("tm.clone", [f"fe:{SOURCE}", DISK, "8", "100"], b"", "belongs to VM 7, but the request is for VM 8"),
    ("tm.clone", [f"fe:{SOURCE}", KERNEL, "7", "100"], b"", "kernel, ramdisk and other files"),
    ("tm.clone", [SOURCE, DISK, "7", "100"], b"", "not of the form HOST:/PATH"),
    ("tm.ln", [f"fe:{SOURCE}", DISK, "7", "-1"], b"", "DATASTORE_ID is '-1'"),
    ("tm.mkimage", ["0", "raw", DISK, "7", "101"], b"", "between 1 and"),
    ("tm.mkimage", ["1" * 18, "raw", DISK, "7", "101"], b"", "between 1 and"),
    ("tm.mkimage", ["10", "a;b", DISK, "7", "101"], b"", "not the name of a format"),
    ("tm.mkswap", ["1e3", DISK, "7", "101"], b"", "SIZE is '1e3'"),
    ("tm.context", [DISK, "7", "101"], b"", "takes FILE... DESTINATION VM_ID DATASTORE_ID"),
    ("tm.delete", ["node1:/var/lib/one/datastores/101", "7", "101"], b"", "is not a VM directory"),
    ("tm.delete", ["node1:/var/lib/one/datastores/101/../7", "7", "101"], b"", "not of the form HOST:/PATH"),
    ("tm.mvds", [DISK, "one-image-5", "7", "100"], b"", "not of the form /dev/drbd/by-res/NAME/0"),
    ("vmm.save_linstor_un", ["one-7", CHECKPOINT, "node1", "7"], b"", "DEPLOY_ID CHECKPOINT_FILE HOST VM_ID HOST"),
    ("vmm.save_linstor_un", ["one-7", CHECKPOINT, "node1", "7", "node1"], b"", "not usable XML"),
    ("vmm.save_linstor_un", ["one-7", CHECKPOINT, "node1", "7", "node1"], action(), "where VMM_DRIVER_ACTION_DATA was"),
    ("vmm.save_linstor_un", ["-c", CHECKPOINT, "node1", "7", "node1"], vmm_action(), "no name of a domain"),
    ("vmm.save_linstor_un", ["one-7", CHECKPOINT, "node1;", "7", "node1"], vmm_action(), "not of the form HOST:/PATH"),
    ("vmm.save_linstor_un", ["one-7", CHECKPOINT, "node1", "8", "node1"], vmm_action(8), "belongs to VM 7"),
    ("vmm.save_linstor_un", ["one-7", CHECKPOINT, "node1", "7", "node1"], vmm_action(8), "is of VM 8"),
    ("vmm.save_linstor_un", ["one-7", "/srv/checkpoint", "node1", "7", "node1"], vmm_action(), "not a VM directory"),
    ("vmm.save_linstor_un", ["one-7", CHECKPOINT, "node1", "7", "node1"], vmm_action(MEMORY="all"), "MEMORY is 'all'"),
    ("vmm.restore_linstor_un", [CHECKPOINT, "node1", "", "7", "node1"], vmm_action(), "no name of a domain"),
]


_WRONG_HERE: list[tuple[Callable[[Call], Any], Sequence[str], bytes, str]] = [
    (disks.mv, [DISK, DISK.replace("disk.0", "disk.1"), "7", "100"], b"", "a disk keeps its number"),
    (disks.mv, [DISK, DISK.rpartition("/")[0], "7", "100"], b"", "a disk keeps its number"),
    (disks.mv, [DISK, DISK.replace("/7/", "/8/"), "7", "100"], b"", "belongs to VM 8"),
    (disks.cpds, [DISK, SOURCE, "-2", "7", "100"], b"", "SNAPSHOT_ID is '-2'"),
    (disks.resize, [DISK, "0", "7", "100"], b"", "between 1 and"),
    (disks.disk_snapshot, [DISK, "-1", "7", "100"], b"", "SNAPSHOT_ID is '-1'"),
    (datastore.image_snapshot, ["5"], image(source=SOURCE), "TARGET_SNAPSHOT of image 5 is missing"),
    (datastore.export, ["9"], action(), "no IMAGE element"),
    (vms.migrate, MIGRATION, b"", "not usable XML"),
    (vms.migrate, MIGRATION[:4], document_of(), "not 4 of them"),
    (vms.migrate, MIGRATION, document_of(8), "is of VM 8, but the request is for VM 7"),
    (vms.migrate, [*MIGRATION, "a b"], document_of(), "not the name of a transfer manager"),
    (vms.migrate, [*MIGRATION, "ssh", "shared"], document_of(), "not the name of a transfer manager"),
    (vms.migrate, ["node1;", *MIGRATION[1:]], document_of(), "not of the form HOST:/PATH"),
    (backups.backup, [*BACKUP, "7"], backed_up(), "not 3 of them"),
    (backups.backup, [BACKUP[0], "one-7", "-", "7", "101"], backed_up(), "DISKS is 'one-7'"),
    (backups.backup, [BACKUP[0], "0:;id", "-", "7", "101"], backed_up(), "which is no list such as 0:1"),
    (backups.backup, [*BACKUP, "8", "101"], backed_up(), "belongs to VM 7"),
    (backups.backup, [*BACKUP, "7", "101"], backed_up(8), "is of VM 8, but the request is for VM 7"),
    (backups.backup, [*BACKUP, "7", "101"], document_of(), "not usable XML"),
    (backups.restore, [BACKUP[0], "7", "53", "-1"], b"", "not 4 of them"),
    (backups.restore, [BACKUP[0], "7", "53", "-2", "0"], b"", "INCREMENT_ID is '-2'"),
    (backups.restore, [BACKUP[0], "8", "53", "-1", "0"], b"", "belongs to VM 7"),
]


@pytest.mark.parametrize(("read", "argv", "stdin", "sentence"), _WRONG_HERE)
def test_what_no_reader_takes_is_told_in_one_sentence(
    read: Callable[[Call], Any], argv: Sequence[str], stdin: bytes, sentence: str
) -> None:
    with pytest.raises(BadRequest, match=re.escape(sentence)):
        read(call(*argv, stdin=stdin))


@pytest.mark.parametrize(("name", "argv", "stdin", "sentence"), _WRONG)
def test_what_is_no_request_is_told_in_one_sentence(
    name: str, argv: Sequence[str], stdin: bytes, sentence: str
) -> None:
    with pytest.raises(BadRequest, match="(?s).*") as raised:
        ACTIONS[name].read(call(*argv, stdin=stdin))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
