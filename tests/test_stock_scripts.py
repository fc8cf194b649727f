"""VMs in other drivers' datastores: OpenNebula's own scripts get what they would have got without this driver."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.oned import documents as D
from lab.oned.answers import Outcome
from lab.site import Site
from site_support import failed

pytestmark = pytest.mark.slow

FILE = "/var/lib/one//datastores/106/7/checkpoint"
DOCUMENT = D.vmm_action(7, D.datastore(106, 1, tm_mad="ssh"), CONTEXT={"WORDS": "it's $(HOME) & \"such\"\n"})

# What it got is left beside it; it ends as the test wants.
STOCK = """#!/bin/sh
cat >/var/tmp/one/stdin
printf '%s\\n' "$0" "$@" >/var/tmp/one/words
printf '{stdout}'
printf '{stderr}' >&2
exit {code}
"""


def install(
    site: Site, name: str, code: int = 0, stdout: str = "", stderr: str = "", base: str = "/var/tmp/one"
) -> str:
    """Put a stock script on node2 and return its path."""
    path = f"{base}/vmm/kvm/{name}"
    text = STOCK.format(code=code, stdout=stdout, stderr=stderr)
    script = 'mkdir -p "${1%/*}" && cat >"$1" && chmod 755 "$1"'
    site.hosts.run("node2", ["sh", "-c", script, "sh", path], input=text)
    return path


def save(site: Site, file: str = FILE, deploy_id: str = "one-7") -> Outcome:
    return site.oned.vmm("save_linstor_un", deploy_id, file, "node2", "7", "node2", message=DOCUMENT)


def restore(site: Site) -> Outcome:
    return site.oned.vmm("restore_linstor_un", FILE, "node2", "one-7", "7", "node2", message=DOCUMENT)


def got(site: Site, name: str) -> str:
    return str(site.hosts.run("node2", ["cat", f"/var/tmp/one/{name}"]).stdout)


def test_the_stock_script_gets_the_same_words_and_the_document_as_xml(site: Site) -> None:
    path = install(site, "save")
    outcome = save(site, deploy_id="a domain's \"name\" $(x)".replace("'", ""))
    assert outcome.success and not outcome.stdout and not outcome.stderr
    assert got(site, "words").splitlines() == [path, 'a domains "name" $(x)', FILE, "node2", "7", "node2"]
    assert got(site, "stdin") == DOCUMENT

    path = install(site, "restore")
    assert restore(site).success
    assert got(site, "words").splitlines() == [path, FILE, "node2", "one-7", "7", "node2"]
    assert got(site, "stdin") == DOCUMENT


@pytest.mark.parametrize("code", [1, 42, 124, 255])
def test_oned_reads_exactly_what_the_stock_script_said(site: Site, code: int) -> None:
    install(site, "save", code, stdout="SAVED \\303\\244 %%s \\377\\n", stderr="ERROR: save: log\\nCould not save\\n")
    outcome = save(site)
    assert outcome.ended.stdout == "SAVED \N{LATIN SMALL LETTER A WITH DIAERESIS} %s ".encode() + b"\xff\n"
    assert (outcome.code, outcome.stderr) == (code, "ERROR: save: log\nCould not save\n")
    assert outcome.user_message == "Could not save"


def test_linstor_is_not_asked_and_nothing_of_the_vm_is_touched(site: Site) -> None:
    install(site, "save")
    site.controller.stop()
    try:
        assert save(site).success
    finally:
        site.controller.start("127.0.0.1", 3370)


def test_a_host_without_the_stock_scripts_is_named_with_what_to_do(site: Site) -> None:
    sentence = failed(save(site))
    assert sentence == (
        "save_linstor_un: /var/tmp/one/vmm/kvm/save is missing on node2; run `onehost sync --force node2` and retry"
    )


def test_scripts_are_where_oned_says_that_they_are(site: Site) -> None:
    config = Path(site.frontend.var) / "config"
    before = config.read_text()
    config.write_text(before.replace("SCRIPTS_REMOTE_DIR=/var/tmp/one", 'SCRIPTS_REMOTE_DIR="/var/tmp/one/elsewhere"'))
    try:
        path = install(site, "restore", base="/var/tmp/one/elsewhere")
        assert restore(site).success
        assert got(site, "words").splitlines()[0] == path
    finally:
        config.write_text(before)


def test_a_host_that_does_not_answer_is_a_failure_with_its_name(site: Site) -> None:
    install(site, "save")
    site.hosts.stop("node2")
    try:
        assert "host node2 cannot be reached" in failed(save(site))
    finally:
        site.hosts.start("node2")
