"""install.sh in a self-contained OpenNebula ($ONE_LOCATION) of this test's own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[1]
ONED_CONF = """\
TM_MAD = [ EXECUTABLE = "one_tm",
           ARGUMENTS = "-t 15 -d dummy,shared,ssh,ceph" ]
DATASTORE_MAD = [ EXECUTABLE = "one_datastore",
    ARGUMENTS  = "-t 15 -d dummy,fs,ceph -s shared,ssh,ceph" ]
VM_MAD = [ NAME = "kvm", ARGUMENTS = "-t 15 -r 0 kvm" ]
# TM_MAD_CONF = [ NAME = "linstor_un" ]
"""
ONED_CONF_DONE = """\
TM_MAD = [ EXECUTABLE = "one_tm",
           ARGUMENTS = "-t 15 -d dummy,shared,ssh,ceph,linstor_un" ]
DATASTORE_MAD = [ EXECUTABLE = "one_datastore",
    ARGUMENTS  = "-t 15 -d dummy,fs,linstor_un,ceph -s shared,ssh,linstor_un" ]
VM_MAD = [ NAME = "kvm",
    ARGUMENTS = "-l migrate=migrate_local,restore=restore_linstor_un,save=save_linstor_un -t 15 -r 0 kvm" ]
TM_MAD_CONF = [ NAME = "linstor_un", LN_TARGET = "NONE" ]
DS_MAD_CONF = [ NAME = "linstor_un" ]
"""


def furnish(directory: Path) -> Path:
    """Lay out what OpenNebula has before the driver is installed."""
    (directory / "var" / "remotes" / "vmm" / "kvm").mkdir(parents=True)
    (directory / "etc" / "vmm_exec").mkdir(parents=True)
    (directory / "etc" / "oned.conf").write_text(ONED_CONF)
    (directory / "etc" / "vmm_exec" / "vmm_execrc").write_text('LIVE_DISK_SNAPSHOTS="kvm-qcow2 kvm-linstor_un"\n')
    return directory


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return furnish(tmp_path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An installation that nobody changes, and what install.sh said."""
    directory = furnish(tmp_path_factory.mktemp("first"))
    return directory, install(directory)


@pytest.fixture
def installed(first: tuple[Path, str], tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(first[0], tmp_path / "copy", symlinks=True))


