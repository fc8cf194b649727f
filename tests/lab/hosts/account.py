"""The account that OpenNebula runs as: oneadmin, its groups, its home and its keys."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

NAME = "oneadmin"
UID = 9869
GID = 9869
HOME = Path("/var/lib/one")


def create_oneadmin(etc: Path, home: Path) -> None:
    """Write oneadmin into passwd, group and shadow below `etc`, in place of one that is there, and make its home.

    Its password is "*": sshd without PAM takes "!" for a locked account and refuses its keys too. It is in
    group disk, as the packages of OpenNebula put it, and so may open the volumes.
    """
    passwd = _without(etc / "passwd", NAME) + [f"{NAME}:x:{UID}:{GID}::{home}:/bin/bash"]
    shadow = _without(etc / "shadow", NAME) + [f"{NAME}:*:19000:0:99999:7:::"]
    _rewrite(etc / "passwd", passwd, 0o644)
    _rewrite(etc / "shadow", shadow, 0o640)
    groups = _without(etc / "group", NAME) + [f"{NAME}:x:{GID}:"]
    if not any(line.startswith("disk:") for line in groups):
        groups.append("disk:x:6:")
    _rewrite(etc / "group", [_with_member(line) if line.startswith("disk:") else line for line in groups], 0o644)
    own_directory(home)


def disk_group(etc: Path = Path("/etc")) -> int:
    """Return the number of group disk."""
    for line in (etc / "group").read_text().splitlines():
        if line.startswith("disk:"):
            return int(line.split(":")[2])
    raise LookupError(f"no group disk in {etc}/group")


def own_directory(path: Path, mode: int = 0o755) -> None:
    """Make a directory that belongs to oneadmin."""
    path.mkdir(parents=True, exist_ok=True)
    os.chmod(path, mode)
    os.chown(path, UID, GID)


def own_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file that belongs to oneadmin."""
    path.write_text(text)
    os.chmod(path, mode)
    os.chown(path, UID, GID)


def make_key(path: Path) -> str:
    """Make an ed25519 key without a passphrase at `path` and return its public line."""
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().strip()


def _without(path: Path, name: str) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith(f"{name}:")]


def _with_member(line: str) -> str:
    name, password, number, members = line.split(":")
    names = [member for member in members.split(",") if member and member != NAME]
    return ":".join([name, password, number, ",".join([*names, NAME])])


def _rewrite(path: Path, lines: list[str], mode: int) -> None:
    path.write_text("\n".join(lines) + "\n")
    os.chmod(path, mode)
