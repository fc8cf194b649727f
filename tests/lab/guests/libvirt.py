"""libvirtd on a host of the lab, configured as OpenNebula wants it, with directories that are the host's alone."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import sys
import uuid
from pathlib import Path

from lab.guests.domain import PLACE
from lab.guests.system import GuestSystem
from lab.hosts import Hosts, account, isolation
from lab.hosts.machine import until

# libvirt looks at what QEMU can do, for seconds, unless it remembers that of this very QEMU
_MEMORY = Path(sys.prefix) / "guests" / "capabilities"
_CAPABILITIES = "var/cache/libvirt/qemu/capabilities"
_TOOLS = {"libvirtd": "libvirt-daemon", "virsh": "libvirt-clients", "qemu-system-x86_64": "qemu-system-x86"}
_DRIVER = "lib*/*/libvirt/connection-driver/libvirt_driver_qemu.so"
_SECONDS = 60.0

_QEMU_CONF = """\
user = "oneadmin"
group = "oneadmin"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = [ ]
stdio_handler = "file"
max_core = 0
"""

_LIBVIRTD_CONF = """\
host_uuid = "{uuid}"
unix_sock_group = "oneadmin"
unix_sock_rw_perms = "0770"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "3:file:/var/log/libvirt/libvirtd.log"
"""

# /run/libvirt-host is where the host's own directories are
_FURNISH = """\
for directory in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
    mkdir -p "$directory" "/run/libvirt-host$directory" && mountpoint -q "$directory" ||
        mount --bind "/run/libvirt-host$directory" "$directory" || exit
done
exec libvirtd --daemon --pid-file /run/libvirtd.pid"""


# libvirt does not start without the account that it would use if it were not told another
_DEFAULT_ACCOUNT = {
    "passwd": "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin",
    "group": "libvirt-qemu:x:64055:",
}


def missing() -> str:
    """Return in one sentence what a host lacks to run guests, "" when nothing."""
    if platform.machine() != "x86_64":
        return f"the lab's guests are made for x86_64, and this is {platform.machine()}"
    absent = {tool: package for tool, package in _TOOLS.items() if not shutil.which(tool, path=isolation.SBIN_PATH)}
    if absent:
        return f"guests need {', '.join(absent)}: apt-get install {' '.join(absent.values())}"
    if not any(Path("/usr").glob(_DRIVER)):
        return "guests need libvirt's driver for QEMU: apt-get install libvirt-daemon-driver-qemu"
    return ""


def make_default_account(etc: Path = Path("/etc")) -> None:
    """Let the account be there that libvirt's packages would have made; in a lab, /etc is the lab's."""
    for name, line in _DEFAULT_ACCOUNT.items():
        text = (etc / name).read_text()
        if f"\n{line.split(':')[0]}:" not in text:
            (etc / name).write_text(f"{text}{line}\n")


class Libvirt:
    """The libvirtd of one host."""

    def __init__(self, hosts: Hosts, name: str, system: GuestSystem) -> None:
        self._hosts = hosts
        self.name = name
        self._system = system
        self._run = hosts.device_directory(name).parent / "run"

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return bool(self._pid())

    def start(self) -> None:
        """Start it unless it runs; it answers when this returns."""
        if self.running:
            return
        own = self._run / "libvirt-host"
        if not own.is_dir():
            self._furnish(own)
        done = self._hosts.run(self.name, ["sh", "-c", _FURNISH], user="root", check=False)
        if done.returncode:
            raise RuntimeError(f"libvirtd does not start on {self.name}: {done.stderr or self._log()}")
        until(self._answers, f"libvirtd on {self.name}: {self._log()}", _SECONDS, 0.02)

    def stop(self) -> None:
        """End it as an administrator does; the domains run on."""
        if self._pid():
            os.kill(self._pid(), signal.SIGTERM)
            until(lambda: not self._pid(), f"the end of libvirtd on {self.name}", _SECONDS)

    def remember(self) -> None:
        """Keep what libvirt found out about QEMU for the next lab."""
        for found in (self._run / "libvirt-host" / _CAPABILITIES).glob("*.xml"):
            if not (_MEMORY / found.name).exists() and _MEMORY.parent.parent == Path(sys.prefix):
                _MEMORY.mkdir(parents=True, exist_ok=True)
                part = _MEMORY / f"{found.name}.{os.getpid()}"
                shutil.copy(found, part)
                part.replace(_MEMORY / found.name)

    def _furnish(self, own: Path) -> None:
        etc = own / "etc/libvirt"
        (own / _CAPABILITIES).mkdir(parents=True)
        etc.mkdir(parents=True)
        (etc / "qemu.conf").write_text(_QEMU_CONF)
        identity = uuid.uuid5(uuid.NAMESPACE_DNS, self.name)
        (etc / "libvirtd.conf").write_text(_LIBVIRTD_CONF.format(uuid=identity))
        for known in _MEMORY.glob("*.xml"):
            shutil.copy(known, own / _CAPABILITIES)
        place = self._run / Path(PLACE).name
        account.own_directory(place)
        if not self._system.missing():
            shutil.copy(self._system.kernel, place / "kernel")
            (place / "initramfs").write_bytes(self._system.initramfs())
            os.chmod(place / "kernel", 0o644)

    def _pid(self) -> int:
        for pid, argv in self._hosts.processes(self.name).items():
            if argv[0] == "libvirtd":
                return pid
        return 0

    def _answers(self) -> bool:
        return self._hosts.run(self.name, ["virsh", "-c", "qemu:///system", "uri"], check=False).returncode == 0

    def _log(self) -> str:
        log = self._run / "libvirt-host/var/log/libvirt/libvirtd.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else "(no log)"
