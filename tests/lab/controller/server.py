"""The controller behind HTTP: threads, keep-alive, gzip, TLS, tokens, and the lab's side door under /lab."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import ssl
import threading
import time
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional

from . import faults, poison, router, satellites, views
from .answers import ERROR, Hang, entry
from .cluster import Cluster
from .handlers import ALL_HANDLERS

GZIP_FROM = 1000  # bytes; smaller answers are never compressed
OPEN_PATHS = ("/", "/health", "/ui")


@dataclass
class Tls:
    """Files of the server's certificate; with `client_ca` only clients with a certificate of it may connect."""

    certificate: str
    key: str
    client_ca: str = ""


class Controller:
    """A cluster served over HTTP. `token` asks for that bearer token on every request but the open paths."""

    def __init__(self, cluster: Cluster, token: str = "") -> None:
        assert ALL_HANDLERS
        self.cluster, self.token = cluster, token
        self.faults = faults.Faults()
        self._server: Optional[ThreadingHTTPServer] = None
        self._scheme = "http"

    def start(self, host: str = "127.0.0.1", port: int = 0, tls: Optional[Tls] = None) -> Controller:
        """Listen on host and port (0: any free one) and serve in threads until `stop`."""
        handler = type("Handler", (_Handler,), {"controller": self})
        self._server = _Server((host, port), handler)
        if tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tls.certificate, tls.key)
            if tls.client_ca:
                context.load_verify_locations(tls.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            self._server.tls = context
            self._scheme = "https"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening and let hanging requests go."""
        self.faults.release()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"{self._scheme}://{self._server.server_address[0]}:{self.port}"

    def __enter__(self) -> Controller:
        return self if self._server else self.start()

    def __exit__(self, *problem: object) -> None:
        self.stop()

    def answer(self, method: str, target: str, headers: dict[str, str],
               raw: Optional[bytes]) -> Optional[router.Response]:
        """Handle one request, faults and log included; None means that the client gets no answer."""
        path, _, query = target.partition("?")
        if path.startswith("/lab/"):
            return self._lab(method, path, raw)
        if self.faults.down:
            return None
        fault = self.faults.take(method, path)
        response = self._with_fault(fault, method, target, headers, raw)
        self.faults.record(method, path, query, raw, response.status if response else None)
        return response

    def _with_fault(self, fault: Optional[faults.Fault], method: str, target: str, headers: dict[str, str],
                    raw: Optional[bytes]) -> Optional[router.Response]:
        kind = fault.kind if fault else ""
        if fault and kind == "refuse":
            default = [entry(ERROR | 998, "An injected failure")]
            return router.Response(500, json.dumps(fault.entries or default).encode())
        if fault and kind == "restart":
            with self.cluster.lock:
                poison.restarted(self.cluster)
            self.faults.go_down(fault.seconds)
            return None
        if fault and kind == "hang":
            self.faults.wait(fault)
            return None
        if kind == "drop":
            return None
        if fault and kind == "offline":
            with self.cluster.lock:
                satellites.go_offline(self.cluster, fault.node)
        response = self._authorised(method, target, headers, raw)
        if fault and kind == "late":
            time.sleep(fault.seconds)
        return None if kind == "lose_answer" else response

    def _authorised(self, method: str, target: str, headers: dict[str, str],
                    raw: Optional[bytes]) -> Optional[router.Response]:
        path = target.partition("?")[0]
        if self.token and path not in OPEN_PATHS and headers.get("authorization") != f"Bearer {self.token}":
            refusal = [entry(ERROR | 412, "Authentication required.")]
            return router.Response(401, json.dumps(refusal).encode())
        try:
            return router.respond(self.cluster, method, target, headers, raw)
        except Hang:
            self.faults.wait(faults.Fault("hang"))
            return None

    def _lab(self, method: str, path: str, raw: Optional[bytes]) -> router.Response:
        """Serve tests that run in another process: what happened, what is there, and trouble on demand."""
        body = json.loads(raw) if raw else {}
        what = path.split("/")[2:]
        with self.cluster.lock:
            if what == ["requests"]:
                return _json(self.faults.log)
            if what == ["state"]:
                return _json(state(self.cluster))
            if what == ["faults"] and method == "POST":
                self.faults.add(faults.Fault(**body))
            elif what == ["release"]:
                self.faults.release()
            elif what[0] == "nodes" and len(what) == 2:
                change = satellites.come_back if body["online"] else satellites.go_offline
                change(self.cluster, what[1])
            elif what in (["open"], ["close"]):
                key = (str(body["resource"]).upper(), str(body["node"]).upper())
                self.cluster.openers.pop(key, None)
                if what == ["open"]:
                    self.cluster.openers[key] = body.get("mode", "rw")
            elif what == ["reset"]:
                self.faults.clear()
            else:
                return router.Response(404, b"no such door")
        return _json({})


def _json(value: Any) -> router.Response:
    return router.Response(200, json.dumps(value).encode())


def state(cluster: Cluster) -> dict[str, Any]:
    """Return everything there is as one document, for tests to look at."""
    return {
        "nodes": [views.node(cluster.nodes[key]) for key in sorted(cluster.nodes)],
        "groups": [views.group(cluster.groups[key]) for key in sorted(cluster.groups)],
        "definitions": [views.definition(cluster, one, True) for one in cluster.sorted_definitions()],
        "resources": [views.view(cluster, one.resources[key]) for one in cluster.sorted_definitions()
                      for key in sorted(one.resources)],
        "snapshots": [views.snapshot(cluster, one, one.snapshots[key]) for one in cluster.sorted_definitions()
                      for key in sorted(one.snapshots)],
        "pools": [asdict(node.pools[key]) for node in cluster.nodes.values() for key in sorted(node.pools)],
        "openers": [{"resource": key[0], "node": key[1], "mode": mode} for key, mode in cluster.openers.items()],
        "orphans": {node: sorted(files) for node, files in cluster.orphans.items()},
    }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    tls: Optional[ssl.SSLContext] = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake belongs into the connection's own thread: a client that never ends it must stop nobody.
        if self.tls is not None:
            request = self.tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or fails the handshake, is part of the tests: say nothing."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    controller: Controller

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length) if length else None
        headers = {key.lower(): value for key, value in self.headers.items()}
        response = self.controller.answer(self.command, self.path, headers, raw)
        if response is None:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(response)

    def _send(self, response: router.Response) -> None:
        body = response.body or b""
        compress = len(body) >= GZIP_FROM and "gzip" in self.headers.get("Accept-Encoding", "")
        if compress:
            body = gzip.compress(body, 1)
        self.send_response(response.status)
        if response.body is not None:
            self.send_header("Content-Type", response.content_type)
        if compress:
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_HEAD = _any

    def log_message(self, *arguments: object) -> None:
        """Requests are logged by the controller, not on stderr."""
