"""A whole life against a model of who owns which bytes; `./tests/run histories` draws random ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.guests import Guests
from lab.histories.life import Life
from lab.hosts import LabUnavailable
from lab.site import Site

pytestmark = pytest.mark.slow


@pytest.fixture(params=[("5.12.0", "1.20"), ("7.4.0", "1.33")], ids=" on ".join, scope="module")
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Site, Guests]]:
    """A site with libvirt on its hosts: OpenNebula's release and LINSTOR's."""
    try:
        site = Site(*request.param)
    except LabUnavailable as reason:
        pytest.skip(str(reason))
    with site:
        try:
            made = Guests(site.hosts)
        except LabUnavailable as reason:
            pytest.skip(str(reason))
        with made as guests:
            guests.start()
            yield site, guests


def test_each_action_of_a_life_leaves_what_there_should_be(pair: tuple[Site, Guests]) -> None:
    life = Life(*pair)
    try:
        assert [step for step in life.live() if step.wrong] == []
    finally:
        life.close()
