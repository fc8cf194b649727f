"""One conversation with a LINSTOR controller: which one, how safely, for how long.

python-linstor opens the connection and sends the request. What it does not do is done here: a connect
that costs one version request, a connect time that a black-holed first controller cannot stretch, a
deadline and a size limit for the whole body of an answer, and the difference between a request that was
never delivered and one whose answer was lost.
"""

from __future__ import annotations

import configparser
import http.client
import json
import os
import select
import socket
import ssl
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional
from urllib.parse import urlsplit

import linstor
from linstor.responses import ControllerVersion

from ..errors import BadRequest, Unreachable, one_line
from ..settings import Settings
from ..world import Clock, Trail

CONNECT_SECONDS = 5.0
# The last controller of the list is all that is left: it may be busy.
PATIENCE_SECONDS = 30.0
# The controller's HTTP server closes a connection that was idle for 30 s; a request on a dying
# connection would look like a lost answer.
IDLE_SECONDS = 10.0
MAX_BODY = 256 * 1024 * 1024
_CHUNK = 256 * 1024
_SCHEMES = {"linstor", "linstor+ssl", "http", "https"}
_SECURE = {"linstor+ssl", "https"}


class Lost(Exception):
    """A request was sent, and what it did is unknown. `slow`: the deadline passed, it may still be at work."""

    def __init__(self, reason: str, *, slow: bool = False) -> None:
        super().__init__(reason)
        self.slow = slow


class Reply(NamedTuple):
    """An answer: HTTP status, decoded JSON (None: no body), and who gave it."""

    status: int
    document: Any
    host: str


def controller_uris(settings: Settings) -> list[str]:
    """Return the controllers to try, in order.

    LS_CONTROLLERS of the datastore wins; else the environment and linstor-client.conf decide as for the
    `linstor` client, and localhost is the last resort.
    Raises BadRequest for an entry that is no controller address, and for an unreadable linstor-client.conf.
    """
    try:
        uris: list[str] = (
            linstor.MultiLinstor.controller_uri_list(",".join(settings.controllers))
            if settings.controllers
            else linstor.Config.get_controllers()
        )
    except (configparser.Error, OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"linstor-client.conf cannot be read ({error}); correct it or set LS_CONTROLLERS")
    uris = [uri.strip() for uri in uris if uri.strip()]
    for uri in uris:
        try:
            parts = urlsplit(uri)
            good = parts.scheme in _SCHEMES and bool(parts.hostname) and parts.port != 0 and uri.isprintable()
        except ValueError:
            good = False
        if not good or " " in uri:
            raise BadRequest(f"LS_CONTROLLERS: {uri!r} is no address; write HOST, HOST:PORT or linstor+ssl://HOST")
    if not uris:
        raise BadRequest("LS_CONTROLLERS names no controller; write HOST, HOST:PORT or linstor+ssl://HOST")
    return uris


def check_files(settings: Settings) -> None:
    """Raise BadRequest when a TLS file that a setting names cannot be used; OpenSSL would not say which one."""
    named = {"LS_CERTFILE": settings.certfile, "LS_KEYFILE": settings.keyfile, "LS_CAFILE": settings.cafile}
    for attribute, path in named.items():
        try:
            with open(path or os.devnull, "rb"):
                pass
        except OSError as error:
            raise BadRequest(f"{attribute}: {path} cannot be read ({error.strerror}); correct path or permissions")
    if settings.keyfile and not settings.certfile:
        raise BadRequest("LS_KEYFILE is set without LS_CERTFILE; set both or none")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if settings.certfile:
            # An answer to OpenSSL's question for a passphrase, which would wait for a terminal.
            context.load_cert_chain(settings.certfile, settings.keyfile or None, password="")
        if settings.cafile:
            context.load_verify_locations(settings.cafile)
    except (ssl.SSLError, ValueError) as error:
        files = ", ".join(f"{attribute} ({path})" for attribute, path in named.items() if path)
        raise BadRequest(f"not usable as PEM files without passphrase: {files}: {error}")


