"""VMs saved to LINSTOR and restored from there, by the scripts as oned calls them: real guests on real volumes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Union

import pytest
from guest_support import disk_of, run
from lab.controller.faults import Fault
from lab.guests import Domain, Guests
from lab.hosts.machine import until
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_nothing
from lab.oned.process import Running
from lab.opennebula import install_host
from lab.site import Site
from linstor_un.naming import by_res
from site_support import cut_off, done, failed, identity, marks, opened, written_apart

pytestmark = pytest.mark.slow

VM, NAME = 7, "one-7"
UUID = "1c2d3e4f-0000-4000-8000-000000000007"
CHECKPOINT = "one-vm-7-checkpoint"
WRITER = "libvirt_iohelper"
SYSTEM = "/var/lib/one/datastores"
Words = Union[str, int]


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> None:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]


def file(datastore: int = 101) -> str:
    return f"/var/lib/one//datastores/{datastore}/{VM}/checkpoint"


def start_save(site: Site, host: str = "node1", deploy_id: str = NAME, **template: Words) -> Running:
    message = D.vmm_action(VM, site.system_datastore, **{"MEMORY": 64, **template})
    return site.oned.start_vmm("save_linstor_un", deploy_id, file(), host, str(VM), host, message=message)


def save(site: Site, host: str = "node1", deploy_id: str = NAME, **template: Words) -> Outcome:
    return site.oned.finish(start_save(site, host, deploy_id, **template))


def start_restore(site: Site, host: str = "node1", deploy_id: str = NAME, datastore: int = 101) -> Running:
    message = D.vmm_action(VM, site.system_datastore, MEMORY=64)
    return site.oned.start_vmm(
        "restore_linstor_un", file(datastore), host, deploy_id, str(VM), host, message=message
    )


def restore(site: Site, host: str = "node1", deploy_id: str = NAME, datastore: int = 101) -> Outcome:
    return site.oned.finish(start_restore(site, host, deploy_id, datastore))


def quiet(outcome: Outcome) -> None:
    """Succeed with nothing said: oned takes every word for a part of its own message."""
    read_nothing(done(outcome))
    assert outcome.stderr == ""


def remarks(outcome: Outcome) -> str:
    """Succeed, with something for oned's log."""
    read_nothing(done(outcome))
    return outcome.stderr


def start(site: Site, guests: Guests, host: str = "node1", **more: object) -> None:
    """Let VM 7 run on a host."""
    disk_of(site, VM, host)
    run(guests, host, Domain(NAME, VM, uuid=UUID, **more))  # type: ignore[arg-type]


def suspended(site: Site, guests: Guests, host: str = "node1") -> None:
    """Let VM 7 be saved."""
    start(site, guests, host)
    quiet(save(site, host))


def attach(site: Site, host: str, name: str = CHECKPOINT) -> None:
    site.rest("POST", f"/v1/resource-definitions/{name}/resources/{host}/make-available", {"diskful": False})


def move(site: Site, source: str, target: str, datastore: int = 101) -> None:
    """Move the VM's disk and its directory, as a cold migration does."""
    disk = "one-vm-7-disk-0"
    attach(site, target, disk)
    site.hosts.run(source, ["rm", "-r", f"{SYSTEM}/101/7"])
    script = 'mkdir -p "$1" && ln -s "$2" "$1/disk.0"'
    site.hosts.run(target, ["sh", "-c", script, "sh", f"{SYSTEM}/{datastore}/7", by_res(disk)])


def size(site: Site) -> int:
    """The size in MiB that the checkpoint was asked for."""
    found = site.definition(CHECKPOINT)
    assert found
    return int(found.volumes[0].size) // 1024


def complete(site: Site, guests: Guests, host: str) -> bool:
    """Whether libvirt would restore what is in the checkpoint."""
    return guests.virsh(host, "save-image-dumpxml", by_res(CHECKPOINT), check=False).returncode == 0


