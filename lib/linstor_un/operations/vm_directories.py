"""A VM's directory brought to another host, whole: vTPM state, NVRAM, snapshots' XML, kernels, other drivers' files.

It is not known which directories hosts share; it is looked for: what is put into the one and seen in the other is
the same directory. Every script is fixed text; names and paths reach it as arguments only.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from .. import copying
from ..errors import Failed
from ..naming import VmDirectory
from ..units import Bytes
from ..world import Command, World
from . import host_files, streams

# A host that answers at all does these in milliseconds; the rest is a loaded machine.
_SECONDS = 60.0

# What is there, apart from the driver's own files: kind, mode, name and target of each, and the bytes of files. What
# differs between file systems is left out (sizes of directories), and sockets, which tar does not take.
_DIGEST = """digest() {
  {
    find . -mindepth 1 -path './.linstor_un.*' -prune -o ! -type s -printf '%P\\t%y\\t%m\\t%l\\0' | LC_ALL=C sort -z
    find . -path './.linstor_un.*' -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 -r sha256sum
  } | sha256sum
}
"""

# A token of this run shows whether the directory is seen elsewhere: a name that nobody looked for before is in no
# cache of a network file system. Tokens and removals of killed runs go.
_LEAVE_TOKEN = """set -e
rm -rf --one-file-system -- "${1%/*}/.linstor_un.gone.${1##*/}"
[ -e "$1" ] || { echo gone; exit 0; }
cd -- "$1"
rm -f -- .linstor_un.token.*
: >".linstor_un.token.$2"
du -s -B1 --apparent-size . | cut -f 1
"""
_SEE_TOKEN = '[ -e "$1/.linstor_un.token.$2" ] && echo same; exit 0'
_DROP_TOKEN = 'rm -f -- "$1/.linstor_un.token.$2"'
_IS_THERE = '[ ! -e "$1" ] || echo there'

# The digest goes before the archive, so that both come from the same moment; of a running VM, whose files may change
# meanwhile, there is none, and tar may say so (1). Holes stay holes.
_SEND = (
    """set -euo pipefail
"""
    + _DIGEST
    + """cd -- "$1"
sum=live
[ "$2" = live ] || sum=$(digest)
printf '%s\n' "$sum"
tar --sparse --format=posix --xattrs --acls --numeric-owner --exclude='./.linstor_un.*' -cf - . || [ "$2$?" = live1 ]
"""
)

# All of it is unpacked aside and compared before anything of it is used.
_RECEIVE = (
    """set -euo pipefail
"""
    + _DIGEST
    + """mkdir -p -- "$1"
"""
    + host_files.NO_PROBE
    + """cd -- "$1"
