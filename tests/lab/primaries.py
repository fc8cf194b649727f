"""DRBD's answer to those who open a volume while another node is primary, on the devices of a site."""

from __future__ import annotations

import threading
from typing import Optional

from lab.controller import drbd_kernel
from lab.controller.cluster import Definition
from lab.controller.contents import content
from lab.controller.volumes import Content, Opening
from lab.site import Site

# DRBD knows an opener at once; between two looks nobody else is let in or kept out wrongly for long
_PAUSE = 0.03


class Primaries:
    """Between `start` and `close`, who may open a DRBD device follows who has it open, and allow-two-primaries.

    A change that LINSTOR was asked for holds when the answer is there; an open or a close some 30 ms later, or when
    `settle` returns.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._shown: dict[Content, tuple[frozenset[str], tuple[int, ...]]] = {}
        self._end = threading.Event()
        self._thread: Optional[threading.Thread] = None

    def start(self) -> None:
        """Begin to refuse.

        Raises:
            LabUnavailable: this kernel cannot refuse as DRBD does.
        """
        for name in self._site.hosts.names:
            if self._site.hosts.first_process(name):
                self._site.hosts.refusals(name)
        self._site.cluster.settled = self.settle
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Refuse nothing any more."""
        self._end.set()
        assert self._thread is not None
        self._thread.join()
        with self._site.cluster.lock:
            self._site.cluster.settled = lambda: None
            for one in self._shown:
                if one in self._site.volumes.contents():
                    self._site.volumes.refuse_on(one, ())

    def settle(self) -> None:
        """Let the devices refuse and admit as DRBD would now."""
        site = self._site
        with site.cluster.lock, site.volumes.one_look():
            running = tuple(site.hosts.first_process(name) for name in site.hosts.names)
            present = site.volumes.contents()
            wanted = {one: nodes for definition in site.cluster.sorted_definitions()
                      for one, nodes in self._refusing(definition).items() if one in present}
            for one, nodes in wanted.items():
                if self._shown.get(one, (frozenset(), running)) != (nodes, running):
                    site.volumes.refuse_on(one, nodes)
            self._shown = {one: (nodes, running) for one, nodes in wanted.items()}

    def _refusing(self, definition: Definition) -> dict[Content, frozenset[str]]:
        """Return for each volume of a definition the nodes on which DRBD lets nobody open it."""
        found: dict[Content, frozenset[str]] = {}
        for owner in definition.resources.values():
            if "DRBD" not in owner.layers:
                continue
            refused = drbd_kernel.refusal(self._site.cluster, owner, Opening.WRITE) == drbd_kernel.ERROFS
            for number in owner.volumes:
                one = content(owner, number)
                found[one] = found.get(one, frozenset()) | ({owner.node} if refused else set())
        return found

    def _watch(self) -> None:
        while not self._end.wait(_PAUSE):
            self.settle()
