"""NODE_LIST names the nodes that hold every replica: exactly those, or nothing at all."""

from __future__ import annotations

import pytest
from lab.controller import satellites
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import Site


def datablock(site: Site, nodes: str) -> Outcome:
    site.datastores(STORAGE_POOL="thin", NODE_LIST=nodes)
    return site.oned.ds("mkfs", D.image("7.4.0", 5, size=8), site.image_datastore)


def test_the_replicas_are_on_the_nodes_of_the_list(site: Site) -> None:
    assert datablock(site, "node1 node3").success
    assert site.holders("one-image-5") == ["node1", "node3"]


@pytest.mark.parametrize("missing", ["node2", "node9"])
def test_nothing_is_created_when_a_node_of_the_list_is_offline_or_unknown(site: Site, missing: str) -> None:
    with site.cluster.lock:
        satellites.go_offline(site.cluster, "node2")
    outcome = datablock(site, f"node1 {missing}")
    assert not outcome.success and f"cannot be placed on {missing}, " in outcome.user_message
    assert site.definition("one-image-5") is None
