"""What a controller of a given REST version understands: one row a feature, no other version test anywhere.

A LINSTOR controller refuses a request with a key it does not know (and never answers a clone with one),
so nothing may be sent that is not known to be understood.
"""

from __future__ import annotations

import re

# First REST version (LINSTOR release in the comment) that understands it.
FIRST_REST = {
    "cached_pools": (1, 13),  # 1.18: view/storage-pools?cached=true; older ones ignore the parameter and ask satellites
    "size_info": (1, 17),  # 1.21: query-size-info
    "size_info_cache": (1, 22),  # seen on 1.27: ignore_cache_older_than_sec in its body
    "attach_layers": (1, 22),  # seen on 1.27: layer_list in make-available; needed from 1.31 on
    "snapshots_at_once": (1, 18),  # 1.22: actions/snapshot/multi
    "spawn_marks": (1, 22),  # 1.27: resource_definition_props in spawn
    "keep_tiebreaker": (1, 23),  # 1.28: query parameter of resource delete; older ones ignore it
    "on_no_quorum_kept": (1, 25),  # 1.31: older ones set DrbdOptions/Resource/on-no-quorum from DrbdOptions/auto-quorum
    "clone_group": (1, 24),  # 1.30: resource_group in clone (python-linstor says 1.23)
    "rollback_any": (1, 25),  # 1.31: rollback to any snapshot, by restoring it; older ones only to the newest, in place
    "clone_marks": (1, 26),  # 1.32: override_props and delete_props in clone
}


def understands(rest: tuple[int, ...], feature: str) -> bool:
    """Tell whether a controller of this REST version, such as (1, 27, 0), has a feature of the table."""
    return rest[:2] >= FIRST_REST[feature]


# Releases from the first to before the second whose rollback loses the volume, and may say that it worked: of a size
# that changed since the snapshot (CHANGELOG of 1.31.3), on ZFS and with DRBD left down (CHANGELOG of 1.32.3). Their
# REST versions are those of the mended ones.
_LOSING_ROLLBACKS = (((1, 31, 0), (1, 31, 3)), ((1, 32, 0), (1, 32, 3)))


def loses_in_rollbacks(release: str) -> bool:
    """Tell whether a LINSTOR release, such as "1.31.2" or "1.32.0-rc.1", is known to lose what it rolls back."""
    numbers = tuple(int(part) for part in re.findall(r"\d+", release.partition("-")[0])[:3])
    return any(first <= numbers < mended for first, mended in _LOSING_ROLLBACKS)
