"""A VM's directory on its way: all that is in it arrives before any of it goes, and what is shared is left alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.hosts import account
from lab.oned import documents as D
from lab.site import Site
from linstor_un.naming import by_res
from site_support import done, failed
from test_moving import (
    BASE,
    FRONTEND,
    MIGRATE,
    RESUME,
    STOP,
    VOLATILE,
    files,
    frontend_link,
    mv,
    one_directory,
    quiet,
    vm,
    volatile,
)

pytestmark = pytest.mark.slow

# What drivers, libvirt and administrators put there: a sparse file, modes, attributes, links, odd names, nothing.
FILL = r"""set -e
umask 022
cd "$1"
printf 'NVRAM' >VM_NVRAM.fd
chmod 600 VM_NVRAM.fd
mkdir -p vtpm/tpm2 empty
chmod 700 vtpm
head -c 3000 /dev/urandom >vtpm/tpm2/tpm2-00.permall
touch -d '2001-02-03 04:05:06' vtpm/tpm2/tpm2-00.permall
printf '<domainsnapshot/>' >snap-0.xml
truncate -s 60M disk.9
printf 'end' >>disk.9
printf 'middle' | dd of=disk.9 bs=1M seek=20 conv=notrunc status=none
ln -s /var/lib/elsewhere kernel
ln snap-0.xml hard
printf x >.hidden
printf y >"a name
with everything"
printf z >./-rf
chmod 640 ./-rf
"""
# Everything that can be told of it: kinds, modes, times, targets, links' counts, blocks, bytes.
LIST = r"""cd "$1" || exit
find . -mindepth 1 ! -name 'disk.[0-8]' ! -type d -printf '%P|%y|%m|%U:%G|%T@|%l|%n|%s\0' | sort -z
find . -mindepth 1 -type d -printf '%P|%y|%m|%U:%G\0' | sort -z
find . -type f -print0 | sort -z | xargs -0 sha256sum
"""


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    site.cluster.prefer = lambda _: ["node1", "node2"]
    site.documents.put(D.datastore(102, 1, RESOURCE_GROUP="opennebula"))
    yield
    site.cluster.prefer = lambda _: []


def run(site: Site, host: str, script: str, *arguments: str, user: str = account.NAME) -> str:
    argv = ["bash", "-c", script, "bash", *arguments]
    if host != FRONTEND:
        return str(site.hosts.run(host, argv, user=user).stdout)
    return subprocess.run(argv, **site.hosts.as_oneadmin(), capture_output=True, text=True, check=True).stdout


def fill(site: Site, host: str, datastore: int = 101) -> str:
    """Fill a VM's directory; returns all that can be told of what is in it."""
    path = f"{BASE}/{datastore}/7"
    run(site, host, 'mkdir -p "$1"', path)
    run(site, host, FILL, path)
    return listing(site, host, datastore)


def listing(site: Site, host: str, datastore: int = 101) -> str:
    return run(site, host, LIST, f"{BASE}/{datastore}/7")


def allocated(site: Site, host: str, datastore: int = 101) -> int:
    return int(run(site, host, 'stat -c %b "$1/disk.9"', f"{BASE}/{datastore}/7"))


def own_files(site: Site, host: str, *directories: str) -> list[str]:
    """What of the driver's own is left in a host's directories."""
    found = run(site, host, 'find "$1" -name ".linstor_un*"', BASE)
    return found.split()


@pytest.mark.parametrize(
    ("source", "target", "state"),
    [("node1", "node2", MIGRATE), ("node1", FRONTEND, STOP), (FRONTEND, "node2", RESUME), ("node1", "node1", MIGRATE)],
    ids=["host to host", "to the front-end", "from the front-end", "same host"],
)
def test_all_that_is_in_a_vms_directory_arrives_as_it_was(site: Site, source: str, target: str, state: int) -> None:
    new = 102 if source == target else 101
    before = fill(site, source)
    vm(site, state=state, hosts=("node1", "node2"))
    for _ in range(2):
        quiet(mv(site, source, target, new=new, disk=None))
        assert listing(site, target, new) == before
        assert allocated(site, target, new) < 1000
        assert files(site, source) == ["-"]
        assert not own_files(site, source) and not own_files(site, target)


