"""Real hosts for tests: namespaces with sshd, loop devices as volumes, and the front-end that reaches them.

    with Hosts(["node1", "node2"]) as hosts:            # LabUnavailable: skip, it says why
        volumes = LoopVolumes(None, hosts)              # what the simulated controller wants as its `volumes`
        subprocess.run(["ssh", "node1", "true"], **hosts.as_oneadmin())

The first `Hosts` moves the calling process into namespaces of its own (see `isolation`), for good.
"""

from __future__ import annotations

from lab.hosts.isolation import LabUnavailable, enter
from lab.hosts.nodes import Hosts
from lab.hosts.volumes import FileVolumes, LoopVolumes

__all__ = ["FileVolumes", "Hosts", "LabUnavailable", "LoopVolumes", "enter"]
