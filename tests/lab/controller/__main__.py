"""Serve a simulated controller: python -m lab.controller --nodes node1,node2 --pool thin:LVM_THIN:10G"""

from __future__ import annotations

import argparse
import signal

from .cluster import Cluster
from .server import Controller, Tls

UNITS = {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}


def main() -> None:
    """Build the cluster from the arguments, print its URL on one line, serve until terminated."""
    parser = argparse.ArgumentParser(prog="lab.controller", description=__doc__)
    parser.add_argument("--version", default="1.33")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--nodes", default="node1,node2,node3")
    parser.add_argument("--pool", action="append", default=[], help="NAME:KIND:SIZE[:NODE,NODE]")
    parser.add_argument("--layers", default="DRBD,LUKS,STORAGE", help="layers the satellites support")
    parser.add_argument("--token", default="")
    parser.add_argument("--certificate", default="")
    parser.add_argument("--key", default="")
    parser.add_argument("--client-ca", default="")
    arguments = parser.parse_args()
    cluster = build(arguments.version, arguments.nodes.split(","), arguments.pool, arguments.layers.split(","))
    tls = Tls(arguments.certificate, arguments.key, arguments.client_ca) if arguments.certificate else None
    controller = Controller(cluster, arguments.token).start(arguments.host, arguments.port, tls)
    print(controller.url, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    controller.stop()


def build(version: str, nodes: list[str], pools: list[str], layers: list[str]) -> Cluster:
    """Return a cluster of online nodes; each pool is "NAME:KIND:SIZE" with SIZE like 10G, or with ":NODES" after."""
    cluster = Cluster(version)
    for place, name in enumerate(nodes):
        cluster.add_node(name, address=f"127.0.0.{11 + place}", layers=tuple(layers))
    for text in pools:
        name, kind, size, *where = text.split(":")
        for node in where[0].split(",") if where else nodes:
            cluster.add_pool(node, name, kind, int(size[:-1]) * UNITS[size[-1].upper()],
                             props={"StorDriver/StorPoolName": f"/srv/{name}"})
    return cluster


if __name__ == "__main__":
    main()
