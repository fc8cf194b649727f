"""A whole OpenNebula site on LINSTOR: controller, hosts with real bytes, oned's side, our driver installed.

    with Site() as site:
        site.image(5, b"content")
        outcome = site.oned.tm("clone", *site.clone_words(vm=7, disk=0, image=5, host="node1"))
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Optional, Union

from lab.controller import router, snapshots
from lab.controller.cluster import Cluster, Definition
from lab.controller.server import Controller
from lab.controller.volumes import Content
from lab.hosts import Hosts, LoopVolumes, account
from lab.oned import documents
from lab.oned.driver import Oned
from lab.oned.store import Documents
from lab.oned.xmlrpc import XmlRpc
from lab.opennebula.frontend import REPOSITORY, install_frontend
from lab.opennebula.interpreter import open_the_way

IMAGES, SYSTEM = 100, 101
VAR = Path("/var/lib/one")
MIB = 1 << 20
GIB_IN_KIB = 1 << 20


class Site:
    """One site; the process that makes it is its front-end, in namespaces of its own.

    Arguments:
        version: OpenNebula's release; linstor: the simulated controller's.
        hosts: names; each is a LINSTOR node with the pools `pools` (name -> provider kind), 8 GiB each.
        dirty: whether new volumes hold somebody's old bytes, as thick pools do.

    Raises:
        LabUnavailable: what is missing here.
    """

    def __init__(
        self,
        version: str = "7.4.0",
        linstor: str = "1.33",
        hosts: Iterable[str] = ("node1", "node2", "node3"),
        pools: Optional[Mapping[str, str]] = None,
        dirty: bool = False,
    ) -> None:
        self.hosts = Hosts(hosts)
        self.hosts.start()
        open_the_way()
        self.pools = dict(pools or {"thin": "LVM_THIN"})
        self.volumes = LoopVolumes(None, self.hosts, dirty=dirty)
        self.cluster = Cluster(linstor, self.volumes)
        self.controller = Controller(self.cluster)
        self.controller.start("127.0.0.1", 3370)
        self.documents = Documents()
        self.xmlrpc = XmlRpc(self.documents, version).start("127.0.0.1", 2633)
        self._install(version)
        self.furnish()

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything; nothing is left on the machine."""
        self.xmlrpc.stop()
        self.controller.stop()
        self.volumes.close()
        self.hosts.close()

    def _install(self, version: str) -> None:
        self.frontend = install_frontend(VAR, version, driver=REPOSITORY, owner=(account.UID, account.GID))
        env = self.frontend.env(dict(self.hosts.frontend_env()))
        self.oned = Oned(version, self.frontend.remotes, env=env, cwd=str(VAR), user=account.NAME)

    def furnish(self) -> None:
        """Register nodes, pools, the group "opennebula" (two replicas), datastores 100 and 101, and hosts."""
        for number, name in enumerate(self.hosts.names):
            self.cluster.add_node(name, address=self.hosts.address(name), layers=("DRBD", "LUKS", "STORAGE"))
            for pool, kind in self.pools.items():
                self.cluster.add_pool(name, pool, kind, 8 * GIB_IN_KIB)
            self.documents.put(documents.host(number, name))
        self.group("opennebula", place_count=2, storage_pool_list=[next(iter(self.pools))])
        self.datastores(RESOURCE_GROUP="opennebula")

    def group(self, name: str, **select: Any) -> None:
        """Create a resource group with a volume group, as the administrator does."""
        self.rest("POST", "/v1/resource-groups", {"name": name, "select_filter": select})
        self.rest("POST", f"/v1/resource-groups/{name}/volume-groups", {})

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """Ask LINSTOR as somebody else than the driver; the request is not logged and meets no fault.

        Raises RuntimeError with LINSTOR's answer unless it succeeded.
        """
        raw = None if body is None else json.dumps(body).encode()
        response = router.respond(self.cluster, method, path, {}, raw)
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {(response.body or b'').decode()}")
        return json.loads(response.body) if response.body else None

    def datastores(self, **attributes: Union[str, int]) -> None:
        """Set the attributes of both datastores, images and system, to exactly these."""
        self.image_datastore = documents.datastore(IMAGES, SAFE_DIRS="/var/tmp", RESTRICTED_DIRS="/", **attributes)
        self.system_datastore = documents.datastore(SYSTEM, 1, **attributes)
        self.documents.put(self.image_datastore, self.system_datastore)

    def reset(self) -> None:
        """Be as new: no definitions, files, documents, faults or openers, everything online."""
        self.controller.faults.clear()
        for definition in list(self.cluster.definitions.values()):
            for snapshot in definition.snapshots.values():
                for key in list(snapshot.taken):
                    snapshots.drop_from(self.cluster, None, definition, snapshot, snapshot.resources[key]["node"])
            for resource in definition.resources.values():
                shared = "DRBD" in resource.layers
                content = Content(definition.name, 0, "" if shared else resource.node)
                for snapshot in definition.snapshots.values():
                    with contextlib.suppress(OSError):
                        self.volumes.delete_snapshot(content, snapshot.name)
                with contextlib.suppress(OSError, KeyError):
                    self.volumes.delete(content)
        self.cluster.clear()
        self.documents.clear()
        for name in self.hosts.names:
            self.hosts.run(name, ["sh", "-c", "rm -rf /var/lib/one/datastores/* /var/tmp/*"], user="root")
        for left in (VAR / "datastores").iterdir():
            shutil.rmtree(left)
        self.furnish()

    # --- looking ------------------------------------------------------------------------------------------

    def definition(self, name: str) -> Optional[Definition]:
        """Return a definition, or None."""
        return self.cluster.definition(name)

    def holders(self, name: str) -> list[str]:
        """Return the nodes with a replica."""
        found = self.cluster.definition(name)
        return sorted(r.node for r in found.resources.values() if not r.diskless) if found else []

    def attached(self, name: str) -> list[str]:
        """Return the nodes with a diskless attachment, tiebreakers left out."""
        found = self.cluster.definition(name)
        rest = found.resources.values() if found else []
        return sorted(r.node for r in rest if r.diskless and "TIE_BREAKER" not in r.flags)

    def contents(self, definition: Definition) -> list[Content]:
        """Return what is behind a definition: one content under DRBD, one a replica without."""
        shared = any("DRBD" in resource.layers for resource in definition.resources.values())
        nodes = [""] if shared else [r.node for r in definition.resources.values()]
        return [Content(definition.name, 0, node) for node in nodes]

    def read(self, name: str, size: int, node: str = "") -> bytes:
        """Return the first `size` bytes of a volume; `node` for a stack without DRBD."""
        with self.volumes.settled(Content(name, 0, node)).open("rb") as file:
            return file.read(size)

    def digest(self, name: str, node: str = "") -> str:
        """Return a hash of all bytes of a volume."""
        with self.volumes.settled(Content(name, 0, node)).open("rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def domains(self) -> Iterator[tuple[str, str, str]]:
        """Yield name, host and state of each guest; a site by itself has none."""
        yield from ()

    def link(self, host: str, vm: int, disk: int, datastore: int = SYSTEM) -> str:
        """Return where a VM's disk link points to on a host, "" when there is none."""
        path = f"/var/lib/one/datastores/{datastore}/{vm}/disk.{disk}"
        return self.hosts.run(host, ["readlink", path], check=False).stdout.strip()

    # --- words oned sends ---------------------------------------------------------------------------------

    def disk_word(self, host: str, vm: int, disk: int, datastore: int = SYSTEM) -> str:
        """Return HOST:PATH of a disk, with oned's double slash."""
        return f"{host}:/var/lib/one//datastores/{datastore}/{vm}/disk.{disk}"

    def source_word(self, image: int) -> str:
        """Return FE:SOURCE of an image."""
        return f"frontend:/dev/drbd/by-res/one-image-{image}/0"
