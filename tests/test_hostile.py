"""Whatever comes in: each decoder gives a value or one sentence, and no shell ever sees data."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from lab.oned import documents
from linstor_un import conffile, naming, onexml
from linstor_un import settings as our_settings
from linstor_un.actions import ACTIONS
from linstor_un.attributes import ATTRIBUTES, OLD_SPELLINGS
from linstor_un.calling.forms import Call
from linstor_un.errors import BadRequest, one_line
from linstor_un.settings import Settings

ROOT = Path(__file__).parents[1]
NASTY = [
    "", " ", "'", '"', "`id`", "$(id)", "${IFS}", ";id", "|id", "&&id", "\n", "\r\n", "\t", "..", "../../etc/passwd",
    "/", "//", "~", "*", "\\", "-rf", "--help", "\x00", "\x1b[31m", "\u202e", "\U0001f600",
    "\udcff", "%s%n", "{}", "<a>", "&amp;", "]]>", "0", "-1", "1e9", "9" * 30, "\u0663", "A" * 5000,
]  # fmt: skip
_MIXED = st.tuples(st.sampled_from(NASTY), st.text(max_size=9)).map("".join)
ANYTHING = st.one_of(st.text(max_size=60), st.sampled_from(NASTY), _MIXED)
ELEMENTS = ["ID", "SIZE", "PATH", "SOURCE", "FORMAT", "FS", "REGTIME", "CLONING_ID", "TARGET_SNAPSHOT", "PERSISTENT"]
CALM = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def one_sentence(error: BadRequest) -> None:
    text = str(error)
    assert text and text == one_line(text) and text.isprintable()
    assert error.exit_code == 2


def seeds(action: str) -> list[str]:
    disk, source = "node1:/var/lib/one//datastores/101/7/disk.0", "/dev/drbd/by-res/one-image-5/0"
    words = {
        "tm.clone": [f"fe:{source}", disk, "7", "100"],
        "tm.ln": [f"fe:{source}", disk, "7", "100"],
        "tm.mkimage": ["10", "raw", disk, "7", "101"],
        "tm.mkswap": ["10", disk, "7", "101"],
        "tm.context": ["/c.sh", disk, "7", "101"],
        "tm.delete": [disk, "7", "101"],
        "tm.mvds": [disk, source, "7", "100"],
        "tm.prebackup": [disk.rpartition("/")[0], "0:1", "one-7", "-", "7", "101"],
        "tm.prebackup_live": [disk.rpartition("/")[0], "0:1:", "one-7", "7", "101"],
        "tm.restore": [disk.rpartition("/")[0], "7", "53", "-1", "-1"],
    }
    return words.get(action, ["5"])


@CALM
@given(st.sampled_from(sorted(ACTIONS)), st.integers(0, 5), ANYTHING, st.binary(max_size=300))
def test_one_strange_argument(action: str, place: int, strange: str, stdin: bytes) -> None:
    argv = seeds(action)
    argv[place % len(argv)] += strange
    try:
        ACTIONS[action].read(Call(argv, lambda: stdin))
    except BadRequest as error:
        one_sentence(error)


@CALM
@given(st.sampled_from(sorted(ACTIONS)), st.lists(ANYTHING, max_size=7), st.binary(max_size=300))
def test_strange_arguments(action: str, argv: list[str], stdin: bytes) -> None:
    try:
        ACTIONS[action].read(Call(argv, lambda: stdin))
    except BadRequest as error:
        one_sentence(error)


@CALM
@given(ANYTHING, ANYTHING)
def test_paths_and_names(head: str, tail: str) -> None:
    for text in (head + tail, f"node1:/{head}/disk.{tail}", f"{head}:/var/lib/one/datastores/1/2/disk.3{tail}"):
        for decode in (naming.place, naming.disk_place, naming.vm_directory):
            try:
                found = decode(text)
            except BadRequest as error:
                one_sentence(error)
                continue
            if found is not None:
                assert found.path.startswith("/") and ".." not in found.path.split("/") and found.path.isprintable()
                assert not found.host.startswith("-") and found.host.isascii()
    for text in (head, f"/dev/drbd/by-res/{head}/0{tail}"):
        try:
            name = naming.definition_of_source(text)
        except BadRequest as error:
            one_sentence(error)
        else:
            assert name.replace("-", "").replace("_", "").isalnum() and name.isascii()


@CALM
@given(st.sampled_from([onexml.parse_vm, onexml.parse_backup, onexml.parse_datastore, onexml.parse_driver_action,
                        onexml.parse_hosts]),
       st.one_of(st.binary(max_size=400), ANYTHING.map(lambda text: text.encode("utf-8", "surrogateescape"))))
def test_bytes_that_are_no_document(parse, document: bytes) -> None:  # type: ignore[no-untyped-def]
    try:
        parse(document)
    except BadRequest as error:
        one_sentence(error)


@CALM
@given(st.sampled_from(ELEMENTS), ANYTHING)
def test_one_strange_element(name: str, strange: str) -> None:
    values = {"ID": "5", "SIZE": "64", "PATH": "/a", "SOURCE": "/dev/drbd/by-res/one-image-5/0"}
    values[name] = strange
    image = documents.element("IMAGE", **values)
    document = f"<DS_DRIVER_ACTION_DATA>{image}{documents.datastore(100)}</DS_DRIVER_ACTION_DATA>"
    encoded = base64.b64encode(document.encode("utf-8", "surrogateescape"))
    for action in ("stat", "cp", "mkfs", "clone", "rm"):
        try:
            ACTIONS[f"datastore.{action}"].read(Call(["5"], lambda: encoded))
        except BadRequest as error:
            one_sentence(error)


@CALM
@given(st.sampled_from([*ATTRIBUTES, *OLD_SPELLINGS, "MINE"]), ANYTHING)
@example("DO_NOT_PLACE_WITH_REGEX", "(" * 5000)
@example("NODE_LIST", "a-" * 3000)
@example("LS_CONTROLLERS", "[" + "::" * 3000)
def test_one_strange_attribute(name: str, strange: str) -> None:
    for template, conf in (({name: strange}, ""), ({}, f"{name}={strange}"), ({}, f'{name}="{strange}"')):
        try:
            assert isinstance(our_settings.load(template, conf).settings, Settings)
        except BadRequest as error:
            one_sentence(error)
            assert name in str(error)


@CALM
@given(st.one_of(ANYTHING, st.text("A=$`{}()'\"\\\n ;#:-x", max_size=80)))
def test_any_text_is_a_conf_file(text: str) -> None:
    conffile.parse(text)


# What takes seconds only shows that it does not take minutes.
LONG = [pytest.param(unit, marks=pytest.mark.slow) for unit in ("a", "'", "\n", "A=1 ", "&", "<a>", "../", "a ")]


@pytest.mark.parametrize("unit", ["$(x)", "${A:-", *LONG])
def test_a_mebibyte_of_anything_is_done_in_a_moment(unit: str) -> None:
    text = (unit * (1 << 20))[: 1 << 20]
    conffile.parse(text)
    conffile.parse(f'A="{text}')
    for name in ATTRIBUTES:
        try:
            our_settings.load({name: text}, "")
        except BadRequest as error:
            one_sentence(error)
    our_settings.load({text[:1000] + "X": "x"}, "")
    image = documents.element("IMAGE", ID="5", SIZE="64", PATH=text, FORMAT=text)
    document = f"<DS_DRIVER_ACTION_DATA>{image}{documents.datastore(100)}</DS_DRIVER_ACTION_DATA>"
    encoded = base64.b64encode(document.encode())
    for action, argv in (("datastore.mkfs", ["5"]), ("datastore.clone", ["5"]), ("tm.delete", [text, "1", "1"])):
        try:
            ACTIONS[action].read(Call(argv, lambda: encoded))
        except BadRequest as error:
            one_sentence(error)


WITNESS = "ran"
_SHELL = f"$(touch {WITNESS})`touch {WITNESS}`;touch {WITNESS};'\"|touch {WITNESS}"


def run(tmp_path: Path, action: str, *argv: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    kind, name = action.split(".")
    environ = {**os.environ, "ONE_LOCATION": str(tmp_path), "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, str(ROOT / kind / "linstor_un" / name), *argv],
        input=stdin, env=environ, cwd=tmp_path, capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def encoded(inside: str) -> bytes:
    return base64.b64encode(f"<DS_DRIVER_ACTION_DATA>{inside}</DS_DRIVER_ACTION_DATA>".encode())


_GOOD_IMAGE = documents.image("7.4", 5, path="/a", source="/dev/drbd/by-res/one-image-5/0")
_BOMB = b'<!DOCTYPE a [<!ENTITY b "' + b"c" * 9999 + b'">]><a>' + b"&b;" * 9999
_PROCESSES: list[tuple[str, list[str], bytes]] = [
    ("tm.clone", [f"fe:/dev/drbd/by-res/{_SHELL}/0", "node1:/one/datastores/101/7/disk.0", "7", "100"], b""),
    ("tm.clone", ["fe:/dev/drbd/by-res/one-image-5/0", f"{_SHELL}:/one/datastores/101/7/disk.0", "7", "100"], b""),
    ("tm.ln", ["fe:/dev/drbd/by-res/one-image-5/0", f"node1:/{_SHELL}/../101/7/disk.0", "7", "100"], b""),
    ("tm.mkimage", ["10", _SHELL, "node1:/one/datastores/101/7/disk.0", "7", "101"], b""),
    ("tm.delete", ["node1:/one/datastores/101/7\n/disk.0", "7", "101"], b""),
    ("tm.delete", ["\udcff:/one/datastores/101/7", "7", "101"], b""),
    ("datastore.stat", [_SHELL], b""),
    ("datastore.stat", ["-", "1"], b"\x00\xff" * 1000),
    ("datastore.mkfs", ["5"], encoded(_GOOD_IMAGE + documents.datastore(100, RESOURCE_GROUP=_SHELL))),
    ("datastore.rm", ["5"], encoded(_GOOD_IMAGE + documents.datastore(100, LS_CONTROLLERS=f"http://{_SHELL}"))),
    ("datastore.rm", ["5"], encoded(_GOOD_IMAGE + documents.datastore(100, NODE_LIST="x" * (1 << 20)))),
    ("datastore.clone", ["5"], encoded(documents.image("7.4", 5, path=_SHELL) + documents.datastore(100))),
    ("datastore.monitor", ["1"], base64.b64encode(_BOMB)),
    ("tm.monitor", ["1"], base64.b64encode("<DS_DRIVER_ACTION_DATA/>".encode("utf-16"))),
]  # fmt: skip


# A test's name is in its environment, where a MiB of it has no room.
_NAMES = [f"{number}-{process[0]}" for number, process in enumerate(_PROCESSES)]


@pytest.mark.parametrize(("action", "argv", "stdin"), _PROCESSES, ids=_NAMES)
def test_a_process_ends_with_one_sentence_and_code_2(
    tmp_path: Path, action: str, argv: list[str], stdin: bytes
) -> None:
    ended = run(tmp_path, action, *argv, stdin=stdin)
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == b""
    assert ended.stderr.count(b"\n") == 1 and b"Traceback" not in ended.stderr
    assert ended.stderr.startswith(action.split(".")[1].encode() + b": ")
    assert not (tmp_path / WITNESS).exists()


def test_a_conf_file_is_not_run(tmp_path: Path) -> None:
    conf = tmp_path / "var" / "remotes" / "etc" / "datastore" / "linstor_un"
    conf.mkdir(parents=True)
    lines = [f"touch {WITNESS}", f"A=$(touch {WITNESS})", f"LS_TIMEOUT=`touch {WITNESS}`", "CLONE_MODE=x"]
    (conf / "linstor_un.conf").write_text("\n".join(lines))
    ended = run(tmp_path, "datastore.rm", "5", stdin=encoded(_GOOD_IMAGE + documents.datastore(100)))
    assert ended.returncode == 2 and b"CLONE_MODE of linstor_un.conf is 'x'" in ended.stderr
    assert not (tmp_path / WITNESS).exists()


def test_escaping_in_documents_is_not_ours() -> None:
    """What oned escaped comes back as it was written."""
    text = "a\"b'c<d>&e$(f)"
    vm = f"<VM><ID>1</ID><STATE>3</STATE><LCM_STATE>3</LCM_STATE><DEPLOY_ID>{escape(text)}</DEPLOY_ID></VM>"
    assert onexml.parse_vm(vm.encode()).deploy_id == text
