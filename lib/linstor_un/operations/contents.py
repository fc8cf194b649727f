"""What is on a volume: copies of devices, file systems, zeroes.

Nothing here creates or removes volumes; a failure leaves bytes that must not be called good.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import NamedTuple, Optional

from .. import copying
from ..copying import End, Plan
from ..errors import BadRequest, Failed, Refused
from ..units import Bytes
from ..world import Command, Outcome, World
from . import streams

# A volume of a FILE pool that is made while an earlier one of its name is open somewhere gets that one's device from
# LINSTOR 1.33: the file behind it is deleted, and when it is closed the device becomes another volume's.
_BEHIND = """of_deleted_file() {
  file='' number=$(printf '%d:%d' $(stat -L -c '0x%t 0x%T' -- "$1"))
  read -r file 2>/dev/null <"/sys/dev/block/$number/loop/backing_file" && [ "$file" != "${file% (deleted)}" ]
}
of_another_volume() {
  of_deleted_file "$1" && return
  case ${2:+${file##*/}} in '' | "$2"_*) return 1; esac
}
"""
# Devices show up a moment after LINSTOR says so (udev), and grow a moment after (DRBD): at most 10 s.
_MEASURE = _BEHIND + """size_of() {
  if [ -b "$1" ] && of_deleted_file "$1"; then echo 0
  elif [ -b "$1" ]; then blockdev --getsize64 "$1"; elif [ -f "$1" ]; then stat -L -c %s -- "$1"; else echo 0; fi
}
while [ $# -gt 0 ]; do
  tries=0
  until size=$(size_of "$1" 2>/dev/null) && [ "$size" -ge "$2" ]; do
    tries=$((tries + 1))
    [ "$tries" -gt 50 ] && break
    sleep 0.2
  done
  size=$(size_of "$1") || exit
  if [ -b "$1" ] && of_deleted_file "$1"; then echo "missing 0"
  elif [ -b "$1" ]; then echo "block $size"; elif [ -f "$1" ]; then echo "file $size"; else echo "missing 0"; fi
  shift 2
done
qemu-img --help 2>/dev/null | grep -q -e target-is-zero && echo target-is-zero
exit 0
"""
_MEASURE_SECONDS = 90.0

# Punching a hole is the one call that promises zeroes and gives space back; a device that cannot gets them written.
# `sync` of a file is fsync with its error: success means stable storage.
_APPLY = _BEHIND + """target=$1 from=$2 length=$3 volume=$4
shift 4
if of_another_volume "$target" "$volume"; then
  echo "$target is not the device of ${volume:-its volume} any more" >&2
  exit 1
fi
"$@" >&2 || exit
if [ "$length" -gt 0 ] && ! fallocate -p -o "$from" -l "$length" "$target" 2>/dev/null; then
  dd if=/dev/zero of="$target" bs=1M iflag=count_bytes oflag=seek_bytes seek="$from" count="$length" \\
    conv=notrunc status=none || exit
fi
sync "$target"
"""

# mkfs.xfs sets the block size of its device, which only root may, and oneadmin is not root on hosts: it makes
# the file system in a sparse file, and that is written to the device. Its reason comes first, then all its options.
_IN_A_FILE = """target=$1
shift
work=$(mktemp -d -p /var/tmp linstor_un-fs.XXXXXXXX) || exit
trap 'rm -rf "$work"' EXIT
trap 'exit 143' TERM INT HUP
made=$target
if [ "$(id -u)" != 0 ]; then
  made=$work/fs
  size=$(blockdev --getsize64 "$target" 2>/dev/null || stat -L -c %s -- "$target") || exit
  truncate -s "$size" "$made" || exit
fi
"$@" "$made" 2>"$work/said" || { head -n 1 "$work/said" >&2; exit 1; }
[ "$made" = "$target" ] || qemu-img convert -n -t writeback -f raw -O raw "$made" "$target"
"""
_NEEDS_ROOT_ON_DEVICES = {"xfs"}

_WRITTEN = re.compile(r"^([0-9]+) bytes?\b", re.MULTILINE)


class Device(NamedTuple):
    """A volume where it can be opened: on a host (LINSTOR's or OpenNebula's name), as a path there.

    `size` is what was asked for, in bytes; the device may be larger. `zero` is whether it is known to read
    as zeroes everywhere, which only a fresh volume of a thin pool that nobody wrote to is. `volume` is the
    definition that it is written as: nothing is, once the device is another one's.
    """

    host: str
    path: str
    size: Bytes
    zero: bool = False
    volume: str = ""


class Measured(NamedTuple):
    """Devices of one host as they are, and what the host's qemu-img can do."""

    ends: tuple[End, ...]
    tools: frozenset[str]


def copy_device(world: World, source: Device, target: Device, seconds: Optional[float] = None) -> None:
    """Copy a device to another one, on the same host or over the network; what is beyond the source ends in zeroes.

    The devices are waited for a little while. Arguments: seconds, for the copy, None for a limit that only ends what
    hangs. Raises Refused when one is missing or the target is smaller
    than the source (nothing was written then), Unreachable, Failed, TimedOut.
    """
    doing = f"copy {source.path} to {target.path}"
    if world.front_end.host(source.host) != world.front_end.host(target.host):
        _copy_over_network(world, source, target, doing, seconds)
        return
    measured = measure(world, source, target)
    begin, end = measured.ends
    apply_plan(world, target, copying.device_copy(begin, end, target.zero, measured.tools), doing, seconds)


def measure(world: World, *devices: Device) -> Measured:
    """Look at devices of one host, which are waited for.

    Raises Refused when one is not there, Unreachable, Failed when one cannot be opened.
    """
    host = world.front_end.host(devices[0].host)
    words = [word for device in devices for word in (device.path, str(device.size))]
    doing = f"look at {' and '.join(device.path for device in devices)}"
    command = Command(host, ["sh", "-c", _MEASURE, "sh", *words])
    lines = world.hosts.run(command, seconds=_MEASURE_SECONDS, doing=doing).stdout.split("\n")
    ends = []
    for device, line in zip(devices, lines):
        kind, _, size = line.partition(" ")
        if kind == "missing":
            raise Refused(f"{device.path} is not there on {device.host}; look at `linstor resource list` for its state")
        ends.append(End(device.path, Bytes(int(size)), kind == "block", device.size))
    return Measured(tuple(ends), frozenset(lines[len(devices) :]))


def apply_plan(world: World, target: Device, plan: Plan, doing: str, seconds: Optional[float] = None) -> Outcome:
    """Run a plan where the target is; returns when the bytes are on stable storage."""
    command = Command(world.front_end.host(target.host), applying(target, plan))
    return world.hosts.run(command, seconds=seconds or copying.seconds_for(target.size), doing=doing)


def applying(target: Device, plan: Plan) -> list[str]:
    """Return the command that runs a plan."""
    words = [target.path, str(plan.zero_from), str(plan.zero_length), target.volume]
    return ["sh", "-c", _APPLY, "sh", *words, *plan.argv]


def require_written(outcome: Outcome, expected: int, doing: str) -> None:
    """Raise Failed unless the `dd` of `copying.reception` says that it wrote so many bytes."""
    said = _WRITTEN.findall(outcome.stderr)
    written = int(said[-1]) if said else None
    if written != expected:
        raise Failed(f"cannot {doing}: {expected} bytes were sent and {written} written")


def _copy_over_network(world: World, source: Device, target: Device, doing: str, limit: Optional[float]) -> None:
    """Stream from host to host; each byte that was to be sent has to be written."""
    begin, end = measure(world, source).ends[0], measure(world, target).ends[0]
    length = copying.copied_length(begin, end)
    tail = copying.rest_of(length, end, target.zero)
    writing = applying(target, Plan(copying.reception(end.path, target.zero), tail.zero_from, tail.zero_length))
    reading = ["dd", f"if={source.path}", "bs=1M", "iflag=fullblock,count_bytes", f"count={length}", "status=none"]
    seconds = limit or copying.seconds_for(length)
    carried = streams.carry(world, source.host, reading, target.host, writing, seconds, doing)
    if carried.sent not in (None, length):
        raise Failed(f"cannot {doing}: {source.path} gave {carried.sent} of {length} bytes")
    require_written(carried.outcome, length, doing)


def fill_zero(world: World, target: Device) -> None:
    """Make a device read as zeroes everywhere; thin storage gives the space back where it can."""
    if not target.zero:
        end = measure(world, target).ends[0]
        apply_plan(world, target, copying.rest_of(Bytes(0), end, zero=False), f"zero {target.path}")


# What OpenNebula ships in datastore.conf, for a front-end whose file says nothing.
_SUPPORTED = "ext4,ext3,ext2,xfs"
_MKFS = {
    "ext2": ("mkfs.ext2", "-F", "-q"),
    "ext3": ("mkfs.ext3", "-F", "-q"),
    "ext4": ("mkfs.ext4", "-F", "-q"),
    "xfs": ("mkfs.xfs", "-f", "-q"),
    "btrfs": ("mkfs.btrfs", "-f", "-q"),
    "vfat": ("mkfs.vfat", "-I"),
    "ntfs": ("mkfs.ntfs", "-F", "-Q", "-q"),
}
_ASSIGNMENT = re.compile(r"\s*(?:export\s+)?(SUPPORTED_FS|FS_OPTS_[a-z0-9]+)=(.*)")


def require_filesystem(world: World, filesystem: str) -> None:
    """Raise BadRequest for a file system that is not in SUPPORTED_FS of OpenNebula's datastore.conf."""
    supported = [name.strip() for name in _configured(world).get("SUPPORTED_FS", _SUPPORTED).split(",")]
    if filesystem not in supported or filesystem not in _MKFS:
        known = ", ".join(name for name in supported if name in _MKFS)
        raise BadRequest(f"file system {filesystem!r} is not supported; datastore.conf allows {known}")


def make_filesystem(world: World, target: Device, filesystem: str) -> None:
    """Make a file system on a device and look that it is there; what is outside of it is zero.

    Arguments: filesystem, one of SUPPORTED_FS of OpenNebula's datastore.conf, which also has its options
    (FS_OPTS_ext4). Raises BadRequest, Unreachable, Failed, TimedOut.
    """
    require_filesystem(world, filesystem)
    options = _configured(world).get(f"FS_OPTS_{filesystem}", "")
    command = [*_MKFS[filesystem], *shlex.split(options)]
    if filesystem in _NEEDS_ROOT_ON_DEVICES:
        _format(world, target, ["sh", "-c", _IN_A_FILE, "sh", target.path, *command], filesystem)
    else:
        _format(world, target, [*command, target.path], filesystem)


def make_swap(world: World, target: Device) -> None:
    """Make a device a swap area labelled `swap`, as OpenNebula's own drivers do."""
    _format(world, target, ["mkswap", "-f", "-L", "swap", target.path], "swap")


def _format(world: World, target: Device, command: list[str], expected: str) -> None:
    # The free blocks of a file system are readable in the VM: nobody else's old data may be there.
    fill_zero(world, target)
    doing = f"make {expected} on {target.path}"
    apply_plan(world, target, Plan(tuple(command)), doing)
    look = Command(world.front_end.host(target.host), ["blkid", "-p", "-s", "TYPE", "-o", "value", "--", target.path])
    found = world.hosts.run(look, seconds=_MEASURE_SECONDS, accept=(0, 2), doing=doing).stdout.strip()
    if found != expected:
        raise Failed(f"cannot {doing}: there was no error, but blkid finds {found or 'nothing'} there")


def _configured(world: World) -> dict[str, str]:
    path = os.path.join(world.front_end.remotes, "etc/datastore/datastore.conf")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            found = [match for match in map(_ASSIGNMENT.match, file) if match]
        return {match[1]: " ".join(shlex.split(match[2], comments=True)) for match in found}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadRequest(f"{path} cannot be read: {error}") from error