# --- saved, and back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "deploy_id"), [("node1", NAME), ("node3", UUID)], ids=["beside a replica", "without one, by UUID"]
)
def test_a_vm_is_saved_on_linstor_and_goes_on(site: Site, guests: Guests, host: str, deploy_id: str) -> None:
    """Neither save nor restore leaves an attachment (V8)."""
    start(site, guests, host)
    quiet(save(site, host, deploy_id))
    assert guests.domains(host) == []
    assert marks(site, CHECKPOINT) == {"VM_ID": "7", "DS_ID": "101"}
    assert site.holders(CHECKPOINT) == ["node1", "node2"] and site.attached(CHECKPOINT) == []

    quiet(restore(site, host, deploy_id))
    assert guests.reason(host, NAME) == "running (restored)"
    assert not site.definition(CHECKPOINT)
    directory = site.hosts.run(host, ["ls", "-A", f"{SYSTEM}/101/7"]).stdout.split()
    assert directory == ["deployment.0", "disk.0"]


def test_a_vm_goes_on_from_where_it_was(site: Site, guests: Guests) -> None:
    start(site, guests, jobs=["write:vda"])
    guests.await_more("node1", NAME, "wrote area 0 ", 2)
    quiet(save(site, MEMORY=160))
    said = guests.console("node1", NAME)
    quiet(restore(site))
    guests.await_more("node1", NAME, "wrote area 0 ", 2)
    assert guests.console("node1", NAME).startswith(said) and said.count("guest is up") == 1


def test_a_vm_that_an_administrator_paused_is_paused_when_it_is_restored(site: Site, guests: Guests) -> None:
    start(site, guests)
    guests.virsh("node1", "suspend", NAME)
    quiet(save(site))
    quiet(restore(site))
    assert guests.state("node1", NAME) == "paused"
    guests.virsh("node1", "resume", NAME)


def test_a_vm_goes_on_elsewhere_in_another_datastore_with_its_own_paths_alone_changed(
    site: Site, guests: Guests
) -> None:
    suspended(site, guests)
    move(site, "node1", "node3", datastore=102)
    quiet(restore(site, "node3", datastore=102))
    assert guests.state("node3", NAME) == "running" and guests.domains("node1") == []
    xml = guests.virsh("node3", "dumpxml", NAME).stdout
    assert "<source dev='/var/lib/one//datastores/102/7/disk.0'" in xml
    assert "/datastores/101/" not in xml and "/run/guests/one-7.console" in xml


def test_snapshots_that_libvirt_knew_are_known_again(site: Site, guests: Guests) -> None:
    start(site, guests)
    files = f"{SYSTEM}/101/7"
    words = ["--memspec", f"file={files}/snap-0.mem,snapshot=external", "--diskspec", "vda,snapshot=no"]
    guests.virsh("node1", "snapshot-create-as", NAME, "snap-0", *words)
    xml = guests.virsh("node1", "snapshot-dumpxml", NAME, "snap-0").stdout
    put = 'cat >"$1" && rm "$2"'
    site.hosts.run("node1", ["sh", "-c", put, "sh", f"{files}/snap-0.xml", f"{files}/snap-0.mem"], input=xml)
    guests.virsh("node1", "snapshot-delete", NAME, "snap-0", "--metadata")
    quiet(save(site))
    done(restore(site))
    assert guests.virsh("node1", "snapshot-list", NAME, "--name").stdout.split() == ["snap-0"]


