"""Lay out /var/lib/one (or $ONE_LOCATION/var) as the packages of a release leave it, with our driver inside."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from lab.oned.release import ErrorDialect, Release, release

REPOSITORY = Path(__file__).resolve().parents[3]
FILES = Path(__file__).with_name("files")
DRIVER_TREES = ("datastore", "tm", "vmm", "lib")


@dataclass(frozen=True)
class Frontend:
    """An installed front-end: `var` is /var/lib/one, `remotes` the driver scripts, `home` oneadmin's home."""

    var: Path
    home: Path
    release: Release

    @property
    def remotes(self) -> Path:
        return self.var / "remotes"

    def env(self, base: Optional[dict[str, str]] = None) -> dict[str, str]:
        """Return the environment oned's drivers have there: no ONE_* but ONE_LOCATION of a self-contained install."""
        env = dict(base) if base is not None else {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C"}
        env["HOME"] = str(self.home)
        if self.var != Path("/var/lib/one"):
            env["ONE_LOCATION"] = str(self.var.parent)
        return env


def install_frontend(
    var: Path, version: Union[str, Release] = "7.4.0", *, driver: Path = REPOSITORY,
    session: str = "oneadmin:opennebula", endpoint: str = "", owner: Optional[tuple[int, int]] = None,
) -> Frontend:
    """Install a release at `var`, which ends in "var" unless it is /var/lib/one, and our scripts from `driver`.

    Like an installation, the scripts' interpreter line names the Python that has the runtime packages: this one.
    `endpoint` is written to ~/.one/one_endpoint when it is not the default. `owner` (uid, gid) gets the files.
    """
    wanted = version if isinstance(version, Release) else release(version)
    home = var if var == Path("/var/lib/one") else var.parent / "home"
    frontend = Frontend(var, home, wanted)
    remotes = frontend.remotes
    for directory in (remotes / "etc/vmm/kvm", remotes / "etc/datastore", var / "vms", var / "datastores"):
        directory.mkdir(parents=True, exist_ok=True)
    (remotes / "VERSION").write_text(".".join(map(str, wanted.number)) + "\n")
    _install_stand_ins(frontend)
    _install_driver(remotes, driver)
    _write_private(home / ".one", {"one_auth": session + "\n", **({"one_endpoint": endpoint} if endpoint else {})})
    if owner:
        _give_away((var, home), owner)
    return frontend


def _install_stand_ins(frontend: Frontend) -> None:
    remotes = frontend.remotes
    markers = "old" if frontend.release.error_dialect is ErrorDialect.BLOCK else "new"
    copies = {
        f"scripts_common.{markers}.sh": remotes / "scripts_common.sh",
        "tm_common.sh": remotes / "tm/tm_common.sh",
        "downloader.sh": remotes / "datastore/downloader.sh",
        "context": remotes / "tm/common/context",
        "datastore.conf": remotes / "etc/datastore/datastore.conf",
        "kvmrc": remotes / "etc/vmm/kvm/kvmrc",
        "config": frontend.var / "config",
        "backup_ls": remotes / "datastore/rsync/ls",
    }
    for name, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FILES / name, target)
    for mad in ("ssh", "shared"):
        for action in ("context", "delete", "mkimage", "mkswap", "mv", "premigrate", "postmigrate", "failmigrate"):
            target = remotes / "tm" / mad / action
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(FILES / "other_tm", target)


def _install_driver(remotes: Path, driver: Path) -> None:
    for tree in DRIVER_TREES:
        if (driver / tree).is_dir():
            shutil.copytree(
                driver / tree, remotes / tree, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
    if (driver / "etc/linstor_un.conf").exists():
        target = remotes / "etc/datastore/linstor_un/linstor_un.conf"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(driver / "etc/linstor_un.conf", target)
    for tree in DRIVER_TREES[:3]:
        for script in (remotes / tree).rglob("*"):
            if script.is_file() and "linstor_un" in str(script.relative_to(remotes)):
                _point_at_this_python(script)


def _point_at_this_python(script: Path) -> None:
    first, _, rest = script.read_bytes().partition(b"\n")
    if first == b"#!/usr/bin/env python3":
        script.write_bytes(f"#!{sys.executable}\n".encode() + rest)


def _write_private(directory: Path, files: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    for name, text in files.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)


def _give_away(trees: tuple[Path, ...], owner: tuple[int, int]) -> None:
    for tree in trees:
        os.chown(tree, *owner)
        for directory, names, files in os.walk(tree):
            for name in names + files:
                os.chown(os.path.join(directory, name), *owner, follow_symlinks=False)
