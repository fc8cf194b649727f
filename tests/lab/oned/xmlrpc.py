"""An XML-RPC server that answers pyone and the command line tools as oned does, from a store of documents."""

from __future__ import annotations

import threading
import xmlrpc.client
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional, cast
from xml.parsers.expat import ExpatError

from lab.oned.faults import Fault, Faults
from lab.oned.store import KINDS, Documents, pool, short_vm

AUTHENTICATION, NO_EXISTS, ACTION, RPC_API, INTERNAL = 0x0100, 0x0400, 0x0800, 0x1000, 0x2000
ALL, MINE_AND_GROUP, MINE, GROUP = -2, -1, -3, -4
DONE, ALL_STATES, NOT_DONE = 6, -2, -1


class Refusal(Exception):
    """An answer with success = false: the sentence after "[method] " and oned's error code."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class XmlRpc:
    """oned's port 2633: one thread a request; `calls` lists (method, arguments without the session) in order."""

    def __init__(self, documents: Documents, version: str = "7.4.0", session: str = "oneadmin:opennebula") -> None:
        self.documents = documents
        self.version = version
        self.session = session
        self.faults = Faults()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.stopping = threading.Event()
        self._server: Optional[_Server] = None
        self._address = ("127.0.0.1", 0)

    def start(self, host: str = "127.0.0.1", port: int = 0) -> XmlRpc:
        """Listen and serve in a thread; port 0 takes a free one."""
        self.stopping.clear()
        self._server = _Server((host, port), _Handler)
        self._server.oned = self
        self._address = cast("tuple[str, int]", self._server.server_address[:2])
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Close the port: from now on connections are refused. `start_again` opens the same one."""
        self.stopping.set()
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def start_again(self) -> None:
        """Listen on the port of before `stop`."""
        self.start(*self._address)

    def __enter__(self) -> XmlRpc:
        return self if self._server else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def endpoint(self) -> str:
        """The URL as ONE_XMLRPC has it."""
        return f"http://{self._address[0]}:{self._address[1]}/RPC2"

    def answer(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        """Return the array oned answers with: success, body or sentence, error code."""
        try:
            if not arguments or arguments[0] != self.session:
                raise Refusal(AUTHENTICATION, "User couldn't be authenticated, aborting call.")
            return [True, _METHODS[method](self, *arguments[1:]), 0]
        except Refusal as refusal:
            return [False, f"[{method}] {refusal}", refusal.code]


def _info(kind: str) -> Callable[..., str]:
    def info(server: XmlRpc, number: int, *_: Any) -> str:
        document = server.documents.get(kind, number)
        if document is None:
            raise Refusal(NO_EXISTS, f"Error getting {KINDS[kind]} [{number}].")
        return document

    return info


def _whole_pool(kind: str) -> Callable[..., str]:
    def pool_info(server: XmlRpc) -> str:
        return pool(kind, (document for _, document in server.documents.all(kind)))

    return pool_info


def _image_pool(server: XmlRpc, owner: int, start: int, end: int) -> str:
    return pool("IMAGE", (document for _, document in _page(_owned(server.documents.all("IMAGE"), owner), start, end)))


def _vm_pool(shorten: bool) -> Callable[..., str]:
    def vm_pool(server: XmlRpc, owner: int, *range_and_state: Any) -> str:
        start, end, state = range_and_state[:3]
        query = range_and_state[3] if len(range_and_state) > 3 else ""
        if not ALL_STATES <= state <= 11:
            raise Refusal(RPC_API, f"Incorrect state filter {state}")
        if query:
            raise Refusal(INTERNAL, "JSON query search is not supported by the SQL backend")
        found = [
            (number, document)
            for number, document in _owned(server.documents.all("VM"), owner)
            if state == ALL_STATES or (_number(document, "STATE") == state if state >= 0 else
                                       _number(document, "STATE") != DONE)
        ]
        return pool("VM", (short_vm(document) if shorten else document for _, document in _page(found, start, end)))

    return vm_pool


def _owned(found: list[tuple[int, str]], owner: int) -> list[tuple[int, str]]:
    """Apply the filter flag for oneadmin, who is user 0 in group 0."""
    if owner < GROUP:
        raise Refusal(RPC_API, "Incorrect filter_flag")
    if owner == ALL:
        return found
    if owner == GROUP:
        return [item for item in found if _number(item[1], "GID") == 0]
    if owner == MINE_AND_GROUP:
        return [item for item in found if 0 in (_number(item[1], "UID"), _number(item[1], "GID"))]
    return [item for item in found if _number(item[1], "UID") == max(owner, 0)]


def _page(found: list[tuple[int, str]], start: int, end: int) -> list[tuple[int, str]]:
    """Apply the two range arguments: ids `start` to `end` (-1: open), or from an offset when end < -1."""
    if end < -1:
        return found[max(start, 0):max(start, 0) - end]
    return [item for item in found if start == -1 or (item[0] >= start and (end == -1 or item[0] <= end))]


def _number(document: str, tag: str) -> int:
    head = document.split(f"<{tag}>", 1)
    return int(head[1].split("<", 1)[0]) if len(head) == 2 else 0


def _raft(_: XmlRpc) -> str:
    return (
        "<RAFT><SERVER_ID>-1</SERVER_ID><STATE>0</STATE><TERM>0</TERM><VOTEDFOR>-1</VOTEDFOR><COMMIT>0</COMMIT>"
        "<LOG_INDEX>0</LOG_INDEX><LOG_TERM>0</LOG_TERM><FEDLOG_INDEX>-1</FEDLOG_INDEX></RAFT>"
    )


_METHODS: dict[str, Callable[..., str]] = {
    "one.vm.info": _info("VM"),
    "one.datastore.info": _info("DATASTORE"),
    "one.host.info": _info("HOST"),
    "one.image.info": _info("IMAGE"),
    "one.user.info": _info("USER"),
    "one.vmpool.info": _vm_pool(shorten=True),
    "one.vmpool.infoextended": _vm_pool(shorten=False),
    "one.datastorepool.info": _whole_pool("DATASTORE"),
    "one.hostpool.info": _whole_pool("HOST"),
    "one.imagepool.info": _image_pool,
    "one.system.version": lambda server: server.version,
    "one.zone.raftstatus": _raft,
}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128
    oned: XmlRpc


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path not in ("/RPC2", "/"):
            self.send_error(404)
            return
        try:
            arguments, method = xmlrpc.client.loads(body)
        except (ExpatError, xmlrpc.client.Error):
            self._send(_fault(-503, "Call is not valid XML-RPC"))
            return
        oned = self.server.oned
        oned.calls.append((method or "", arguments[1:]))
        armed = oned.faults.meet(method or "")
        if armed and armed.fault is Fault.DROP:
            self.close_connection = True
            self.connection.close()
            return
        if armed and armed.fault is Fault.SLOW:
            oned.stopping.wait(armed.seconds)
        self._send(self._body(method or "", arguments, armed.fault if armed else None))

    def _body(self, method: str, arguments: tuple[Any, ...], fault: Optional[Fault]) -> bytes:
        oned = self.server.oned
        if method not in _METHODS:
            return _fault(-506, f"Method '{method}' not defined")
        if fault is Fault.INVALID_RPC:
            return b"<html><body>busy</body></html>"
        if fault is Fault.WRONG_CREDENTIALS:
            arguments = ("", *arguments[1:])
        try:
            answer = oned.answer(method, arguments)
        except (TypeError, ValueError) as wrong:
            return _fault(-501, f"Wrong number of arguments: {wrong}")
        if fault is Fault.INTERNAL_ERROR:
            answer = [False, f"[{method}] Internal error", INTERNAL]
        if fault is Fault.INVALID_XML:
            answer = [True, str(answer[1])[: len(str(answer[1])) // 2], 0]
        return _encode(xmlrpc.client.dumps((answer,), methodresponse=True, allow_none=False))

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/xml; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: a test prints only what fails."""


def _fault(code: int, text: str) -> bytes:
    return _encode(xmlrpc.client.dumps(xmlrpc.client.Fault(code, text), methodresponse=True))


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