# --- room ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "attributes", "expected"),
    [
        ({}, {}, 65 + 256),
        ({"MEMORY": 2000, "MEMORY_MAX": 1000}, {}, 2020 + 256),
        ({"MEMORY_MAX": 4000}, {}, 4040 + 256),
        ({"MEMORY": 10}, {}, 65 + 256),
        ({"MEMORY": 100, "VIDEO": {"VRAM": 65536}}, {"CHECKPOINT_SIZE_PERCENT": 120}, 120 + 64 + 256),
        ({"MEMORY": 1000}, {"CHECKPOINT_SIZE_PERCENT": 50, "CHECKPOINT_SIZE_EXTRA": 32}, 500 + 32),
    ],
)
def test_there_is_room_for_all_memory_that_the_vm_may_have(
    site: Site, guests: Guests, template: dict[str, Words], attributes: dict[str, int], expected: int
) -> None:
    """Not for what it holds at the moment, as processes are counted (V2): swapped out pages are written, too."""
    site.datastores(RESOURCE_GROUP="opennebula", **attributes)
    start(site, guests)
    quiet(save(site, **template))
    assert size(site) == expected


def test_a_checkpoint_has_its_own_number_of_replicas(site: Site, guests: Guests) -> None:
    """V3."""
    site.datastores(RESOURCE_GROUP="opennebula", REPLICA_COUNT=2, CHECKPOINT_REPLICA_COUNT=1)
    start(site, guests)
    quiet(save(site))
    assert site.holders(CHECKPOINT) == ["node1"] and len(site.holders("one-vm-7-disk-0")) == 2


def test_of_a_list_of_nodes_the_vms_host_comes_first(site: Site, guests: Guests) -> None:
    nodes = {"NODE_LIST": "node1 node2 node3", "STORAGE_POOL": "thin"}
    site.datastores(**nodes, CHECKPOINT_REPLICA_COUNT=2)
    start(site, guests, "node3")
    quiet(save(site, "node3"))
    assert site.holders(CHECKPOINT) == ["node1", "node3"]


def test_without_drbd_the_memory_is_where_the_vm_was_and_only_there(site: Site, guests: Guests) -> None:
    start(site, guests, "node3")
    site.datastores(STORAGE_POOL="thin", LAYER_LIST="storage", REPLICA_COUNT=2)
    quiet(save(site, "node3"))
    assert site.holders(CHECKPOINT) == ["node3"]
    assert "place a replica on node1" in failed(restore(site, "node1"))
    quiet(restore(site, "node3"))
    assert guests.state("node3", NAME) == "running" and not site.definition(CHECKPOINT)


def test_a_vm_whose_memory_finds_no_room_is_what_it_was(site: Site, guests: Guests) -> None:
    """Who was paused before, by an administrator or by an error, stays so (V9)."""
    site.datastores(RESOURCE_GROUP="opennebula", CHECKPOINT_SIZE_PERCENT=1, CHECKPOINT_SIZE_EXTRA=0)
    start(site, guests, jobs=["fill:32"])
    guests.await_words("node1", NAME, "filled 32 MiB")
    for before in ("running (save canceled)", "paused (user)"):
        if before.startswith("paused"):
            guests.virsh("node1", "suspend", NAME)
        sentence = failed(save(site))
        assert "cannot save the memory of VM 7 on node1" in sentence and "No space left on device" in sentence
        assert guests.reason("node1", NAME) == before
        assert not site.definition(CHECKPOINT)


def test_a_full_pool_is_told_before_the_vm_is_touched(site: Site, guests: Guests) -> None:
    start(site, guests)
    assert "Not enough available nodes; free now: " in failed(save(site, MEMORY=9_000_000))
    assert guests.reason("node1", NAME) == "running (booted)" and not site.definition(CHECKPOINT)


# --- what an earlier run left -------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["complete", "half-made", "used", "old driver's"])
def test_a_stale_checkpoint_of_a_vm_that_runs_is_replaced(site: Site, guests: Guests, left: str) -> None:
    """V4."""
    suspended(site, guests)
    before = identity(site, CHECKPOINT)
    attach(site, "node1")
    guests.virsh("node1", "restore", by_res(CHECKPOINT))
    found = site.definition(CHECKPOINT)
    assert found
    changes = {
        "complete": {}, "half-made": {"Aux/one/STATE": "creating", "Aux/one/RUN": "of-a-killed-run"},
        "used": {"Aux/one/STATE": "deleting"}, "old driver's": None,
    }[left]
    if changes is None:
        found.props.clear()
    else:
        found.props.update(changes)
    assert CHECKPOINT in remarks(save(site))
    assert identity(site, CHECKPOINT) != before and guests.domains("node1") == []
    quiet(restore(site))


