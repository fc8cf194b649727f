"""The shape of the house: what may import what, what each action loads, one template for all scripts."""

from __future__ import annotations

import ast
import base64
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.oned import documents
from linstor_un.actions import ACTIONS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lib" / "linstor_un"

# An import goes to a strictly lower number; within one half of layer 5 it may stay.
LAYERS = {
    "errors": 0,
    "log": 1, "units": 1, "naming": 1, "undo": 1, "conffile": 1, "attributes": 1, "places": 1,
    "domainxml": 1, "onexml": 2, "settings": 2, "kvmrc": 2,
    "inventory": 2, "world": 3, "request": 3,
    "calling": 4, "retry": 4, "placement": 4, "copying": 4, "image_formats": 4,
    "operations": 5, "adapters": 5,
    "actions": 6, "wiring": 6,
    "byhand": 7,
    "main": 8,
}  # fmt: skip
# The only modules that may import what is not in the standard library.
OUTSIDE = {"linstor": "adapters/controller", "lxml": "onexml", "click": "byhand"}
STANDARD = sys.stdlib_module_names if sys.version_info >= (3, 10) else frozenset()


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield each module by its path below the package, without .py."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE).with_suffix("")), ast.parse(path.read_text())


def inner_imports(name: str, tree: ast.Module) -> Iterator[str]:
    """Yield the top-level names in the package that a module imports."""
    depth = name.count("/") + 1
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            if node.level < depth:
                yield name.split("/", maxsplit=1)[0]
            elif node.module:
                yield node.module.split(".")[0]
            else:
                yield from (alias.name for alias in node.names)


