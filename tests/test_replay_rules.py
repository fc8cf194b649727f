"""The replay's judge of moves, migrations, snapshots, saved disks and saved memory: wrong ones are noticed."""

from __future__ import annotations

import pytest
from lab import replay
from lab.opennebula.frontend import REPOSITORY
from replay_support import recording, replay_lab, spoiled_complaints

lab = pytest.fixture(scope="module")(replay_lab)

POFF, COLD, DEAD, MOVED, FAILED, MIXED = (
    "migrate_poff", "mixed-ssh-migrate_cold", "host_failure", "migrate_live", "migrate_live_fail",
    "mixed-ssh-migrate_live",
)
KEPT, HANDED = "suspend_resume", "mixed-ssh-poweroff_suspend"
SNAPPED, LIVE, GROWN, SAVED_AS = "disk_snapshot_poweroff", "disk_snapshot_live", "disk_resize", "disk_saveas"
BACKED, RESTORED = "backup_cancel", "backup_restore"
THERE = "/var/lib/one/datastores"
LAID = f"{THERE}/101/61/backup"
SPOILED = [
    (SNAPPED, "tm/linstor_un/snap_create", "rest DELETE one-vm-28-disk-0/snapshots/snapshot-0", "has the snapshots []"),
    (SNAPPED, "tm/linstor_un/snap_create", "mark one-vm-28-disk-0 Aux/one/SNAPSHOT_0/DISK_SIZE x", "says 'x' KiB"),
    (SNAPPED, "tm/linstor_un/snap_create", "mark one-vm-28-disk-0 Aux/one/VM_ID 5", "has the properties"),
    (SNAPPED, "tm/linstor_un/snap_create", "attach one-vm-28-disk-0", "is attached on"),
    (SNAPPED, "tm/linstor_un/snap_create", "write node1 one-vm-28-disk-0", "the bytes of one-vm-28-disk-0 changed"),
    (SNAPPED, "tm/linstor_un/snap_delete", "snap one-vm-28-disk-0 snapshot-0", "has the snapshots ['snapshot-0'"),
    (LIVE, "tm/linstor_un/snap_create_live", "virsh node1 suspend one-27", "was running on node1, is paused on node1"),
    (LIVE, "tm/linstor_un/snap_create_live", "virsh node1 domfsfreeze one-27", "is running on node1, frozen"),
    (LIVE, "tm/linstor_un/snap_create_live", "virsh node1 destroy one-27", "is not there"),
    (LIVE, "tm/linstor_un/snap_create_live", "snap one-vm-27-disk-0 more", "at a moment when its guest could write"),
    (LIVE, "tm/linstor_un/snap_create_live", "virsh node1 undefine one-27 || true", "virsh does not know: undefine"),
    (GROWN, "tm/linstor_un/resize", "grow one-vm-35-disk-0 2000000", "has 2000000 KiB, asked for 1024000"),
    (GROWN, "tm/linstor_un/resize", "virsh node1 destroy one-35", "is not there"),
    (POFF, "tm/linstor_un/mv", "mark one-vm-19-disk-0 Aux/one/DS_ID 100", "carries the marks"),
    (POFF, "tm/linstor_un/mv", "attach one-vm-19-disk-0", "is attached on"),
    (POFF, "tm/linstor_un/mv", "write node2 one-vm-19-disk-0", "the bytes of one-vm-19-disk-0 changed"),
    (POFF, "tm/linstor_un/mv", f"ssh node2 rm {THERE}/101/19/disk.0", "no link to one-vm-19-disk-0"),
    (POFF, "tm/linstor_un/mv", f"ssh node2 rm -f {THERE}/101/19/nvram.fd", "101/19/nvram.fd is None"),
    (POFF, "tm/linstor_un/mv", f"ssh node2 chmod -f 777 {THERE}/101/19/nvram.fd || true", "777"),
    (POFF, "tm/linstor_un/mv", f"ssh node1 mkdir -p {THERE}/101/19", "101/19 is still there"),
    (COLD, "tm/linstor_un/mv", f"ssh node1 rm {THERE}/106/94/disk.0", "ssh carries that directory after this"),
    (DEAD, "tm/linstor_un/mv", "ssh -o ConnectTimeout=1 node3 true || true", "tried to connect to the dead host"),
    (MOVED, "tm/linstor_un/premigrate", "dual one-vm-18-disk-0 no", "may not be written on node1 node2"),
    (MOVED, "tm/linstor_un/premigrate", "anywhere one-vm-18-disk-0", "may be written on ['node1 node2', 'node1 node3'"),
    (MOVED, "tm/linstor_un/premigrate", f"ssh node2 rm {THERE}/101/18/disk.0", "no link to one-vm-18-disk-0"),
    (MOVED, "tm/linstor_un/premigrate", f"ssh node2 rm {THERE}/101/18/nvram.fd", "101/18/nvram.fd is None"),
    (MOVED, "tm/linstor_un/premigrate", f"ssh node1 touch {THERE}/101/18/stray", "stray was not there"),
    (MOVED, "tm/linstor_un/postmigrate", "dual one-vm-18-disk-0 yes", "may still be written on"),
    (MOVED, "tm/linstor_un/postmigrate", "mark one-vm-18-disk-0 Aux/one/LEASE x", "has the properties"),
    (MOVED, "tm/linstor_un/postmigrate", f"ssh node1 mkdir -p {THERE}/101/18", "101/18 is still there"),
    (FAILED, "tm/linstor_un/failmigrate", "attach one-vm-20-disk-0", "is attached on"),
    (FAILED, "tm/linstor_un/failmigrate", f"ssh node2 mkdir -p {THERE}/101/20", "101/20 is still there"),
    (MIXED, "tm/linstor_un/premigrate", f"ssh node2 touch {THERE}/106/96/x", "106/96/x was not there"),
    (SAVED_AS, "tm/linstor_un/cpds", "snap one-vm-36-disk-0 left", "one-vm-36-disk-0 changed: snapshots"),
    (SAVED_AS, "tm/linstor_un/cpds", "attach one-image-33", "one-image-33 is still attached on"),
    (SAVED_AS, "tm/linstor_un/cpds", "write node1 one-image-33", "one-image-33 has not the right bytes"),
    (KEPT, "vmm/kvm/save_linstor_un", "echo done", "printed 'done"),
    (KEPT, "vmm/kvm/save_linstor_un", "attach one-vm-12-checkpoint", "one-vm-12-checkpoint is attached on"),
    (KEPT, "vmm/kvm/save_linstor_un", "rest DELETE one-vm-12-checkpoint", "one-vm-12-checkpoint does not exist"),
    (KEPT, "vmm/kvm/save_linstor_un", "attach one-vm-12-checkpoint; write node1 one-vm-12-checkpoint", "is nothing"),
    (KEPT, "vmm/kvm/restore_linstor_un", "virsh node1 suspend one-12", "is paused on node1"),
    (KEPT, "vmm/kvm/restore_linstor_un", "virsh node1 destroy one-12", "does not run"),
    (KEPT, "vmm/kvm/restore_linstor_un", f"ssh node1 rm {THERE}/101/12/disk.0", "disk.0 was link"),
    (HANDED, "vmm/kvm/save_linstor_un", "ssh node1 'echo less >/run/domains/.argv'", "the stock script got ['less']"),
    (HANDED, "vmm/kvm/save_linstor_un", "ssh node1 'echo less >/run/domains/.stdin'", "the stock script read b'less"),
    (BACKED, "tm/linstor_un/prebackup_live", f"ssh node1 rm {LAID}/disk.1.0", "not ['disk.0.0', 'disk.1.0'"),
    (BACKED, "tm/linstor_un/prebackup_live", f"ssh node1 touch {LAID}/disk.tpm", "has ['disk.0.0', "),
    (BACKED, "tm/linstor_un/prebackup_live", f"ssh node1 'echo x >{LAID}/vm.xml'", "vm.xml is not the VM's document"),
    (BACKED, "tm/linstor_un/prebackup_live", f"ssh node1 cp {LAID}/disk.0.0 {LAID}/disk.2.0", "has not the bytes of"),
    (BACKED, "tm/linstor_un/prebackup_live", f"ssh node1 qemu-img resize -q {LAID}/disk.0.0 +1M", "bytes, the disk"),
    (BACKED, "tm/linstor_un/prebackup_live", "snap one-vm-61-disk-0 left", "one-vm-61-disk-0 changed: snapshots"),
    (BACKED, "tm/linstor_un/prebackup_live", "virsh node1 suspend one-61", "is paused on node1"),
    (BACKED, "tm/linstor_un/postbackup_live", f"ssh node1 mkdir -p {LAID}", "are left on node1"),
    (BACKED, "tm/linstor_un/postbackup_live", "write node1 one-vm-61-disk-0", "the bytes of one-vm-61-disk-0 changed"),
    (RESTORED, "tm/linstor_un/restore", "write node1 one-vm-62-disk-0", "one-vm-62-disk-0 has not the right bytes"),
    (RESTORED, "tm/linstor_un/restore", "snap one-vm-62-disk-0 before-revert", "snapshots of one-vm-62-disk-0 changed"),
    (RESTORED, "tm/linstor_un/restore", f"ssh node1 rm {THERE}/101/62/disk.0", "disk.0 was link"),
    (SAVED_AS, "tm/linstor_un/cpds", "mark one-image-33 Aux/one/VM_ID 36", "carries ['Aux/one/VM_ID'] of the disk"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "script", "line", "complaint"), SPOILED, ids=[line for _, _, line, _ in SPOILED]
)
def test_a_wrong_action_is_noticed(lab: replay.Lab, scenario: str, script: str, line: str, complaint: str) -> None:
    if not (REPOSITORY / script).exists():
        pytest.skip(f"there is no {script} yet")
    found = spoiled_complaints(lab, recording("7.4.0", scenario), script, line)
    assert any(complaint in sentence for sentence in found), found