def test_a_checkpoint_that_is_marked_as_somebody_elses_is_left_alone(site: Site, guests: Guests) -> None:
    suspended(site, guests)
    before = identity(site, CHECKPOINT)
    guests.virsh("node1", "restore", by_res(CHECKPOINT))
    found = site.definition(CHECKPOINT)
    assert found
    found.props["Aux/one/VM_ID"] = "70"
    assert "is marked VM_ID=70" in failed(save(site))
    assert guests.state("node1", NAME) == "running" and identity(site, CHECKPOINT) == before
    guests.virsh("node1", "destroy", NAME)
    assert "is marked VM_ID=70" in failed(save(site))
    assert "is marked VM_ID=70" in failed(restore(site))
    assert identity(site, CHECKPOINT) == before


def test_a_file_of_the_stock_script_is_moved_aside_when_the_vm_is_saved_on_linstor(site: Site, guests: Guests) -> None:
    start(site, guests)
    site.hosts.run("node1", ["sh", "-c", 'echo old >"$1"', "sh", file()])
    quiet(save(site))
    names = site.hosts.run("node1", ["ls", f"{SYSTEM}/101/7"]).stdout.split()
    assert len([name for name in names if name.startswith("checkpoint.")]) == 1 and "checkpoint" not in names


def test_what_the_stock_script_saved_is_restored_by_the_stock_script(site: Site, guests: Guests) -> None:
    start(site, guests)
    install_host(site.hosts, "node1")
    guests.virsh("node1", "save", NAME, file())
    outcome = done(restore(site))
    assert outcome.stdout == f"{NAME}\n" and guests.state("node1", NAME) == "running"


def test_a_definition_that_a_killed_run_left_without_a_volume_hides_no_file(site: Site, guests: Guests) -> None:
    start(site, guests)
    install_host(site.hosts, "node1")
    guests.virsh("node1", "save", NAME, file())
    props = {"Aux/one/VM_ID": "7", "Aux/one/STATE": "creating", "Aux/one/RUN": "of-a-killed-run"}
    definition = {"name": CHECKPOINT, "resource_group_name": "opennebula", "props": props}
    site.rest("POST", "/v1/resource-definitions", {"resource_definition": definition})
    done(restore(site))
    assert guests.state("node1", NAME) == "running" and not site.definition(CHECKPOINT)


def test_what_the_driver_before_this_one_saved_goes_on(site: Site, guests: Guests) -> None:
    """It paused each VM, and marked nothing."""
    start(site, guests)
    guests.virsh("node1", "suspend", NAME)
    spawn = {"resource_definition_name": CHECKPOINT, "volume_sizes": [128 << 10]}
    site.rest("POST", "/v1/resource-groups/opennebula/spawn", spawn)
    guests.virsh("node1", "save", NAME, by_res(CHECKPOINT))
    quiet(restore(site))
    assert guests.state("node1", NAME) == "running" and not site.definition(CHECKPOINT)


# --- interrupted saves --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stuck_save(site: Site, guests: Guests, host: str = "node1") -> Iterator[Running]:
    """Let a save be in the middle of its work; it goes on after the block."""
    if not guests.domains(host):
        start(site, guests, host, jobs=["fill:48"])
        guests.await_words(host, NAME, "filled 48 MiB")
    site.hosts.hold_tools(host, WRITER)
    try:
        running = start_save(site, host, MEMORY=160)
        until(lambda: any(map(stopped, held_writers(site, host))), "libvirt to write memory", 60)
        until(lambda: guests.reason(host, NAME) == "paused (saving)", "the save", 30)
        yield running
    finally:
        for pid in held_writers(site, host):
            os.kill(pid, signal.SIGCONT)
        until(lambda: not held_writers(site, host), "libvirt to go on")
        site.hosts.hold_tools(host)


