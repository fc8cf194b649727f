"""Let oneadmin run the Python of this test run, which may lie in a home that only its owner may enter."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lab.hosts import isolation, kernel

_X_FOR_ALL = 0o011


def open_the_way() -> None:
    """Make every directory above the interpreter passable, in this lab only: the machine's modes stay.

    Call it in a lab (after `enter`). Directories that everybody may pass are left alone.
    """
    for path in (sys.executable, os.path.realpath(sys.executable), sys.prefix, sys.base_prefix):
        for directory in reversed(Path(path).parents):
            mode = directory.stat().st_mode
            if mode & _X_FOR_ALL != _X_FOR_ALL:
                _cover(directory, mode & 0o7777 | _X_FOR_ALL)


def _cover(directory: Path, mode: int) -> None:
    layer = isolation.BASE / "passable" / str(directory).strip("/").replace("/", "-")
    for name in ("upper", "work"):
        (layer / name).mkdir(parents=True)
    (layer / "upper").chmod(mode)
    options = f"lowerdir={directory},upperdir={layer}/upper,workdir={layer}/work"
    kernel.mount(isolation.MARK + isolation.token(), str(directory), "overlay", 0, options)
