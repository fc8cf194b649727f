"""A whole site for the tests of a module; its attribute SITE, if any, has the arguments (see lab.site.Site)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.hosts import LabUnavailable
from lab.site import Site


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
