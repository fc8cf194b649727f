"""tm monitor where LINSTOR has ten thousand volumes."""

from __future__ import annotations

import statistics

from lab.bench_usage import Meter, Taken
from lab.controller.cluster import Definition, VolumeDefinition
from lab.matrix import scene
from lab.matrix.actions import Action
from lab.matrix.stage import HOSTS
from lab.site import Site

VOLUMES = 10_000
MOST_REQUESTS, MOST_SECONDS, MOST_MIB = 2, 1.0, 200


def run(repeat: int) -> list[str]:
    """Measure it, with the VMs' disks as monitord wants them; returns a text for each missed target."""
    monitor = Action("tm monitor", lambda site: site.oned.start_monitor(site.system_datastore, vm_disks=True),
                     scene.Scene((), {}), frozenset())
    with Site(hosts=HOSTS) as site:
        for number in range(VOLUMES):
            name = f"one-vm-{number // 2}-disk-{number % 2}"
            props = {f"Aux/one/{key}": value for key, value in scene.vm_marks(number // 2, number % 2).items()}
            volumes = {0: VolumeDefinition(0, 8 << 20)}
            site.cluster.definitions[name.upper()] = Definition(name, "opennebula", props=props, volumes=volumes)
        meter = Meter(site)
        taken: list[Taken] = [meter.action(monitor) for _ in range(repeat)]
        log = site.controller.faults.log
        requests = len([entry for entry in log if not entry["path"].endswith("/controller/version")]) / repeat
        site.cluster.definitions.clear()
    seconds = statistics.median(one.cpu for one in taken)
    wall = statistics.median(one.wall for one in taken)
    mib = statistics.median(one.memory for one in taken) / 1024
    print(f"\ntm monitor with {VOLUMES} volumes: {requests:g} requests (at most {MOST_REQUESTS}), {seconds:.2f} s of "
          f"the processor (< {MOST_SECONDS:g}), {mib:.0f} MiB (< {MOST_MIB}), {wall:.2f} s, most of it the simulator's")
    good = requests <= MOST_REQUESTS and seconds < MOST_SECONDS and mib < MOST_MIB
    return [] if good else [f"tm monitor with {VOLUMES} volumes"]
