"""kvmrc: how OpenNebula's scripts for KVM talk to libvirt, as far as this driver does the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from . import conffile


class Kvmrc(NamedTuple):
    """What an administrator set in kvmrc; the defaults are those of OpenNebula's scripts without it.

    `timeout` is for commands of virsh that may block, in seconds; `retries` for a restore that fails.
    """

    uri: str = "qemu:///system"
    timeout: int = 60
    retries: int = 3
    sync_time: bool = False
    compact_on_start: bool = False
    compact_on_stop: bool = False


def load(text: str) -> Kvmrc:
    """Read the file, which is never run. A number that is none counts as not set. Raises nothing."""
    values = conffile.parse(text).values
    default = Kvmrc()
    return Kvmrc(
        values.get("LIBVIRT_URI") or default.uri,
        _number(values, "VIRSH_TIMEOUT", default.timeout),
        _number(values, "VIRSH_RETRIES", default.retries),
        values.get("SYNC_TIME") == "yes",
        values.get("CLEANUP_MEMORY_ON_START") == "yes",
        values.get("CLEANUP_MEMORY_ON_STOP") == "yes",
    )


def _number(values: Mapping[str, str], name: str, default: int) -> int:
    text = values.get(name, "")
    return int(text) if re.match(r"[1-9][0-9]{0,8}\Z", text) else default
