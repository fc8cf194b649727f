"""Every difference between a site and the model of it, in words."""

from __future__ import annotations

from lab.histories.domains import Domains
from lab.histories.model import Model, Volume, differing
from lab.matrix.looking import look
from lab.site import Site


def compare(site: Site, model: Model, domains: Domains) -> list[str]:
    """Return every difference, of volumes with all their bytes, attachments, links, and VMs that run."""
    wanted, memory = model.volumes(), model.checkpoints()
    with site.cluster.lock:
        there = {definition.name for definition in site.cluster.sorted_definitions()}
        wrong = [f"{name} is lost" for name in sorted((wanted.keys() | memory) - there)]
        wrong += [f"{name} is left over" for name in sorted(there - wanted.keys() - memory)]
        for name in sorted(wanted.keys() & there):
            wrong += _volume(site, wanted[name])
        for name in sorted(memory & there):
            wrong += _complete(site, name)
        wrong += _attachments(site, model, there)
    wrong += _links(site, model)
    running = domains.running()
    wrong += [f"{name} does not run on {host}" for name, host in sorted(model.running() - running)]
    wrong += [f"{name} runs on {host}" for name, host in sorted(running - model.running())]
    return wrong


def _attachments(site: Site, model: Model, there: set[str]) -> list[str]:
    homes = {(name, node) for name in there for node in site.attached(name)}
    tied = {(name, node) for name in there for node in _tiebreakers(site, name)}
    needed = {(name, host) for name, host in model.homes() if name in there and host not in site.holders(name)}
    missing, extra = needed - homes - tied, homes - needed - model.lost_homes()
    return [f"{name} is not attached on {host}" for name, host in sorted(missing)] + [
        f"{name} is still attached on {host}" for name, host in sorted(extra)
    ]


def _links(site: Site, model: Model) -> list[str]:
    found = {
        (owner, path): text[3:] for (kind, owner, path), text in look(site).items()
        if kind == "file" and text.startswith("-> ")
    }
    # What a host had before it died may be there, but leads where it led.
    wanted = {**{key: device for key, device in model.lost_links().items() if key in found}, **model.links()}
    return [
        f"{path} on {owner} points to {found.get((owner, path))}, not to {wanted.get((owner, path))}"
        for owner, path in sorted(found.keys() | wanted.keys())
        if found.get((owner, path)) != wanted.get((owner, path))
    ]


def _tiebreakers(site: Site, name: str) -> list[str]:
    found = site.definition(name)
    return [r.node for r in found.resources.values() if "TIE_BREAKER" in r.flags] if found else []


def _volume(site: Site, volume: Volume) -> list[str]:
    wrong = []
    definition = site.definition(volume.name)
    assert definition
    size = definition.volumes[0].size // 1024
    if size < volume.size:
        wrong.append(f"{volume.name} has {size} MiB instead of {volume.size}")
    wrong += _complete(site, volume.name)
    snapshots = {snapshot.name for snapshot in definition.snapshots.values()}
    if snapshots != {f"snapshot-{number}" for number in volume.snapshots}:
        wrong.append(f"{volume.name} has the snapshots {sorted(snapshots)}, not {sorted(volume.snapshots)}")
    found = differing(volume.blocks, site.read(volume.name, 1 << 30))
    if found is not None:
        wrong.append(f"block {found} of {volume.name} has other bytes than it should")
    return wrong


def _complete(site: Site, name: str) -> list[str]:
    definition = site.definition(name)
    assert definition
    wrong = []
    if len(site.holders(name)) < 2:
        wrong.append(f"{name} has only the replicas {site.holders(name)}")
    half = {"Aux/one/STATE", "Aux/one/RUN"} & definition.props.keys()
    if half or definition.flags:
        wrong.append(f"{name} is not complete: {sorted(half)} {list(definition.flags)}")
    return wrong
