"""What the README tells a newcomer to do is done here, command by command, in an OpenNebula of this test's own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

import pytest
from lab.controller import router
from lab.controller.cluster import Cluster
from lab.controller.server import Controller
from lab.oned import documents
from lab.oned.store import Documents
from lab.oned.xmlrpc import XmlRpc

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text()
# These show something on a lab of their own and need no OpenNebula.
SHOWS = ("./install.sh --demo", "./tests/run")
REMOTES = "/var/lib/one/remotes"

_MADE = """. ./install.sh && find_python &&
    maker "$python" "$1" >"$1/made-by" && requirements "$python" dependencies >"$1/installed"
"""


def commands() -> list[str]:
    """Return the indented lines outside of fenced blocks."""
    outside = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^    (\S.*)$", outside, re.MULTILINE)


def block_after(words: str) -> str:
    """Return the first fenced block after these words."""
    found = re.search(r"^```\n(.*?)^```$", README[README.index(words) :], re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


class Machine:
    """A front-end with oned's answers and a simulated LINSTOR, and the hands that type."""

    def __init__(self, directory: Path) -> None:
        self.location = directory
        (directory / "var/remotes").mkdir(parents=True)
        (directory / "etc/vmm_exec").mkdir(parents=True)
        (directory / "etc/oned.conf").write_text(block_after("### oned.conf"))
        (directory / "etc/vmm_exec/vmm_execrc").write_text(block_after("`vmm_exec/vmm_execrc`"))
        self.cluster = Cluster("1.33")
        for name in ("node1", "node2", "node3"):
            self.cluster.add_node(name)
            self.cluster.add_pool(name, "thin", "LVM_THIN", 1 << 20)
        self.controller = Controller(self.cluster).start()
        self.documents = Documents()
        self.oned = XmlRpc(self.documents).start()
        auth = directory / "one_auth"
        auth.write_text(self.oned.session)
        self.env = {
            **os.environ, "ONE_LOCATION": str(directory), "ONE_AUTH": str(auth), "ONE_XMLRPC": self.oned.endpoint,
        }
        self._pretend_environment()

    def close(self) -> None:
        self.oned.stop()
        self.controller.stop()

    def _pretend_environment(self) -> None:
        """Let install.sh find its virtual environment done: making one downloads packages."""
        venv = self.location / "lib/linstor_un/venv"
        (venv / "bin").mkdir(parents=True)
        (venv / "bin/python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        (venv / "bin/python").chmod(0o755)
        self.shell("bash", "-c", _MADE, "bash", str(venv))

    def shell(self, *words: str, stdin: str = "") -> str:
        """Run a command in the checkout; it has to succeed."""
        result = subprocess.run(
            words, cwd=PROJECT, env=self.env, input=stdin, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"
        return result.stdout

    def type(self, command: str) -> None:
        """Do what a line of the README says."""
        words = shlex.split(command)
        hands: dict[str, Callable[[list[str]], object]] = {
            "./install.sh": self._install, "linstor": self._linstor, "onedatastore": self._onedatastore,
        }
        if words[0].startswith(REMOTES):
            script = words[0].replace(REMOTES, str(self.location / "var/remotes"))
            said = self.shell(script, *words[1:])
            assert said.count("ok ") == 2, said
        else:
            hands[words[0]](words[1:])

    def _install(self, words: list[str]) -> None:
        said = self.shell("./install.sh", *(sys.executable if word == "/usr/bin/python3" else word for word in words))
        assert "to do" not in said and "wrong" not in said, said

    def _linstor(self, words: list[str]) -> None:
        """Be the linstor client for the two commands of the README."""
        if words[:2] == ["resource-group", "create"]:
            options = dict(zip(words[3::2], words[4::2]))
            select = {"place_count": int(options["--place-count"]), "storage_pool_list": [options["--storage-pool"]]}
            self._rest("/v1/resource-groups", {"name": words[2], "select_filter": select})
        else:
            assert words[:2] == ["volume-group", "create"]
            self._rest(f"/v1/resource-groups/{words[2]}/volume-groups", {})

    def _rest(self, path: str, body: Mapping[str, Any]) -> None:
        response = router.respond(self.cluster, "POST", path, {}, json.dumps(body).encode())
        assert response.status < 300, response.body

    def _onedatastore(self, words: list[str]) -> None:
        """Be onedatastore: system datastores get 101, others 100. Controllers are where the test has one."""
        assert words[0] == "create"
        template = dict(re.findall(r'^(\w+) = "(.*)"$', block_after(f"in `{words[1]}`"), re.MULTILINE))
        kind = template.pop("TYPE") == "SYSTEM_DS"
        assert template.pop("TM_MAD") == "linstor_un"
        template["LS_CONTROLLERS"] = f"127.0.0.1:{self.controller.port}"
        self.documents.put(documents.datastore(100 + kind, int(kind), **template))


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def test_the_commands_of_the_readme_work_one_after_the_other(machine: Machine) -> None:
    for command in commands():
        if not command.startswith(SHOWS):
            machine.type(command)
    values = machine.shell(
        "bash", "-c", 'base64 -w0 | "$0" 101', str(machine.location / "var/remotes/tm/linstor_un/monitor"),
        stdin=f"<DS_DRIVER_ACTION_DATA>{machine.documents.get('DATASTORE', 101)}</DS_DRIVER_ACTION_DATA>",
    )
    assert "TOTAL_MB=" in values


def test_the_readme_shows_the_two_commands_first() -> None:
    assert tuple(commands()[:2]) == SHOWS


@pytest.mark.slow
@pytest.mark.parametrize("command", SHOWS)
def test_what_the_readme_shows_can_be_seen(command: str) -> None:
    arguments = ["tests/test_install.py", "-k", "usage"] if command == "./tests/run" else []
    words = [*shlex.split(command), *arguments]
    result = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    last = result.stdout.strip().splitlines()[-1]
    assert re.search(r"checks hold|nothing is left|1 passed", last), last


def links() -> list[tuple[Path, str]]:
    found = []
    for path in [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]:
        found += [(path, target) for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text())]
    return found


@pytest.mark.parametrize("path, target", links(), ids=lambda value: getattr(value, "name", value))
def test_links_between_documents_lead_somewhere(path: Path, target: str) -> None:
    assert (path.parent / target).exists()


def attributes_of_document() -> set[str]:
    text = (PROJECT / "docs/attributes.md").read_text()
    return set(re.findall(r"`([A-Z][A-Z_]{4,})`", " ".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))))


def test_every_attribute_is_documented_and_no_other() -> None:
    from linstor_un.attributes import ATTRIBUTES, OLD_SPELLINGS

    assert attributes_of_document() == set(ATTRIBUTES)
    text = (PROJECT / "docs/attributes.md").read_text()
    assert all(f"Old spelling: `{old}`" in text for old in OLD_SPELLINGS)