def read_token(path: str) -> str:
    """Return the bearer token in a file (LS_TOKEN_FILE).

    Raises BadRequest when the file cannot be read, is empty, or holds what no HTTP header can carry.
    """
    try:
        with open(path, encoding="ascii") as file:
            token = file.read(16384).strip()
    except OSError as error:
        raise BadRequest(f"LS_TOKEN_FILE: {path} cannot be read ({error.strerror}); correct path or permissions")
    except UnicodeDecodeError:
        token = ""
    if not token or not token.isprintable() or " " in token:
        raise BadRequest(f"LS_TOKEN_FILE: {path} holds no token; write the token of `linstor auth` into it")
    return token


class _Moved(Exception):
    """The controller's plain port answered 302 to its HTTPS port."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.port = port


class _Client(linstor.Linstor):  # type: ignore[misc]
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
                raise _Moved(port)
        if response.getheader("Content-Encoding") == "gzip":
            body = zlib.decompress(body, zlib.MAX_WBITS | 16)
        if response.status != 200:
            raise linstor.LinstorError(_refusal(response.status, body))
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


class Link:
    """A lazily opened connection to the first controller that answers."""

    def __init__(self, settings: Settings, clock: Clock, trail: Trail) -> None:
        self._settings = settings
        self._clock = clock
        self._trail = trail
        self._client: Optional[_Client] = None
        self._used = 0.0

    @property
    def rest(self) -> tuple[int, ...]:
        """The REST version of the controller, such as (1, 27, 0); connects if need be."""
        text = self._opened()._ctrl_version.rest_api_version
        return tuple(int(part) for part in text.split("."))

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._client:
            self._client.disconnect()
        self._client = None

    def request(self, method: str, path: str, body: Any, seconds: float) -> Reply:
        """Send one request and return the answer, whatever its status.

        Arguments: path, quoted, with its query; body, sent as JSON unless None; seconds, for the whole exchange.
        Raises Unreachable when it was certainly not delivered, Lost when it may have been.
        """
        client = self._ready()
        host = client._ctrl_host
        end = self._clock.now() + seconds
        try:
            client._timeout = seconds
            client._rest_conn.sock.settimeout(seconds)
            response = client._rest_request_base(None, method, path, body)
            try:
                raw = b"".join(self._chunks(client, response, end))
            finally:
                response.close()
            self._used = self._clock.now()
        except (linstor.LinstorError, OSError, http.client.HTTPException, zlib.error) as error:
            self._client = None
            client.disconnect()
            slow = isinstance(error, (linstor.LinstorTimeoutError, socket.timeout))
            reason = f"no answer within {seconds:.0f} s" if slow else _plain(error)
            raise Lost(f"LINSTOR controller {host}: {reason}", slow=slow)
        except BaseException:
            # A signal between request and answer: what comes next on this connection would be the old answer.
            self._client = None
            client.disconnect()
            raise
        return Reply(response.status, _decoded(raw, response.status, host), host)

    def _chunks(self, client: _Client, response: Any, end: float) -> Iterator[bytes]:
        """Yield the decoded body; an answer that trickles or inflates without end is cut off."""
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 16) if response.getheader("Content-Encoding") == "gzip" else None
        size = 0
        while True:
            left = end - self._clock.now()
            if left <= 0:
                raise socket.timeout("the answer did not end")
            if client._rest_conn.sock:
                client._rest_conn.sock.settimeout(left)
            raw = response.read1(_CHUNK)
            if not raw:
                if response.length:
                    raise http.client.IncompleteRead(b"", response.length)
                return
            part = unpack.decompress(raw, MAX_BODY - size + 1) if unpack else raw
            size += len(part)
            if size > MAX_BODY:
                raise http.client.HTTPException(f"the answer is larger than {MAX_BODY >> 20} MiB")
            yield part

    def _ready(self) -> _Client:
        """Return a connected client, with a fresh connection when the old one was idle or is closed."""
        client = self._opened()
        sock = client._rest_conn.sock
        idle = self._clock.now() - self._used > IDLE_SECONDS
        if sock is not None and not idle and not select.select([sock], [], [], 0)[0]:
            return client
        client._rest_conn.close()
        try:
            client._rest_conn.timeout = CONNECT_SECONDS
            client._rest_conn.connect()
        except OSError:
            self.close()
            return self._opened()
        return client

    def _opened(self) -> _Client:
        if self._client is None:
            self._client = self._open()
            self._used = self._clock.now()
        return self._client

    def _open(self) -> _Client:
        uris = controller_uris(self._settings)
        check_files(self._settings)
        failures = []
        for position, uri in enumerate(uris):
            patience = PATIENCE_SECONDS if position == len(uris) - 1 else CONNECT_SECONDS
            try:
                return self._connect(uri, patience)
            except (linstor.LinstorError, OSError, http.client.HTTPException, ValueError, zlib.error) as error:
                failures.append(f"{uri}: {_plain(error)}")
        raise Unreachable("no LINSTOR controller answers (" + "; ".join(failures) + "); check LS_CONTROLLERS")

    def _connect(self, uri: str, patience: float) -> _Client:
        try:
            return self._connect_to(uri, patience)
        except _Moved as moved:
            host = urlsplit(uri).hostname or ""
            return self._connect_to(f"linstor+ssl://{f'[{host}]' if ':' in host else host}:{moved.port}", patience)

    def _connect_to(self, uri: str, patience: float) -> _Client:
        settings = self._settings
        try:
            client = _Client(uri, timeout=CONNECT_SECONDS, keep_alive=False, agent_info="linstor_un")
        except (OSError, ValueError) as error:
            raise BadRequest(f"{linstor.Linstor.AUTH_JSON_PATH} cannot be read ({error}); correct it or remove it")
        # Taken away from python-linstor, which would write a warning of its own on stderr.
        inherited = getattr(client, "_auth_token", None)
        client._auth_token = None
        client.token = read_token(settings.token_file) if settings.token_file else None
        if client.token is None and isinstance(inherited, str):
            client.token = inherited
        client.patience = patience
        client.certfile = settings.certfile or None
        client.keyfile = settings.keyfile or None
        client.cafile = settings.cafile or None
        try:
            client.connect()
        except BaseException:
            client.disconnect()
            raise
        self._warn_about(client)
        return client

    def _warn_about(self, client: _Client) -> None:
        """python-linstor verifies no server without a CA; say so, as an eavesdropper could be in between."""
        settings = self._settings
        secure = client.is_secure_connection
        if secure and not settings.cafile:
            self._trail.debug(f"{client._ctrl_host}: its certificate is not verified, because LS_CAFILE is not set")
            if settings.token_file:
                self._trail.warn("the LINSTOR token goes to an unverified controller; set LS_CAFILE")
        if not secure and settings.token_file:
            self._trail.warn(f"LS_TOKEN_FILE is not used: {client._ctrl_host} speaks plain HTTP; use linstor+ssl://")
        if not secure and settings.cafile:
            self._trail.warn(f"LS_CAFILE is not used: {client._ctrl_host} speaks plain HTTP; use linstor+ssl://")


def _plain(error: Exception) -> str:
    """Return the reason alone: python-linstor repeats the address in front of what the system said."""
    if isinstance(error, linstor.LinstorError) and isinstance(error.__context__, OSError):
        error = error.__context__
    text = error.message if isinstance(error, linstor.LinstorError) else getattr(error, "strerror", None) or error
    return one_line(str(text) or type(error).__name__)


def _decoded(raw: bytes, status: int, host: str) -> Any:
    if not raw:
        return None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        text = one_line(raw[:120].decode("utf-8", "replace"))
        raise Lost(f"LINSTOR controller {host} answered HTTP {status} with what is not JSON: {text}")
