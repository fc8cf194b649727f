"""Lives of a site against a model of who owns which bytes; `./tests/run histories` draws a hundred random ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.compatibility import LINSTOR, OPENNEBULA
from lab.guests import Guests
from lab.histories.__main__ import run
from lab.histories.life import Life
from lab.hosts import LabUnavailable
from lab.site import Site

pytestmark = pytest.mark.slow

OLDEST, NEWEST = (OPENNEBULA[0], LINSTOR[0]), (OPENNEBULA[-1], LINSTOR[-1])


@pytest.fixture(params=[OLDEST, NEWEST], ids=" on ".join, scope="module")
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


def test_a_history_that_is_drawn_ends_as_the_model_says(pair: tuple[Site, Guests]) -> None:
    ended = run(*pair, number=5, examples=1, steps=8)
    assert ended.failure == "" and ended.histories and ended.steps
