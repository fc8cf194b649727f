"""A controller that answers what a test tells it: for what no true controller does on command (hang, lie, vanish)."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional
from urllib.parse import unquote

ERROR = -(1 << 62)
WARNING = -(1 << 63)
CREATE_DEFINITION = 0x1000000 | 0x380000
DELETE_DEFINITION = 0x3000000 | 0x380000


@dataclass
class Answer:
    """What to send. `raw` replaces JSON; `hang`: nothing ever; `drop`: the connection ends before any byte."""

    status: int = 200
    document: Any = None
    raw: Optional[bytes] = None
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    drop: bool = False

    def body(self) -> bytes:
        return self.raw if self.raw is not None else json.dumps(self.document).encode()


def success(code: int = 1, about: int = CREATE_DEFINITION, message: str = "done", **more: Any) -> dict[str, Any]:
    return {"ret_code": about | code, "message": message, **more}


def error(code: int, message: str = "no", **more: Any) -> dict[str, Any]:
    return {"ret_code": ERROR | 0x3000000 | code, "message": message, **more}


def warning(code: int, message: str = "hm", **more: Any) -> dict[str, Any]:
    return {"ret_code": WARNING | code, "message": message, **more}


def definition(name: str, props: Optional[dict[str, str]] = None, size: Optional[int] = 65536, **more: Any) -> Any:
    volumes = [{"volume_number": 0, "size_kib": size}] if size is not None else []
    layers = [{"type": "DRBD"}, {"type": "STORAGE"}]
    return {
        "name": name,
        "props": props or {},
        "resource_group_name": "rg",
        "layer_data": layers,
        "volume_definitions": volumes,
        **more,
    }


def resource(name: str, node: str, flags: tuple[str, ...] = (), drbd: bool = True, **more: Any) -> Any:
    """A deployed resource on an online node."""
    storage = {"type": "STORAGE", "storage": {"storage_volumes": [{"volume_number": 0, "device_path": "/dev/vg/x"}]}}
    volume = {"drbd_volume_definition": {"volume_number": 0, "minor_number": 1000}, "device_path": "/dev/drbd1000"}
    layers = {"type": "DRBD", "children": [storage], "drbd": {"drbd_volumes": [volume]}} if drbd else storage
    pool = "DfltDisklessStorPool" if "DISKLESS" in flags else "thin"
    return {
        "name": name,
        "node_name": node,
        "flags": list(flags),
        "props": {"StorPoolName": pool},
        "layer_object": layers,
        "state": {"in_use": False} if drbd else {},
        **more,
    }


class ScriptedController:
    """Answers by "METHOD path"; the last of several answers to one question is repeated."""

    def __init__(self, rest: str = "1.27.0", tls: Optional[ssl.SSLContext] = None, port: int = 0) -> None:
        self.script: list[tuple[re.Pattern[str], list[Answer]]] = []
        self.requests: list[tuple[str, str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.connections = 0
        self.stop = threading.Event()
        self.says("GET /v1/controller/version", Answer(document={"rest_api_version": rest, "version": "test"}))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                if tls:
                    self.request = tls.wrap_socket(self.request, server_side=True)
                super().setup()

            def _handle(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                outer.requests.append((self.command, self.path, body))
                outer.headers.append(dict(self.headers))
                outer.send(self, outer.next_answer(f"{self.command} {unquote(self.path)}"))

            do_GET = do_POST = do_PUT = do_DELETE = _handle

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that refuses our certificate ends the handshake: expected."""

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=lambda: self.server.serve_forever(poll_interval=0.02), daemon=True)
        self.thread.start()

    def says(self, question: str, *answers: Answer) -> None:
        """Answer requests whose "METHOD path" matches the pattern from its start; later rules win."""
        self.script.insert(0, (re.compile(question), list(answers)))

    def next_answer(self, question: str) -> Answer:
        for pattern, answers in self.script:
            if pattern.match(question):
                return answers.pop(0) if len(answers) > 1 else answers[0]
        return Answer(500, [error(998, f"not scripted: {question}")])

    def send(self, handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        if answer.hang:
            self.stop.wait(60)
            answer = Answer(drop=True)
        if answer.drop:
            handler.close_connection = True
            with contextlib.suppress(OSError):
                handler.connection.shutdown(socket.SHUT_RDWR)
            return
        body = answer.body()
        handler.send_response(answer.status)
        handler.send_header("Content-Type", answer.content_type)
        for key, value in answer.headers.items():
            handler.send_header(key, value)
        if "Transfer-Encoding" not in answer.headers and "Content-Length" not in answer.headers:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def asked(self, method: str) -> list[tuple[str, Any]]:
        """Path and body of all requests of a method, without the version request."""
        return [(path, body) for how, path, body in self.requests if how == method and not path.endswith("/version")]

    def close(self) -> None:
        self.stop.set()
        self.server.shutdown()
        self.server.server_close()


@contextlib.contextmanager
def scripted(rest: str = "1.27.0", tls: Optional[ssl.SSLContext] = None) -> Iterator[ScriptedController]:
    """Run a scripted controller on loopback."""
    controller = ScriptedController(rest, tls)
    try:
        yield controller
    finally:
        controller.close()


class Memory:
    """A Trail that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, text: str) -> None:
        self.lines.append(f"debug {text}")

    def info(self, text: str) -> None:
        self.lines.append(f"info {text}")

    def warn(self, text: str) -> None:
        self.lines.append(f"warn {text}")

    def warned(self) -> list[str]:
        return [line[5:] for line in self.lines if line.startswith("warn ")]


class TestClock:
    """Time that passes only when somebody waits."""

    __test__ = False

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
