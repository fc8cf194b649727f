"""What differs between the LINSTOR versions that can be simulated: one row a feature, no version test elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

# LINSTOR release simulated for each selectable version, and the REST version it reports.
RELEASES = {
    "1.20": ("1.20.3", "1.15.1"),
    "1.27": ("1.27.1", "1.22.0"),
    "1.31": ("1.31.3", "1.25.1"),
    "1.33": ("1.33.3", "1.27.0"),
    "1.34": ("1.34.0", "1.28.0"),
}

# First version with the feature. Sources: tags of linstor-server, and the recordings of 1.27.1 and 1.33.3.
FIRST = {
    "spawn_props": (1, 27),  # resource_definition_props in the body of spawn
    "keep_tiebreaker": (1, 28),  # query parameter of resource delete; ignored before
    "snapshot_props_shown": (1, 31),  # snapshot_definition_props and resource_definition_props in the lists
    "rollback_by_restore": (1, 31),  # any snapshot, by safety snapshot, delete and restore
    "restore_drops_layers": (1, 31),  # restore copies the (empty) layer stack of the snapshot to the definition
    "tolerant_deletes": (1, 31),  # deleting below a missing parent is 200 with a warning, not 404
    "offline_is_warning": (1, 31),  # a change that an offline satellite misses is 200 with 1002, not 500 with 995
    "pool_update_said": (1, 31),  # registering or changing a pool ends with what its satellite did
    "short_node_label": (1, 31),  # a satellite's error begins with (node1), not with (Node: 'node1')
    "namespaces_deleted": (1, 31),  # delete_namespaces of a definition works without other changes in the request
    "quorum_setter_kept": (1, 31),  # Internal/Drbd/QuorumSetBy tells who set the quorum
    "auto_quorum_deprecated": (1, 31),
    "late_deletes_are_noop": (1, 31),  # a delete that another one overtook says so (10007)
    "stale_names_forgotten": (1, 31),  # before, a satellite hangs on a name whose snapshot outlived its resource
    "restore_of_nothing_works": (1, 31),  # a snapshot that was never taken on a node restores there as an empty volume
    "reversed_connections_found": (1, 31),  # from 1.29.2 on: before, only with its nodes in alphabetical order
    "loop_device_measured": (1, 31),  # a loop device made anew reports its size, not what its file has allocated
    "usable_from_the_start": (1, 31),  # a volume not yet deployed shows its wanted size as usable
    "same_size_warning": (1, 31),  # resize to the present size warns 1023 and asks no satellite
    "quorum_always_set": (1, 31),  # DrbdOptions/Resource/quorum appears on stacks without DRBD too
    "block_size_set": (1, 33),  # DrbdOptions/Disk/block-size appears on volume definitions with the first resource
    "clone_options": (1, 31),  # layer_list and resource_group in the body of clone
    "clone_errors_are_500": (1, 33),  # before, a refused clone was 201 with the errors in `messages`
    "shrink_refused_with_drbd": (1, 33),
    "tcp_ports_per_resource": (1, 33),
    "drbd_client": (1, 34),  # make-available makes DRBD clients, which never displace a tiebreaker
    "toggle_disk_operation": (1, 34),
}


@dataclass(frozen=True)
class Version:
    """One selectable version, such as "1.33"."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in RELEASES:
            raise ValueError(f"LINSTOR {self.name} is not simulated; take one of {', '.join(RELEASES)}")

    @property
    def release(self) -> str:
        return RELEASES[self.name][0]

    @property
    def rest(self) -> str:
        return RELEASES[self.name][1]

    def has(self, feature: str) -> bool:
        """Tell whether this version has `feature`, a key of FIRST."""
        major, minor = self.name.split(".")
        return (int(major), int(minor)) >= FIRST[feature]


def nearest(release: str) -> Version:
    """Return the selectable version for a release such as "1.33.3"."""
    return Version(".".join(release.split(".")[:2]))
