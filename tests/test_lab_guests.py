"""Guests are real: libvirt and QEMU run them on the lab's hosts, from the lab's volumes."""

from __future__ import annotations

import pytest
from guest_support import disk_of, format_disk, run, show_disk
from lab.controller.volumes import Content
from lab.guests import Domain, Guests, check_blocks, check_files
from lab.hosts.leftovers import leftovers
from lab.opennebula import install_hook, install_host
from lab.primaries import Primaries
from lab.site import Site
from linstor_un.naming import by_res
from process_support import eventually, lab_process, said
from site_support import datablock

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


ALLOW = "DrbdOptions/Net/allow-two-primaries"


def test_a_guest_moves_while_it_writes_and_no_block_is_lost(
    site: Site, guests: Guests, primaries: Primaries
) -> None:
    name = disk_of(site, VM)
    show_disk(site, name, VM, "node2")
    run(guests, "node1", Domain(NAME, VM, jobs=["write:vda"]))
    guests.await_words("node1", NAME, "wrote area 3 2 times")
    refused = guests.migrate(NAME, "node1", "node2")
    assert refused.returncode and "Wrong medium type" in refused.stderr
    assert guests.state("node1", NAME) == "running" and in_use(site, name) == ["node1"]

    pair = f"/v1/resource-definitions/{name}/resource-connections/node1/node2"
    site.rest("PUT", pair, {"override_props": {ALLOW: "yes"}})
    moved = guests.migrate(NAME, "node1", "node2")
    assert moved.returncode == 0, moved.stderr
    site.rest("PUT", pair, {"delete_props": [ALLOW]})
    assert (guests.state("node1", NAME), guests.state("node2", NAME)) == ("", "running")
    assert in_use(site, name) == ["node2"]
    guests.await_more("node2", NAME, "wrote area 3", 2)
    guests.virsh("node2", "suspend", NAME)
    said = guests.console("node1", NAME) + guests.console("node2", NAME)
    assert min(check_blocks(site.volumes.settled(Content(name, 0)), said)) > 2 * 256


def test_a_guest_is_saved_to_a_device_and_goes_on_elsewhere(site: Site, guests: Guests) -> None:
    name, memory = disk_of(site, VM), datablock(site, 6, 512)
    run(guests, "node1", Domain(NAME, VM, jobs=["write:vda"]))
    guests.await_words("node1", NAME, "wrote area 3 2 times")
    for one in (name, memory):
        for host in ("node1", "node2"):
            site.rest("POST", f"/v1/resource-definitions/{one}/resources/{host}/make-available", {})
    guests.virsh("node1", "save", NAME, by_res(memory))
    assert guests.state("node1", NAME) == "" and in_use(site, name) == in_use(site, memory) == []
    show_disk(site, name, VM, "node2")
    guests.virsh("node2", "restore", by_res(memory))
    assert guests.state("node2", NAME) == "running"
    guests.await_more("node2", NAME, "wrote area 3", 2)
    guests.virsh("node2", "suspend", NAME)
    check_blocks(site.volumes.settled(Content(name, 0)), guests.console("node1", NAME) + guests.console("node2", NAME))


DOCUMENT = (
    "<VMM_DRIVER_ACTION_DATA><VM><TEMPLATE><DISK><TM_MAD>other</TM_MAD></DISK></TEMPLATE></VM>"
    "<DATASTORE><ID>101</ID><TM_MAD>shared</TM_MAD></DATASTORE></VMM_DRIVER_ACTION_DATA>"
)
HOOK = '#!/bin/sh\n{ printf "%s\\n" "$@"; cat; } >/var/tmp/one/hook\n'


def test_the_stock_scripts_save_a_guest_to_a_file_and_let_it_go_on_from_there(site: Site, guests: Guests) -> None:
    disk_of(site, VM)
    run(guests, "node1", Domain(NAME, VM))
    install_host(site.hosts, "node1")
    install_hook(site.hosts, "node1", "save.shared", HOOK)
    file = f"{Domain(NAME, VM).directory}/checkpoint"

    def stock(script: str, *words: str) -> str:
        argv = [f"/var/tmp/one/vmm/kvm/{script}", *words, "7", "node1"]
        return str(site.hosts.run("node1", argv, input=DOCUMENT).stdout)

    assert stock("save", NAME, file, "node1") == ""
    assert guests.state("node1", NAME) == ""
    hook = site.hosts.run("node1", ["cat", "/var/tmp/one/hook"]).stdout
    assert hook == "\n".join([NAME, file, "node1", "7", "node1", DOCUMENT, ""])
    assert stock("restore", file, "node1", NAME) == f"{NAME}\n"
    assert guests.state("node1", NAME) == "running"
    assert site.hosts.run("node1", ["ls", Domain(NAME, VM).directory]).stdout.split() == ["deployment.0", "disk.0"]


def test_a_frozen_file_system_is_clean_and_goes_on_after_the_thaw(site: Site, guests: Guests) -> None:
    name = disk_of(site, VM)
    format_disk(site, name)
    run(guests, "node1", Domain(NAME, VM, jobs=["files:vda"], agent=True))
    guests.await_words("node1", NAME, "wrote file 3")
    guests.virsh("node1", "domfsfreeze", NAME)
    disk, said = site.volumes.settled(Content(name, 0)), guests.console("node1", NAME)
    assert check_files(disk, said) >= 3
    assert check_files(disk, said) == check_files(disk, guests.console("node1", NAME))
    guests.virsh("node1", "domfsthaw", NAME)
    guests.await_more("node1", NAME, "wrote file", 3)
    with pytest.raises(AssertionError):
        check_files(disk, guests.console("node1", NAME))


LEAVING = (
    "from lab.guests import Domain, Guests\n"
    "try: guests = Guests(hosts)\n"
    "except LabUnavailable as reason: say(unavailable=str(reason)); sys.exit()\n"
    "volumes.create(disk, 16 << 20); volumes.attach(disk, 'node1', '/dev/drbd1000')\n"
    "link = 'cd /var/lib/one/datastores && mkdir -p 101/7 && ln -s /dev/drbd/by-res/one-vm-7-disk-0/0 101/7/disk.0'\n"
    "hosts.run('node1', ['sh', '-c', link])\n"
    "guests.start('node1')\n"
    "guests.create('node1', Domain('one-7', vm=7))\n"
    "say(token=isolation.token())\n"
)


@pytest.mark.parametrize("end", ["killed", "over"])
def test_nothing_is_left_of_guests_when_their_lab_is(end: str, guests: Guests) -> None:
    lab = lab_process(LEAVING)
    token = said(lab)["token"]
    there = leftovers(token)
    assert any("qemu" in line for line in there) and any("libvirtd" in line for line in there)
    if end == "killed":
        lab.kill()
    lab.communicate()
    assert eventually(lambda: not leftovers(token)), leftovers(token)