rm -rf --one-file-system -- .linstor_un.new
mkdir -- .linstor_un.new
cd -- .linstor_un.new
read -r sent
tar --xattrs --acls --numeric-owner -xpf -
[ "$sent" = live ] || [ "$(digest)" = "$sent" ] || { echo "what arrived is not what was sent" >&2; exit 1; }
"""
)
_DROP = """rm -rf --one-file-system -- "$1/.linstor_un.new"
rmdir -- "$1" 2>/dev/null || true
"""

# A disk's link that is there was made by that disk's own move and is newer than one that came.
_DISK_LINK = """is_disk_link() { [ -L "$1" ] && [[ ${1##*/} =~ ^disk\\.[0-9]+$ ]]; }
shopt -s nullglob dotglob
"""
# Whatever else is there, and did not come, is the rest of an old run.
_SETTLE = (
    "set -eu\n"
    + _DISK_LINK
    + """trap '' TERM INT HUP
cd -- "$1"
new=.linstor_un.new
for path in *; do
  [ "$2" = live ] || [ "$path" = "$new" ] || [ -e "$new/$path" ] || [ -L "$new/$path" ] || is_disk_link "$path" ||
    rm -rf --one-file-system -- "./$path"
done
for path in "$new"/*; do
  name=${path##*/}
  if [ -L "$path" ] && is_disk_link "./$name"; then continue; fi
  if [ -d "./$name" ] || [ -d "$path" ]; then rm -rf --one-file-system -- "./$name"; fi
  mv -T -f -- "$path" "./$name"
done
chmod --reference="$new" .
rm -rf -- "$new"
"""
)
_UNSETTLE = (
    "set -eu\n"
    + _DISK_LINK
    + """cd -- "$1" 2>/dev/null || exit 0
for path in *; do is_disk_link "$path" || rm -rf --one-file-system -- "./$path"; done
rmdir -- "$1" 2>/dev/null || true
"""
)

# In one step it is gone: what is left of a removal that was interrupted is never taken for the VM's directory.
_REMOVE = """set -e
[ -e "$1" ] || exit 0
gone=${1%/*}/.linstor_un.gone.${1##*/}
rm -rf --one-file-system -- "$gone"
mv -T -- "$1" "$gone"
rm -rf --one-file-system -- "$gone"
"""


class Found(NamedTuple):
    """A directory as it is: `size`, in bytes, is None where there is none; `shared` whether the other is the same."""

    size: Optional[Bytes]
    shared: bool


def look(world: World, source: VmDirectory, target: VmDirectory) -> Found:
    """Return what is at the source, and whether the target is the very same directory."""
    doing = f"look at {source.path}"
    with world.undo.by(f"a token in {source.path} on {source.host}", _drop_token, world, source):
        said = _run(world, source, _LEAVE_TOKEN, doing, _token(world, source))
    if said == "gone":
        return Found(None, shared=False)
    seen = _run(world, target, _SEE_TOKEN, f"look for {source.path} of {source.host}", _token(world, source))
    if seen:
        _drop_token(world, source)
    return Found(Bytes(int(said)), bool(seen))


def _token(world: World, directory: VmDirectory) -> str:
    """Return what tells a directory's token from that of the other one, and of another run."""
    return f"{world.run}.{directory.host}.{directory.datastore_id}"


def _drop_token(world: World, directory: VmDirectory) -> None:
    _run(world, directory, _DROP_TOKEN, f"look at {directory.path}", _token(world, directory))


def same(world: World, one: VmDirectory, other: VmDirectory) -> bool:
    """Return whether two directories are the very same, as on hosts that share a file system."""
    found = look(world, one, other)
    if found.size is not None:
        _drop_token(world, one)
    return found.shared


def move(world: World, source: VmDirectory, target: VmDirectory) -> bool:
    """Bring a VM's directory to another place with everything in it; returns whether the source has it no more.

    Links stay links, holes stay holes; owner, mode and attributes are kept as far as oneadmin may give them. What
    arrived is compared with what was sent before anything of it is used, and the source goes last, in one step.
    A source that is gone was moved by an earlier run. Returns False where both are the same directory.
    """
    found = look(world, source, target)
    if found.shared:
        return False
    if found.size is None:
        return True
    doing = f"move {source.path} of {source.host} to {target.path} of {target.host}"
    _bring(world, source, target, found.size, "whole", doing)
    with world.undo.by(f"what came to {target.path} on {target.host}", _take_back, world, source, target):
        _run(world, target, _SETTLE, doing, "whole")
    _remove(world, source)
    return True


def copy(world: World, source: VmDirectory, target: VmDirectory) -> None:
    """Give another host a running VM's files, beside what is there; the very same directory is left as it is."""
    found = look(world, source, target)
    if found.shared or found.size is None:
        return
    doing = f"copy {source.path} of {source.host} to {target.path} of {target.host}"
    _bring(world, source, target, found.size, "live", doing)
    with world.undo.by(f"what came to {target.path} on {target.host}", drop, world, target, source):
        _run(world, target, _SETTLE, doing, "live")
    _drop_token(world, source)


def drop(world: World, directory: VmDirectory, other: VmDirectory) -> None:
    """Remove a VM's directory unless the other, which is kept, is the very same; absent is success."""
    found = look(world, directory, other)
    if not found.shared and found.size is not None:
        _remove(world, directory)


def _bring(world: World, source: VmDirectory, target: VmDirectory, size: Bytes, how: str, doing: str) -> None:
    """Unpack a directory aside of another. Arguments: size, in bytes; how, "live" for one whose files may change."""
    reading, writing = ["bash", "-c", _SEND, "bash", source.path, how], ["bash", "-c", _RECEIVE, "bash", target.path]
    with world.undo.by(f"{target.path}/.linstor_un.new on {target.host}", _run, world, target, _DROP, doing):
        streams.carry(world, source.host, reading, target.host, writing, copying.seconds_for(size), doing)


def _remove(world: World, source: VmDirectory) -> None:
    try:
        _run(world, source, _REMOVE, f"remove {source.path}")
    except Failed:
        if _run(world, source, _IS_THERE, f"look at {source.path}") == "there":
            raise


def _take_back(world: World, source: VmDirectory, target: VmDirectory) -> None:
    """Remove what came, unless the source is gone already: it goes in one step, so that one that is there is whole."""
    if _run(world, source, _IS_THERE, f"look at {source.path}") == "there":
        _run(world, target, _UNSETTLE, f"remove what came to {target.path}")


def _run(world: World, directory: VmDirectory, script: str, doing: str, *arguments: str) -> str:
    command = Command(world.front_end.host(directory.host), ["bash", "-c", script, "bash", directory.path, *arguments])
    return world.hosts.run(command, seconds=_SECONDS, doing=doing).stdout.strip()
