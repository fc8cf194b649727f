"""Guests are real: libvirt and QEMU run them on the lab's hosts, from the lab's volumes."""

from __future__ import annotations

import pytest
from guest_support import disk_of, run
from lab.guests import Domain, Guests
from lab.site import Site

pytestmark = pytest.mark.slow

VM = 7
NAME = "one-7"


def in_use(site: Site, name: str) -> list[str]:
    """The nodes that LINSTOR says have a resource in use."""
    answer = site.rest("GET", f"/v1/resource-definitions/{name}/resources")
    return [one["name"] and one["node_name"] for one in answer if one.get("state", {}).get("in_use")]


def test_a_guest_runs_on_a_volume_and_has_it_open(site: Site, guests: Guests) -> None:
    name = disk_of(site, VM)
    assert in_use(site, name) == []
    run(guests, "node1", Domain(NAME, VM))
    assert guests.state("node1", NAME) == "running"
    assert guests.state("node2", NAME) == ""
    assert in_use(site, name) == ["node1"]
    guests.virsh("node1", "destroy", NAME)
    assert guests.state("node1", NAME) == ""
    assert in_use(site, name) == []


def test_a_guest_is_suspended_and_resumed(site: Site, guests: Guests) -> None:
    disk_of(site, VM)
    run(guests, "node1", Domain(NAME, VM, uuid="1c2d3e4f-0000-4000-8000-000000000007"))
    guests.virsh("node1", "suspend", NAME)
    assert guests.reason("node1", NAME) == "paused (user)"
    guests.virsh("node1", "resume", "1c2d3e4f-0000-4000-8000-000000000007")
    assert guests.reason("node1", NAME) == "running (unpaused)"


def test_oneadmin_reaches_libvirt_by_ssh_as_the_driver_does(site: Site, guests: Guests) -> None:
    disk_of(site, VM)
    run(guests, "node1", Domain(NAME, VM))
    assert guests.by_ssh("node1", "virsh -c qemu:///system domstate one-7").stdout.strip() == "running"


def test_an_agent_answers_where_there_is_one(site: Site, guests: Guests) -> None:
    disk_of(site, VM)
    run(guests, "node1", Domain(NAME, VM, agent=True))
    assert guests.virsh("node1", "domfsfreeze", NAME).returncode == 0
    disk_of(site, 8)
    run(guests, "node1", Domain("one-8", 8, deaf=True))
    deaf = guests.virsh("node1", "domfsfreeze", "one-8", check=False)
    assert "Guest agent is not responding" in deaf.stderr
