"""Paths in libvirt's description of a saved domain: the VM's own follow its directory, all others stay (hazard V6)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from linstor_un.domainxml import is_of, moved

DIRECTORY = "/var/lib/one/datastores/102/7"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<a dev='/var/lib/one//datastores/101/7/disk.0'/>", "<a dev='/var/lib/one//datastores/102/7/disk.0'/>"),
        ('file="/var/lib/one/datastores/5/7/disk.1"', 'file="/var/lib/one/datastores/102/7/disk.1"'),
        ("<d>/var/lib/one/datastores/101/7</d>", "<d>/var/lib/one/datastores/102/7</d>"),
        ("file=/var/lib/one/datastores/1/7/a,if=none", "file=/var/lib/one/datastores/102/7/a,if=none"),
    ],
)
def test_a_path_of_the_vm_follows_its_directory(before: str, after: str) -> None:
    assert moved(before, DIRECTORY) == after


@pytest.mark.parametrize(
    "path",
    [
        "/sys/12/7/x", "/7/", "/12/7/",
        "/var/lib/one/datastores/101/70/disk.0", "/var/lib/one/datastores/101/17/disk.0",
        "/srv/var/lib/one/datastores/101/7/disk.0", "/var/lib/one/datastores/a/7/disk.0", "/var/lib/one/datastores/7",
        "/var/lib/one/datastores/101/7.old/disk.0", "/var/lib/one/datastores/101/7-1",
        "/var/lib/one/datastores/x/101/7",
        "x/var/lib/one/datastores/101/7/y", "/var/lib/oneX/datastores/101/7", "/var/lib/one/datastores/-1/7/d",
    ],
)
def test_a_path_of_anything_else_stays(path: str) -> None:
    xml = f"<source file='{path}'/><path>{path}</path>"
    assert moved(xml, DIRECTORY) == xml


def test_a_location_with_signs_of_patterns_and_of_xml_is_taken_by_its_letters() -> None:
    directory = "/srv/a.b+c&d/datastores/102/7"
    before = "<s dev='/srv/a.b+c&amp;d/datastores/101/7/disk.0'/><s dev='/srv/aXb+c&amp;d/datastores/101/7/disk.0'/>"
    assert moved(before, directory) == before.replace("/101/7", "/102/7", 1)


_SLASHES = st.sampled_from(["/", "//", "///"])
_NUMBER = st.integers(0, 10**6).map(str)
_OTHERS = st.sampled_from(["/", "/12/5/", "7/7/7", "/var/lib", "datastores/101/7", "<a b='", "'/>", ">", " ", ",", "="])


@st.composite
def _own(draw: st.DrawFn) -> tuple[str, str]:
    """A path of the VM in some datastore between quotes, and what is to become of it."""
    number = draw(_NUMBER)
    names = ["var", "lib", "one", "datastores"]
    begin = "".join(draw(_SLASHES) + name for name in names) + draw(_SLASHES)
    end = f"{draw(_SLASHES)}7{draw(st.sampled_from(['', '/', '/disk.0', '/a b', '//x/7/7']))}"
    return f'"{begin}{number}{end}"', f'"{begin}102{end}"'


@given(st.lists(st.one_of(_own(), _OTHERS.map(lambda text: (text, text)))))
def test_only_the_number_of_the_datastore_changes_and_only_in_the_vms_paths(pieces: list[tuple[str, str]]) -> None:
    before, after = ("".join(piece[side] for piece in pieces) for side in (0, 1))
    assert moved(before, DIRECTORY) == after
    assert moved(after, DIRECTORY) == after


@given(st.text(), st.integers(0, 10**9), st.integers(0, 10**9))
def test_what_has_no_path_of_the_vm_is_never_changed(text: str, datastore: int, vm: int) -> None:
    directory = f"/var/lib/one/datastores/{datastore}/{vm}"
    if "datastores" not in text:
        assert moved(text, directory) == text


def test_a_description_is_of_the_domain_that_its_own_name_or_uuid_says() -> None:
    xml = "<domain type='kvm'>\n  <name>a &amp; b</name>\n  <uuid>1-2</uuid>\n  <metadata><name>one-8</name></metadata>"
    assert is_of(xml, "a & b") and is_of(xml, "1-2")
    assert not is_of(xml, "one-8") and not is_of(xml, "") and not is_of("", "one-7")
