"""The lab's oned: answers pyone understands, and scripts called and read as each release does."""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyone
import pytest
import requests
from lab.oned import answers, documents
from lab.oned.answers import Misread
from lab.oned.driver import Oned, escape
from lab.oned.faults import Fault
from lab.oned.recordings import recordings
from lab.oned.release import release
from lab.oned.store import Documents
from lab.oned.xmlrpc import XmlRpc
from lab.opennebula import install_frontend

RELEASES = ("5.12", "6.0", "6.6", "6.6-stdin", "6.8", "6.10", "7.4")
SESSION = "oneadmin:opennebula"
SHOW = r'''#!/bin/sh
printf '%s\n' "$0" "$#" > "$SHOW/argv"
for word in "$@"; do printf '%s\0' "$word"; done > "$SHOW/words"
cat > "$SHOW/stdin"
env > "$SHOW/env"
'''


class Scripts:
    """A remotes directory of small scripts that write down how they were called."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {"PATH": os.environ["PATH"], "SHOW": str(root), "HOME": str(root)}

    def add(self, path: str, text: str = SHOW) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o755)

    def oned(self, version: str, **more: float) -> Oned:
        return Oned(version, self.root, self.env, str(self.root), **more)  # type: ignore[arg-type]

    def words(self) -> list[str]:
        return (self.root / "words").read_text().split("\0")[:-1]

    def stdin(self) -> str:
        return (self.root / "stdin").read_text()


@pytest.fixture
def scripts(tmp_path: Path) -> Scripts:
    return Scripts(tmp_path)


@pytest.fixture
def oned() -> Iterator[XmlRpc]:
    with XmlRpc(Documents(), "6.10.5", SESSION) as server:
        yield server


def client(server: XmlRpc, session: str = SESSION) -> pyone.OneServer:
    return pyone.OneServer(server.endpoint, session=session)


# XML-RPC


@pytest.mark.parametrize("version", ["5.12.12", "6.6.3", "6.10.5", "7.4.0"])
def test_pyone_parses_every_recorded_document(oned: XmlRpc, version: str) -> None:
    one = client(oned)
    checked = 0
    for recording in recordings(Path(__file__).parent / "data/driver-calls" / version):
        for document in recording.pools:
            oned.documents.put_pool(document)
        for document in recording.vm_documents.values():
            oned.documents.put(document)
            number = int(document.split("<ID>", 1)[1].split("<", 1)[0])
            assert number == one.vm.info(number).ID
            checked += 1
    assert checked > 100
    assert {item.NAME for item in one.hostpool.info().HOST} == {"node1", "node2", "node3"}
    assert {100, 101, 102} <= {item.ID for item in one.datastorepool.info().DATASTORE}
    for kind, call in (("DATASTORE", one.datastore.info), ("HOST", one.host.info)):
        numbers = [number for number, _ in oned.documents.all(kind)]
        assert [call(number).ID for number in numbers] == numbers


def test_documents_of_the_builder_parse(oned: XmlRpc) -> None:
    disk = documents.DiskDocument(0, 64, image=4, clone=False)
    oned.documents.put(
        documents.vm(7, [disk], hosts=["node1", "node2"]), documents.datastore(100, BRIDGE_LIST="a & b"),
        documents.host(0, "node1"), documents.image("7.4", 4, source="/dev/drbd/by-res/one-image-4/0"),
    )
    one = client(oned)
    assert one.vm.info(7).HISTORY_RECORDS.HISTORY[-1].HOSTNAME == "node2"
    assert one.datastore.info(100).TEMPLATE["BRIDGE_LIST"] == "a & b"
    assert one.host.info(0).STATE == 2
    assert one.image.info(4).SOURCE == "/dev/drbd/by-res/one-image-4/0"


def test_vm_pool_honours_owner_range_and_state(oned: XmlRpc) -> None:
    for number, state in ((1, 3), (2, 6), (3, 8), (4, 3)):
        oned.documents.put(documents.vm(number, state=state))
    oned.documents.put(documents.vm(5).replace("<UID>0", "<UID>9", 1))
    one = client(oned)

    def ids(*arguments: int) -> list[int]:
        return [vm.ID for vm in one.vmpool.infoextended(*arguments).VM]

    assert ids(-2, -1, -1, -1) == [5, 4, 3, 1]
    assert ids(-2, -1, -1, -2) == [5, 4, 3, 2, 1]
    assert ids(-2, 2, 3, -2) == [3, 2]
    assert ids(-2, 3, -1, -2) == [5, 4, 3]
    assert ids(-2, 1, -2, -2) == [4, 3]
    assert ids(-2, -1, -1, 8) == [3]
    assert ids(9, -1, -1, -2) == [5]
    assert ids(-3, -1, -1, -2) == [4, 3, 2, 1]
    with pytest.raises(pyone.OneApiException, match="Incorrect filter_flag"):
        ids(-5, -1, -1, -2)
    with pytest.raises(pyone.OneApiException, match="Incorrect state filter 12"):
        ids(-2, -1, -1, 12)


def test_vm_pool_tells_no_disk_source_and_only_the_last_host(oned: XmlRpc) -> None:
    oned.documents.put(documents.vm(7, [documents.DiskDocument(0, image=4)], hosts=["node1", "node2"]))
    one = client(oned)
    short = one.vmpool.info(-2, -1, -1, -1).VM[0]
    assert [record.HOSTNAME for record in short.HISTORY_RECORDS.HISTORY] == ["node2"]
    assert "SOURCE" not in short.TEMPLATE["DISK"] and short.TEMPLATE["DISK"]["IMAGE_ID"] == "4"
    assert "SOURCE" in one.vmpool.infoextended(-2, -1, -1, -1).VM[0].TEMPLATE["DISK"]


def test_refusals_are_those_of_oned(oned: XmlRpc) -> None:
    one = client(oned)
    with pytest.raises(pyone.OneNoExistsException, match=r"\[one.vm.info\] Error getting virtual machine \[7\]."):
        one.vm.info(7)
    with pytest.raises(pyone.OneAuthenticationException, match="couldn't be authenticated"):
        client(oned, "oneadmin:wrong").vm.info(7)
    with pytest.raises(pyone.OneException, match="not defined"):
        one.vm.nothing(7)
    assert one.system.version() == "6.10.5"


def test_faults_strike_the_kth_matching_request(oned: XmlRpc) -> None:
    oned.documents.put(documents.vm(7))
    one = client(oned)
    oned.faults.arm(Fault.INTERNAL_ERROR, "vm.info", first=2)
    assert one.vm.info(7).ID == 7
    one.hostpool.info()
    with pytest.raises(pyone.OneInternalException):
        one.vm.info(7)
    assert one.vm.info(7).ID == 7


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.WRONG_CREDENTIALS, pyone.OneAuthenticationException),
        (Fault.INVALID_XML, Exception),
        (Fault.INVALID_RPC, Exception),
        (Fault.DROP, requests.exceptions.ConnectionError),
    ],
)
def test_each_fault_is_seen_once(oned: XmlRpc, fault: Fault, error: type[Exception]) -> None:
    oned.documents.put(documents.vm(7))
    oned.faults.arm(fault)
    with pytest.raises(error):
        client(oned).vm.info(7)
    assert client(oned).vm.info(7).ID == 7


def test_a_slow_answer_comes_when_the_server_stops(oned: XmlRpc) -> None:
    oned.faults.arm(Fault.SLOW, seconds=600)
    with pytest.raises(requests.exceptions.Timeout):
        requests.post(oned.endpoint, data=b"<methodCall><methodName>one.system.version</methodName></methodCall>",
                      timeout=0.2)


def test_a_stopped_server_refuses_and_comes_back_on_its_port(oned: XmlRpc) -> None:
    endpoint = oned.endpoint
    oned.stop()
    with pytest.raises(requests.exceptions.ConnectionError):
        client(oned).system.version()
    oned.start_again()
    assert oned.endpoint == endpoint
    assert client(oned).system.version() == "6.10.5"


# Calling scripts


@pytest.mark.parametrize("version", RELEASES)
def test_datastore_data_comes_in_the_form_of_the_release(scripts: Scripts, version: str) -> None:
    scripts.add("datastore/linstor_un/cp")
    image = documents.image(version, 12, path="/var/tmp/a b")
    assert scripts.oned(version).ds("cp", image, documents.datastore(100)).success
    words, stdin = scripts.words(), scripts.stdin()
    if version in ("6.8", "6.10", "7.4"):
        assert words == ["12"]
    elif version == "6.6-stdin":
        assert words == ["-", "12"]
    else:
        assert words[1:] == ["12"] and stdin == ""
        stdin = words[0]
    assert "\n" not in stdin
    assert "<PATH>/var/tmp/a b</PATH>" in base64.b64decode(stdin, validate=True).decode()
    assert ("<FSTYPE>" in base64.b64decode(stdin).decode()) == (version == "5.12")


def test_stat_gets_a_request_counter_and_monitor_the_datastore(scripts: Scripts) -> None:
    scripts.add("datastore/linstor_un/stat")
    scripts.add("tm/linstor_un/monitor")
    oned = scripts.oned("7.4")
    for count in ("1", "2"):
        oned.ds("stat", documents.element("IMAGE", PATH="/x"), documents.datastore(100))
        assert scripts.words() == [count]
    oned.monitor(documents.datastore(101, kind=1), vm_disks=True)
    assert scripts.words() == ["101"]
    assert "<MONITOR_VM_DISKS>1<" in base64.b64decode(scripts.stdin()).decode()


def test_every_word_of_a_tm_call_arrives_unchanged(scripts: Scripts) -> None:
    scripts.add("tm/linstor_un/clone")
    words = ["fe:/dev/x", "h:/a b/$(touch x)/'\"`;*", "", "zeile\nzwei", "ümlaut"]
    scripts.oned("7.4").tm("clone", *words)
    assert scripts.words() == words
    assert escape("a b") == "a\\ b" and escape("node1:/var/lib/one//datastores/1/disk.0,+-_@") == (
        "node1:/var/lib/one//datastores/1/disk.0,+-_@"
    )


def test_a_suffixed_verb_falls_back_to_the_plain_script(scripts: Scripts) -> None:
    scripts.add("tm/linstor_un/clone")
    assert scripts.oned("7.4").tm("clone.ssh", "a").success
    with pytest.raises(FileNotFoundError, match="does not exists"):
        scripts.oned("7.4").tm("mv.ssh")


def test_a_transfer_file_ends_at_its_first_failure(scripts: Scripts) -> None:
    text = '#!/bin/sh\necho "$1" >> "$SHOW/log"\n[ "$1" != bad ] || { echo no >&2; exit 1; }'
    scripts.add("tm/linstor_un/clone", text)
    done = scripts.oned("7.4").transfer("# prolog\n\nCLONE linstor_un a\nCLONE linstor_un bad\nCLONE linstor_un b\n")
    assert (scripts.root / "log").read_text() == "a\nbad\n"
    assert done.failure == "Error executing image transfer script: no"
    gone = scripts.oned("7.4").transfer("MKSWAP linstor_un 1")
    assert "mkswap' does not exists" in gone.failure


def test_vmm_overrides_get_base64_on_stdin(scripts: Scripts) -> None:
    scripts.add("vmm/kvm/save_linstor_un")
    scripts.oned("7.4").vmm("save_linstor_un", "one-7", "/ds/7/checkpoint", "node1", "7", "node1", message="<A/>")
    assert scripts.words() == ["one-7", "/ds/7/checkpoint", "node1", "7", "node1"]
    assert base64.b64decode(scripts.stdin()) == b"<A/>"


def test_scripts_run_in_their_own_process_group_with_an_empty_pipe(scripts: Scripts) -> None:
    scripts.add("tm/linstor_un/ln", '#!/bin/sh\ncat; echo "$PRIORITY"; cut -d" " -f5 /proc/$$/stat\ntest -p /dev/stdin')
    result = scripts.oned("7.4").tm("ln")
    priority, group = result.stdout.split()
    assert result.success and priority == "19" and int(group) != os.getpgrp()


def test_a_full_pipe_blocks_neither_side(scripts: Scripts) -> None:
    scripts.add("datastore/linstor_un/cp", "#!/bin/sh\nhead -c 300000 /dev/zero >&2; head -c 300000 /dev/zero; wc -c")
    image = documents.image("7.4", 1, path="x" * 300000)
    result = scripts.oned("7.4").ds("cp", image, documents.datastore(100))
    assert len(result.ended.stderr) == 300000 and result.stdout.strip("\0\n").isdigit()


def test_a_cancelled_script_loses_its_pipes_but_gets_no_signal(scripts: Scripts) -> None:
    go = scripts.root / "go"
    os.mkfifo(go)
    scripts.add(
        "tm/linstor_un/clone",
        '#!/bin/sh\ntrap "" PIPE\ntrap "echo signal > $SHOW/end; exit" TERM INT HUP\n'
        ': > "$SHOW/up"; read x < "$SHOW/go"\n'
        'echo out 2> "$SHOW/error" || echo broken > "$SHOW/end"\n',
    )
    running = scripts.oned("7.4").start_tm("clone")
    wait_for(scripts.root / "up")
    running.cancel()
    with pytest.raises(TimeoutError):
        running.wait(0.2)
    go.write_text("\n")
    running.wait(10)
    assert (scripts.root / "end").read_text() == "broken\n"


def test_a_timeout_sends_term_to_the_group_and_is_code_255(scripts: Scripts) -> None:
    scripts.add("datastore/linstor_un/cp", '#!/bin/sh\ntrap "echo term > $SHOW/end; exit 1" TERM\nsleep 60 & wait')
    result = scripts.oned("7.4", timeout=0.3).ds("cp", documents.image("7.4", 1), documents.datastore(100))
    assert result.code == 255 and result.user_message.startswith("Timeout executing ")
    assert (scripts.root / "end").read_text() == "term\n"


def test_death_by_signal_is_code_255(scripts: Scripts) -> None:
    scripts.add("tm/linstor_un/clone", "#!/bin/sh\nkill -KILL $$")
    result = scripts.oned("7.4").tm("clone")
    assert result.code == 255 and not result.success and result.ended.signal == signal.SIGKILL


def test_a_child_that_keeps_the_pipes_does_not_hold_oned_up(scripts: Scripts) -> None:
    scripts.add("tm/linstor_un/clone", '#!/bin/sh\nsleep 30 & echo $! > "$SHOW/child"; echo done')
    result = scripts.oned("7.4").tm("clone")
    os.kill(int((scripts.root / "child").read_text()), signal.SIGKILL)
    assert result.success and result.stdout == "done\n" and result.ended.seconds < 10


# Reading answers

BLOCKED = "INFO: cp: trying\nERROR MESSAGE --8<------\nno space\nERROR MESSAGE ------>8--\n"
PLAIN = "INFO: cp: trying\nWARN: 7 slow\ncp: no space\n"


@pytest.mark.parametrize(
    ("version", "stderr", "message"),
    [
        ("5.12", BLOCKED, "no space"),
        ("6.0", BLOCKED, "no space"),
        ("6.0", PLAIN, ""),
        ("6.6", PLAIN, "INFO: cp: trying WARN: 7 slow cp: no space"),
        ("6.10", "cp: no space\n", "cp: no space"),
        ("7.4", PLAIN, "cp: no space"),
        ("7.4", "cp: no\nspace\n", "cp: nospace"),
        ("7.4", "ERROR: cp: no space\n", ""),
    ],
)
def test_the_user_message_is_what_the_release_shows(scripts: Scripts, version: str, stderr: str, message: str) -> None:
    (scripts.root / "message").write_text(stderr)
    scripts.add("datastore/linstor_un/cp", '#!/bin/sh\ncat "$SHOW/message" >&2; exit 1')
    result = scripts.oned(version).ds("cp", documents.image(version, 1), documents.datastore(100))
    assert (result.success, result.user_message) == (False, message)


def test_release_7_logs_even_on_success(scripts: Scripts) -> None:
    (scripts.root / "message").write_text(PLAIN)
    scripts.add("datastore/linstor_un/cp", '#!/bin/sh\ncat "$SHOW/message" >&2')
    result = scripts.oned("7.4").ds("cp", documents.image("7.4", 1), documents.datastore(100))
    assert [(log.severity, log.object_id, log.text) for log in result.logs] == [
        ("INFO", -1, "cp: trying"), ("WARN", 7, "slow"),
    ]
    assert result.user_message == ""


def printed(scripts: Scripts, version: str, text: str) -> answers.Outcome:
    (scripts.root / "message").write_text(text)
    scripts.add("datastore/linstor_un/cp", '#!/bin/sh\ncat "$SHOW/message"')
    return scripts.oned(version).ds("cp", documents.image(version, 1), documents.datastore(100))


def test_cp_needs_a_format_from_6_0_on(scripts: Scripts) -> None:
    assert answers.read_cp(printed(scripts, "5.12", "/dev/x raw\n")) == answers.Stored("/dev/x")
    assert answers.read_cp(printed(scripts, "7.4", "/dev/x raw\n")) == answers.Stored("/dev/x", "raw")
    with pytest.raises(Misread, match="FORMAT was not returned"):
        answers.read_cp(printed(scripts, "6.0", "/dev/x\n"))


def test_mkfs_takes_the_whole_line_from_6_0_on(scripts: Scripts) -> None:
    assert answers.read_mkfs(printed(scripts, "5.12", "/dev/x raw\n")) == answers.Stored("/dev/x")
    assert answers.read_mkfs(printed(scripts, "6.0", "/dev/x\n")) == answers.Stored("/dev/x")
    with pytest.raises(Misread, match="all of it would be the SOURCE"):
        answers.read_mkfs(printed(scripts, "7.4", "/dev/x raw\n"))


def test_only_one_line_and_the_right_words_are_understood(scripts: Scripts) -> None:
    assert answers.read_stat(printed(scripts, "7.4", "64\n")) == 64
    assert answers.read_monitor(printed(scripts, "7.4", "USED_MB=1\nTOTAL_MB=3\nFREE_MB=2\n"))["FREE_MB"] == 2
    assert answers.read_clone(printed(scripts, "7.4", "/dev/x raw\n")).format == "raw"
    assert answers.read_clone(printed(scripts, "5.12", "/dev/x raw\n")).format == ""
    for read, text in (
        (answers.read_stat, "64.5\n"), (answers.read_stat, "0\n"), (answers.read_stat, ""),
        (answers.read_cp, "a b\nc\n"),
        (answers.read_monitor, "USED_MB=1\n"), (answers.read_monitor, "USED_MB=1\nTOTAL_MB=3\nFREE_MB=2\nVM=[ID=1]\n"),
        (answers.read_nothing, "hello\n"), (answers.read_clone, "\n"),
    ):
        with pytest.raises(Misread):
            read(printed(scripts, "7.4", text))


@pytest.mark.parametrize("text", ["7", "six", "7.4-stdin", ""])
def test_an_unknown_release_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="OpenNebula"):
        release(text)


# The installed front-end


@pytest.mark.parametrize(("version", "markers"), [("5.12.12", True), ("6.0", True), ("6.10.5", False), ("7.4", False)])
def test_a_front_end_has_the_files_of_its_release(tmp_path: Path, version: str, markers: bool) -> None:
    frontend = install_frontend(tmp_path / "one/var", version, endpoint="http://127.0.0.1:1/RPC2")
    assert ("8<------" in (frontend.remotes / "scripts_common.sh").read_text()) is markers
    assert (frontend.home / ".one/one_auth").read_text() == SESSION + "\n"
    assert (frontend.home / ".one/one_auth").stat().st_mode & 0o77 == 0
    assert frontend.env()["ONE_LOCATION"] == str(tmp_path / "one")
    assert "SCRIPTS_REMOTE_DIR=/var/tmp/one" in (frontend.var / "config").read_text()
    assert (frontend.remotes / "lib/linstor_un/errors.py").exists()


@pytest.fixture
def downloader(tmp_path: Path) -> Path:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    return install_frontend(tmp_path / "one/var").remotes / "datastore/downloader.sh"


def download(downloader: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(downloader), *arguments], capture_output=True, check=False, timeout=60)


def test_the_downloader_unpacks_unless_told_not_to(downloader: Path, tmp_path: Path) -> None:
    data = os.urandom(300000)
    packed = tmp_path / "a b.gz"
    packed.write_bytes(gzip.compress(data))
    assert download(downloader, str(packed), "-").stdout == data
    assert download(downloader, "--nodecomp", str(packed), "-").stdout == packed.read_bytes()
    assert download(downloader, "-c", "1000", str(packed), "-").stdout == data[:1000]
    assert download(downloader, str(packed), str(tmp_path / "out")).returncode == 0
    assert (tmp_path / "out").read_bytes() == data


def test_the_downloader_checks_the_hash_of_what_came_over_the_wire(downloader: Path, tmp_path: Path) -> None:
    packed = tmp_path / "disk.gz"
    packed.write_bytes(gzip.compress(b"x" * 100000))
    right = hashlib.sha1(packed.read_bytes()).hexdigest()
    assert download(downloader, "--sha1", right, str(packed), "-").returncode == 0
    wrong = download(downloader, "--md5", "0" * 32, str(packed), "-")
    assert wrong.returncode != 0 and wrong.stdout == b"x" * 100000 and b"Hash does not match" in wrong.stderr


def test_the_downloader_fails_on_missing_broken_and_unreachable_sources(downloader: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(os.urandom(100000))[:50000])
    for source in (str(tmp_path / "none"), str(broken), "http://127.0.0.1:1/x", "s3://bucket/x"):
        assert download(downloader, source, "-").returncode != 0, source


def test_the_downloader_reads_http(downloader: Path, tmp_path: Path) -> None:
    (tmp_path / "a b").write_bytes(b"content")
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: handler(*arguments, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/a%20b?x=1&y=2"
        assert download(downloader, url, "-").stdout == b"content"
        assert download(downloader, url.replace("a%20b", "none"), "-").returncode != 0
    finally:
        server.shutdown()
        server.server_close()


def test_recordings_are_read_plain_and_packed(tmp_path: Path) -> None:
    recording = {"scenario": "s", "version": "7.4.0", "calls": [], "vm_documents": {}}
    (tmp_path / "a.json").write_text(json.dumps(recording))
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(json.dumps(recording).encode()))
    assert [item.scenario for item in recordings(tmp_path)] == ["s", "s"]


def wait_for(path: Path, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)
