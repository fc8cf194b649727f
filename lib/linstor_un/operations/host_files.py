"""A VM's directory on a host: links to devices, and who else uses a device there.

Every script is fixed text; names and paths reach it as arguments only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .. import places
from ..world import Command, World

# A host that answers at all does these in milliseconds; the rest is a loaded machine.
_SECONDS = 60.0

# The old driver's mark lets OpenNebula's probe (>= 5.12) ask scripts on the host for the disks of this datastore. Below
# another driver's datastore the mark is that driver's.
NO_PROBE = """[ "$(cat -- "$1/../.monitor" 2>/dev/null)" != linstor_un ] || rm -f -- "$1/../.monitor"
"""

# A new link replaces an old one in one step, so that a rerun never leaves a moment without it.
_LINK = (
    """set -e
mkdir -p -- "$1"
"""
    + NO_PROBE
    + """ln -s -- "$2" "$3.new.$$"
mv -T -f -- "$3.new.$$" "$3"
"""
)

_LINK_ALL = (
    """set -e
mkdir -p -- "$1"
"""
    + NO_PROBE
    + """shift
while [ $# -gt 0 ]; do
  ln -s -- "$1" "$2.new.$$"
  mv -T -f -- "$2.new.$$" "$2"
  shift 2
done
"""
)
_MISSING = """while [ $# -gt 0 ]; do
  [ "$(readlink -- "$2")" = "$1" ] || echo "$2"
  shift 2
done
exit 0
"""
_UNLINK_ALL = """directory=$1
shift
while [ $# -gt 0 ]; do
  [ "$(readlink -- "$2")" != "$1" ] || rm -f -- "$2" || exit
  shift 2
done
rmdir -- "$directory" 2>/dev/null
exit 0
"""

# Every VM that has a disk on this host has a link to its device in its directory: $1/DATASTORE/VM/disk.N.
_USERS = """for link in "$1"/*/*/disk.*; do
  [ -L "$link" ] && [ "$link" != "${3-}" ] && [ "$(readlink -- "$link")" = "$2" ] && { echo "$link"; exit 0; }
done
exit 0
"""
_KIND = 'if [ -L "$1" ]; then echo link; elif [ -f "$1" ]; then echo file; fi'

# What the link pointed to, where it is still there, is surer than a path made from the name.
_UNLINK = (
    """set -e
users=$1 device=$2 path=$3
if [ -L "$path" ]; then device=$(readlink -- "$path"); fi
if [ -L "$path" ] || { [ "$4" = any ] && [ ! -d "$path" ]; }; then rm -f -- "$path"; fi
set -- "$users" "$device"
"""
    + _USERS
)

# The number of a disk is given again: a link of another disk may be there by now.
_UNLINK_LED = """set -e
users=$1 path=$2
shift 2
found=$(readlink -- "$path") || true
for device; do
  [ "$found" != "$device" ] || rm -f -- "$path"
done
for link in "$users"/*/*/disk.*; do
  found=$(readlink -- "$link") || continue
  for device; do
    [ "$found" != "$device" ] || { echo "$link"; exit 0; }
  done
done
exit 0
"""

# A marketplace has an image for a while, and says when it is done; one that failed says nothing.
_OLD_EXPORTS = """[ -d "$1" ] || exit 0
find "$1" -mindepth 3 -maxdepth 3 -path "$1/*/export-*/disk.0" -type l \\( -mmin +1440 -o -xtype l \\) -print |
while IFS= read -r link; do
  readlink -- "$link"
  printf '%s\n' "$link"
done
"""

# Openers show as file descriptors of processes, as mounts and as what the kernel stacks on a device.
_OPENED = """real=$(readlink -f -- "$1") || exit 0
[ -b "$real" ] || exit 0
number=$(printf '%d:%d' "0x$(stat -c %t -- "$real")" "0x$(stat -c %T -- "$real")")
grep -q " $number " /proc/self/mountinfo && { echo mount; exit 0; }
[ -n "$(ls "/sys/dev/block/$number/holders" 2>/dev/null)" ] && { echo holder; exit 0; }
find /proc/[0-9]*/fd -lname "$real" -print -quit 2>/dev/null
exit 0
"""

# Both at once: LINK where another VM has a link to the device, else whatever has it open. Without DRBD only the link
# tells the device; a loop device's number may have become another volume's since.
_USED = (
    """users=$2 but=$3 device=$1
[ ! -L "$but" ] || device=$(readlink -- "$but")
for link in "$users"/*/*/disk.*; do
  [ "$link" != "$but" ] && [ -L "$link" ] && [ "$(readlink -- "$link")" = "$device" ] && { echo LINK; exit 0; }
done
name=${1%/0} file=
read -r file 2>/dev/null <"/sys/block/${device##*/}/loop/backing_file"
case ${file##*/} in '' | "${name##*/}"_*) ;; *) exit 0 ;; esac
set -- "$device"
"""
    + _OPENED
)


def _script(world: World, host: str, text: str, *arguments: str, doing: str) -> str:
    argv = ["sh", "-c", text, "sh", *arguments]
    return world.hosts.run(Command(world.front_end.host(host), argv), seconds=_SECONDS, doing=doing).stdout.strip()


def link(world: World, host: str, directory: str, device: str, path: str) -> None:
    """Make path on host a link to the device, with its directory; repeating it changes nothing."""
    _script(world, host, _LINK, directory, device, path, doing=f"link {path} to {device}")


class Link(NamedTuple):
    """A link to a device, by its path."""

    device: str
    path: str


def missing(world: World, host: str, links: Sequence[Link]) -> list[Link]:
    """Return those of the links that are not there, or lead elsewhere."""
    words = [word for link in links for word in link]
    found = _script(world, host, _MISSING, *words, doing="look at a VM's links").splitlines() if links else []
    return [link for link in links if link.path in found]


def link_all(world: World, host: str, directory: str, links: Sequence[Link]) -> None:
    """Make links in a VM's directory, which is made too; those that are there are replaced, each in one step."""
    words = [word for link in links for word in link]
    _script(world, host, _LINK_ALL, directory, *words, doing=f"make links in {directory}")


def unlink_all(world: World, host: str, directory: str, links: Sequence[Link]) -> None:
    """Remove links that lead to these devices, and the directory if nothing else is in it; absent is success."""
    words = [word for link in links for word in link]
    _script(world, host, _UNLINK_ALL, directory, *words, doing=f"remove links in {directory}")


def unlink(world: World, host: str, path: str, device: str = "", kind: str = "any") -> bool:
    """Remove a disk's link or file from a VM's directory; absent is success.

    Arguments: device, what the link pointed to, should it be gone already; kind, "link" to leave a file alone.
    Returns whether another VM on that host has a link to the same device.
    """
    arguments = (_datastores(world), device, path, kind)
    return bool(_script(world, host, _UNLINK, *arguments, doing=f"remove {path}"))


def unlink_led(world: World, host: str, path: str, devices: Sequence[str]) -> bool:
    """Remove a link that leads to one of a disk's devices; another link or a file is left alone, absent is success.

    Returns whether another VM on that host has a link to one of them.
    """
    return bool(_script(world, host, _UNLINK_LED, _datastores(world), path, *devices, doing=f"remove {path}"))


def remove_directory(world: World, host: str, path: str) -> None:
    """Remove a VM's directory with everything in it, without following links; absent is success."""
    argv = ["rm", "-rf", "--one-file-system", "--", path]
    command = Command(world.front_end.host(host), argv)
    world.hosts.run(command, seconds=_SECONDS, doing=f"remove {path}")


def linked(world: World, host: str, device: str, but: str = "") -> bool:
    """Return whether a VM on the host has a link to the device. Arguments: but, a link that does not count."""
    doing = f"look for users of {device}"
    return bool(_script(world, host, _USERS, _datastores(world), device, but, doing=doing))


def is_file(world: World, host: str, path: str) -> bool:
    """Return whether there is a plain file, and no link."""
    return _script(world, host, _KIND, path, doing=f"look at {path}") == "file"


def is_link(world: World, host: str, path: str) -> bool:
    """Return whether there is a link, wherever it leads."""
    return _script(world, host, _KIND, path, doing=f"look at {path}") == "link"


def old_exports(world: World, host: str) -> list[Link]:
    """Return the links of images that were lent to marketplaces a day ago or longer, or are gone."""
    doing = "look for images that marketplaces have read"
    lines = _script(world, host, _OLD_EXPORTS, _datastores(world), doing=doing).splitlines()
    return [Link(device, path) for device, path in zip(lines[::2], lines[1::2])]


def _datastores(world: World) -> str:
    return places.datastores(world.front_end.var)


class Use(NamedTuple):
    """Who uses a device on a host: another VM, by its link, or something that has it open."""

    linked: bool
    opened: bool


def used(world: World, host: str, device: str, but: str) -> Use:
    """Return who uses a device. Arguments: device, its name under DRBD; but, the link that does not count."""
    found = _script(world, host, _USED, device, _datastores(world), but, doing=f"look for users of {device}")
    return Use(found == "LINK", found not in ("", "LINK"))


def opened(world: World, host: str, device: str) -> bool:
    """Return whether something on the host has the device open, mounted or stacked, as far as oneadmin may see."""
    return bool(_script(world, host, _OPENED, device, doing=f"look for openers of {device}"))
