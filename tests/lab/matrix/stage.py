"""The site of the matrix, and its VM as libvirt knows it."""

from __future__ import annotations

from collections.abc import Iterator

from lab.guests import Domain, Guests
from lab.site import Site

HOSTS = ("node1", "node2", "node3", "node4")
HOST = "node4"
VM = 7
# Its disks are left out: that they are open is another matter.
GUEST = Domain(f"one-{VM}", VM, disks=())


class Stage(Site):
    """A site with libvirt on the VM's host; the VM runs there only when a scene wants it."""

    def __init__(self) -> None:
        super().__init__(hosts=HOSTS, pools={"thin": "LVM_THIN", "fast": "LVM_THIN"})
        self._guests = Guests(self.hosts)
        self._guests.start(HOST)
        self._memory = b""

    def close(self) -> None:
        """End everything; nothing is left on the machine."""
        self._guests.close()
        super().close()

    def let_run(self, runs: bool) -> None:
        """Let the VM run on its host, or nowhere."""
        self._guests.clear()
        if runs:
            self._guests.create(HOST, GUEST)

    def domains(self) -> Iterator[tuple[str, str, str]]:
        """Yield name, host and state of each domain."""
        for name in self._guests.domains(HOST):
            yield name, HOST, self._guests.state(HOST, name)

    def memory(self) -> bytes:
        """Return what libvirt saves of the VM."""
        if not self._memory:
            file = "/var/tmp/memory"
            self.let_run(True)
            self._guests.virsh(HOST, "save", GUEST.name, file)
            self._memory = (self.hosts.device_directory(HOST).parent / "vartmp/memory").read_bytes()
            self.hosts.run(HOST, ["rm", "-rf", file, GUEST.directory], user="root")
        return self._memory
