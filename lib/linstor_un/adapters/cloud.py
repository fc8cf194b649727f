"""oned's view of VMs, datastores and hosts, over XML-RPC.

The documents are read by `onexml`, as those that drivers are handed. The client is Python's own
xmlrpc.client, which pyone is a layer on: that layer parses each document into classes of its own, doubles
the CPU time of a short action, and its time limit does not reach the sockets of its HTTP library, so that
an oned that hangs would hang one of oned's own driver threads with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Callable, Optional, TypeVar
from urllib.parse import urlsplit

from ..errors import BadRequest, DriverError, Failed, NotFound, Refused, TimedOut, Unreachable
from ..onexml import Datastore, Image, Vm, parse_datastore, parse_hosts, parse_image, parse_vm
from ..world import CloudHost

_DEFAULT_ENDPOINT = "http://localhost:2633/RPC2"
_ONEADMIN_HOME = "/var/lib/one"
_SECONDS = 60.0
# INIT, MONITORING_MONITORED, MONITORED, MONITORING_INIT: not failed, not disabled, not offline.
_USABLE = frozenset({0, 1, 2, 6})
_AUTHENTICATION, _AUTHORIZATION, _NO_EXISTS = 0x0100, 0x0200, 0x0400
Value = TypeVar("Value")


class Oned:
    """oned as the command line tools find it."""

    def __init__(self, environ: Mapping[str, str], seconds: float = _SECONDS) -> None:
        """Arguments: environ, for ONE_XMLRPC, ONE_AUTH and HOME; seconds, the longest wait for each answer."""
        self._environ = environ
        self._seconds = seconds

    def vm(self, vm_id: int) -> Vm:
        """Return a VM with its disks and history. Raises NotFound, Unreachable, TimedOut, Failed."""
        return self._ask(parse_vm, f"VM {vm_id}", "one.vm.info", vm_id)

    def datastore(self, datastore_id: int) -> Datastore:
        """Return a datastore with its decrypted template. Raises NotFound, Unreachable, TimedOut, Failed."""
        return self._ask(parse_datastore, f"datastore {datastore_id}", "one.datastore.info", datastore_id, True)

    def image(self, image_id: int) -> Image:
        """Return an image. Raises NotFound, Unreachable, TimedOut, Failed."""
        return self._ask(parse_image, f"image {image_id}", "one.image.info", image_id)

    def hosts(self) -> list[CloudHost]:
        """Return all hosts; load is the share of a host's CPU that its VMs were promised."""
        return [
            CloudHost(host.name, host.state in _USABLE, host.cpu_allocated / max(host.cpu_total, 1))
            for host in self._ask(parse_hosts, "the hosts", "one.hostpool.info")
        ]

    def document(self, kind: str, number: int) -> str:
        """Return a document as oned writes it, a datastore's with its template decrypted.

        Arguments: kind, "vm", "image" or "datastore". Raises NotFound, Unreachable, TimedOut, Failed.
        """
        decrypted = (True,) if kind == "datastore" else ()
        return self._ask(bytes.decode, f"{kind} {number}", f"one.{kind}.info", number, *decrypted)

    def version(self) -> str:
        """Return oned's version. Raises Unreachable, TimedOut, Failed."""
        return self._ask(bytes.decode, "its version", "one.system.version")

    def _ask(self, parse: Callable[[bytes], Value], what: str, method: str, *arguments: Any) -> Value:
        body = self._call(what, method, *arguments)
        try:
            return parse(body)
        except BadRequest as error:
            raise Failed(f"oned's answer about {what} cannot be used: {error}")

    def _call(self, what: str, method: str, *arguments: Any) -> bytes:
        import http.client
        import socket
        import xmlrpc.client
        from xml.parsers.expat import ExpatError

        endpoint, session = self._endpoint(), self._session()
        broken = (http.client.HTTPException, xmlrpc.client.Error, ExpatError, ValueError, LookupError, TypeError)
        try:
            answer: Any = getattr(_server(endpoint, self._seconds), method)(session, *arguments)
            success, body, code = answer[0], str(answer[1]), int(answer[2])
        except (TimeoutError, socket.timeout):
            raise TimedOut(f"oned at {endpoint} gave no answer about {what} within {self._seconds:g} s; see its log")
        except OSError as error:
            reason = error.strerror or error
            raise Unreachable(f"oned at {endpoint} does not answer ({reason}); is it running, and is ONE_XMLRPC right?")
        except broken as error:
            raise Failed(f"oned at {endpoint} gave an unusable answer about {what}: {type(error).__name__}: {error}")
        if not success:
            raise _refusal(code, body, what, self._session_source())
        return body.encode()

    def _endpoint(self) -> str:
        endpoint = self._environ.get("ONE_XMLRPC", "") or self._from_file("one_endpoint") or _DEFAULT_ENDPOINT
        try:
            parts = urlsplit(endpoint)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            good = False
        if not good or not endpoint.isprintable() or " " in endpoint:
            raise BadRequest(f"ONE_XMLRPC is {endpoint[:200]!r}, which is not a URL such as {_DEFAULT_ENDPOINT}")
        return endpoint

    def _session(self) -> str:
        path = self._session_source()
        session = _content(path)
        if not session or ":" not in session:
            raise BadRequest(f"{path} does not hold USER:PASSWORD for oned; set ONE_AUTH to a file that does")
        return session

    def _session_source(self) -> str:
        return self._environ.get("ONE_AUTH", "") or self._file("one_auth")

    def _from_file(self, name: str) -> str:
        return _content(self._file(name)) or ""

    def _file(self, name: str) -> str:
        """Return the first of the places where the command line tools look."""
        homes = (self._environ.get("HOME", "") or os.path.expanduser("~"), _ONEADMIN_HOME)
        paths = [f"{home}/.one/{name}" for home in homes]
        return next((path for path in paths if os.path.exists(path)), paths[-1])


def _content(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(4096).strip()
    except (OSError, UnicodeDecodeError):
        return None


def _server(endpoint: str, seconds: float) -> Any:
    import http.client
    import xmlrpc.client

    class Plain(xmlrpc.client.Transport):
        def make_connection(self, host: Any) -> http.client.HTTPConnection:
            return http.client.HTTPConnection(str(host), timeout=seconds)

    class Secure(xmlrpc.client.SafeTransport):
        def make_connection(self, host: Any) -> http.client.HTTPSConnection:
            return http.client.HTTPSConnection(str(host), timeout=seconds)

    transport = Secure() if endpoint.startswith("https:") else Plain()
    return xmlrpc.client.ServerProxy(endpoint, transport=transport)


def _refusal(code: int, body: str, what: str, credentials: str) -> DriverError:
    if code == _NO_EXISTS:
        return NotFound(f"oned knows no such object: {what} ({body})")
    if code in (_AUTHENTICATION, _AUTHORIZATION):
        return Refused(f"oned does not accept the credentials in {credentials} for {what}: {body}")
    return Failed(f"oned refused to tell about {what}: {body}")
