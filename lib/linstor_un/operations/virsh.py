"""A VM on its host, by virsh: what it does, its memory saved to a device, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from .. import kvmrc
from ..errors import Failed
from ..kvmrc import Kvmrc
from ..retry import until
from ..units import Kib
from ..world import Command, World

# What libvirt says of a domain that it is just ending or starting: soon it is something else.
_IN_BETWEEN = {"saving", "starting up"}
_ENDED = {"shut off"}
# OpenNebula's script for `save` waits as long for jobs that copy a disk.
_TRIES, _PAUSE = 3, 5.0
_SLACK = 30.0
# A link below /dev/drbd/by-res may come a moment after LINSTOR says that the device is there. Where there is none,
# libvirt would make a file.
_AWAIT = """await_device() {
  tries=0
  until [ -b "$1" ]; do
    [ "$tries" -lt 50 ] || { echo "$1 does not appear" >&2; exit 1; }
    tries=$((tries + 1))
    sleep 0.2
  done
}
"""
_LOOK = (
    _AWAIT
    + """uri=$1 limit=$2 domain=$3 device=$4 file=$5
ask() { timeout "$limit" virsh -q -c "$uri" "$@" 2>&1 </dev/null; }
if said=$(ask domstate "$domain" --reason); then
  echo "state $said"
  ask dominfo "$domain" | sed -n 's/^Max memory: *\\([0-9]*\\) KiB$/memory \\1/p'
else
  case $said in *'failed to get domain'* | *'no domain with'*) ;; *)
    echo "${said:-libvirt does not answer}" >&2
    exit 1 ;;
  esac
fi
[ ! -f "$file" ] || echo file
[ "$device" ] || exit 0
await_device "$device"
if said=$(ask save-image-dumpxml "$device" --security-info); then printf 'image\\n%s\\n' "$said"; else
  echo "broken ${said##*error: }"
fi
"""
)
# libvirt's daemon goes on when its client is gone: whatever ends this script calls the job off, and libvirt lets the
# VM be what it was. The first block of an old image must not be taken for that of a new one that was not written.
_SAVE = (
    _AWAIT
    + """uri=$1 domain=$2 device=$3 file=$4 compact=$5
call_off() {
  for try in 1 2 3 4 5; do
    virsh -q -c "$uri" domjobabort "$domain" >/dev/null 2>&1 </dev/null && return
    sleep 0.3
  done
}
[ ! -f "$file" ] || mv -- "$file" "$file.$(date +%s)" || exit
await_device "$device"
dd if=/dev/zero of="$device" bs=4096 count=1 conv=notrunc,fsync status=none || exit
trap call_off TERM HUP INT
(trap '' TERM HUP INT; exec virsh -q -c "$uri" save "$domain" "$device") >/dev/null </dev/null &
job=$!
until wait "$job"; do
  code=$?
  kill -0 "$job" 2>/dev/null || exit "$code"
done
[ "$compact" != yes ] || (sudo -n -l | grep -q sysctl && sudo -n sysctl vm.drop_caches=3 vm.compact_memory=1) \\
  >/dev/null 2>&1 </dev/null &
exit 0
"""
)
# What was restored must never be restored again, its disks have gone on: libvirt does not take it without its head.
_RESTORE = """uri=$1 domain=$2 device=$3 length=$4 tries=$5 running=$6 compact=$7 sync=$8 directory=$9
virsh() { command virsh -q -c "$uri" "$@" </dev/null; }
changed=$(mktemp) || exit
trap 'rm -f -- "$changed"' EXIT
cat >"$changed" && [ "$(stat -c %s -- "$changed")" = "$length" ] || exit
set --
[ ! -s "$changed" ] || set -- --xml "$changed"
[ "$running" != yes ] || set -- "$@" --running
[ "$compact" != yes ] || (sudo -n -l | grep -q sysctl && sudo -n sysctl vm.drop_caches=3 vm.compact_memory=1) \\
  >/dev/null 2>&1 </dev/null
until virsh restore "$device" "$@" >/dev/null; do
  tries=$((tries - 1))
  [ "$tries" -gt 0 ] || exit 1
  sleep 1
done
dd if=/dev/zero of="$device" bs=4096 count=1 conv=notrunc,fsync status=none
if [ "$sync" = yes ]; then
  (trap '' HUP
   for try in 1 2 3 4; do
     virsh domstate "$domain" && virsh domtime "$domain" --sync && exit
     sleep 5
   done) >/dev/null 2>&1 </dev/null &
fi
for snapshot in $(cd "$directory" 2>/dev/null && ls -v snap-*.xml 2>/dev/null); do
  uuid=${uuid:-$(virsh domuuid "$domain")}
  sed -i "s%<uuid>[[:alnum:]-]*</uuid>%<uuid>$uuid</uuid>%" "$directory/$snapshot" &&
    virsh snapshot-create "$domain" "$directory/$snapshot" --redefine >/dev/null
