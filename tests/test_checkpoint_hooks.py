"""VMs saved to LINSTOR by hooks below OpenNebula's own scripts, on hosts that have what the driver needs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import linstor
import lxml
import pytest
from guest_support import disk_of, run
from lab.controller.faults import Fault, Faults
from lab.controller.server import Controller
from lab.guests import Domain, Guests
from lab.hosts.nodes import FRONTEND_ADDRESS
from lab.oned import documents as D
from lab.opennebula import install_host
from lab.opennebula.frontend import REPOSITORY
from lab.site import Site
from linstor_un.naming import by_res
from site_support import done, identity, marks

pytestmark = pytest.mark.slow

VM, NAME = 7, "one-7"
CHECKPOINT = "one-vm-7-checkpoint"
DIRECTORY = f"/var/lib/one/datastores/101/{VM}"
FILE = f"{DIRECTORY}/checkpoint"
_PORT = 3371
_PYTHON = "/usr/local/bin/python3"
_PACKAGES = "/run/shim/packages"


@pytest.fixture(scope="module")
def faults(module_site: Site) -> Iterator[Faults]:
    """The faults of a controller that hosts reach; python3 of node1 and node2 has what the driver needs."""
    controller = Controller(module_site.cluster).start(FRONTEND_ADDRESS, _PORT)
    for host in ("node1", "node2"):
        _give_python(module_site, host)
    yield controller.faults
    controller.stop()


def _synchronize(site: Site, host: str) -> None:
    """Do what `onehost sync` does."""
    install_host(site.hosts, host)
    _send(site, host, "/var/tmp/one", *(REPOSITORY / part for part in ("lib", "vmm")))


def _send(site: Site, host: str, directory: str, *trees: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for tree in trees:
            archive.add(tree, tree.name, filter=lambda one: None if "__pycache__" in one.name else _plain(one))
    site.hosts.run(host, ["tar", "-C", directory, "-x"], input=packed.getvalue(), text=False)


def _plain(one: tarfile.TarInfo) -> tarfile.TarInfo:
    one.uid = one.gid = 0
    one.uname = one.gname = ""
    return one


def _give_python(site: Site, host: str) -> None:
    """Give a host a python3 with the driver's packages: it sees nothing of a checkout in the front-end's /tmp."""
    python = os.path.realpath(sys.executable)
    script = f'#!/bin/sh\nPYTHONPATH=$PYTHONPATH:{_PACKAGES} exec {python} "$@"\n'
    make = (
        f"mkdir -p {_PACKAGES} && chmod 777 {_PACKAGES} && mkdir -p /run/shim/upper /run/shim/work && "
        "cd /run/shim/upper && cat >python3 && chmod 755 python3"
    )
    options = "lowerdir=/usr/local/bin,upperdir=/run/shim/upper,workdir=/run/shim/work"
    site.hosts.run(host, ["sh", "-c", make], user="root", input=script)
    _send(site, host, _PACKAGES, *(Path(package.__path__[0]) for package in (linstor, lxml)))
    site.hosts.run(host, ["mount", "-t", "overlay", "-o", options, "shim", "/usr/local/bin"], user="root")


@pytest.fixture(autouse=True)
def furnished(site: Site, faults: Faults) -> None:
    faults.clear()
    for host in ("node1", "node2"):
        _synchronize(site, host)
    site.cluster.prefer = lambda _: ["node2", "node3"]
    site.datastores(RESOURCE_GROUP="opennebula", LS_CONTROLLERS=f"{FRONTEND_ADDRESS}:{_PORT}", LS_TIMEOUT=5)


def stock(site: Site, script: str, *words: str, host: str = "node1") -> subprocess.CompletedProcess[str]:
    """Run a stock script on a host as oned does."""
    argv = [f"/var/tmp/one/vmm/kvm/{script}", *words, str(VM), host]
    document = D.vmm_action(VM, site.system_datastore, MEMORY=64)
    ended = site.hosts.run(host, argv, input=document, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended


def save(site: Site, host: str = "node1") -> str:
    return stock(site, "save", NAME, FILE, host, host=host).stderr


def restore(site: Site, host: str = "node1") -> str:
    return stock(site, "restore", FILE, host, NAME, host=host).stderr


def start(site: Site, guests: Guests, host: str = "node1") -> None:
    disk_of(site, VM, host)
    run(guests, host, Domain(NAME, VM))


def files(site: Site, host: str = "node1") -> list[str]:
    return str(site.hosts.run(host, ["ls", "-A", DIRECTORY]).stdout).split()


def test_memory_goes_to_linstor_and_comes_back(site: Site, guests: Guests) -> None:
    start(site, guests)
    assert save(site) == ""
    assert guests.domains("node1") == [] and files(site) == ["deployment.0", "disk.0"]
    assert marks(site, CHECKPOINT) == {"VM_ID": "7", "DS_ID": "101"} and site.attached(CHECKPOINT) == []
    assert restore(site) == ""
    assert guests.state("node1", NAME) == "running" and not site.definition(CHECKPOINT)
    assert files(site) == ["deployment.0", "disk.0"]


def test_memory_follows_a_vm_to_another_host(site: Site, guests: Guests) -> None:
    start(site, guests)
    save(site)
    site.rest("POST", "/v1/resource-definitions/one-vm-7-disk-0/resources/node2/make-available", {"diskful": False})
    script = 'mkdir -p "$1" && ln -s "$2" "$1/disk.0"'
    site.hosts.run("node2", ["sh", "-c", script, "sh", DIRECTORY, by_res("one-vm-7-disk-0")])
    restore(site, "node2")
    assert guests.state("node2", NAME) == "running" and not site.definition(CHECKPOINT)


def test_where_linstor_cannot_have_it_the_memory_stays_in_the_file(site: Site, guests: Guests) -> None:
    start(site, guests)
    site.datastores(RESOURCE_GROUP="opennebula", LS_CONTROLLERS="127.0.0.1:9", LS_TIMEOUT=1)
    said = save(site)
    assert "no LINSTOR controller answers" in said
    assert f"WARN: save.linstor_un: the memory of VM 7 stays in the file {FILE} on node1" in said
    assert "checkpoint" in files(site)
    assert restore(site) == ""
    assert guests.state("node1", NAME) == "running"


def test_a_host_without_the_packages_keeps_the_file(site: Site, guests: Guests) -> None:
    start(site, guests)
    site.hosts.run("node1", ["mv", "/usr/local/bin/python3", "/usr/local/bin/away"], user="root")
    try:
        assert "WARN: save.linstor_un: the memory of VM 7 stays in the file" in save(site)
    finally:
        site.hosts.run("node1", ["mv", "/usr/local/bin/away", "/usr/local/bin/python3"], user="root")
    restore(site)
    assert guests.state("node1", NAME) == "running"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_volume_that_cannot_be_made_complete_goes_and_the_file_stays(
    site: Site, guests: Guests, faults: Faults, method: str
) -> None:
    start(site, guests)
    faults.add(Fault("refuse", method=method, path="spawn$" if method == "POST" else f"{CHECKPOINT}$"))
    said = save(site)
    faults.clear()
    assert "save.linstor_un: " in said and "WARN: save.linstor_un: the memory of VM 7 stays in the file" in said
    assert not site.definition(CHECKPOINT) and "checkpoint" in files(site)
    restore(site)
    assert guests.state("node1", NAME) == "running"


def test_memory_that_is_in_the_file_again_cannot_be_restored_from_linstor(
    site: Site, guests: Guests, faults: Faults
) -> None:
    start(site, guests)
    save(site)
    faults.add(Fault("refuse", method="DELETE", path=f"{CHECKPOINT}$", times=9))
    assert "left behind: one-vm-7-checkpoint" in restore(site)
    faults.clear()
    assert guests.state("node1", NAME) == "running" and marks(site, CHECKPOINT)["STATE"] == "deleting"
    site.rest("POST", f"/v1/resource-definitions/{CHECKPOINT}/resources/node1/make-available", {"diskful": False})
    assert guests.virsh("node1", "save-image-dumpxml", by_res(CHECKPOINT), check=False).returncode != 0
    assert save(site).count("WARN") <= 1 and guests.domains("node1") == []


def test_the_driver_in_oned_conf_restores_what_the_hook_has_saved(site: Site, guests: Guests) -> None:
    start(site, guests)
    save(site)
    message = D.vmm_action(VM, site.system_datastore, MEMORY=64)
    done(site.oned.vmm("restore_linstor_un", FILE, "node1", NAME, "7", "node1", message=message))
    assert guests.state("node1", NAME) == "running" and not site.definition(CHECKPOINT)


def test_a_file_is_newer_than_what_linstor_has(site: Site, guests: Guests) -> None:
    start(site, guests)
    save(site)
    restored = identity(site, CHECKPOINT)
    site.rest("POST", f"/v1/resource-definitions/{CHECKPOINT}/resources/node1/make-available", {"diskful": False})
    guests.virsh("node1", "restore", by_res(CHECKPOINT))
    guests.virsh("node1", "save", NAME, FILE)
    message = D.vmm_action(VM, site.system_datastore, MEMORY=64)
    outcome = done(site.oned.vmm("restore_linstor_un", FILE, "node1", NAME, "7", "node1", message=message))
    assert outcome.stdout == f"{NAME}\n" and guests.state("node1", NAME) == "running"
    assert not site.definition(CHECKPOINT) and restored


HOOK = '''#!/bin/sh
# {name}.linstor_un: {what}.
#
# OpenNebula's own `{name}` runs it on the VM's host where oned.conf does not name this driver's: docs/operating.md.
tree=$(cd "$(dirname "$0")/../.." && pwd)
run="import sys; from linstor_un.main import run; sys.exit(run('vmm.{name}.linstor_un', ''))"
LINSTOR_UN_TREE=$tree PYTHONPATH=$tree/lib python3 -c "$run" "$@" ||
  echo "WARN: {name}.linstor_un: the memory of VM $4 {stays}" >&2
exit 0
'''


@pytest.mark.parametrize("name", ["save", "restore"])
def test_both_hooks_come_from_one_template(name: str) -> None:
    script = REPOSITORY / f"vmm/kvm/{name}.linstor_un"
    lines = script.read_text().splitlines()
    what = lines[1].partition(": ")[2].rstrip(".")
    stays = lines[7].partition("VM $4 ")[2].partition('"')[0]
    assert script.read_text() == HOOK.format(name=name, what=what, stays=stays) and len(lines) <= 15
    assert script.stat().st_mode & 0o111 == 0o111
    assert Path(REPOSITORY / "lib/linstor_un/actions.py").read_text().count(f'"vmm.{name}.linstor_un"') == 1