def test_a_directory_goes_through_the_front_end_where_hosts_do_not_reach_each_other(site: Site) -> None:
    before = fill(site, "node1")
    vm(site, hosts=("node1", "node2"))
    site.hosts.partition("node1", "node2")
    try:
        quiet(mv(site, "node1", "node2", disk=None))
    finally:
        site.hosts.heal("node1", "node2")
    assert listing(site, "node2") == before and files(site, "node1") == ["-"]


def test_an_attribute_of_a_file_arrives(site: Site) -> None:
    path = f"{BASE}/101/7"
    run(site, "node1", 'mkdir -p "$1" && touch "$1/x"', path)
    real = site.hosts.device_directory("node1").parent / "one/datastores/101/7/x"
    try:
        os.setxattr(real, "user.origin", b"here")
    except OSError:
        pytest.skip("this kernel's tmpfs has no attributes of users")
    vm(site, hosts=("node1", "node2"))
    quiet(mv(site, "node1", "node2", disk=None))
    arrived = site.hosts.device_directory("node2").parent / "one/datastores/101/7/x"
    assert os.getxattr(arrived, "user.origin") == b"here"


def test_a_disks_new_link_is_not_replaced_by_an_old_one(site: Site) -> None:
    volatile(site, "node1")
    vm(site, VOLATILE, hosts=("node1", "node2"))
    quiet(mv(site, "node1", "node2"))
    run(site, "node1", 'ln -s /dev/drbd/by-res/one-vm-7-disk-0-old/0 "$1/disk.0"', f"{BASE}/101/7")
    run(site, "node1", 'ln -s /dev/of/others "$1/disk.4"', f"{BASE}/101/7")
    quiet(mv(site, "node1", "node2", disk=None))
    assert site.link("node2", 7, 0) == by_res("one-vm-7-disk-0") and site.link("node2", 7, 4) == "/dev/of/others"
    assert files(site, "node1") == ["-"]


def test_what_an_old_run_left_at_the_destination_is_not_taken_for_the_vms(site: Site) -> None:
    before = fill(site, "node1")
    old = 'mkdir -p "$1/.linstor_un.new/old" "$1/vtpm/old" && touch "$1/snap-7.xml" "$1/empty"'
    run(site, "node2", old, f"{BASE}/101/7")
    vm(site, hosts=("node1", "node2"))
    quiet(mv(site, "node1", "node2", disk=None))
    assert listing(site, "node2") == before and not own_files(site, "node2")


def test_a_directory_that_hosts_share_is_left_alone(site: Site) -> None:
    with one_directory(site, 101, 102):
        before = fill(site, "node1")
        vm(site, hosts=("node1", "node2"))
        for _ in range(2):
            quiet(mv(site, "node1", "node2", disk=None))
            assert listing(site, "node1") == listing(site, "node2") == before
            assert not own_files(site, "node1")
        # Another datastore's directory is another one, also where both are shared.
        quiet(mv(site, "node1", "node2", new=102, disk=None))
        assert listing(site, "node2", 102) == before and files(site, "node2") == ["-"]


def test_two_paths_to_one_directory_are_one_directory(site: Site) -> None:
    before = fill(site, "node1")
    run(site, "node1", 'ln -s 101 "$1/102"', BASE)
    vm(site, hosts=("node1", "node1"))
    quiet(mv(site, "node1", "node1", new=102, disk=None))
    assert listing(site, "node1") == before


def test_a_file_that_cannot_be_read_keeps_the_directory_where_it_is(site: Site) -> None:
    fill(site, "node1")
    run(site, "node1", 'echo secret >"$1/root" && chmod 600 "$1/root"', f"{BASE}/101/7", user="root")
    before = sorted(files(site, "node1"))
    vm(site, hosts=("node1", "node2"))
    message = failed(mv(site, "node1", "node2", disk=None))
    assert "cannot move" in message and "root" in message and "Permission denied" in message
    assert sorted(files(site, "node1")) == before and files(site, "node2") == ["-"]
    assert not own_files(site, "node1") and not own_files(site, "node2")


