"""Settings -> the JSON that LINSTOR places by. Only what is set is sent: the rest comes from the resource group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from ..settings import Settings


def lower(layers: Sequence[str]) -> list[str]:
    """Return layer names as LINSTOR's clients send them."""
    return [layer.lower() for layer in layers]


def aux(term: str) -> str:
    """Return a property term, KEY or KEY=VALUE, with the namespace that the `linstor` client adds by itself."""
    return term if term.startswith("Aux/") else f"Aux/{term}"


def placement_filter(
    settings: Settings, *, nodes: Sequence[str] = (), count: Optional[int] = None, layers: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a select_filter (spawn, autoplace, query-size-info).

    Arguments: nodes, the only ones to choose from; count, instead of REPLICA_COUNT; layers, for spawn and
    queries (autoplace takes them beside the filter).
    """
    wanted = {
        "place_count": count or settings.replica_count,
        "node_name_list": list(nodes),
        "storage_pool_list": list(settings.storage_pools),
        "provider_list": [provider.upper() for provider in settings.providers],
        "replicas_on_same": [aux(term) for term in settings.replicas_on_same],
        "replicas_on_different": [aux(term) for term in settings.replicas_on_different],
        "not_place_with_rsc": list(settings.do_not_place_with),
        "not_place_with_rsc_regex": settings.do_not_place_with_regex,
        "layer_stack": lower(layers),
    }
    return {key: value for key, value in wanted.items() if value}


def definition_body(name: str, settings: Settings, marks: dict[str, str], layers: Sequence[str]) -> dict[str, Any]:
    """Return the body that creates a definition which is marked from its first moment."""
    body: dict[str, Any] = {"name": name, "props": marks}
    if layers:
        body["layer_data"] = [{"type": layer} for layer in lower(layers)]
    if settings.resource_group:
        body["resource_group_name"] = settings.resource_group
    return {"resource_definition": body}
