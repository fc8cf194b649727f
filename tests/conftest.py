"""A whole site for the tests of a module, with guests on its hosts for those that ask.

The module's attribute SITE, if any, has the site's arguments (see lab.site.Site).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.guests import Guests
from lab.hosts import LabUnavailable
from lab.primaries import Primaries
from lab.site import Site

# A file stays with one worker: the longest ones come first, so that none of them is alone at the end.
_LONGEST = (
    "test_live_migration",
    "test_histories",
    "test_migration",
    "test_checkpoints",
    "test_replay",
    "test_replay_rules",
    "test_versions",
    "test_snap_revert",
    "test_backups",
    "test_lab_guests",
    "test_saveas",
    "test_moving",
    "test_relocation",
    "test_hazards_actions",
    "test_guest",
    "test_disks",
    "test_host_failure",
    "test_backup_restore",
    "test_controller_contract",
    "test_budget",
    "test_image_snapshots",
    "test_chaos",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(_LONGEST)))


@pytest.fixture(scope="module")
def module_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    try:
        made = Site(**getattr(request.module, "SITE", {}))
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    with made:
        yield made


@pytest.fixture
def site(module_site: Site) -> Iterator[Site]:
    """The module's site, as new for each test."""
    yield module_site
    module_site.reset()


@pytest.fixture(scope="module")
def module_guests(module_site: Site) -> Iterator[Guests]:
    try:
        made = Guests(module_site.hosts)
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    with made:
        yield made


@pytest.fixture
def guests(site: Site, module_guests: Guests) -> Iterator[Guests]:
    """libvirt on all hosts of the module's site, without domains for each test."""
    module_guests.start()
    yield module_guests
    module_guests.clear()


@pytest.fixture
def primaries(site: Site) -> Iterator[Primaries]:
    """Devices that refuse a second opener, as DRBD does, unless LINSTOR was told to allow two primaries."""
    made = Primaries(site)
    try:
        made.start()
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    yield made
    made.close()
