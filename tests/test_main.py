"""The run of one action: exit code, the one sentence, the one line, take-backs and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LIB = Path(__file__).parents[1] / "lib"
OLD = Path(__file__).parent / "lab" / "opennebula" / "files" / "scripts_common.old.sh"

# An action of the test's own in the real table, run by the real main.
PROBE = """
import os, sys, time
sys.path.insert(0, {lib!r})
from linstor_un import actions, main
from linstor_un.errors import *

class Probe:
    read = staticmethod(lambda call: call.argv)
    def run(self, world, request):
        return act(world, request)

def act(world, request):
{body}

actions.ACTIONS["tm.probe"] = Probe()
sys.exit(main.run("tm.probe", "probe: a test"))
"""


class Run:
    """A probe as a process. Its body sees `world` and `request`, and may use files of `directory`."""

    def __init__(self, tmp_path: Path, body: str, **popen: object) -> None:
        remotes = tmp_path / "one" / "var" / "remotes"
        remotes.mkdir(parents=True, exist_ok=True)
        script = tmp_path / "probe.py"
        indented = "".join(f"    {line}\n" for line in body.splitlines())
        script.write_text(PROBE.format(lib=str(LIB), body=indented))
        environ = {**os.environ, "ONE_LOCATION": str(tmp_path / "one"), "TMPDIR": str(tmp_path)}
        settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        self.process = subprocess.Popen(
            [sys.executable, str(script)], cwd=tmp_path, env=environ, text=True, **settings  # type: ignore[call-overload]
        )

    def end(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stdout, stderr


def run(tmp_path: Path, body: str) -> tuple[int, str, str]:
    return Run(tmp_path, body).end()


def test_success_prints_what_the_operation_returns(tmp_path: Path) -> None:
    answer = "/dev/drbd/by-res/one-image-5/0 raw"
    assert run(tmp_path, f"return {answer!r}") == (0, f"{answer}\n", "")
    assert run(tmp_path, "return ''") == (0, "", "")


def test_nobody_else_writes_to_stdout(tmp_path: Path) -> None:
    assert run(tmp_path, "print('noise'); os.system('echo noise'); return 'line'") == (0, "line\n", "")


@pytest.mark.parametrize(
    ("raised", "code"),
    [("BadRequest", 2), ("NotFound", 1), ("InUse", 1), ("Failed", 1), ("Uncertain", 1), ("Unreachable", 1)],
)
def test_a_failure_is_its_sentence_and_its_code(tmp_path: Path, raised: str, code: int) -> None:
    assert run(tmp_path, f"raise {raised}('one-image-5 is\\nin use')") == (code, "", "probe: one-image-5 is in use\n")


def test_a_release_that_looks_for_markers_gets_them(tmp_path: Path) -> None:
    (tmp_path / "one" / "var" / "remotes").mkdir(parents=True)
    (tmp_path / "one" / "var" / "remotes" / "scripts_common.sh").write_bytes(OLD.read_bytes())
    assert run(tmp_path, "raise Failed('no')")[2] == (
        "ERROR MESSAGE --8<------\nprobe: no\nERROR MESSAGE ------>8--\n"
    )


def test_a_bug_is_one_sentence_and_taken_back(tmp_path: Path) -> None:
    code, stdout, stderr = run(tmp_path, "with world.undo.by('x', os.mkdir, 'undone'):\n    {}['key']")
    assert (code, stdout) == (70, "")
    assert stderr.startswith("probe: KeyError: 'key'; this is a bug") and stderr.count("\n") == 1
    assert (tmp_path / "undone").is_dir()


@pytest.mark.parametrize("statement", ["sys.exit(0)", "raise KeyboardInterrupt", "raise MemoryError"])
def test_nothing_that_ends_a_program_passes_for_success(tmp_path: Path, statement: str) -> None:
    code, stdout, stderr = run(tmp_path, statement)
    assert (code, stdout, stderr.count("\n")) == (70, "", 1)


def test_a_missing_package_is_told_as_such(tmp_path: Path) -> None:
    code, _, stderr = run(tmp_path, "import no_such_package")
    assert code == 1
    assert "no_such_package" in stderr and "install.sh" in stderr


def test_failure_takes_back_newest_first_and_names_what_it_cannot(tmp_path: Path) -> None:
    code, _, stderr = run(
        tmp_path,
        "def note(text):\n    open('order', 'a').write(text)\n"
        "def fails():\n    raise InUse('node1 has it open')\n"
        "with world.undo.by('one', note, '1'): pass\n"
        "with world.undo.by('definition two', fails): pass\n"
        "with world.undo.by('three', note, '3'): pass\n"
        "raise NotEnoughSpace('pool thin is full')",
    )
    assert code == 3
    assert stderr == "probe: pool thin is full; left behind: definition two (node1 has it open)\n"
    assert (tmp_path / "order").read_text() == "31"


def test_success_gives_back_what_was_borrowed_and_warns_of_what_stays(tmp_path: Path) -> None:
    code, stdout, stderr = run(
        tmp_path,
        "def fails():\n    raise InUse('open')\n"
        "with world.undo.by('kept', os.mkdir, 'kept'): pass\n"
        "with world.undo.borrow('attachment on node1', fails): pass\n"
        "return 'done'",
    )
    assert (code, stdout) == (0, "done\n")
    assert stderr == "WARN: probe: left behind: attachment on node1 (open)\n"
    assert not (tmp_path / "kept").exists()


WAITING = """
def slowly():
    open('undoing', 'w').close()
    end = time.monotonic() + 0.5
    while time.monotonic() < end: time.sleep(0.01)
    open('undone', 'w').close()
