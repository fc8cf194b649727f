"""An image goes to a marketplace, by the scripts as oned's market driver calls them and as it reads afterwards."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.controller import satellites
from lab.controller.server import Controller
from lab.oned import documents as D
from lab.oned.answers import Outcome, read_nothing
from lab.site import Site
from linstor_un.naming import by_res
from lxml import etree
from site_support import DATA, MIB, cp, device, done, failed, incoming, marks, opened, padded, rm, source, whole

pytestmark = pytest.mark.slow

NAME = "one-image-5"
MARKET = Path("/var/lib/one/remotes/market/http/import")


@pytest.fixture(autouse=True)
def placed_alike(site: Site) -> Iterator[None]:
    """Let all volumes get their replicas on the same nodes: node3 has none."""
    site.cluster.prefer = lambda _: ["node1", "node2"]
    MARKET.parent.mkdir(parents=True, exist_ok=True)
    MARKET.write_text('if [ "$DISPOSE" = "YES" ] && [ -n "$DISPOSE_CMD" ]; then\n    $DISPOSE_CMD\nfi\n')
    yield
    site.cluster.prefer = lambda _: []
    MARKET.unlink(missing_ok=True)


def export(site: Site, image: int = 5) -> Outcome:
    document = D.image(site.oned.release, image, size=8, source=source(image))
    return site.oned.ds("export", document, site.image_datastore)


def info(outcome: Outcome) -> dict[str, str]:
    """What the market driver reads: one document on one line, with all its members."""
    text = done(outcome).ended.stdout.decode()
    assert text.count("\n") == 1 and outcome.stderr == ""
    root = etree.fromstring(text)
    assert root.tag == "IMPORT_INFO"
    found = {str(child.tag): (child.text or "") for child in root}
    assert set(found) == {"IMPORT_SOURCE", "MD5", "SIZE", "FORMAT", "DISPOSE", "DISPOSE_CMD"}
    assert found["FORMAT"] == "raw" and found["MD5"] == ""
    return found


def read(site: Site, told: dict[str, str]) -> bytes:
    """Fetch the image as the marketplace's import does, into a file that everybody may read."""
    target = Path("/var/tmp/from-market.img")
    downloader = str(site.frontend.remotes / "datastore/downloader.sh")
    subprocess.run(
        [downloader, "--nodecomp", told["IMPORT_SOURCE"], str(target)], check=True, **site.hosts.as_oneadmin()
    )
    target.chmod(0o644)
    return target.read_bytes()


def dispose(site: Site, told: dict[str, str]) -> None:
    """Do after the import what market drivers do: bare words, and what is said is lost."""
    if told["DISPOSE"] == "YES" and told["DISPOSE_CMD"]:
        ended = subprocess.run(
            told["DISPOSE_CMD"].split(), capture_output=True, text=True, check=False, **site.hosts.as_oneadmin()
        )
        assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr


def exports(site: Site, host: str) -> list[str]:
    found = site.hosts.run(host, ["sh", "-c", "ls -d /var/lib/one/datastores/*/export-*"], check=False)
    return found.stdout.split()


def far(site: Site) -> None:
    """Let only node3, which has no replica, be a host of OpenNebula's, as where storage nodes are apart."""
    for number in (0, 1):
        site.documents.remove("HOST", number)


def test_an_image_is_read_where_a_replica_is_and_nothing_is_attached(site: Site) -> None:
    cp(site)
    told = info(export(site))
    assert told["IMPORT_SOURCE"] in [f"ssh://{node}:{by_res(NAME)}" for node in ("node1", "node2")]
    assert (told["DISPOSE"], told["DISPOSE_CMD"]) == ("NO", "")
    data = read(site, told)
    assert data == padded(DATA, data) and not site.attached(NAME) and marks(site, NAME) == {"IMAGE_ID": "5"}


