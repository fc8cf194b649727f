"""A running guest that writes without end migrates, and whatever the driver was doing when it was killed, no block is
lost, its file system is clean, and two hosts may write no longer than a lease."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from guest_support import format_disk, run
from lab.controller.volumes import Content
from lab.guests import Domain, Guests, check_blocks, check_files
from lab.matrix.effects import Effect, Saboteur
from lab.matrix.looking import quiet
from lab.oned import documents as D
from lab.oned.process import Running
from lab.primaries import Primaries
from lab.site import Site
from linstor_un.naming import by_res
from linstor_un.operations.two_primaries import LEASE_SECONDS
from site_support import datablock, done, marks

# A guest's processor is emulated, and its machine may have other things to do.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SITE = {"hosts": ("node1", "node2", "node3", "node4")}
NAME, VM = "one-7", 7
OWN, IMAGE = "one-vm-7-disk-0", "one-image-5"
DISKS = (D.DiskDocument(0, 16, kind="fs", datastore=101), D.DiskDocument(1, 64, 5, clone=False))
MIGRATE, RUNNING = 4, 3


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let the guest's hosts, node3 and node4, have no replica: each time the volumes have to be attached and let go."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    yield
    site.cluster.prefer = lambda _: []


class Migration:
    """A guest that writes to a disk of its VM's own, and files to a persistent image, on its way between two hosts."""

    def __init__(self, site: Site, guests: Guests) -> None:
        self.site, self.guests, self.saboteur = site, guests, Saboteur(site)
        self.host, self.other = "node3", "node4"
        datablock(site, 5, 64)
        self._known(1)
        done(site.oned.tm("mkimage", 16, "raw", site.disk_word(self.host, VM, 0), VM, 101))
        done(site.oned.tm("ln", site.source_word(5), site.disk_word(self.host, VM, 1), VM, 100))
        format_disk(site, IMAGE, self.host)
        run(guests, self.host, Domain(NAME, VM, disks=(0, 1), jobs=["write:vda", "files:vdb"], agent=True))
        guests.await_words(self.host, NAME, "wrote area 3 2 times")

    def _known(self, state: int) -> None:
        self.site.documents.put(D.vm(VM, DISKS, hosts=[self.host], lcm_state=state))

    def _start(self, action: str, source: str, target: str) -> Running:
        document = D.vm(VM, DISKS, hosts=[target], lcm_state=MIGRATE)
        self.site.documents.put(document)
        words = (source, target, "/var/lib/one//datastores/101/7", VM, 101)
        text = base64.b64encode(document.encode()).decode()
        return self.saboteur.watch(self.site.oned.start_tm(action, *words, stdin=text))

    def call(self, action: str, source: str, target: str) -> list[Effect]:
        """Do an action undisturbed; returns what it did to the outside."""
        self.saboteur.clear()
        done(self.site.oned.finish(self._start(action, source, target)))
        return self.saboteur.effects()

    def killed(self, action: str, effect: Effect, source: str, target: str) -> None:
        """Kill an action at one of its effects; LINSTOR and hosts end what it asked of them."""
        self.saboteur.aim(effect, "kill")
        self.site.oned.finish(self._start(action, source, target))
        assert quiet(self.site) == []
        self.saboteur.clear()

    def move(self) -> None:
        """Let libvirt migrate the guest, which goes on writing, and know it there."""
        moved = self.guests.migrate(NAME, self.host, self.other)
        assert moved.returncode == 0, moved.stderr
        self.host, self.other = self.other, self.host
        self.goes_on()

    def goes_on(self) -> None:
        """Wait until the guest has written more."""
        self.guests.await_more(self.host, NAME, "wrote area 3")

    def pairs(self, *names: str) -> set[str]:
        """The pairs of hosts that may write at once, for DRBD; on any disk without names."""
        found = set()
        for name in names or (OWN, IMAGE):
            definition = self.site.definition(name)
            assert definition
            found |= {
                " ".join(sorted((node, peer))).lower()
                for node, resource in definition.resources.items() for peer in resource.two_primaries
            }  # fmt: skip
        return found

    def are_marked(self, why: str) -> None:
        """Look that disks which two hosts may write to are marked, so that they are found."""
        for name in (OWN, IMAGE):
            assert not self.pairs(name) or "MIGRATION" in marks(self.site, name), (why, name)

    def lease_ends(self) -> None:
        """Let the time pass that a migration may be unheard of, and the datastore be monitored."""
        for name in (OWN, IMAGE):
            definition = self.site.definition(name)
            mark = definition and definition.props.get("Aux/one/MIGRATION")
            if definition and mark:
                where, _, since = mark.rpartition("/")
                definition.props["Aux/one/MIGRATION"] = f"{where}/{int(since) - int(LEASE_SECONDS) - 1}"
        self._known(RUNNING)
        done(self.site.oned.monitor(self.site.image_datastore))

    def is_here(self, why: str) -> None:
        """Look that the guest's host has its disks, and no other one."""
        assert not self.pairs(), why
        for name in (OWN, IMAGE):
            assert "MIGRATION" not in marks(self.site, name) and self.site.attached(name) == [self.host], (why, name)

    def check(self) -> None:
        """Look at all that the guest wrote."""
        self.guests.virsh(self.host, "domfsfreeze", NAME)
        self.guests.virsh(self.host, "suspend", NAME)
        said = "".join(self.guests.console(node, NAME) for node in (self.host, self.other))
        assert min(check_blocks(self.site.volumes.settled(Content(OWN, 0)), said)) > 2 * 256
        assert check_files(self.site.volumes.settled(Content(IMAGE, 0)), said) > 0


def test_a_guest_survives_its_migrations_whatever_the_driver_was_doing_when_it_was_killed(
    site: Site, guests: Guests, primaries: Primaries
) -> None:
    guest = Migration(site, guests)
    hosts = ("node3", "node4")
    before = guest.call("premigrate", *hosts)
    assert guest.pairs() == {"node3 node4"}
    guest.move()
    after = guest.call("postmigrate", *hosts)
    guest.is_here("undisturbed")
    assert site.link("node4", VM, 0) == by_res(OWN) and not site.link("node3", VM, 0)
    for number in range(max(len(before), len(after))):
        hosts = (guest.host, guest.other)
        if number < len(before):
            guest.killed("premigrate", before[number], *hosts)
            guest.are_marked(f"premigrate, killed at {before[number]}")
            if number % 2:
                # Nobody migrates any more: what was lent is taken back while the guest writes on.
                guest.lease_ends()
                guest.is_here(f"premigrate, killed at {before[number]}")
                guest.goes_on()
        guest.call("premigrate", *hosts)
        guest.move()
        if number < len(after):
            guest.killed("postmigrate", after[number], *hosts)
            guest.are_marked(f"postmigrate, killed at {after[number]}")
            guest.lease_ends()
        else:
            guest.call("postmigrate", *hosts)
        guest.is_here(f"postmigrate, killed at {after[number % len(after)]}")
    guest.check()
