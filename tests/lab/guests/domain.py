"""A virtual machine as oned describes it to libvirt."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional
from xml.sax.saxutils import escape, quoteattr

# what a host has for its guests: kernel, initramfs, and the console of each domain
PLACE = "/run/guests"
SYSTEM_DATASTORE = 101
_AGENT = "org.qemu.guest_agent.0"


@dataclass(frozen=True)
class Domain:
    """A domain. It has only firmware unless it has jobs or an agent: then Linux runs in it.

    Arguments:
        name: DEPLOY_ID: "one-7", or whatever a test wants.
        vm: the VM's id; names the directory of its disks.
        disks: the numbers of its disks, "disk.N" in the VM's directory on its host; the first is vda in the guest.
        memory: MiB; None for as little as it needs.
        jobs: what runs in the guest, e.g. "write:vda" (see init.sh).
        agent: whether it has a channel for the agent, and the agent on it.
        deaf: with an agent's channel, but nobody at its other end.
        uuid: what libvirt is to call it; "" lets libvirt choose.
        datastore: the system datastore of its directory.
        pluggable: its disks come and go without help of what runs in it: disk.0 is sda, disk.1 is sdb, ...
    """

    name: str
    vm: int
    disks: Sequence[int] = (0,)
    memory: Optional[int] = None
    jobs: Sequence[str] = ()
    agent: bool = False
    deaf: bool = False
    uuid: str = ""
    datastore: int = SYSTEM_DATASTORE
    pluggable: bool = False

    @property
    def directory(self) -> str:
        """The VM's directory as oned writes it, with its double slash."""
        return f"/var/lib/one//datastores/{self.datastore}/{self.vm}"

    @property
    def has_system(self) -> bool:
        """Whether Linux runs in it."""
        return bool(self.jobs) or self.agent

    def xml(self) -> str:
        """Return the deployment file."""
        memory = self.memory or (160 if self.has_system else 64)
        uuid = f"<uuid>{escape(self.uuid)}</uuid>" if self.uuid else ""
        return f"""\
<domain type='qemu' xmlns:one='http://opennebula.org/xmlns/libvirt/1.0'>
  <name>{escape(self.name)}</name>{uuid}
  <vcpu>1</vcpu>
  <memory unit='MiB'>{memory}</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type>{self._boot()}</os>
  <features><acpi/><apic/><tcg><tb-cache unit='MiB'>32</tb-cache></tcg></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{self._controller()}{"".join(self._disk(place, number) for place, number in enumerate(self.disks))}\
    <serial type='file'><source path={quoteattr(console(self.name))} append='on'/></serial>
    <memballoon model='virtio'/>{self._channel()}
  </devices>
  <metadata>
    <one:vm><one:system_datastore>{self.directory}</one:system_datastore><one:name>vm{self.vm}</one:name></one:vm>
  </metadata>
</domain>
"""

    def _boot(self) -> str:
        if not self.has_system:
            return "<boot dev='hd'/>"
        fast = "quiet no_timer_check mitigations=off nokaslr cryptomgr.notests"
        line = f"console=ttyS0 panic=1 {fast} lab.jobs={','.join(self.jobs)}"
        return (f"<kernel>{PLACE}/kernel</kernel><initrd>{PLACE}/initramfs</initrd>"
                f"<cmdline>{escape(line)}</cmdline>")

    def _controller(self) -> str:
        return "    <controller type='scsi' model='virtio-scsi'/>\n" if self.pluggable else ""

    def _disk(self, place: int, number: int) -> str:
        bus, name = ("scsi", pluggable(number)) if self.pluggable else ("virtio", f"vd{string.ascii_lowercase[place]}")
        return f"""\
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw' cache='none' io='native' discard='unmap'/>
      <source dev='{self.directory}/disk.{number}'/>
      <target dev='{name}' bus='{bus}'/>
    </disk>
"""

    def _channel(self) -> str:
        if not (self.agent or self.deaf):
            return ""
        return f"<channel type='unix'><source mode='bind'/><target type='virtio' name='{_AGENT}'/></channel>"


def pluggable(number: int) -> str:
    """Return what libvirt calls disk.N of a domain whose disks come and go."""
    return f"sd{string.ascii_lowercase[number]}"


def console(name: str) -> str:
    """Return where a host keeps what a domain says on its serial line."""
    return f"{PLACE}/{name}.console"