def test_what_is_read_can_be_imported_again(site: Site) -> None:
    """The device is larger than the image, and all of it is read: with SIZE as oned has it there would be no room."""
    cp(site)
    told = info(export(site))
    data = read(site, told)
    assert 8 * MIB < len(data) <= int(told["SIZE"]) * MIB < len(data) + MIB
    image = D.image(site.oned.release, 6, path=incoming(data, "again.raw"), size=int(told["SIZE"]))
    done(site.oned.ds("cp", image, site.image_datastore))
    assert whole(site, "one-image-6") == padded(DATA, whole(site, "one-image-6"))


def test_d15_a_device_that_cannot_be_read_there_is_told_at_once(site: Site) -> None:
    name = cp(site)
    found = site.definition(name)
    assert found
    for node in site.holders(name):
        site.volumes.detach(site.contents(found)[0], node)
    message = failed(export(site))
    assert f"{by_res(name)} is not there on node" in message


def test_d15_storage_nodes_that_opennebula_does_not_know_lend_the_image_until_it_is_read(site: Site) -> None:
    cp(site)
    far(site)
    told = info(export(site))
    assert told["IMPORT_SOURCE"] == "ssh://node3:/var/lib/one/datastores/100/export-5/disk.0"
    assert told["DISPOSE"] == "YES" and site.attached(NAME) == ["node3"]
    # A VM with the image in its drive comes and goes meanwhile: it must not take the device along.
    cdrom = D.DiskDocument(0, size=8, image=5, clone=False, kind="CDROM", more={"SAVE": "NO"})
    site.documents.put(D.vm(7, [cdrom], hosts=["node3"]))
    done(site.oned.tm("ln", site.source_word(5), site.disk_word("node3", 7, 0), 7, 100))
    done(site.oned.tm("delete", site.disk_word("node3", 7, 0), 7, 100))
    assert site.attached(NAME) == ["node3"]

    data = read(site, told)
    assert data == padded(DATA, data)
    for _ in range(2):
        dispose(site, told)
        assert not site.attached(NAME) and not exports(site, "node3")


def test_two_exports_of_one_image_do_not_take_it_from_each_other(site: Site) -> None:
    cp(site)
    far(site)
    first = info(export(site))
    document = D.image(site.oned.release, 5, size=8, source=source(5))
    message = f"<DS_DRIVER_ACTION_DATA>{document}{site.image_datastore}</DS_DRIVER_ACTION_DATA>"
    text = base64.b64encode(message.encode()).decode()
    second = info(site.oned.finish(site.oned.recorded("datastore/linstor_un/export", ["6"], text)))
    dispose(site, first)
    assert site.attached(NAME) == ["node3"]
    assert read(site, second).startswith(DATA)
    dispose(site, second)
    assert not site.attached(NAME)


def test_an_image_that_a_vm_has_there_stays_attached(site: Site) -> None:
    cp(site)
    far(site)
    cdrom = D.DiskDocument(0, size=8, image=5, clone=False, kind="CDROM", more={"SAVE": "NO"})
    site.documents.put(D.vm(7, [cdrom], hosts=["node3"]))
    done(site.oned.tm("ln", site.source_word(5), site.disk_word("node3", 7, 0), 7, 100))
    told = info(export(site))
    dispose(site, told)
    assert site.attached(NAME) == ["node3"] and not exports(site, "node3")


@pytest.mark.parametrize("age", ["1439 minutes", "1441 minutes"])
def test_what_a_failed_import_left_goes_with_a_later_export_a_day_from_then(site: Site, age: str) -> None:
    cp(site)
    cp(site, 6)
    far(site)
    info(export(site))
    site.hosts.run("node3", ["touch", "-h", "-d", f"{age} ago", "/var/lib/one/datastores/100/export-5/disk.0"])
    info(export(site, 6))
    assert site.attached("one-image-6") == ["node3"]
    old = age == "1441 minutes"
    assert site.attached(NAME) == ([] if old else ["node3"]) and len(exports(site, "node3")) == (1 if old else 2)


