"""What each action may ask of LINSTOR and of hosts, for a volume on two of three hosts, and why where it is more
than the goal.

Requests are counted without those for the controller's version; commands are those by ssh, over a connection a
host that stays open between actions. The goals are what can be had when nothing is looked at twice.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Numbers of requests, commands and new connections; `goal` is requests and connections; `reason` for more."""

    requests: int
    commands: int
    connections: int
    goal: tuple[int, int]
    reason: str = ""


_PLACED = "where LINSTOR put the replicas is read back: its answer may be a success without any"
_LOOK = "marks, and openers behind satellites that are away, are looked at before anything is removed"
_TWO_HOSTS = "the copy is made on a holder of both volumes, the VM is on another host"
_MARKED = "a persistent image is marked as its VM's disk, for the monitoring"
_SOUND = "an image that LINSTOR is deleting, or whose replicas differ, is found out before it is attached"
_HELD = "what is on the host is looked at first: a replica is never let go, and the marks of a VM go as well"
_STAGED = "the image is looked at, checked and converted on the host, and what was staged there goes"
_RESTORED = "LINSTOR wants a request each for definition, snapshot, volumes, resources, size and the snapshot's end"
_STACKED = "the image's layers are compared with those that the resource group asks for"
_CLONABLE = "LINSTOR refuses clones half-way, so that provider and state of the source are looked at before"
_MOMENT = "what one moment was is restored into a volume of its own, copied from there, and removed with its snapshot"
_AS_PLACED = "the image lies where the disk is only if its group would have placed it so"
_UNGUARDED = "LINSTOR shrinks, and grows beyond the pool: size, replicas and room are looked at before, from its memory"
_ORDERED = (
    "size and time of the order are marked on the definition, where the monitoring finds all of them in one request; "
    "owner, replicas, pool and what is left of another order are looked at before, in LINSTOR's memory"
)
_READ_BACK = (
    "a rollback's answer proves nothing and brings old marks back: all is read before and after it; readers, of whom "
    "LINSTOR does not tell, are looked for on each host with a device"
)
_FETCHED = "the backup is fetched, looked at and checked before the disk, of which a snapshot is kept, is written over"
_OVER = "what was is kept, the snapshot is restored beside the volume and copied over it, and both go again"
_DROPPED = "owner, and whether replicas differ, are looked at before"
_LET_GO = "marks, openers and replicas are looked at first, and again right before the source lets go"
_BROUGHT = (
    "rules, pools, nodes and snapshots are looked at before anything is moved; before each replica goes, whether the "
    "others have all data, and whether somebody reads it"
)
_WHOLE = "the directory is looked for at the other end, sent, compared, put in place and removed, each by a command"
_SAVED = "the VM's memory, if it is saved, goes with its directory: one look whether it is"
_LOCKED = "an attachment that is there already is looked at again once it has its lock: another action may let it go"
_LENT = "on a host without a replica the volume is attached before and let go after, which is three of the requests"
_MARKS_AND_OPENERS = "marks and openers are looked at first: used memory must not be restored again"
_LEASED = (
    "a migration is marked before two hosts may write and unmarked after it; who has the volume open is looked at "
    "before that is taken back; the directory is looked for at both ends"
)

