"""One recording's world: simulated LINSTOR, real hosts, an installed front-end, and oned's XML-RPC."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from lab.hosts import Hosts, account, isolation
from lab.oned.driver import Oned
from lab.oned.recordings import Call, Recording
from lab.oned.release import Release, release
from lab.oned.store import Documents
from lab.oned.xmlrpc import XmlRpc
from lab.opennebula import install_frontend
from lab.replaying import contents, facts
from lab.replaying.facts import Datastore, Place
from lab.replaying.guests import Guests
from lab.replaying.linstor import Linstor, Volumes, replica_count
from lab.replaying.snapshot import Definition, Snapshot
from lab.replaying.sources import Sources

VAR = Path("/var/lib/one")
DATASTORES = "/var/lib/one/datastores"
WATCHED = (DATASTORES, "/var/tmp", "/tmp")
FRONTEND = "frontend"
_SHARED = Path("/etc/lab-shared")
_READ_WHOLE = 1 << 20
"""Smaller files are told apart by their content."""


@dataclass(frozen=True)
class Migration:
    """A live migration that has begun: from host to host, into a directory.

    `before` are its definitions as they were, `there` says whether the directory was there already.
    """

    source: str
    target: str
    directory: str
    before: Mapping[str, Definition]
    there: bool


class World:
    """Everything a recording's calls meet. Hosts and their sshd live on from recording to recording."""

    def __init__(self, recording: Recording, hosts: Hosts, volumes: Volumes, linstor_version: str) -> None:
        self.hosts = hosts
        self.work = isolation.BASE / "replay"
        self.work.mkdir(exist_ok=True)
        self.documents = Documents()
        for pool in recording.pools:
            self.documents.put_pool(pool)
        self._datastores = {item.number: item for item in map(facts.read_datastore, self._datastore_documents())}
        self.linstor = Linstor(linstor_version, hosts.names, self._datastores.values(), volumes)
        self.release = _release(recording)
        self.frontend = install_frontend(VAR, self.release, owner=(account.UID, account.GID))
        self.sources = Sources(self.work, VAR / "backups")
        self.xmlrpc = XmlRpc(self.documents, recording.version)
        self.oned = Oned(self.release, self.frontend.remotes, hosts.frontend_env(), str(VAR), user=account.NAME)
        self.known: dict[str, str] = {}
        self.snapped: dict[tuple[str, int], tuple[str, int]] = {}
        """What snapshots hold, by definition and number: the fingerprint, and the size in KiB."""
        self._writes = 0
        self.guests = Guests(hosts, self.linstor.cluster, volumes)
        self.migrations: dict[int, Migration] = {}
        self.died: dict[str, set[tuple[str, str]]] = {}
        """Where definitions were linked on a host, by its path there, when it died and they were moved away."""
        self.owed_premigrate: dict[int, Call] = {}
        """Calls that did not do their work, should the recorded guest be migrated all the same."""
        self.loud: list[str] = []
        """The definitions whose bytes were kept by the present call while their guest could write."""
        volumes.at_moment = self._listen
        self.backups: dict[tuple[tuple[str, ...], int], str] = {}
        """What backups hold, by image and increment, and disk: the fingerprint."""
        self.source_fingerprints: dict[str, str] = {}
        self.source_sizes: dict[str, int] = {}

    def _listen(self, definition: str) -> None:
        guest = self.guests.written().get(definition)
        if guest and not guest.quiet:
            self.loud.append(definition)

    def __enter__(self) -> World:
        self.linstor.controller.start("127.0.0.1", 3370)
        self.xmlrpc.start("127.0.0.1", 2633)
        for number, datastore in self._datastores.items():
            if datastore.kind == "1" and datastore.tm_mad == "shared":
                self._share(number)
        self.known = {name: self.linstor.fingerprint(name) for name in self.linstor.definitions()}
        return self

    def __exit__(self, *_: object) -> None:
        self.guests.close()
        self.xmlrpc.stop()
        self.linstor.controller.stop()
        self.sources.close()
        for name in self.linstor.definitions():
            with contextlib.suppress(RuntimeError):
                self.linstor.remove(name)
        for host in (*self.hosts.names, FRONTEND):
            self._clean(host)
        shutil.rmtree(self.work, ignore_errors=True)

    @property
    def left_behind(self) -> list[tuple[str, str]]:
        """The links on hosts that died: (host, path), which any later action on the disk may remove."""
        return [place for places in self.died.values() for place in places]

    @property
    def lost(self) -> dict[str, frozenset[str]]:
        """The definitions of migrations that have not ended or of moves from a dead host, and these hosts.

        Whoever comes next may tidy up there.
        """
        found = {name: frozenset(host for host, _ in places) for name, places in self.died.items()}
        for one in self.migrations.values():
            for name in one.before:
                found[name] = found.get(name, frozenset()) | {one.source, one.target}
        return found

    # What the documents say

    def _datastore_documents(self) -> list[str]:
        return [document for _, document in self.documents.all("DATASTORE")]

    def learn(self, datastore: Datastore) -> None:
        """Take over a datastore's attributes from a call: the pool of the recording may be older or younger."""
        self._datastores[datastore.number] = datastore

    def datastore(self, number: int) -> Datastore:
        """Return a datastore, an empty one for a number nobody knows."""
        return self._datastores.get(number) or Datastore(number, "", "", {})

    def tm_mad(self, number: int) -> str:
        """Return the transfer driver of a datastore."""
        return self.datastore(number).tm_mad

    def replica_count(self, datastore: Datastore) -> int:
        """Return how many replicas the datastore asks for."""
        return replica_count(datastore)

    # Volumes

    def make_volume(
        self, name: str, mib: int, *, pattern: str = "", marks: Optional[Mapping[str, Any]] = None, copy_of: str = "",
    ) -> None:
        """Make a volume of earlier calls, filled with bytes drawn from `pattern` or with those of another volume."""
        if name in self.linstor.definitions():
            return
        self.linstor.make(name, mib, marks=marks or {})
        path = self.linstor.path(name)
        if copy_of and copy_of in self.linstor.definitions():
            contents.copy(self.linstor.path(copy_of), path)
        elif pattern:
            contents.write_pattern(path, mib << 20, pattern)
        self.known[name] = self.linstor.fingerprint(name)

    def attach(self, name: str, host: str) -> None:
        """Make a volume available on a host; the front-end is none."""
        if host != FRONTEND:
            self.linstor.attach(name, host)

    def detach(self, name: str, host: str) -> None:
        """Take a volume without a replica there away from a host."""
        self.linstor.detach(name, host)

    def remove(self, name: str) -> None:
        """Delete a volume."""
        self.linstor.remove(name)
        self.known.pop(name, None)

    def scribble(self, name: str) -> None:
        """Write something new into a volume, as its guest does between two calls."""
        if name in self.linstor.definitions():
            self._writes += 1
            contents.write_once(self.linstor.path(name), self._writes)
            self.known[name] = self.linstor.fingerprint(name)

    def remember_snapshot(self, name: str, number: int) -> None:
        """Note what a snapshot that was taken just now holds."""
        definition = self.linstor.definitions().get(name)
        if definition:
            self.snapped[name, number] = self.known.get(name, ""), definition.size

    def signature(self, name: str) -> str:
        """Return the file system that a volume holds."""
        return contents.signature(self.linstor.path(name))

    @contextlib.contextmanager
    def open(self, name: str, node: str) -> Iterator[None]:
        """Hold a volume's device open on a node, as a running guest does."""
        script = 'exec 9<>"$1"; echo; read -r x'
        command = self.hosts.entering(node, ["sh", "-c", script, "sh", f"/dev/drbd/by-res/{name}/0"])
        with contents.standing(command):
            yield

    # Files

    def host_path(self, host: str, path: str) -> Path:
        """Return where a path of a host, or of the front-end, is seen from here."""
        root = "/" if host == FRONTEND else f"/proc/{self.hosts.first_process(host)}/root"
        return Path(root, path.lstrip("/"))

    def make_directory(self, host: str, path: str) -> None:
        """Make a directory of oneadmin's, with its parents below the datastores."""
        wanted = self.host_path(host, path)
        for directory in reversed([wanted, *wanted.parents]):
            if not directory.exists() and str(directory).count("/datastores"):
                directory.mkdir()
                os.chown(directory, account.UID, account.GID)

    def link(self, host: str, path: str, name: str) -> None:
        """Let a path be a link to a volume's device."""
        self.make_directory(host, path.rsplit("/", 1)[0])
        self.unlink(host, path)
        target = self.host_path(host, path)
        target.symlink_to(f"/dev/drbd/by-res/{name}/0")
        os.chown(target, account.UID, account.GID, follow_symlinks=False)

    def unlink(self, host: str, path: str) -> None:
        """Remove a file or link, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.host_path(host, path).unlink()

    def write_file(self, host: str, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file of oneadmin's on a host."""
        self.make_directory(host, path.rsplit("/", 1)[0])
        target = self.host_path(host, path)
        target.write_bytes(data)
        target.chmod(mode)
        os.chown(target, account.UID, account.GID)

    def write_frontend(self, path: str, data: bytes) -> None:
        """Write a file on the front-end, wherever it is."""
        target = Path(path)
        for directory in reversed([item for item in target.parents if not item.exists()]):
            directory.mkdir()
            os.chown(directory, account.UID, account.GID)
        target.write_bytes(data)

    def copy(self, source: Path, target: Path) -> None:
        """Copy a file, link or directory and give it to oneadmin."""
        if source.is_symlink() or not source.is_dir():
            shutil.copy2(source, target, follow_symlinks=False)
        else:
            shutil.copytree(source, target, symlinks=True)
        for directory, names, files in os.walk(target):
            for name in names + files:
                os.chown(os.path.join(directory, name), account.UID, account.GID, follow_symlinks=False)
        os.chown(target, account.UID, account.GID, follow_symlinks=False)

    def same_directory(self, one: Place, other: Place) -> bool:
        """Say whether two hosts see one directory there: that of a shared system datastore."""
        return self.tm_mad(one.datastore) == "shared" and one.path == other.path

    # The moment

    def snapshot(self) -> Snapshot:
        """Return the present state of LINSTOR and of what lies on all hosts and the front-end."""
        files: dict[tuple[str, str], str] = {}
        for host in (*self.hosts.names, FRONTEND):
            for top in WATCHED if host != FRONTEND else WATCHED[:2]:
                self._list(host, top, files)
        guests = {guest.name: f"{guest.state} on {guest.host}{', frozen' if guest.frozen else ''}"
                  for guest in self.guests.all()}
        return Snapshot(self.linstor.definitions(), files, guests)

    def _list(self, host: str, top: str, files: dict[tuple[str, str], str]) -> None:
        root = self.host_path(host, top)
        for directory, names, entries in os.walk(root):
            names[:] = [name for name in names if os.path.join(directory, name) != f"{root}/one"]
            for name in names + entries:
                path = os.path.join(directory, name)
                files[host, top + path[len(str(root)):]] = _entry(path)

    def everywhere(self, host: str, path: str) -> list[tuple[str, str]]:
        """Return all (host, path) under which one file is seen: that of a shared datastore is seen on every host."""
        found = re.match(rf"{DATASTORES}/(\d+)", path)
        shared = found and self.tm_mad(int(found[1])) == "shared"
        return [(name, path) for name in (*self.hosts.names, FRONTEND)] if shared else [(host, path)]

    def _share(self, number: int) -> None:
        """Let all hosts and the front-end see one directory as the datastore's, as a cluster file system would."""
        common = _SHARED / str(number)
        account.own_directory(common)
        for host in (*self.hosts.names, FRONTEND):
            self.make_directory(host, f"{DATASTORES}/{number}")
            self._as_root(host, ["mount", "--bind", str(common), f"{DATASTORES}/{number}"])

    def _as_root(self, host: str, command: list[str]) -> None:
        if host == FRONTEND:
            subprocess.run(command, check=True)
        else:
            self.hosts.run(host, command, "root")

    def _clean(self, host: str) -> None:
        datastores = self.host_path(host, DATASTORES)
        for number in [entry.name for entry in datastores.iterdir()] if datastores.is_dir() else ():
            if (_SHARED / number).is_dir():
                self._as_root(host, ["umount", f"{DATASTORES}/{number}"])
        for top in WATCHED if host != FRONTEND else (DATASTORES, str(VAR / "vms"), "/var/tmp"):
            root = self.host_path(host, top)
            for entry in root.iterdir() if root.is_dir() else ():
                if entry.name == "one" and top == "/var/tmp":
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink()
        if host == FRONTEND:
            shutil.rmtree(_SHARED, ignore_errors=True)


def _entry(path: str) -> str:
    if os.path.islink(path):
        return f"link {os.readlink(path)}"
    if os.path.isdir(path):
        return "directory"
    status = os.stat(path)
    entry = f"file {status.st_size} {stat.S_IMODE(status.st_mode):o}"
    if not stat.S_ISREG(status.st_mode) or status.st_size > _READ_WHOLE:
        return entry
    return f"{entry} {hashlib.sha1(Path(path).read_bytes()).hexdigest()[:8]}"


def _release(recording: Recording) -> Release:
    """Return the release of a recording; its one_datastore ran with -i when a call has the dash."""
    dashed = any(call.kind == "ds" and call.argv[:1] == ["-"] for call in recording.calls)
    return release(recording.version + ("-stdin" if dashed else ""))