def test_what_a_marketplace_reads_for_longer_than_a_day_is_not_taken_from_it(site: Site) -> None:
    cp(site)
    cp(site, 6)
    far(site)
    info(export(site))
    link = "/var/lib/one/datastores/100/export-5/disk.0"
    site.hosts.run("node3", ["touch", "-h", "-d", "1441 minutes ago", link])
    with opened(site, "node3", link):
        info(export(site, 6))
        assert site.attached(NAME) == ["node3"] and len(exports(site, "node3")) == 2
    dispose(site, info(export(site, 6)))
    assert not site.attached(NAME) and not exports(site, "node3")


def test_an_image_goes_though_it_is_still_lent(site: Site) -> None:
    cp(site)
    cp(site, 6)
    far(site)
    info(export(site))
    done(rm(site))
    assert not site.definition(NAME)
    info(export(site, 6))
    assert len(exports(site, "node3")) == 1


def test_an_opennebula_without_dispose_cmd_is_not_told_to_dispose(site: Site) -> None:
    """Up to 5.12 DISPOSE lets it remove IMPORT_SOURCE, as if that were a file, and fail."""
    MARKET.write_text('if [ "${DISPOSE}" = "YES" ]; then\n    exec_and_log "$RM ${IMPORT_SOURCE}"\nfi\n')
    cp(site)
    far(site)
    outcome = done(export(site))
    assert b"<DISPOSE>NO</DISPOSE>" in outcome.ended.stdout and b"stays attached on node3" in outcome.ended.stderr


@pytest.mark.parametrize("layers", ["drbd storage", "storage"])
def test_an_image_that_is_written_to_is_not_exported(site: Site, layers: str) -> None:
    site.datastores(STORAGE_POOL="thin", LAYER_LIST=layers, REPLICA_COUNT=2)
    name = cp(site)
    with opened(site, "node1", device(site, name, "node1")):
        message = failed(export(site))
    assert f"{name} is open" in message and "node1" in message
    told = info(export(site))
    assert read(site, told).startswith(DATA)


def test_what_cannot_be_exported_is_told(site: Site) -> None:
    assert f"{NAME} does not exist" in failed(export(site))
    name = cp(site)
    found = site.definition(name)
    assert found
    found.props["Aux/one/IMAGE_ID"] = "9"
    assert "is marked IMAGE_ID=9" in failed(export(site))
    found.props["Aux/one/IMAGE_ID"] = "5"
    with site.cluster.lock:
        for node in ("node1", "node2"):
            satellites.go_offline(site.cluster, node)
    try:
        assert f"{name} has no replica on an online node" in failed(export(site))
    finally:
        with site.cluster.lock:
            for node in ("node1", "node2"):
                satellites.come_back(site.cluster, node)


def test_a_host_without_linstor_is_not_chosen(site: Site) -> None:
    cp(site)
    far(site)
    site.documents.put(D.host(9, "aaa"))
    assert info(export(site))["IMPORT_SOURCE"].startswith("ssh://node3:")


def test_d9_the_datastores_own_controllers_choose_the_host(site: Site) -> None:
    other = Controller(site.cluster)
    other.start("127.0.0.1", 4370)
    try:
        cp(site)
        far(site)
        site.datastores(RESOURCE_GROUP="opennebula", LS_CONTROLLERS="127.0.0.1:4370")
        site.controller.faults.log.clear()
        dispose(site, info(export(site)))
        assert other.faults.log and site.controller.faults.log == [] and not site.attached(NAME)
    finally:
        other.stop()


def test_a_wrong_letting_go_touches_nothing(site: Site) -> None:
    cp(site)
    script = "datastore/linstor_un/export_done"
    before = list(site.controller.faults.log)
    for words in (["node3:/etc/passwd", "5", "100"], ["node3", "5", "100"], [f"node3:{by_res(NAME)}", "x", "100"]):
        failed(site.oned.finish(site.oned.recorded(script, words, "")), 2)
    assert site.controller.faults.log == before
    read_nothing(done(site.oned.finish(site.oned.recorded(script, [f"node3:{by_res(NAME)}", "5", "100"], ""))))
