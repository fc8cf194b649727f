"""Many VMs come and go at once while drivers are killed at random: in the end everything is as before."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab.hosts import LabUnavailable, facts
from lab.matrix.looking import digest, look, quiet
from lab.oned import documents
from lab.oned.documents import DiskDocument
from lab.oned.process import Running
from lab.site import IMAGES, Content, Site

VMS = 50
AT_ONCE = 6
IMAGE = 5
# One system datastore for each way of cloning.
MODES = {101: "copy", 102: "snapshot", 103: "clone"}
KILLED = 0.5
MOST_KILLS = 4
LONGEST = 1.2
_MIB = 8


@pytest.fixture
def site() -> Iterator[Site]:
    try:
        made = Site()
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    with made:
        yield made


def volume(site: Site, name: str, marks: dict[str, str], *attached: str) -> None:
    """Make a volume with bytes of its own, as somebody else than the driver."""
    address = f"/v1/resource-definitions/{name}"
    props = {f"Aux/one/{key}": value for key, value in marks.items()}
    definition = {"name": name, "resource_group_name": "opennebula", "props": props}
    site.rest("POST", "/v1/resource-definitions", {"resource_definition": definition})
    site.rest("POST", f"{address}/volume-definitions", {"volume_definition": {"size_kib": _MIB << 10}})
    site.rest("POST", f"{address}/autoplace", {"select_filter": {"place_count": 2}})
    facts.fill(site.volumes.settled(Content(name, 0)), name, 700_000)
    for node in attached:
        site.rest("POST", f"{address}/resources/{node}/make-available", {"diskful": False})


class Life:
    """One VM's life: its disk is cloned and deleted, by drivers of which some are killed."""

    def __init__(self, site: Site, vm: int, seed: str) -> None:
        self.site, self.vm = site, vm
        self.random = random.Random(f"{seed}-{vm}")
        self.datastore = sorted(MODES)[vm % len(MODES)]
        self.host = self.random.choice(site.hosts.names)
        self.killed = 0

    def live(self, wanted: str) -> list[str]:
        """Live; returns what was wrong. Arguments: wanted, the digest that the disk has to have."""
        word = self.site.disk_word(self.host, self.vm, 0, self.datastore)
        name = f"one-vm-{self.vm}-disk-0"
        problems = self._until_done("clone", self.site.source_word(IMAGE), word, self.vm, IMAGES)
        with self.site.cluster.lock:
            found = self.site.definition(name)
            if found is None or digest(self.site.volumes.settled(Content(name, 0))) != wanted:
                problems.append(f"VM {self.vm}: its disk is lost or has other bytes than the image")
        link = self.site.link(self.host, self.vm, 0, self.datastore)
        if link != f"/dev/drbd/by-res/{name}/0":
            problems.append(f"VM {self.vm}: the link on {self.host} is {link!r}")
        problems += self._until_done("delete", word, self.vm, self.datastore)
        return problems + self._until_done("delete", word.rpartition("/")[0], self.vm, self.datastore)

    def _until_done(self, action: str, *words: object) -> list[str]:
        kills = 0
        while kills < MOST_KILLS and self.random.random() < KILLED:
            kills += self._killed(lambda: self.site.oned.start_tm(action, *(str(word) for word in words)))
        outcome = self.site.oned.tm(action, *(str(word) for word in words))
        self.killed += kills
        said = f"VM {self.vm}: {action} after {kills} kills"
        return [] if outcome.success else [f"{said}: exit code {outcome.code}: {outcome.stderr.strip()}"]

    def _killed(self, start: Callable[[], Running]) -> bool:
        running = start()
        try:
            running.wait(self.random.uniform(0.05, LONGEST))
        except TimeoutError:
            running.kill()
            running.wait(60)
            return True
        return False


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_fifty_vms_come_and_go_while_drivers_are_killed_and_nothing_is_lost_or_left(site: Site) -> None:
    seed = os.environ.get("CHAOS_SEED") or str(random.randrange(1_000_000))
    print(f"CHAOS_SEED={seed}")
    for number, mode in MODES.items():
        attributes = {"RESOURCE_GROUP": "opennebula", "CLONE_MODE": mode}
        site.documents.put(documents.datastore(number, 1, **attributes))
    volume(site, f"one-image-{IMAGE}", {"IMAGE_ID": str(IMAGE)})
    for number, host in enumerate(site.hosts.names, 900):
        marks = {"VM_ID": str(number), "DISK_ID": "0", "DS_ID": "101"}
        volume(site, f"one-vm-{number}-disk-0", marks, host)
    lives = [Life(site, vm, seed) for vm in range(1, VMS + 1)]
    for life in lives:
        disk = DiskDocument(0, _MIB, IMAGE)
        site.documents.put(documents.vm(life.vm, [disk], hosts=[life.host], datastore=life.datastore))
    before = look(site)
    wanted = before["content", f"one-image-{IMAGE}", ""]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = [problem for found in pool.map(lambda life: life.live(wanted), lives) for problem in found]

    assert problems == [], f"CHAOS_SEED={seed}"
    assert quiet(site) == []
    after = look(site)
    different = {key: (before.get(key), after.get(key)) for key in before.keys() | after.keys()
                 if before.get(key) != after.get(key)}
    assert different == {}, f"CHAOS_SEED={seed}"
    assert sum(life.killed for life in lives) > VMS / 4
