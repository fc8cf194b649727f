"""Where OpenNebula is on this machine, from the environment that oned gives its drivers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_SCRIPTS = re.compile(r'^\s*SCRIPTS_REMOTE_DIR\s*=\s*"?(/[^"\n]*)', re.MULTILINE)
_DATASTORES = re.compile(r'^\s*DATASTORE_LOCATION\s*=\s*"?(/[^"\n]*)', re.MULTILINE)
_HOSTNAME = re.compile(r'^\s*HOSTNAME\s*=\s*"?([A-Za-z0-9_.-]+)', re.MULTILINE)


def var(environ: Mapping[str, str]) -> str:
    """Return OpenNebula's variable data: $ONE_LOCATION/var in a self-contained installation."""
    location = environ.get("ONE_LOCATION", "")
    return f"{location}/var" if location else "/var/lib/one"


def remotes(environ: Mapping[str, str]) -> str:
    """Return the directory of the installed drivers; on a host, where hooks run, oned's copy of it."""
    return environ.get("LINSTOR_UN_TREE") or f"{var(environ)}/remotes"


def etc(environ: Mapping[str, str]) -> str:
    """Return the directory of oned's own configuration."""
    location = environ.get("ONE_LOCATION", "")
    return f"{location}/etc" if location else "/etc/one"


def scripts_on_hosts(var: str) -> str:
    """Return the directory of OpenNebula's own scripts on hosts: oned writes its SCRIPTS_REMOTE_DIR into `config`.

    Arguments: var, OpenNebula's variable data.
    """
    return _configured(var, _SCRIPTS) or "/var/tmp/one"


def datastores(var: str) -> str:
    """Return the directory of all datastores, the same on every machine: DATASTORE_LOCATION of oned's `config`.

    Arguments: var, OpenNebula's variable data.
    """
    return os.path.normpath(_configured(var, _DATASTORES) or f"{var}/datastores")


def _configured(var: str, setting: re.Pattern[str]) -> str:
    try:
        with open(f"{var}/config", encoding="utf-8", errors="replace") as file:
            found = setting.search(file.read())
    except OSError:
        found = None
    return found[1].strip() if found else ""


def release(remotes_directory: str) -> tuple[int, ...]:
    """Return which OpenNebula is installed, such as (6, 8, 3), as its remotes say; () when they do not."""
    try:
        with open(f"{remotes_directory}/VERSION", encoding="ascii", errors="replace") as file:
            return tuple(map(int, re.findall(r"[0-9]+", file.read())[:3]))
    except OSError:
        return ()


def own_names(environ: Mapping[str, str]) -> frozenset[str]:
    """Return the names by which oned may call this machine in FE:PATH.

    oned takes the kernel's host name, or HOSTNAME of oned.conf where that is set.
    """
    name = os.uname().nodename
    names = {name, name.partition(".")[0]}
    try:
        with open(f"{etc(environ)}/oned.conf", encoding="utf-8") as file:
            names.update(_HOSTNAME.findall(file.read()))
    except (OSError, UnicodeDecodeError):
        pass  # where oneadmin may not read oned.conf, the kernel's name has to do
    return frozenset(names)