with world.undo.by('x', slowly):
    open('ready', 'w').close()
    while True: time.sleep(60)
"""


def until(path: Path) -> None:
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_undoes_and_a_second_one_does_not_disturb(tmp_path: Path, number: signal.Signals) -> None:
    started = Run(tmp_path, WAITING)
    until(tmp_path / "ready")
    started.process.send_signal(number)
    until(tmp_path / "undoing")
    for again in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        started.process.send_signal(again)
    assert started.end() == (1, "", f"probe: stopped by {number.name}\n")
    assert (tmp_path / "undone").exists()


def test_a_signal_after_success_was_decided_changes_nothing(tmp_path: Path) -> None:
    body = WAITING.replace("undo.by", "undo.borrow").replace("while True: time.sleep(60)", "pass") + "return 'done'"
    started = Run(tmp_path, body)
    until(tmp_path / "undoing")
    started.process.send_signal(signal.SIGTERM)
    assert started.end() == (0, "done\n", "")


def test_a_signal_while_python_ends_is_no_failure(tmp_path: Path) -> None:
    late = """
import os, signal, sys
class Late:
    def __del__(self, kill=os.kill, pid=os.getpid(), number=signal.SIGTERM):
        kill(pid, number)
sys.modules["late"] = Late()  # deleted after Python gave its handlers up
return "done"
"""
    assert run(tmp_path, late) == (0, "done\n", "")


def test_commands_that_are_started_can_be_ended_by_signals(tmp_path: Path) -> None:
    code, stdout, _ = run(
        tmp_path,
        "import subprocess\nchild = subprocess.Popen(['sleep', '60'])\nchild.terminate()\nreturn str(child.wait(10))",
    )
    assert (code, stdout) == (0, "-15\n")


@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_readers_that_went_away_do_not_end_the_action_half_way(tmp_path: Path, closed: str) -> None:
    started = Run(tmp_path, "world.trail.info('x' * 1000)\nopen('done', 'w').close()\nreturn 'line'")
    for name, pipe in (("stdout", started.process.stdout), ("stderr", started.process.stderr)):
        if closed in (name, "both") and pipe:
            pipe.close()
    assert started.process.wait(60) == 0
    assert (tmp_path / "done").exists()
    for pipe in (started.process.stdout, started.process.stderr):
        if pipe and not pipe.closed:
            pipe.close()


def test_descriptors_that_were_closed_are_not_taken_by_others(tmp_path: Path) -> None:
    body = "with open('file', 'w') as file:\n    file.write('mine')\n    world.trail.warn('noise')\nreturn 'answer'"
    command = f"exec {sys.executable} probe.py <&- >&- 2>&-"
    Run(tmp_path, body).end()
    environ = {**os.environ, "ONE_LOCATION": str(tmp_path / "one"), "TMPDIR": str(tmp_path)}
    assert subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environ, check=False).returncode == 0
    assert (tmp_path / "file").read_text() == "mine"
