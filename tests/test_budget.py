"""Each action keeps to its numbers of requests to LINSTOR and of commands and connections by ssh."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.bench_budget import BUDGETS
from lab.bench_usage import Traffic, traffic
from lab.hosts import isolation
from lab.matrix import scene
from lab.matrix.actions import Action, actions, make_image_files
from lab.matrix.effects import Saboteur
from lab.site import Site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(isolation.missing()), reason=isolation.missing() or "the lab is there"),
]


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with scene.Stage() as site:
        make_image_files()
        yield site


@pytest.fixture(scope="module")
def saboteur(site: Site) -> Saboteur:
    return Saboteur(site)


def test_every_action_has_a_budget_and_a_reason_where_it_is_over_the_goal() -> None:
    assert set(BUDGETS) == {action.name for action in actions()}
    for name, budget in BUDGETS.items():
        over = budget.requests > budget.goal[0] or budget.connections > budget.goal[1]
        assert budget.reason or not over, name


@pytest.mark.parametrize("action", actions(), ids=lambda action: action.name)
def test_an_action_keeps_to_its_budget(site: Site, saboteur: Saboteur, action: Action) -> None:
    budget = BUDGETS[action.name]
    found: Traffic = traffic(site, saboteur, action)
    said = f"{len(found.requests)} requests, {found.commands} commands, {found.connections} connections: " + ", ".join(
        found.requests
    )
    assert len(found.requests) <= budget.requests, said
    assert found.commands <= budget.commands, said
    assert found.connections <= budget.connections, said
