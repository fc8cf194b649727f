"""Where images come from: files of the front-end, web servers on its loopback, and what a backup datastore keeps."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import shutil
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MIB = 1 << 20


class Sources:
    """What PATHs of recorded images lead to. `backups` is where the installed downloader finds rsync:// and others."""

    def __init__(self, work: Path, backups: Path) -> None:
        self.work = work
        self.published: dict[str, Path] = {}
        self._backups = backups
        self._servers: dict[tuple[str, int], _Web] = {}

    def publish(self, path: str, file: Path) -> None:
        """Make the content of `file` what `path` leads to."""
        parts = urllib.parse.urlsplit(path)
        if parts.scheme in ("http", "https"):
            self._server(parts.hostname or "127.0.0.1", parts.port or 80).files[_target(parts)] = file
        elif parts.scheme:
            self._backups.mkdir(parents=True, exist_ok=True)
            _place(file, self._backups / hashlib.sha1(path.encode()).hexdigest())
        else:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            _place(file, Path(path))
        self.published[path] = file

    def backup_list(self, image: str, increment: str) -> Path:
        """Return the file in which the backup datastore's stand-in finds what a backup has."""
        self._backups.mkdir(parents=True, exist_ok=True)
        return self._backups / f"{image}.{increment}.json"

    @contextlib.contextmanager
    def withdrawn(self, path: str) -> Iterator[None]:
        """Let `path` lead nowhere for the length of the block."""
        file = self.published.get(path)
        self.withdraw(path)
        try:
            yield
        finally:
            if file:
                self.publish(path, file)

    def withdraw(self, path: str) -> None:
        """Let `path` lead nowhere from now on."""
        if self.published.pop(path, None) is None:
            return
        parts = urllib.parse.urlsplit(path)
        if parts.scheme in ("http", "https"):
            self._server(parts.hostname or "127.0.0.1", parts.port or 80).files.pop(_target(parts))
        elif parts.scheme:
            (self._backups / hashlib.sha1(path.encode()).hexdigest()).unlink()
        else:
            Path(path).unlink()

    def close(self) -> None:
        """Withdraw everything and close the web servers."""
        for path in list(self.published):
            self.withdraw(path)
        for listed in self._backups.glob("*.json"):
            listed.unlink()
        for server in self._servers.values():
            server.shutdown()
            server.server_close()
        self._servers.clear()

    def _server(self, host: str, port: int) -> _Web:
        if (host, port) not in self._servers:
            server = _Web((host, port), _Handler)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            self._servers[host, port] = server
        return self._servers[host, port]


def _place(file: Path, target: Path) -> None:
    shutil.copyfile(file, target)
    target.chmod(0o644)


def _target(parts: urllib.parse.SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


class _Web(http.server.ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.files: dict[str, Path] = {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has read enough hangs up: nothing to tell."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Web
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        file = self._head()
        if file:
            with open(file, "rb") as source:
                shutil.copyfileobj(source, self.wfile, MIB)

    def _head(self) -> Any:
        file = self.server.files.get(self.path)
        if file is None:
            self.send_error(404)
            return None
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(os.path.getsize(file)))
        self.end_headers()
        return file

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the replay prints its own lines."""
