"""Real hosts for tests: namespaces with sshd, loop devices as volumes, and the front-end that reaches them."""

from __future__ import annotations

from lab.hosts.isolation import LabUnavailable, enter
from lab.hosts.nodes import Hosts
from lab.hosts.volumes import FileVolumes, LoopVolumes

__all__ = ["FileVolumes", "Hosts", "LabUnavailable", "LoopVolumes", "enter"]
