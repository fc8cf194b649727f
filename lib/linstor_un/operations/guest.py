"""A running guest kept quiet while its disks are looked at, and never longer.

The host itself ends it: when the driver says so, when the driver or its connection dies, or when the time is over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from ..world import Command, World
from . import virsh

# LINSTOR takes a snapshot in seconds; processes of a Linux guest that wait for longer than 120 s are complained of.
QUIET_SECONDS = 60.0
# Each question to libvirt may take 25 s; letting go is tried four times.
_ASKING_SECONDS = 200.0


class Way(Enum):
    """How a guest is kept quiet: its file systems are frozen by its agent, it is suspended, or the first that works."""

    FREEZE = "freeze"
    SUSPEND = "suspend"
    EITHER = "either"


# A guest that is paused already, or does not run, writes nothing and is left as it is. An agent that answers late may
# still freeze the guest, so it is told to thaw, and the guest is not called quiet. `cat` waits for the driver.
_QUIET = """uri=$1 domain=$2 limit=$3 way=$4
ask() { timeout -k 5 20 virsh -q -c "$uri" "$@" 2>&1 </dev/null; }
refuse() { echo "$1" >&2; exit 1; }
gone() { case $1 in *'failed to get domain'* | *'no domain with'* | *'is not running'*) ;; *) return 1 ;; esac; }
let_go() {
  for pause in 1 2 4 0; do
    said=$(ask "$1" "$domain") && return
    case $said in *'already running'*) return ;; esac
    gone "$said" && return
    sleep "$pause"
  done
  refuse "${said##*error: }; it is still held, end that with: virsh -c $uri $1 $domain"
}
end= over= how=still
trap 'over=1' TERM HUP INT
trap '' PIPE
state=$(ask domstate "$domain") || gone "$state" || refuse "${state##*error: }"
case $state in running | idle | blocked | 'in shutdown')
  code=
  [ "$way" = suspend ] || { said=$(ask domfsfreeze "$domain"); code=$?; }
  case $code:$said in
  0:*) how=frozen end=domfsthaw ;;
  124:* | 137:* | *'respond to command within'*)
    let_go domfsthaw
    refuse 'its guest agent does not answer; restart qemu-guest-agent in it' ;;
  *)
    if [ "$way" = freeze ]; then
      gone "$said" || refuse "${said##*error: }"
    elif said=$(ask suspend "$domain"); then how=suspended end=resume; else
      gone "$said" || refuse "${said##*error: }"
    fi ;;
  esac
esac
echo "$how"
[ "$end" ] || exit 0
code=0
if [ ! "$over" ]; then
  exec 3<&0
  timeout "$limit" cat <&3 >/dev/null 2>&1 &
  waiting=$!
  wait "$waiting"
  code=$?
  [ ! "$over" ] || kill "$waiting" 2>/dev/null
fi
trap '' TERM HUP INT
let_go "$end"
[ "$code" != 124 ] || refuse "it was let go after $limit s, before all was done"
"""


@contextmanager
def quiet(
    world: World, host: str, domain: str, seconds: float = QUIET_SECONDS, way: Way = Way.EITHER
) -> Iterator[str]:
    """Keep a guest from writing to its disks for the time of a block.

    Its file systems are frozen by its agent; without an agent that can, the guest is suspended. What this did it takes
    back after the block, and on the host as well when the driver is killed or loses it.
    Arguments: host, where the domain runs; domain, its DEPLOY_ID; seconds, after which the host lets go at the latest;
    way, to do only one of the two.
    Yields "frozen", "suspended", or "still" for a guest that does not run or was paused before, which stays so.
    Raises Failed when libvirt or the agent does not answer, or when the time was over before the block was,
    Unreachable for the host.
    """
    argv = ["sh", "-c", _QUIET, "sh", virsh.settings(world).uri, domain, str(max(1, int(seconds))), way.value]
    command = Command(world.front_end.host(host), argv)
    doing = f"keep the guest {domain} quiet"
    with world.hosts.beside(command, seconds=seconds + _ASKING_SECONDS, doing=doing) as how:
        world.trail.debug(f"the guest {domain} is {how} on {host}")
        yield how