def held_writers(site: Site, host: str) -> list[int]:
    """Return the processes that are to write memory for libvirt and have not begun."""
    running = site.hosts.processes(host).items()
    return [pid for pid, argv in running if argv[:2] == ["/bin/sh", f"/usr/lib/libvirt/{WRITER}"]]


def stopped(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    return False


def await_called_off(guests: Guests, host: str = "node1") -> None:
    """Wait until a save that is stuck was called off; else it may be complete before, once it goes on."""
    query = ("qemu-monitor-command", NAME, '{"execute": "query-migrate"}')
    until(lambda: '"cancel' in guests.virsh(host, *query).stdout, "the save to be called off", 30)


def tell_to_stop(running: Running) -> None:
    """Send SIGTERM to the script, not to the shell that started it: its own answer is what counts."""
    os.kill(running.script, signal.SIGTERM)


def test_a_save_that_is_told_to_stop_or_killed_lets_the_vm_run_on_and_a_rerun_saves_it(
    site: Site, guests: Guests
) -> None:
    with stuck_save(site, guests) as running:
        tell_to_stop(running)
        await_called_off(guests)
    outcome = site.oned.finish(running)
    assert outcome.code == 1 and "stopped by SIGTERM" in outcome.user_message
    assert guests.reason("node1", NAME) == "running (save canceled)"
    assert not site.definition(CHECKPOINT)

    with stuck_save(site, guests) as running:
        running.kill(signal.SIGKILL)
        running.wait()
        await_called_off(guests)
    until(lambda: guests.reason("node1", NAME) == "running (save canceled)", "the end of the save", 30)
    assert marks(site, CHECKPOINT)["STATE"] == "creating"
    assert "replacing one-vm-7-checkpoint" in remarks(save(site))
    assert guests.domains("node1") == [] and "STATE" not in marks(site, CHECKPOINT)
    quiet(restore(site))


def test_a_rerun_waits_for_a_save_that_libvirt_goes_on_with(site: Site, guests: Guests) -> None:
    """Where not even the host could call it off: then the memory is complete in the end, and that is success."""
    with stuck_save(site, guests) as running:
        running.kill(signal.SIGSTOP)
        shells = [
            pid
            for pid, argv in sorted(site.hosts.processes("node1").items())
            if (argv[0] in ("sh", "timeout", "virsh") or argv[0].endswith("/sh")) and WRITER not in " ".join(argv)
        ]
        # None may see the end of another: they stop first, and the children go before those that started them, for
        # the kernel wakes a stopped group with SIGHUP when nobody outside has a child in it any more.
        for number, order in ((signal.SIGSTOP, shells), (signal.SIGKILL, shells[::-1])):
            for pid in order:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        running.kill(signal.SIGKILL)
        running.wait()
        before = identity(site, CHECKPOINT)
        again = start_save(site)
        until(lambda: guests.reason("node1", NAME) == "paused (saving)", "the save", 30)
    assert "it was saved before" in remarks(site.oned.finish(again))
    assert identity(site, CHECKPOINT) == before and "STATE" not in marks(site, CHECKPOINT)
    quiet(restore(site))


def hanging_mark(site: Site) -> None:
    site.controller.faults.add(Fault("hang", method="PUT", path=f"{CHECKPOINT}$"))


def await_saved(guests: Guests, host: str = "node1") -> None:
    until(lambda: not guests.domains(host), "the VM to be saved", 60)


def test_a_save_whose_answer_was_lost_is_done_when_it_is_repeated(site: Site, guests: Guests) -> None:
    start(site, guests)
    hanging_mark(site)
    running = start_save(site)
    await_saved(guests)
    running.kill(signal.SIGKILL)
    running.wait()
    site.controller.faults.clear()
    before = identity(site, CHECKPOINT)
    assert "it was saved before" in remarks(save(site))
    assert identity(site, CHECKPOINT) == before and marks(site, CHECKPOINT) == {"VM_ID": "7", "DS_ID": "101"}
    assert "it was saved before" in remarks(save(site))
    quiet(restore(site))


def test_memory_that_is_still_marked_as_half_made_is_restored_when_libvirt_calls_it_complete(
    site: Site, guests: Guests
) -> None:
    start(site, guests)
    hanging_mark(site)
    running = start_save(site)
    await_saved(guests)
    running.kill(signal.SIGKILL)
    running.wait()
    site.controller.faults.clear()
    quiet(restore(site))
    assert guests.state("node1", NAME) == "running" and not site.definition(CHECKPOINT)


def test_a_save_that_was_complete_when_it_was_told_to_stop_is_taken_back(site: Site, guests: Guests) -> None:
    start(site, guests)
    hanging_mark(site)
    running = start_save(site)
    await_saved(guests)
    tell_to_stop(running)
    outcome = site.oned.finish(running)
    site.controller.faults.clear()
    assert outcome.code == 1 and "stopped by SIGTERM" in outcome.user_message
    assert guests.reason("node1", NAME) == "running (restored)" and not site.definition(CHECKPOINT)


def test_memory_that_is_all_there_is_of_a_vm_stays_and_is_named(site: Site, guests: Guests) -> None:
    start(site, guests)
    hanging_mark(site)
    running = start_save(site)
    await_saved(guests)
    link = f"{SYSTEM}/101/7/disk.0"
    site.hosts.run("node1", ["mv", link, f"{link}.away"])
    tell_to_stop(running)
    sentence = failed(site.oned.finish(running), 3)
    site.controller.faults.clear()
    assert "left behind: VM 7, whose memory is in one-vm-7-checkpoint (cannot restore the memory of VM 7" in sentence
    assert "one-vm-7-checkpoint (the VM does not run, and its memory may be there" in sentence
    site.hosts.run("node1", ["mv", f"{link}.away", link])
    assert "it was saved before" in remarks(save(site))
    quiet(restore(site))


def test_a_save_is_a_success_although_linstor_cannot_be_told_in_the_end(site: Site, guests: Guests) -> None:
    start(site, guests)
    site.controller.faults.add(Fault("refuse", method="PUT", path=f"{CHECKPOINT}$", times=9))
    assert "is complete, but keeps the marks of a half-made one" in remarks(save(site))
    site.controller.faults.clear()
    quiet(restore(site))


def test_a_save_that_finds_neither_the_vm_nor_its_memory_fails_and_changes_nothing(site: Site, guests: Guests) -> None:
    start(site, guests)
    guests.virsh("node1", "destroy", NAME)
    assert "VM 7 is not on node1, so there is no memory to save" in failed(save(site))
    spawn = {"resource_definition_name": CHECKPOINT, "volume_sizes": [64 << 10]}
    site.rest("POST", "/v1/resource-groups/opennebula/spawn", spawn)
    sentence = failed(save(site))
    assert "does not hold its complete memory: " in sentence and "magic" in sentence
    assert site.definition(CHECKPOINT) and site.attached(CHECKPOINT) == []


def test_a_libvirt_that_does_not_answer_is_told_and_nothing_is_made(site: Site, guests: Guests) -> None:
    start(site, guests)
    guests.stop("node1")
    sentence = failed(save(site))
    assert "cannot look at VM 7 on node1" in sentence and not site.definition(CHECKPOINT)
    assert "cannot look at VM 7 on node1" in failed(restore(site))
    guests.start("node1")
    assert guests.state("node1", NAME) == "running"


def trying(site: Site) -> bool:
    """Whether virsh is asking for a save."""
    return any(argv[0] == "virsh" and "save" in argv for argv in site.hosts.processes("node1").values())


def test_a_save_that_meets_a_block_job_is_tried_again(site: Site, guests: Guests) -> None:
    start(site, guests)
    spawn = {"resource_definition_name": "copy", "volume_sizes": [64 << 10]}
    site.rest("POST", "/v1/resource-groups/opennebula/spawn", spawn)
    words = ["vda", by_res("copy"), "--blockdev", "--format", "raw", "--reuse-external", "--transient-job"]
    guests.virsh("node1", "blockcopy", NAME, *words)
    running = start_save(site)
    until(lambda: trying(site), "the first attempt", 60)
    until(lambda: not trying(site), "its end", 60)
    guests.virsh("node1", "blockjob", NAME, "vda", "--abort")
    quiet(site.oned.finish(running))
    assert guests.domains("node1") == []


# --- interrupted restores -----------------------------------------------------------------------------------------


def test_a_second_restore_changes_nothing(site: Site, guests: Guests) -> None:
    suspended(site, guests)
    quiet(restore(site))
    before = guests.virsh("node1", "domid", NAME).stdout
    assert "VM 7 is on node1 already, running" in remarks(restore(site))
    assert guests.virsh("node1", "domid", NAME).stdout == before


@pytest.mark.parametrize("kind", ["refuse", "hang"])
def test_a_vm_that_runs_again_is_never_called_failed_because_of_its_checkpoint(
    site: Site, guests: Guests, kind: str
) -> None:
    """V5. What was restored must not be restored again: its disks have gone on."""
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=2)
    suspended(site, guests)
    fault = Fault(kind, method="DELETE", path=f"{CHECKPOINT}$", times=9, seconds=60)
    site.controller.faults.add(fault)
    said = remarks(restore(site))
    assert "left behind: one-vm-7-checkpoint, which VM 7 does not need any more" in said
    assert guests.state("node1", NAME) == "running"

    guests.virsh("node1", "destroy", NAME)
    attach(site, "node1")
    assert not complete(site, guests, "node1")
    site.controller.faults.clear()
    failed(restore(site))
    assert guests.domains("node1") == []


