"""What is asked of virsh to save and restore a VM, and what is made of its answers: a virsh that says what is wanted.

The real one is in test_checkpoints.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from copy_support import HERE, MIB, Disks, loops_work, made_disks, make_world, read
from lab.hosts.machine import until
from linstor_un.errors import Failed
from linstor_un.operations import virsh
from linstor_un.operations.virsh import Guest, Libvirt, Seen
from linstor_un.units import Kib
from linstor_un.world import World

pytestmark = pytest.mark.skipif(not loops_work(), reason="loop devices need root and /dev/loop-control")

IMAGE = b"LibvirtQemudSave" + bytes(4080) + b"memory" * 10
# The answer of a command is in NAME, in NAME.1, NAME.2 ... for its first, second ... question: exit code and words.
_VIRSH = """#!/bin/sh
cd {place} || exit
echo "$*" >>asked
while [ "$1" != -c ]; do shift; done
shift 2
number=$(grep -c -- " $1 " asked)
answer=$1
[ ! -e "$1.$number" ] || answer=$1.$number
if [ "$1" = save ]; then head -c 4096 "$3" >found; printf LibvirtQemudSave | dd of="$3" conv=notrunc status=none; fi
case "$*" in *--xml*) words="$*"; words=${{words#*--xml }}; cp "${{words%% *}}" xml ;; esac
[ -e "$answer" ] || exit 0
read -r code <"$answer"
[ "$code" = 0 ] && tail -n +2 "$answer" || tail -n +2 "$answer" >&2
exit "$code"
"""
_SUDO = """#!/bin/sh
echo "$*" >>{place}/sudo.asked
[ "$2" != -l ] || echo sysctl
"""


class Setting(NamedTuple):
    """A host of which virsh says what is written down."""

    place: Path
    world: World
    device: str

    @property
    def libvirt(self) -> Libvirt:
        """The VM's libvirt, by the settings of now."""
        return Libvirt(self.world, HERE, "one-7", 7)

    def answers(self, question: str, said: str = "", code: int = 0) -> None:
        (self.place / question).write_text(f"{code}\n{said}\n")

    def asked(self, command: str) -> list[str]:
        """The questions of a command, without what is the same in all."""
        words = [line.split() for line in (self.place / "asked").read_text().splitlines()]
        return [" ".join(line[3:]) for line in words if line[3] == command]

    def set(self, text: str) -> None:
        kvmrc = self.place / "remotes/etc/vmm/kvm/kvmrc"
        kvmrc.parent.mkdir(parents=True, exist_ok=True)
        kvmrc.write_text(text)

    def restore(self, **more: object) -> None:
        self.libvirt.restore(self.device, str(self.place), 60, **more)  # type: ignore[arg-type]


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    for name, text in (("virsh", _VIRSH), ("sudo", _SUDO)):
        (tmp_path / name).write_text(text.format(place=tmp_path))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "asked").touch()
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with made_disks(tmp_path, loops=True) as disks:
        yield Setting(tmp_path, make_world(tmp_path, environ), _disk(disks))


def _disk(disks: Disks) -> str:
    return disks.make("checkpoint", 2 * MIB, content=IMAGE)


NOT_THERE = "error: failed to get domain 'one-7'"


@pytest.mark.parametrize(
    ("said", "guest", "alive"),
    [
        ("running (booted)", Guest("running", "booted", Kib(65536)), True),
        ("paused (user)", Guest("paused", "user", Kib(65536)), True),
        ("pmsuspended (unknown)", Guest("pmsuspended", "unknown", Kib(65536)), True),
        ("shut off (saved)", Guest("shut off", "saved", Kib(65536)), False),
        ("running", Guest("running", "", Kib(65536)), True),
    ],
)
def test_a_vm_is_what_libvirt_says(setting: Setting, said: str, guest: Guest, alive: bool) -> None:
    setting.answers("domstate", said)
    setting.answers("dominfo", "Id:             1\nMax memory:     65536 KiB\nUsed memory:    1024 KiB")
    seen = setting.libvirt.look()
    assert seen == Seen(guest) and seen.alive is alive


def test_a_vm_that_is_not_there_may_have_left_memory_on_a_device_or_in_a_file(setting: Setting) -> None:
    setting.answers("domstate", NOT_THERE, 1)
    assert setting.libvirt.look() == Seen(None)
    xml = "<domain>\n  <name>one-7</name>\nimage\n</domain>"
    setting.answers("save-image-dumpxml", xml)
    file = str(setting.place / "checkpoint.volume")
    assert setting.libvirt.look(setting.device, file) == Seen(None, file=True, image=f"{xml}\n")
    setting.answers("save-image-dumpxml", "error: operation failed: save image is incomplete", 1)
    broken = "operation failed: save image is incomplete"
    assert setting.libvirt.look(setting.device, "/nowhere") == Seen(None, broken=broken)


def test_a_libvirt_that_cannot_be_asked_is_no_vm_that_is_gone(setting: Setting) -> None:
    setting.answers("domstate", "error: failed to connect to the hypervisor\nerror: Connection refused", 1)
    with pytest.raises(Failed, match="cannot look at VM 7: .*Connection refused"):
        setting.libvirt.look(setting.device)


@pytest.mark.slow
def test_a_device_that_does_not_appear_is_told(setting: Setting) -> None:
    setting.answers("domstate", "running (booted)")
    gone = str(setting.place / "gone")
    with pytest.raises(Failed, match="gone does not appear"):
        setting.libvirt.save(gone, "/nowhere", 60)
    assert setting.asked("save") == [] and not os.path.exists(gone)


def test_a_vm_that_put_itself_to_sleep_is_woken(setting: Setting) -> None:
    """V7."""
    setting.libvirt.wake()
    assert setting.asked("dompmwakeup") == ["dompmwakeup one-7"]
    setting.answers("dompmwakeup", "error: Domain 'one-7' could not be woken up", 1)
    with pytest.raises(Failed, match="cannot wake VM 7: .*could not be woken up"):
        setting.libvirt.wake()


def test_the_uri_and_the_options_of_kvmrc_count(setting: Setting) -> None:
    setting.set("export LIBVIRT_URI=qemu+unix:///system\n")
    setting.libvirt.look()
    assert (setting.place / "asked").read_text().startswith("-q -c qemu+unix:///system domstate one-7 --reason")


# --- saving -------------------------------------------------------------------------------------------------------


def test_an_image_of_an_earlier_time_is_gone_before_anything_is_saved(setting: Setting) -> None:
    setting.libvirt.save(setting.device, "/nowhere", 60)
    assert setting.asked("save") == [f"save one-7 {setting.device}"]
    assert read(str(setting.place / "found")) == bytes(4096)


def test_a_block_job_is_waited_for_three_times_as_the_stock_script_does(setting: Setting) -> None:
    pauses: list[float] = []
    setting.world.clock.sleep = pauses.append  # type: ignore[method-assign]
    setting.answers("save", "error: Requested operation is not valid: domain has active block job", 1)
    with pytest.raises(Failed, match="cannot save the memory of VM 7: .*active block job"):
        setting.libvirt.save(setting.device, "/nowhere", 60)
    assert len(setting.asked("save")) == 3 and pauses == [5.0, 5.0]
    setting.answers("save.5", "")
    setting.libvirt.save(setting.device, "/nowhere", 60)
    assert len(setting.asked("save")) == 5


def test_other_failures_are_told_at_once(setting: Setting) -> None:
    setting.answers("save", "error: Failed to save domain 'one-7'\nerror: No space left on device", 1)
    with pytest.raises(Failed, match="No space left on device"):
        setting.libvirt.save(setting.device, "/nowhere", 60)
    assert len(setting.asked("save")) == 1


# --- restoring ----------------------------------------------------------------------------------------------------


def test_memory_that_was_restored_cannot_be_restored_again(setting: Setting) -> None:
    setting.answers("restore", "error: internal error", 1)
    setting.set("VIRSH_RETRIES=1\n")
    with pytest.raises(Failed, match="cannot restore the memory of VM 7"):
        setting.restore()
    assert read(setting.device)[: len(IMAGE)] == IMAGE
    setting.answers("restore", "")
    setting.restore()
    assert read(setting.device)[:4096] == bytes(4096) and read(setting.device)[4096:4102] == b"memory"


def test_the_restore_is_tried_as_often_as_kvmrc_says(setting: Setting) -> None:
    setting.set("export VIRSH_RETRIES=2\n")
    setting.answers("restore", "error: QEMU is gone", 1)
    with pytest.raises(Failed, match="QEMU is gone"):
        setting.restore()
    assert len(setting.asked("restore")) == 2
    setting.answers("restore.4", "")
    setting.restore()
    assert len(setting.asked("restore")) == 4


def test_a_description_is_given_only_when_it_has_changed(setting: Setting) -> None:
    setting.restore()
    assert setting.asked("restore") == [f"restore {setting.device}"]
    text = "<domain>\n'\"$(x) \N{LATIN SMALL LETTER A WITH DIAERESIS}\udcff</domain>"
    setting.restore(xml=text, running=True)
    assert setting.asked("restore")[-1].endswith(" --running")
    assert read(str(setting.place / "xml")) == text.encode("utf-8", "surrogateescape")


def test_half_a_description_of_a_driver_that_died_restores_nothing(setting: Setting) -> None:
    words = ["qemu:///system", "one-7", setting.device, "99", "1", "no", "no", "no", str(setting.place)]
    environ = {**os.environ, "PATH": f"{setting.place}:{os.environ['PATH']}"}
    command = ["sh", "-c", virsh._RESTORE, "sh", *words]
    ended = subprocess.run(command, input=b"<domain><name>one-7<", env=environ, capture_output=True, check=False)
    assert ended.returncode != 0 and setting.asked("restore") == []


def test_a_guests_clock_is_set_when_kvmrc_wants_it(setting: Setting) -> None:
    """V7."""
    setting.restore()
    assert setting.asked("domtime") == []
    setting.set("export SYNC_TIME=yes\n")
    setting.restore()
    until(lambda: setting.asked("domtime") == ["domtime one-7 --sync"], "the guest's clock to be set")


def test_memory_of_the_host_is_compacted_when_kvmrc_wants_it(setting: Setting) -> None:
    """V7."""
    asked = setting.place / "sudo.asked"
    setting.libvirt.save(setting.device, "/nowhere", 60)
    setting.restore()
    assert not asked.exists()
    setting.set("CLEANUP_MEMORY_ON_START=yes\nCLEANUP_MEMORY_ON_STOP=no\n")
    setting.restore()
    assert asked.read_text().splitlines() == ["-n -l", "-n sysctl vm.drop_caches=3 vm.compact_memory=1"]
    asked.unlink()
    setting.set("CLEANUP_MEMORY_ON_STOP=yes\n")
    setting.libvirt.save(setting.device, "/nowhere", 60)
    until(lambda: asked.exists() and "drop_caches" in asked.read_text(), "the memory to be compacted")


def test_snapshots_are_told_to_libvirt_in_their_order_with_the_new_uuid(setting: Setting) -> None:
    """V7. One that libvirt does not take stops no other, and no restore."""
    for number in (10, 9):
        snapshot = f"<a><name>{number}</name><domain><uuid>0-0</uuid></domain></a>"
        (setting.place / f"snap-{number}.xml").write_text(snapshot)
    setting.answers("domuuid", "1c2d-7")
    setting.answers("snapshot-create", "error: no", 1)
    setting.restore()
    files = [f"{setting.place}/snap-{number}.xml" for number in (9, 10)]
    assert setting.asked("snapshot-create") == [f"snapshot-create one-7 {file} --redefine" for file in files]
    assert "<uuid>1c2d-7</uuid>" in (setting.place / "snap-9.xml").read_text()