def run(location: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "ONE_LOCATION": str(location)}
    command = [str(PROJECT / "install.sh"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def install(location: Path) -> str:
    """Install with this Python, which has the packages; return what was said."""
    result = run(location, "--python", sys.executable)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def state(directory: Path) -> dict[str, str]:
    """Return a digest of every file below a directory; compiled ones hold times and are left out."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_scripts_run_with_the_interpreter_that_has_the_packages(installed: Path) -> None:
    script = installed / "var/remotes/tm/linstor_un/clone"
    assert script.read_text().splitlines()[0] == f"#!{sys.executable}"
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, env={})
    assert result.stdout.strip() == "2.0.0"


def test_the_library_is_compiled_for_its_first_run(installed: Path) -> None:
    assert list((installed / "var/remotes/lib/linstor_un").rglob("main*.pyc"))


def test_installing_again_changes_nothing(installed: Path) -> None:
    before = state(installed)
    install(installed)
    assert state(installed) == before


def test_installing_again_keeps_an_edited_configuration_and_no_stray_module(installed: Path) -> None:
    conf = installed / "var/remotes/etc/datastore/linstor_un/linstor_un.conf"
    conf.write_text("REPLICA_COUNT=3\n")
    stray = installed / "var/remotes/lib/linstor_un/gone.py"
    stray.write_text("")
    install(installed)
    assert conf.read_text() == "REPLICA_COUNT=3\n"
    assert not stray.exists()


def test_oned_conf_is_never_edited_but_everything_missing_in_it_is_named(first: tuple[Path, str]) -> None:
    location, said = first
    assert (location / "etc" / "oned.conf").read_text() == ONED_CONF
    to_do = [line.split("to do")[1].split(":")[1].strip() for line in said.splitlines() if "to do" in line]
    assert to_do[:6] == ["TM_MAD", "DATASTORE_MAD", "DATASTORE_MAD", "TM_MAD_CONF", "DS_MAD_CONF", "VM_MAD kvm"]


def test_check_is_content_with_a_complete_installation(installed: Path) -> None:
    assert run(installed, "--check").returncode == 1
    (installed / "etc" / "oned.conf").write_text(ONED_CONF_DONE)
    result = run(installed, "--check")
    assert result.returncode == 0, result.stdout
    assert "to do" not in result.stdout and "wrong" not in result.stdout


@pytest.mark.parametrize(
    "spoil", ["tm/linstor_un/clone", "lib/linstor_un/naming.py", "etc/datastore/linstor_un/linstor_un.conf"]
)
def test_check_finds_what_is_missing_or_old_and_changes_nothing(installed: Path, spoil: str) -> None:
    (installed / "etc" / "oned.conf").write_text(ONED_CONF_DONE)
    path = installed / "var/remotes" / spoil
    if path.suffix == ".conf":
        path.unlink()
    else:
        path.write_text(path.read_text() + "# older\n")
    before = state(installed)
    result = run(installed, "--check")
    assert result.returncode == 1
    named = "lib/linstor_un is not of version" if spoil.startswith("lib/") else spoil
    assert any("wrong" in line and named in line for line in result.stdout.splitlines())
    assert state(installed) == before


def test_a_python_without_the_packages_is_refused(location: Path, tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    result = run(location, "--python", str(bare))
    assert result.returncode == 1 and "cannot import all of" in result.stderr
    assert not (location / "var/remotes/tm").exists()


def old_driver(location: Path) -> None:
    """Lay out the parts of the bash driver 1.8.2 that matter to an upgrade."""
    remotes = location / "var/remotes"
    for path in ("datastore/linstor_un/cp", "tm/linstor_un/clone", "tm/linstor_un/mv_nobody_needs",
                 "vmm/kvm/save_linstor_un"):
        (remotes / path).parent.mkdir(parents=True, exist_ok=True)
        (remotes / path).write_text("#!/bin/bash\n. ../../datastore/linstor_un/linstor_utils.sh\n")
    (remotes / "datastore/linstor_un/linstor_utils.sh").write_text("# functions\n")
    (remotes / "tm/linstor_un/site_hook").write_text("#!/bin/bash\n# not of the driver\n")
    (remotes / "vmm/kvm/deploy").write_text("#!/bin/bash\n# OpenNebula's\n")
    conf = remotes / "etc/datastore/linstor_un/linstor_un.conf"
    conf.parent.mkdir(parents=True)
    conf.write_text("DD_CONV=sparse\n")


def test_the_bash_driver_is_replaced_in_place_and_kept_in_an_archive(location: Path) -> None:
    old_driver(location)
    remotes = location / "var/remotes"
    said = install(location)
    assert "upgrading from the bash driver 1.8.2" in said
    assert "kept from 1.8.2, as this version has no successor for it: tm/linstor_un/mv_nobody_needs" in said
    assert (remotes / "datastore/linstor_un/linstor_utils.sh").exists(), "what is kept needs it"
    assert (remotes / "tm/linstor_un/mv_nobody_needs").exists()
    assert (remotes / "datastore/linstor_un/cp").read_text().startswith(f"#!{sys.executable}\n")
    assert (remotes / "tm/linstor_un/site_hook").exists() and (remotes / "vmm/kvm/deploy").exists()
    assert (remotes / "etc/datastore/linstor_un/linstor_un.conf").read_text() == "DD_CONV=sparse\n"
    (archive,) = (location / "lib/linstor_un").glob("*.tar.gz")
    with tarfile.open(archive) as content:
        assert {"datastore/linstor_un/linstor_utils.sh", "tm/linstor_un/mv_nobody_needs"} <= set(content.getnames())
    assert "upgrading" not in install(location)
    for script in ("tm/linstor_un/mv_nobody_needs", "vmm/kvm/save_linstor_un"):
        (remotes / script).unlink(missing_ok=True)
    install(location)
    assert not (remotes / "datastore/linstor_un/linstor_utils.sh").exists(), "nobody needs it any more"


def test_without_an_opennebula_it_says_where_it_looked(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.returncode == 1
    assert f"there is no {tmp_path}/var/remotes" in result.stderr


def test_copied_folders_are_an_installation_where_the_packages_are_importable(tmp_path: Path) -> None:
    for tree in ("datastore", "tm", "vmm", "lib"):
        if (PROJECT / tree).is_dir():
            shutil.copytree(PROJECT / tree, tmp_path / tree)
    env = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    scripts = [*tmp_path.glob("datastore/linstor_un/*"), *tmp_path.glob("tm/linstor_un/*")]
    assert scripts
    for script in scripts[:2]:
        result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, env=env)
        assert result.stdout.strip() == "2.0.0"


def test_each_package_that_is_missing_is_named_once() -> None:
    words = '. "$1"; PYTHONS= PATH=/nowhere; find_absent python3=python3 none-such=other; echo "${absent[@]}"'
    command = ["bash", "-c", words, "bash", str(PROJECT / "install.sh")]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["python3", "other", "python3-venv"]


def test_an_unknown_word_is_answered_with_the_usage(tmp_path: Path) -> None:
    result = run(tmp_path, "--dmeo")
    assert result.returncode == 1 and "./install.sh --demo" in result.stdout
    assert run(tmp_path, "--help").returncode == 0
