"""python-linstor's connection without what stands in the way, and what its errors mean."""

from __future__ import annotations

import errno
import json
import socket
import zlib
from typing import Any, Optional
from urllib.parse import urlsplit

import linstor
from linstor.responses import ControllerVersion

from ..errors import one_line

CONNECT_SECONDS = 5.0
# When the kernel gives up a connection whose other end is gone: it is asked while nothing comes, and what it was
# sent is not acknowledged. A controller that is only busy acknowledges.
GONE_SECONDS = 25
_ASK_AFTER, _ASK_EVERY = 10, 5
_NO_WAY = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT})
_NOT_READY = frozenset({502, 503, 504})
_CHUNK = 256 * 1024


class _NotReady(linstor.LinstorError):  # type: ignore[misc]
    """A proxy answers in place of a controller that it does not reach."""


class Moved(Exception):
    """The controller's plain port answered 302 to its HTTPS port."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port


class Client(linstor.Linstor):  # type: ignore[misc]
    """python-linstor's connection without its probing request, which costs a second connect."""

    token: Optional[str] = None
    patience = CONNECT_SECONDS

    @classmethod
    def has_linstor_https(cls, hostname: str, port: int) -> int:  # noqa: ARG003 - python-linstor's signature
        """Answer "no redirect": the version request below finds out."""
        return 0

    def controller_version(self) -> Any:
        """Ask for the version as the first request of a connection, and see a redirect to HTTPS in its answer."""
        self._rest_conn.sock.settimeout(self.patience)
        if self.token and self.is_secure_connection:
            self._http_headers["Authorization"] = "Bearer " + self.token
        response = self._rest_request_base(None, "GET", "/v1/controller/version")
        body = response.read(_CHUNK)
        if response.status == 302:
            port = urlsplit(response.getheader("Location") or "").port
            if port:
                raise Moved(port)
        if response.getheader("Content-Encoding") == "gzip":
            body = zlib.decompress(body, zlib.MAX_WBITS | 16)
        if response.status != 200:
            kind = _NotReady if response.status in _NOT_READY else linstor.LinstorError
            raise kind(_refusal(response.status, body))
        return ControllerVersion(_version(body))


def _version(body: bytes) -> dict[str, Any]:
    """Return the answer to the version request; whoever answers otherwise is no LINSTOR controller."""
    try:
        answer = json.loads(body)
        if all(part.isdigit() for part in answer["rest_api_version"].split(".")):
            return dict(answer)
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        pass
    raise linstor.LinstorError(f"no LINSTOR controller, it answers {one_line(body[:120].decode('utf-8', 'replace'))!r}")


def _refusal(status: int, body: bytes) -> str:
    if status in (401, 403):
        return f"it refused our credentials (HTTP {status}); check LS_TOKEN_FILE and LS_CERTFILE"
    return f"it answered HTTP {status} {one_line(body[:120].decode('utf-8', 'replace'))}"


def watch(sock: socket.socket) -> None:
    """Let the kernel notice when the controller's machine is gone: nothing else would come before the deadline."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ASK_AFTER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _ASK_EVERY)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_SECONDS * 1000)


def cause_of(error: BaseException) -> BaseException:
    """Return what the system said behind an error of python-linstor."""
    if isinstance(error, linstor.LinstorError) and isinstance(error.__context__, OSError):
        return error.__context__
    return error


def passes(error: BaseException) -> bool:
    """Tell whether an error may be over soon: nobody listens yet, or nobody is there. A wrong name stays wrong."""
    cause = cause_of(error)
    network = isinstance(cause, (ConnectionError, socket.timeout)) or getattr(cause, "errno", None) in _NO_WAY
    return network or isinstance(error, (_NotReady, linstor.LinstorTimeoutError))


def plain(error: BaseException) -> str:
    """Return the reason alone: python-linstor repeats the address in front of what the system said."""
    error = cause_of(error)
    text = error.message if isinstance(error, linstor.LinstorError) else getattr(error, "strerror", None) or error
    return one_line(str(text) or type(error).__name__)