# By the names of the interruption matrix's actions.
BUDGETS = {
    "stat": Budget(0, 0, 0, goal=(0, 0)),
    "cp raw": Budget(3, 2, 1, goal=(4, 1)),
    "cp qcow2": Budget(3, 9, 1, goal=(4, 1), reason=_STAGED),
    "mkfs": Budget(3, 2, 1, goal=(3, 1)),
    "image clone": Budget(5, 2, 1, goal=(5, 1)),
    "rm": Budget(6, 0, 0, goal=(3, 0), reason=f"{_LOOK}; only a refused deletion tells that an image has snapshots"),
    "monitor": Budget(2, 0, 0, goal=(1, 0), reason="one request looks for live migrations that were lost"),
    "clone copy": Budget(6, 3, 2, goal=(5, 1), reason=f"{_PLACED}; {_TWO_HOSTS}"),
    "clone copy, source in use": Budget(6, 3, 2, goal=(5, 1), reason=f"{_PLACED}; {_TWO_HOSTS}"),
    "clone snapshot": Budget(13, 1, 1, goal=(7, 1), reason=f"{_RESTORED}; {_STACKED}"),
    "clone clone": Budget(14, 1, 1, goal=(4, 1), reason=f"{_CLONABLE}; {_STACKED}"),
    "clone clone before 1.32": Budget(15, 1, 1, goal=(4, 1), reason=f"{_CLONABLE}; {_STACKED}"),
    "ln": Budget(4, 1, 1, goal=(2, 1), reason=f"{_MARKED}; {_SOUND}"),
    "mkimage": Budget(4, 3, 2, goal=(4, 1), reason=_TWO_HOSTS),
    "mkswap": Budget(4, 3, 2, goal=(4, 1), reason=_TWO_HOSTS),
    "context": Budget(0, 0, 0, goal=(0, 0)),
    "delete disk": Budget(5, 1, 1, goal=(3, 1), reason=_LOOK),
    "delete disk, snapshot mode": Budget(6, 1, 1, goal=(4, 1), reason=_LOOK),
    "delete linked disk": Budget(4, 2, 1, goal=(2, 1), reason=_HELD),
    "delete directory": Budget(1, 1, 1, goal=(0, 1), reason=_SAVED),
    "delete directory, saved": Budget(3, 1, 1, goal=(2, 1), reason=_LOOK),
    "save": Budget(6, 2, 1, goal=(3, 2), reason=_LENT),
    "restore": Budget(4, 2, 1, goal=(3, 2), reason=_MARKS_AND_OPENERS),
    "mvds": Budget(4, 2, 1, goal=(2, 1), reason=_HELD),
    "cpds running": Budget(15, 3, 2, goal=(5, 1), reason=f"{_MOMENT}; {_TWO_HOSTS}"),
    "cpds running, snapshot mode": Budget(11, 1, 1, goal=(5, 1), reason=f"{_RESTORED}; {_AS_PLACED}"),
    "cpds off": Budget(5, 2, 1, goal=(5, 1)),
    "cpds undeployed": Budget(5, 2, 1, goal=(5, 1)),
    "cpds snapshot": Budget(13, 2, 1, goal=(5, 1), reason=_MOMENT),
    "export": Budget(2, 1, 1, goal=(2, 1)),
    "export done": Budget(2, 2, 1, goal=(2, 1)),
    "resize": Budget(4, 1, 1, goal=(1, 1), reason=_UNGUARDED),
    "snap_create": Budget(6, 0, 0, goal=(1, 0), reason=_ORDERED),
    "snap_create_live": Budget(6, 1, 1, goal=(1, 1), reason=_ORDERED),
    "snap_delete": Budget(4, 0, 0, goal=(2, 0), reason=_DROPPED),
    "snap_revert": Budget(7, 3, 3, goal=(3, 0), reason=_READ_BACK),
    "snap_revert, by a copy": Budget(18, 9, 4, goal=(3, 0), reason=f"{_READ_BACK}; {_OVER}"),
    "image snap_delete": Budget(4, 0, 0, goal=(2, 0), reason=_DROPPED),
    "image snap_revert": Budget(9, 3, 3, goal=(3, 0), reason=_READ_BACK),
    "image snap_revert, by a copy": Budget(18, 9, 4, goal=(3, 0), reason=f"{_READ_BACK}; {_OVER}"),
    "image snap_flatten": Budget(15, 3, 3, goal=(5, 0), reason=f"{_READ_BACK}; each snapshot goes by itself"),
    "prebackup": Budget(3, 5, 1, goal=(2, 1), reason=_LOCKED),
    "prebackup_live": Budget(16, 6, 1, goal=(6, 1), reason=_MOMENT),
    "postbackup": Budget(3, 1, 1, goal=(3, 1)),
    "postbackup_live": Budget(3, 1, 1, goal=(3, 1)),
    "restore of a backup": Budget(8, 14, 3, goal=(4, 1), reason=f"{_FETCHED}; readers are looked for on each host"),
    "mv disk": Budget(6, 2, 2, goal=(3, 2), reason=f"{_LET_GO}; its mark names its system datastore"),
    "mv disk to other pools": Budget(25, 4, 4, goal=(3, 2), reason=_BROUGHT),
    "mv disk to the front-end": Budget(4, 1, 1, goal=(3, 2), reason=_LET_GO),
    "mv directory": Budget(1, 6, 4, goal=(1, 2), reason=_WHOLE),
    "premigrate": Budget(9, 7, 3, goal=(4, 1), reason=_LEASED),
    "postmigrate": Budget(13, 4, 2, goal=(4, 1), reason=_LEASED),
    "failmigrate": Budget(13, 3, 2, goal=(4, 1), reason=_LEASED),
    "tm monitor": Budget(2, 0, 0, goal=(2, 0)),
}
