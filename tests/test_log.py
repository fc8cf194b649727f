"""What is said on stderr, in the way each OpenNebula reads it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from lab.oned.answers import Outcome, outcome
from lab.oned.process import Ended
from lab.oned.release import release
from linstor_un.log import Log, write

FILES = Path(__file__).parent / "lab" / "opennebula" / "files"
RELEASES = {"5.12": "scripts_common.old.sh", "6.6": "scripts_common.new.sh", "7.4": "scripts_common.new.sh"}


@pytest.fixture
def stderr(capfd: pytest.CaptureFixture[str]) -> Callable[[], bytes]:
    """Return a function that gives what was written to descriptor 2."""
    def read() -> bytes:
        return capfd.readouterr().err.encode()

    return read


def said(stderr: Callable[[], bytes], version: str, code: int = 1) -> Outcome:
    return outcome(release(version), Ended("", code, b"", stderr(), 0.0))


@pytest.mark.parametrize("version", RELEASES)
def test_each_release_shows_the_user_the_sentence(stderr: Callable[[], bytes], version: str) -> None:
    log = Log("clone")
    log.finish("no place for one-vm-7-disk-0", str(FILES / RELEASES[version]))
    assert said(stderr, version).user_message == "clone: no place for one-vm-7-disk-0"


def test_7_shows_only_the_sentence_where_log_lines_precede(stderr: Callable[[], bytes]) -> None:
    log = Log("clone")
    log.info("12 nodes are online")
    log.warn("one of them is slow")
    log.finish("no place", str(FILES / RELEASES["7.4"]))
    found = said(stderr, "7.4")
    assert found.user_message == "clone: no place"
    assert [(line.severity, line.object_id, line.text) for line in found.logs] == [
        ("INFO", -1, "clone: 12 nodes are online"),
        ("WARN", -1, "clone: one of them is slow"),
    ]


def test_without_an_installed_opennebula_the_sentence_is_plain(stderr: Callable[[], bytes], tmp_path: Path) -> None:
    Log("rm").finish("in use", str(tmp_path / "none"))
    assert stderr() == b"rm: in use\n"


def test_everything_is_one_line_and_few_of_them(stderr: Callable[[], bytes]) -> None:
    log = Log("cp")
    for number in range(100):
        log.info(f"{number}\nERROR: 7 x\x1b[0m" + "y" * 5000)
    log.finish("a\nb\r\0c" + "z" * 5000, "")
    lines = stderr().decode().splitlines()
    assert len(lines) <= 10
    assert all(re.match(r"(INFO: cp: |cp: a b c)", line) and len(line) <= 2000 for line in lines)


def test_success_without_remarks_says_nothing(stderr: Callable[[], bytes]) -> None:
    log = Log("cp")
    log.debug("for syslog")
    log.finish("", "")
    assert stderr() == b""


def test_no_text_is_too_strange_for_syslog() -> None:
    log = Log("cp")
    for text in ("\0", "\udcff", "%s %n", "x" * 100000, ""):
        log.debug(text)
        log.error(text)


def test_a_reader_that_is_gone_is_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    write(writer, "text")
    os.close(writer)
    write(writer, "text")


def test_a_full_pipe_that_does_not_block_gets_everything() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    size = 300_000
    child = os.fork()
    if child == 0:
        os.close(reader)
        write(writer, "x" * size)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        assert len(pipe.read()) == size
    os.waitpid(child, 0)