def test_memory_that_was_used_is_refused_with_what_to_do(site: Site, guests: Guests) -> None:
    suspended(site, guests)
    found = site.definition(CHECKPOINT)
    assert found
    found.props["Aux/one/STATE"] = "deleting"
    sentence = failed(restore(site))
    assert "was used already, and its disks have gone on; to boot the VM, `virsh create" in sentence
    assert guests.domains("node1") == []


def test_a_controller_that_is_gone_after_the_restore_makes_no_failure(site: Site, guests: Guests) -> None:
    site.datastores(RESOURCE_GROUP="opennebula", LS_TIMEOUT=1)
    suspended(site, guests)
    fault = Fault("restart", method="DELETE", path=f"{CHECKPOINT}$", seconds=30)
    site.controller.faults.add(fault)
    assert "left behind: one-vm-7-checkpoint" in remarks(restore(site))
    assert guests.state("node1", NAME) == "running"
    site.controller.faults.clear()
    assert "replacing one-vm-7-checkpoint" in remarks(save(site))


@contextlib.contextmanager
def stuck_restore(site: Site, guests: Guests) -> Iterator[Running]:
    """Let a restore be in the middle of its work; QEMU goes on after the block."""
    suspended(site, guests)
    running = start_restore(site)
    found: list[int] = []

    def loading() -> bool:
        for pid, argv in site.hosts.processes("node1").items():
            if argv[0].endswith("qemu-system-x86_64") and "-incoming" in argv:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                    found.append(pid)
        return bool(found)

    until(loading, "QEMU to load memory", 60)
    until(lambda: guests.reason("node1", NAME) == "paused (starting up)", "the restore", 30)
    try:
        yield running
    finally:
        os.kill(found[0], signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restore_that_is_interrupted_ends_with_one_vm_that_runs(
    site: Site, guests: Guests, number: signal.Signals
) -> None:
    with stuck_restore(site, guests) as running:
        if number == signal.SIGTERM:
            tell_to_stop(running)
        else:
            running.kill(number)
            running.wait()
            running = start_restore(site)
    done(site.oned.finish(running))
    assert guests.state("node1", NAME) == "running" and not site.definition(CHECKPOINT)
    assert guests.virsh("node1", "list", "--all", "--name").stdout.split() == [NAME]


def test_memory_that_is_open_elsewhere_is_not_restored_here(site: Site, guests: Guests) -> None:
    suspended(site, guests)
    with opened(site, "node2", by_res(CHECKPOINT)):
        sentence = failed(restore(site))
    assert "one-vm-7-checkpoint is open on node2, where the VM is being saved or restored" in sentence
    assert guests.domains("node1") == []
    quiet(restore(site))


def test_a_restore_that_cannot_work_leaves_the_memory_as_it_was(site: Site, guests: Guests) -> None:
    suspended(site, guests, "node1")
    site.hosts.run("node3", ["mkdir", "-p", f"{SYSTEM}/101/7"])
    sentence = failed(restore(site, "node3"))
    assert "cannot restore the memory of VM 7 on node3" in sentence and "disk.0" in sentence
    assert site.attached(CHECKPOINT) == []
    quiet(restore(site, "node1"))


def test_memory_of_another_domain_is_not_restored(site: Site, guests: Guests) -> None:
    suspended(site, guests)
    message = failed(restore(site, deploy_id="one-8"))
    assert "does not hold the complete memory of VM 7: it is another domain's" in message
    assert guests.domains("node1") == [] and site.definition(CHECKPOINT)


def test_memory_whose_replicas_differ_is_not_restored(site: Site, guests: Guests) -> None:
    suspended(site, guests)
    written_apart(site, CHECKPOINT, "node1", "node2")
    assert "have differing data" in failed(restore(site))


def test_memory_is_not_restored_where_its_replica_may_be_older(site: Site, guests: Guests) -> None:
    suspended(site, guests)
    cut_off(site, CHECKPOINT, "node1", "node2")
    assert f"{CHECKPOINT} on node1 has no connection to that on node2" in failed(restore(site))


def test_without_any_memory_there_is_a_sentence_that_says_what_to_do(site: Site, guests: Guests) -> None:
    start(site, guests)
    guests.virsh("node1", "destroy", NAME)
    sentence = failed(restore(site))
    assert "the memory of VM 7 is neither in one-vm-7-checkpoint on LINSTOR nor in " in sentence
    guests.virsh("node1", "create", f"{SYSTEM}/101/7/deployment.0")
    assert "is on node1 already" in remarks(restore(site))


# --- the end of the VM --------------------------------------------------------------------------------------------


def delete(site: Site) -> Outcome:
    return site.oned.tm("delete", f"node1:/var/lib/one//datastores/101/{VM}", VM, 101)


@pytest.mark.parametrize("marked", [True, False], ids=["ours", "the old driver's"])
def test_the_memory_goes_with_the_directory_of_the_vm(site: Site, guests: Guests, marked: bool) -> None:
    suspended(site, guests)
    found = site.definition(CHECKPOINT)
    assert found
    if not marked:
        found.props.clear()
    quiet(delete(site))
    assert not site.definition(CHECKPOINT) and site.definition("one-vm-7-disk-0")
    assert site.hosts.run("node1", ["ls", f"{SYSTEM}/101"]).stdout == ""
    quiet(delete(site))


def test_memory_that_is_marked_as_another_vms_does_not_go(site: Site, guests: Guests) -> None:
    suspended(site, guests)
    found = site.definition(CHECKPOINT)
    assert found
    found.props["Aux/one/VM_ID"] = "70"
    assert "is marked VM_ID=70" in failed(delete(site))
    assert site.definition(CHECKPOINT)