done
exit 0
"""


class Guest(NamedTuple):
    """A VM's domain as libvirt has it on one host. `state` and `reason` are virsh's words: paused, user.

    `memory` is the most that it may have, in KiB.
    """

    state: str
    reason: str
    memory: Kib

    @property
    def alive(self) -> bool:
        """It has memory, whether it runs or not. What libvirt only knows the definition of has none."""
        return self.state not in _ENDED

    @property
    def settled(self) -> bool:
        """It is not just being saved or restored."""
        return self.reason not in _IN_BETWEEN


class Seen(NamedTuple):
    """What is on a host: the VM, if libvirt knows it; whether `file` is there; what a device holds.

    `image` is the description of the domain whose complete memory is on the device, "" where there is none, and
    `broken` is libvirt's reason then.
    """

    guest: Optional[Guest]
    file: bool = False
    image: str = ""
    broken: str = ""

    @property
    def alive(self) -> bool:
        """The VM is there and has memory."""
        return self.guest is not None and self.guest.alive


class Libvirt:
    """libvirt on a VM's host, and the VM by its DEPLOY_ID there."""

    def __init__(self, world: World, host: str, domain: str, vm_id: int) -> None:
        self._world = world
        self._host = host
        self._domain = domain
        self._vm = f"VM {vm_id}"
        self._kvmrc = settings(world)

    def look(self, device: str = "", file: str = "") -> Seen:
        """Return what is on the host now. Arguments: device and file, paths to look at, "" for nothing.

        Raises Failed when libvirt does not answer, Unreachable for the host.
        """
        limit = str(self._kvmrc.timeout)
        said = self._run("look at", _LOOK, limit, self._domain, device, file, seconds=3 * self._kvmrc.timeout + _SLACK)
        return _seen(said)

    def settled(self, seconds: float, device: str = "", file: str = "") -> Seen:
        """Return the same as soon as the VM is not just being saved or restored.

        Raises Failed when it still is after so many seconds.
        """

        def look() -> Optional[Seen]:
            seen = self.look(device, file)
            return seen if seen.guest is None or seen.guest.settled else None

        found = until(self._world.clock, seconds, look, pause=0.5)
        if found is None:
            raise Failed(
                f"libvirt on {self._host} has been saving or restoring {self._vm} for {seconds:.0f} s; "
                f"end that with `virsh domjobabort {self._domain}` there, or wait, and retry"
            )
        return found

    def save(self, device: str, file: str, seconds: float) -> None:
        """Write the VM's memory to a device; then the VM is gone.

        Arguments: file, where a save without this driver may have left an older one: it is moved aside.
        Raises Failed or TimedOut when it does not work: libvirt lets the VM be what it was then, as it does when the
        driver is killed or loses the host. Raises Unreachable when nothing was begun.
        """
        compact = _yes(self._kvmrc.compact_on_stop)
        for attempt in range(_TRIES):
            try:
                self._run("save the memory of", _SAVE, self._domain, device, file, compact, seconds=seconds)
                return
            except Failed as failure:
                if "active block job" not in str(failure) or attempt == _TRIES - 1:
                    raise
            self._world.clock.sleep(_PAUSE)

    def call_off(self) -> None:
        """End a save that libvirt is at; none is success."""
        self._run("call off the save of", _CALL_OFF, self._domain, seconds=self._kvmrc.timeout)

    def restore(self, device: str, directory: str, seconds: float, *, xml: str = "", running: bool = False) -> None:
        """Let the VM go on from its memory on a device, and make that unusable.

        Arguments: directory, the VM's, with the descriptions of its snapshots; xml, how it is to be described now, ""
        for as it was; running, whether it runs afterwards although it was paused when it was saved.
        Raises Failed or TimedOut; the VM may run all the same.
        """
        rc = self._kvmrc
        text = xml.encode("utf-8", "surrogateescape")
        flags = (_yes(running), _yes(rc.compact_on_start), _yes(rc.sync_time))
        words = (self._domain, device, str(len(text)), str(rc.retries), *flags, directory)
        self._run("restore the memory of", _RESTORE, *words, seconds=seconds, stdin=text)

    def wake(self) -> None:
        """Wake a VM that has put itself to sleep (pmsuspended). Raises Failed."""
        self._run("wake", 'exec virsh -q -c "$1" dompmwakeup "$2"', self._domain, seconds=self._kvmrc.timeout)

    def _run(self, verb: str, script: str, *words: str, seconds: float, stdin: bytes = b"") -> str:
        where = self._world.front_end.host(self._host)
        command = Command(where, ["sh", "-c", script, "sh", self._kvmrc.uri, *words])
        return self._world.hosts.run(command, seconds=seconds, stdin=stdin, doing=f"{verb} {self._vm}").stdout


_CALL_OFF = 'virsh -q -c "$1" domjobabort "$2" >/dev/null 2>&1; exit 0'


def settings(world: World) -> Kvmrc:
    """Return OpenNebula's kvmrc, which is the same on the front-end and, after a sync, on the hosts."""
    path = f"{world.front_end.remotes}/etc/vmm/kvm/kvmrc"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return kvmrc.load(file.read())
    except OSError as error:
        world.trail.debug(f"{path} cannot be read ({error.strerror}); the defaults of OpenNebula's scripts hold")
        return Kvmrc()


def _seen(said: str) -> Seen:
    head, _, image = f"\n{said}".partition("\nimage\n")
    facts = {word: rest for word, _, rest in (line.partition(" ") for line in head.splitlines())}
    return Seen(_guest(facts), "file" in facts, image, facts.get("broken", ""))


def _guest(facts: Mapping[str, str]) -> Optional[Guest]:
    if "state" not in facts:
        return None
    state, _, reason = facts["state"].partition(" (")
    memory = facts.get("memory", "")
    return Guest(state, reason.rstrip(")"), Kib(int(memory) if memory.isdigit() else 0))


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
