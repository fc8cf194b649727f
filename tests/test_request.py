"""Every calling form of oned ends as the same request; what is no such form ends as one sentence."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import pytest
from lab.oned import documents
from lab.oned.recordings import Call as Recorded
from lab.oned.recordings import recordings
from linstor_un import calling
from linstor_un.actions import ACTIONS
from linstor_un.calling import Call
from linstor_un.errors import BadRequest
from linstor_un.naming import DiskPlace

RECORDINGS = Path(__file__).parent / "data" / "driver-calls"
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


def _recorded() -> list[Recorded]:
    found = [
        call
        for recording in recordings(RECORDINGS)
        for call in recording.calls
        if "/".join(call.script.split("/")[:3]).replace("linstor_un/", "").replace("/", ".") in ACTIONS
        and "/linstor_un/" in call.script
    ]
    assert len(found) > 500
    return found


def test_every_recorded_call_of_every_release_is_understood() -> None:
    kernels = 0
    for recorded in _recorded():
        row = ACTIONS[recorded.script.replace("linstor_un/", "").replace("/", ".")]
        try:
            request = row.parse(Call(recorded.argv, lambda text=recorded.stdin: text.encode()))  # type: ignore[misc]
        except BadRequest as error:
            assert recorded.argv[1].endswith("/kernel"), f"{recorded.script} {recorded.argv}: {error}"
            kernels += 1
            continue
        assert request is not None
        if hasattr(request, "image_id"):
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
    request = calling.cp(call(*argv(xml), stdin=stdin(xml)))
    assert (request.image_id, request.image.path, request.image.size) == (5, "/var/tmp/a.img", 64)
    assert base64.b64decode(request.document) == base64.b64decode(xml)


def test_standard_input_is_read_only_by_the_forms_that_need_it() -> None:
    calling.cp(unread(image(path="/a").decode(), "5"))
    calling.clone(unread(f"fe:{SOURCE}", DISK, "7", "100"))
    calling.delete(unread(DISK, "7", "100"))
    calling.context(unread("/var/lib/one/vms/7/context.sh", DISK, "7", "101"))


@pytest.mark.parametrize("broken", [lambda xml: xml.rstrip(b"="), lambda xml: b"\n".join([xml[:60], xml[60:], b""])])
def test_base64_is_read_as_ruby_reads_it(broken) -> None:  # type: ignore[no-untyped-def]
    assert calling.cp(call("5", stdin=broken(image(path="/a")))).image_id == 5


@pytest.mark.parametrize("version", ["5.12", "6.6", "7.4"])
def test_save_as_is_seen_in_both_places(version: str) -> None:
    for format, expected in (("save_as", True), ("raw", False), ("", False)):
        xml = action(documents.image(version, 5, format=format, size=64))
        assert calling.mkfs(call("5", stdin=xml)).save_as is expected


def test_a_file_system_of_5_12_is_told_from_a_format() -> None:
    old = calling.mkfs(call("5", stdin=action(documents.image("5.12", 5, fs="ext4")))).image
    new = calling.mkfs(call("5", stdin=action(documents.image("7.4", 5, format="raw", fs="ext4")))).image
    assert (old.format, old.filesystem) == (new.format, new.filesystem) == ("raw", "ext4")


def test_a_disk_is_told_by_its_path() -> None:
    request = calling.clone(call(f"fe:{SOURCE}", DISK, "7", "100"))
    path = "/var/lib/one/datastores/101/7/disk.0"
    assert request.target == DiskPlace("node1", path, path[: -len("/disk.0")], 101, 7, 0)
    assert (request.source, request.datastore_id) == ("one-image-5", 100)


def test_a_directory_is_deleted_only_when_a_directory_is_named() -> None:
    disk = calling.delete(call(DISK, "7", "100"))
    directory = calling.delete(call(DISK.rpartition("/")[0], "7", "101"))
    assert disk.disk is not None and directory.disk is None
    assert disk.directory == directory.directory


def test_context_hands_all_its_arguments_on() -> None:
    words = ("/var/lib/one/vms/7/context.sh", "/tmp/a b.txt:'c.txt'", DISK, "7", "101")
    request = calling.context(call(*words))
    assert request.argv == words
    assert request.target.disk_id == 0


def test_monitor_says_whether_disks_are_asked_for() -> None:
    more = "<DATASTORE_LOCATION>/var/lib/one//datastores</DATASTORE_LOCATION><MONITOR_VM_DISKS>%s</MONITOR_VM_DISKS>"
    for said, expected in (("1", True), ("0", False), ("", False)):
        request = calling.monitor(call("101", stdin=action("", documents.datastore(101, 1), more % said)))
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
]


@pytest.mark.parametrize(("name", "argv", "stdin", "sentence"), _WRONG)
def test_what_is_no_request_is_told_in_one_sentence(
    name: str, argv: Sequence[str], stdin: bytes, sentence: str
) -> None:
    with pytest.raises(BadRequest, match="(?s).*") as raised:
        ACTIONS[name].parse(call(*argv, stdin=stdin))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