def outer_imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize(("name", "tree"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_downwards(name: str, tree: ast.Module) -> None:
    own = name.split("/", maxsplit=1)[0]
    if own == "__init__":
        assert list(inner_imports(name, tree)) == []
        return
    for imported in inner_imports(name, tree):
        if imported == "__version__" or (imported == own and "/" in name):
            continue
        assert LAYERS[imported] < LAYERS[own], f"{name} imports {imported}"


@pytest.mark.skipif(not STANDARD, reason="Python 3.9 does not tell which modules are in its standard library")
@pytest.mark.parametrize(("name", "tree"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_each_package_has_its_place(name: str, tree: ast.Module) -> None:
    for imported in set(outer_imports(tree)) - STANDARD:
        assert imported in OUTSIDE, f"{name} imports {imported}, which is no package of ours"
        assert name.startswith(OUTSIDE[imported]), f"{name} imports {imported}; only {OUTSIDE[imported]} may"


@pytest.mark.parametrize(("name", "tree"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_public_is_explained(name: str, tree: ast.Module) -> None:
    assert ast.get_docstring(tree) or name.endswith("__init__"), f"{name} has no docstring"

    def look(node: ast.AST, where: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and not child.name.startswith("_"):
                assert ast.get_docstring(child), f"{where}.{child.name} has no docstring"
                if isinstance(child, ast.ClassDef):
                    look(child, f"{where}.{child.name}")

    look(tree, name)


def test_no_module_is_a_drawer_for_everything() -> None:
    for name, _ in modules():
        assert not {"util", "utils", "common", "helpers", "misc"} & set(name.split("/")), name
        lines = (PACKAGE / f"{name}.py").read_text().count("\n")
        assert lines <= 400, f"{name} has {lines} lines"


TEMPLATE = '''#!/usr/bin/env python3
"""{text}
"""
import os.path
import sys

sys.path.insert(0, os.path.realpath(__file__ + "/../../../lib"))

from linstor_un.main import run

sys.exit(run("{action}", usage=__doc__))
'''


def scripts() -> list[Path]:
    folders = ("datastore/linstor_un", "tm/linstor_un", "vmm/kvm")
    # What runs on hosts, save.linstor_un and restore.linstor_un, has a template of its own.
    return sorted(path for folder in folders for path in (ROOT / folder).iterdir() if "." not in path.name)


@pytest.mark.parametrize("script", scripts(), ids=lambda path: "/".join(path.parts[-3:]))
def test_all_scripts_come_from_one_template(script: Path) -> None:
    text = script.read_text()
    docstring = ast.get_docstring(ast.parse(text), clean=False)
    assert docstring and docstring.startswith(f"{script.name}: ") and f"\nusage: {script.name} " in docstring
    assert text == TEMPLATE.format(text=docstring[:-1], action=f"{script.parts[-3]}.{script.name}")
    assert text.count("\n") <= 15
    assert script.stat().st_mode & stat.S_IXUSR


def test_each_action_has_its_script() -> None:
    assert {f"{script.parts[-3]}.{script.name}" for script in scripts()} == set(ACTIONS)


def loaded(tmp_path: Path, action: str, *argv: str, document: str = "") -> tuple[set[str], str]:
    """Run a script and return the top-level packages it imported, and the last line it said."""
    kind, name = action.split(".")
    environ = {
        **os.environ, "ONE_LOCATION": str(tmp_path), "HOME": str(tmp_path), "TMPDIR": str(tmp_path),
        "ONE_AUTH": str(tmp_path / "auth"), "ONE_XMLRPC": "http://127.0.0.1:9/RPC2",
    }  # fmt: skip
    (tmp_path / "auth").write_text("a:b")
    folder = "kvm" if kind == "vmm" else "linstor_un"
    command = [sys.executable, "-X", "importtime", str(ROOT / kind / folder / name), *argv]
    ended = subprocess.run(
        command, input=base64.b64encode(document.encode()), env=environ, capture_output=True, timeout=60, check=False
    )
    lines = ended.stderr.decode().splitlines()
    names = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    return {found.split(".")[0] for found in names} | names, lines[-1]


DISK = "node1:/var/lib/one//datastores/101/7/disk.0"
SOURCE = "/dev/drbd/by-res/one-image-5/0"
HEAVY = {"linstor", "pyone", "click", "xmlrpc"}
# Modules of the standard library that load one another: xml.sax has urllib.request, and that has the others.
WEB = {"urllib.request", "xml.sax", "hashlib", "tempfile"}


def document(datastore: int = 100, **image: str) -> str:
    inside = documents.image("7.4", 5, **image) if image else ""  # type: ignore[arg-type]
    attributes = {"RESOURCE_GROUP": "one", "LS_CONTROLLERS": "127.0.0.1:9", "LS_TIMEOUT": "1"}
    store = documents.datastore(datastore, datastore % 100, **attributes)
    return f"<DS_DRIVER_ACTION_DATA>{inside}{store}</DS_DRIVER_ACTION_DATA>"


@pytest.mark.parametrize("action", ACTIONS)
def test_a_bad_request_loads_nothing_heavy(tmp_path: Path, action: str) -> None:
    found, said = loaded(tmp_path, action, "x", "y", "z", "a", "b", "c")
    assert said.startswith(action.split(".")[1] + ": ")
    assert not found & (HEAVY | {"linstor_un.adapters.locks", "linstor_un.operations.volumes"})


def test_stat_never_loads_linstor(tmp_path: Path) -> None:
    found, said = loaded(tmp_path, "datastore.stat", "1", document=document(path=str(tmp_path / "none.img")))
    assert "none.img" in said
    assert not found & (HEAVY | WEB)


@pytest.mark.parametrize(
    ("action", "argv", "xml"),
    [
        ("datastore.rm", ["5"], document(source=SOURCE)),
        ("datastore.monitor", ["100"], document()),
        ("tm.monitor", ["101"], document(101)),
    ],
)
def test_actions_that_ask_only_linstor_load_nothing_to_ask_oned(
    tmp_path: Path, action: str, argv: list[str], xml: str
) -> None:
    found, said = loaded(tmp_path, action, *argv, document=xml)
    assert "linstor" in found, said
    assert not found & ({"pyone", "click", "xmlrpc", "subprocess"} | WEB)


@pytest.mark.parametrize(
    ("action", "argv"),
    [
        ("tm.clone", [f"fe:{SOURCE}", DISK, "7", "100"]),
        ("tm.ln", [f"fe:{SOURCE}", DISK, "7", "100"]),
        ("tm.mkimage", ["10", "raw", DISK, "7", "101"]),
        ("tm.mkswap", ["10", DISK, "7", "101"]),
        ("tm.delete", [DISK, "7", "100"]),
        ("tm.mvds", [DISK, SOURCE, "7", "100"]),
        ("tm.cpds", [DISK, SOURCE, "-1", "7", "100"]),
        ("tm.resize", [DISK, "16", "7", "100"]),
    ],
)
def test_actions_on_disks_ask_oned_before_they_load_linstor(tmp_path: Path, action: str, argv: list[str]) -> None:
    found, said = loaded(tmp_path, action, *argv)
    assert "oned at http://127.0.0.1:9/RPC2 does not answer" in said
    assert not found & {"linstor", "pyone", "click"}


@pytest.mark.parametrize(
    ("action", "argv"),
    [
        ("vmm.save_linstor_un", ["one-7", "/var/lib/one//datastores/106/7/checkpoint", "::", "7", "::"]),
        ("vmm.restore_linstor_un", ["/var/lib/one//datastores/106/7/checkpoint", "::", "one-7", "7", "::"]),
    ],
)
def test_a_vm_of_another_driver_is_handed_over_with_as_little_as_possible(
    tmp_path: Path, action: str, argv: list[str]
) -> None:
    host = "nowhere.invalid"
    words = [word.replace("::", host) for word in argv]
    store = documents.datastore(106, 1, tm_mad="ssh")
    found, said = loaded(tmp_path, action, *words, document=documents.vmm_action(7, store))
    assert f"host {host} cannot be reached" in said or "ssh cannot be started" in said
    # The one that importlib was asked for by name is not in the list.
    assert {name for name in found if name.startswith("linstor_un.operations.")} == {"linstor_un.operations.stock"}
    assert not found & (HEAVY | {"linstor_un.placement", "linstor_un.adapters.locks", "linstor_un.adapters.controller"})


def test_saving_a_vm_loads_nothing_of_linstor_before_its_host_has_answered(tmp_path: Path) -> None:
    host = "nowhere.invalid"
    words = ["one-7", "/var/lib/one//datastores/101/7/checkpoint", host, "7", host]
    store = documents.datastore(101, 1, RESOURCE_GROUP="one", LS_CONTROLLERS="127.0.0.1:9")
    found, said = loaded(tmp_path, "vmm.save_linstor_un", *words, document=documents.vmm_action(7, store))
    assert f"host {host} cannot be reached" in said or "ssh cannot be started" in said
    assert not found & (HEAVY | WEB)


def test_click_is_for_persons_only(tmp_path: Path) -> None:
    assert "click" in loaded(tmp_path, "tm.clone", "--version")[0]


def tool(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if not found:
        pytest.skip(f"{name} is not installed; pip install {name}")
    return found


def test_ruff_has_nothing_to_say() -> None:
    ended = subprocess.run([tool("ruff"), "check", "."], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout


@pytest.mark.slow
def test_mypy_has_nothing_to_say(tmp_path: Path) -> None:
    ended = subprocess.run(
        [tool("mypy"), "--strict", "--cache-dir", str(tmp_path), "lib"], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout


# Spelled in parts, for this file is looked at as well.
_WORDS = [r"\.\./" + "shared", "/" + "work/", "farm" + "-", r"\b" + r"issue #?\d", "issues" + r"/\d"]
_FOREIGN = re.compile("|".join(_WORDS))


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed: the files of the project are not known")
def test_the_project_speaks_of_nothing_outside_of_itself() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    if not any(listed):
        pytest.skip("not a git work tree: the files of the project are not known")
    for name in filter(None, listed):
        path = ROOT / name
        if not path.is_file() or name.startswith("tests/data/"):
            continue
        found = _FOREIGN.search(path.read_text(errors="replace"))
        assert not found, f"{name} speaks of {found and found[0]}"
