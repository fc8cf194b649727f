"""Real guests on the lab's hosts: libvirtd and QEMU, without KVM, on volumes of the lab.

    with Guests(site.hosts) as guests:                    # LabUnavailable: skip, it says why
        guests.start("node1", "node2")                    # libvirtd
        domain = Domain("one-7", vm=7, disks=[0])         # disk.0 of VM 7: the driver made its link before
        guests.create("node1", domain)                    # firmware only: half a second
        guests.state("node1", "one-7")                    # "running"
        guests.virsh("node1", "suspend", "one-7")         # as oneadmin, on the host
        guests.migrate("one-7", "node1", "node2")

Linux with busybox runs in a domain that has jobs or an agent (some seconds to boot); init.sh has the jobs:

        domain = Domain("one-7", vm=7, jobs=["files:vda"], agent=True)
        guests.create("node1", domain)                    # LabUnavailable where there is no kernel for guests
        guests.await_words("node1", "one-7", "wrote file 3")
        guests.await_agent("node1", "one-7")

Tests have it all as the fixture `guests` (conftest.py), and guest_support.py makes disks for VMs. With the fixture
`primaries` a device refuses a second opener while another host's guest has it open, as DRBD does.

What its jobs wrote is checked block by block with check_blocks and check_files, from the outside.

All of it is in directories of the host, below /run there, and goes with the host.
"""

from __future__ import annotations

from lab.guests.domain import Domain
from lab.guests.guests import Guests
from lab.guests.written import check_blocks, check_files

__all__ = ["Domain", "Guests", "check_blocks", "check_files"]