@pytest.mark.parametrize("side", ["node1", "node2"])
def test_a_transfer_that_fails_half_way_keeps_the_directory_where_it_is(site: Site, side: str) -> None:
    before = fill(site, "node1")
    vm(site, hosts=("node1", "node2"))
    site.hosts.hide_tools(side, "tar")
    try:
        assert "cannot move" in failed(mv(site, "node1", "node2", disk=None))
    finally:
        site.hosts.hide_tools(side)
    assert listing(site, "node1") == before and files(site, "node2") == ["-"] and not own_files(site, "node1")
    quiet(mv(site, "node1", "node2", disk=None))
    assert listing(site, "node2") == before


def test_bytes_that_change_on_their_way_keep_the_directory_where_it_is(site: Site) -> None:
    before = fill(site, "node1")
    vm(site, hosts=("node1", "node2"))
    # An archiver that says that all is well, and writes other bytes than it got.
    spoiled = "#!/bin/sh\n/usr/bin/tar \"$@\" || exit\nprintf 'n' | dd of=snap-0.xml conv=notrunc status=none\n"
    run(site, "node2", 'printf %s "$1" >/run/tar && chmod 755 /run/tar && mount --bind /run/tar /usr/bin/tar',
        spoiled.replace("/usr/bin/tar", "/run/real-tar"), user="root")  # fmt: skip
    run(site, "node2", "umount /usr/bin/tar && cp /usr/bin/tar /run/real-tar && mount --bind /run/tar /usr/bin/tar",
        user="root")  # fmt: skip
    try:
        message = failed(mv(site, "node1", "node2", disk=None))
    finally:
        run(site, "node2", "umount /usr/bin/tar", user="root")
    assert "what arrived is not what was sent" in message
    assert listing(site, "node1") == before and files(site, "node2") == ["-"]


def test_a_source_that_does_not_go_leaves_nothing_at_the_destination(site: Site) -> None:
    before = fill(site, "node1")
    vm(site, hosts=("node1", "node2"))
    run(site, "node1", 'chmod 500 "$1"', f"{BASE}/101")
    try:
        message = failed(mv(site, "node1", "node2", disk=None))
    finally:
        run(site, "node1", 'chmod 755 "$1"', f"{BASE}/101")
    assert f"cannot remove {BASE}/101/7" in message
    assert listing(site, "node1") == before and files(site, "node2") == ["-"]


def test_an_empty_directory_exists_where_it_goes(site: Site) -> None:
    run(site, "node1", 'mkdir -p "$1"', f"{BASE}/101/7")
    vm(site, hosts=("node1", "node2"))
    quiet(mv(site, "node1", "node2", disk=None))
    assert files(site, "node2") == [] and files(site, "node1") == ["-"]


def test_stopping_on_a_host_that_is_the_front_end_keeps_the_directory(site: Site) -> None:
    account.own_directory(Path(f"{BASE}/101"))
    account.own_directory(Path(f"{BASE}/101/7"))
    before = fill(site, FRONTEND)
    for state in (STOP, RESUME, MIGRATE):
        vm(site, state=state, hosts=(FRONTEND, FRONTEND))
        quiet(mv(site, FRONTEND, FRONTEND, disk=None))
        assert listing(site, FRONTEND) == before
    assert not frontend_link()


def test_the_memory_of_a_suspended_vm_is_let_go_with_its_directory(site: Site) -> None:
    volatile(site, "node3")
    site.rest("POST", "/v1/resource-groups/opennebula/spawn",
              {"resource_definition_name": "one-vm-7-checkpoint", "volume_sizes": [8192]})
    site.rest("POST", "/v1/resource-definitions/one-vm-7-checkpoint/resources/node3/make-available", {"diskful": False})
    assert site.attached("one-vm-7-checkpoint") == ["node3"]
    vm(site, VOLATILE, state=STOP)
    quiet(mv(site, "node3", FRONTEND))
    quiet(mv(site, "node3", FRONTEND, disk=None))
    assert not site.attached("one-vm-7-checkpoint") and len(site.holders("one-vm-7-checkpoint")) == 2
    done(site.oned.tm("delete", f"{FRONTEND}:{BASE}/101/7", 7, 101))
