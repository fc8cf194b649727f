"""oned's documents of a history, and its calls of the driver's scripts, noted one by one."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Optional, TypeVar

from lab.histories.model import (
    POWEROFF,
    RUNNING,
    STOPPED,
    STORED,
    SUSPENDED,
    UNDEPLOYED,
    Disk,
    Image,
    Model,
    Vm,
)
from lab.oned import documents as D
from lab.oned.answers import Misread, Outcome, read_nothing
from lab.site import IMAGES, Site

Answer = TypeVar("Answer")
FRONTEND = "frontend"
ROOT = "/var/lib/one//datastores"
# LCM_STATE by what is done, and to a VM in which state: DISK_RESIZE and DISK_RESIZE_POWEROFF, ...
_LCM = {
    "prolog": 1, "epilog": 11, "migrate": 4, "revert": 52, "restore": 71, "lost": 60,
    "save_stop": 5, "save_suspend": 6, "save_migrate": 7, "boot_suspended": 21, "boot_stopped": 22, "boot_migrate": 35,
    "mv_saved": 8, "mv_stopped": 9, "mv_stop": 10, "mv_undeploy": 30, "mv_undeployed": 31,
    ("mv", POWEROFF): 43, ("mv", SUSPENDED): 45,
    ("plug", RUNNING): 17, ("plug", POWEROFF): 33, ("unplug", RUNNING): 17, ("unplug", POWEROFF): 34,
    ("snapshot", RUNNING): 57, ("snapshot", POWEROFF): 51, ("snapshot", SUSPENDED): 54,
    ("unsnapshot", RUNNING): 59, ("unsnapshot", POWEROFF): 53, ("unsnapshot", SUSPENDED): 56,
    ("resize", RUNNING): 62, ("resize", POWEROFF): 63, ("resize", UNDEPLOYED): 64,
    ("saveas", RUNNING): 26, ("saveas", POWEROFF): 27, ("saveas", SUSPENDED): 28, ("saveas", UNDEPLOYED): 67,
    ("saveas", STOPPED): 68, ("backup", RUNNING): 69, ("backup", POWEROFF): 70,
}  # fmt: skip
# STATE and LCM_STATE of a VM to which nothing is done.
_STATES = {RUNNING: (3, 3), STOPPED: (4, 0), SUSPENDED: (5, 0), POWEROFF: (8, 0), UNDEPLOYED: (9, 0)}
# The least that oned lets a VM have, and more than the guests have.
_MEMORY = 128


class CallFailed(AssertionError):
    """A call that has to succeed did not."""


class Calls:
    """The daemon over a site, and what it called so far."""

    def __init__(self, site: Site, model: Model, telling: Callable[[], AbstractContextManager[None]]) -> None:
        """Arguments: telling, a context that keeps what goes wrong in it."""
        self.site = site
        self.model = model
        self.trace: list[str] = []
        self.happened: Counter[str] = Counter()
        self._telling = telling

    # --- scripts ------------------------------------------------------------------------------------------

    def _tm(self, action: str, *words: object, stdin: str = "") -> None:
        texts = [str(word) for word in words]
        self._done(f"{action} {' '.join(texts)}", lambda: self.site.oned.tm(action, *texts, stdin=stdin), read_nothing)

    def _ds(
        self, action: str, image: Image, read: Callable[[Outcome], Answer], path: str = "", source: str = "",
        target: int = -1, form: str = "",
    ) -> Answer:
        text = D.image(
            self.site.oned.release, image.number, path=path, source=source, size=image.volume.size, target=target,
            snapshots=sorted(image.volume.snapshots), format=form,
        )
        return self._done(f"{action} of image {image.number} {path or source or form}",
                          lambda: self.site.oned.ds(action, text, self.site.image_datastore), read)

    def _vmm(self, vm: Vm, action: str, *words: str) -> None:
        store = self.site.documents.get("DATASTORE", vm.datastore)
        assert store
        message = D.vmm_action(vm.number, store, MEMORY=_MEMORY)
        self._done(f"{action} {' '.join(words)}",
                   lambda: self.site.oned.vmm(action, *words, str(vm.number), vm.host, message=message), read_nothing)

    @property
    def count(self) -> int:
        """How many calls of scripts there were, and failures of hosts and of the controller."""
        return sum(self.happened.values())

    def _note(self, kind: str, what: str) -> None:
        self.happened[kind] += 1
        self.trace.append(what)

    def _done(self, what: str, call: Callable[[], Outcome], read: Callable[[Outcome], Answer]) -> Answer:
        """Return what oned reads from a call that has to succeed."""
        self._note(what.split(maxsplit=1)[0], what)
        with self._telling():
            outcome = call()
            if not outcome.success:
                raise CallFailed(f"exit code {outcome.code}: {outcome.stderr.strip()}")
            try:
                return read(outcome)
            except Misread as failure:
                raise CallFailed(str(failure)) from failure

    def _happens(self, what: str, deed: Callable[[], object]) -> None:
        """Let something happen that is not the driver's; RuntimeError is how it fails."""
        self.trace.append(what)
        with self._telling():
            try:
                deed()
            except RuntimeError as failure:
                raise CallFailed(f"{what}: {failure}") from failure

    # --- words --------------------------------------------------------------------------------------------

    def _datastore(self, vm: Vm, disk: Disk) -> int:
        return vm.datastore if disk.image is None else IMAGES

    def _directory(self, vm: Vm) -> str:
        return place(vm, FRONTEND if vm.state in STORED else vm.host, vm.datastore)

    def _word(self, vm: Vm, disk: Disk) -> str:
        return f"{self._directory(vm)}/disk.{disk.number}"

    # --- documents ----------------------------------------------------------------------------------------

    @contextmanager
    def _during(self, vm: Vm, what: object) -> Iterator[None]:
        """Let oned say that something is done to a VM, and afterwards that nothing is."""
        self.site.documents.put(self._document(vm, what))
        yield
        self._publish(vm)

    def _publish(self, vm: Vm) -> None:
        self.site.documents.put(self._document(vm))

    def _document(self, vm: Vm, what: object = None, backup: Optional[D.Values] = None) -> str:
        disks = [
            D.DiskDocument(
                disk.number, disk.volume.size, disk.image.number if disk.image else None, clone=not disk.linked,
                kind="BLOCK" if disk.image else "swap" if disk.swap else "fs", datastore=self._datastore(vm, disk),
                more={"PERSISTENT": "YES"} if disk.linked else {},
            )
            for disk in vm.disks.values()
        ]
        state, lcm_state = _STATES[vm.state] if what is None else (3, _LCM[what])  # type: ignore[index]
        return D.vm(vm.number, disks, records=vm.records, state=state, lcm_state=lcm_state, backup=backup)

    def _encoded(self, vm: Vm, what: object) -> str:
        return base64.b64encode(self._document(vm, what).encode()).decode()


def place(vm: Vm, host: str, datastore: int) -> str:
    """Return HOST:DIRECTORY of a VM, with oned's double slash."""
    return f"{host}:{ROOT}/{datastore}/{vm.number}"


def source(name: str) -> str:
    """Return SOURCE of an image by its definition's name."""
    return f"/dev/drbd/by-res/{name}/0"
