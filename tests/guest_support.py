"""VMs with a disk of the driver, running as real guests."""

from __future__ import annotations

import pytest
from lab.guests import Domain, Guests
from lab.hosts import LabUnavailable
from lab.oned import documents as D
from lab.site import Site
from linstor_un.naming import by_res
from site_support import datablock, done


def disk_of(site: Site, vm: int, host: str = "node1", disk: int = 0, image: int = 5, size: int = 64) -> str:
    """Give a VM its own copy of an empty image of `size` MiB, linked on its host; returns the definition's name."""
    if not site.definition(f"one-image-{image}"):
        datablock(site, image, size)
    document = D.DiskDocument(disk, size, image)
    site.documents.put(D.vm(vm, [document], hosts=[host]))
    done(site.oned.tm("clone", site.source_word(image), site.disk_word(host, vm, disk), vm, 100))
    return f"one-vm-{vm}-disk-{disk}"


def show_disk(site: Site, name: str, vm: int, host: str, disk: int = 0) -> None:
    """Attach a VM's disk on one more host, and link it in the VM's directory there."""
    site.rest("POST", f"/v1/resource-definitions/{name}/resources/{host}/make-available", {})
    link = 'mkdir -p "$1" && ln -sfn "$2" "$1/disk.$3"'
    site.hosts.run(host, ["sh", "-c", link, "sh", Domain("", vm).directory, by_res(name), str(disk)])


def run(guests: Guests, host: str, domain: Domain) -> None:
    """Start a domain and wait for what is in it; skips where its operating system cannot be had."""
    try:
        guests.create(host, domain)
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    if domain.has_system:
        guests.await_words(host, domain.name, "guest is up")
    if domain.agent and not domain.deaf:
        guests.await_agent(host, domain.name)


def format_disk(site: Site, name: str, host: str = "node1") -> None:
    """Put an empty ext4 on a volume that is attached on the host."""
    site.hosts.run(host, ["/usr/sbin/mkfs.ext4", "-q", by_res(name)], user="root")
