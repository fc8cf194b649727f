"""One conversation with a LINSTOR controller: with which one, for how long, and what if it goes away.

python-linstor opens the connection and sends the request. What it does not do is done here: a connect
that costs one version request, a connect time that a black-holed first controller cannot stretch, waiting for
a controller that restarts, a deadline and a size limit for the whole body of an answer, and the difference
between a request that was never delivered and one whose answer was lost.
"""

from __future__ import annotations

import errno
import http.client
import json
import select
import socket
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional
from urllib.parse import urlsplit

import linstor

from ..errors import BadRequest, Unreachable, one_line
from ..retry import until
from ..settings import Settings
from ..world import Clock, Trail
from .controller_access import check_files, controller_uris, read_token
from .controller_client import CONNECT_SECONDS, Client, Moved, cause_of, passes, plain, watch

# The last controller of the list is all that is left: it may be busy.
PATIENCE_SECONDS = 30.0
# The controller's HTTP server closes a connection that was idle for 30 s; a request on a dying
# connection would look like a lost answer.
IDLE_SECONDS = 10.0
MAX_BODY = 256 * 1024 * 1024
_CHUNK = 256 * 1024


class Lost(Exception):
    """A request was sent, and what it did is unknown.

    `slow`: it may still be at work; `late`: it was, for all of its time.
    """

    def __init__(self, reason: str, *, slow: bool = False, late: bool = False) -> None:
        super().__init__(reason)
        self.slow = slow or late
        self.late = late


class _Away(Unreachable):
    """No controller answers, and one that is starting would look like that."""


class Reply(NamedTuple):
    """An answer: HTTP status, decoded JSON (None: no body), and who gave it."""

    status: int
    document: Any
    host: str


class Link:
    """A lazily opened connection to the first controller that answers."""

    def __init__(self, settings: Settings, clock: Clock, trail: Trail) -> None:
        self._settings = settings
        self._clock = clock
        self._trail = trail
        self._client: Optional[Client] = None
        self._used = 0.0
        # Seconds that are left in this run to wait for a controller that is away.
        self._patience = settings.timeout / 5
        self._waited = False

    @property
    def rest(self) -> tuple[int, ...]:
        """The REST version of the controller, such as (1, 27, 0); connects if need be."""
        text = self._opened()._ctrl_version.rest_api_version
        return tuple(int(part) for part in text.split("."))

    @property
    def release(self) -> str:
        """The controller's release, such as "1.33.3"; connects if need be."""
        return str(self._opened()._ctrl_version.version)

    def returned(self) -> bool:
        """Connect if need be, and tell, once, whether a controller that was away had to be waited for."""
        self._ready()
        waited, self._waited = self._waited, False
        return waited

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
            gone = getattr(cause_of(error), "errno", None) == errno.ETIMEDOUT
            late = isinstance(error, (linstor.LinstorTimeoutError, socket.timeout)) and not gone
            reason = f"no answer within {seconds:.0f} s" if late else plain(error)
            raise Lost(f"LINSTOR controller {host}: {reason}", slow=gone, late=late)
        except BaseException:
            # A signal between request and answer: what comes next on this connection would be the old answer.
            self._client = None
            client.disconnect()
            raise
        return Reply(response.status, _decoded(raw, response.status, host), host)

    def _chunks(self, client: Client, response: Any, end: float) -> Iterator[bytes]:
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

    def _ready(self) -> Client:
        """Return a connected client, with a fresh connection when the old one was idle or is closed."""
        client = self._opened()
        sock = client._rest_conn.sock
        idle = self._clock.now() - self._used > IDLE_SECONDS
        if sock is not None and not idle and not select.select([sock], [], [], 0)[0]:
            return client
        client._rest_conn.close()
        self._used = self._clock.now()
        try:
            client._rest_conn.timeout = CONNECT_SECONDS
            client._rest_conn.connect()
            watch(client._rest_conn.sock)
        except OSError:
            self.close()
            return self._opened()
        return client

    def _opened(self) -> Client:
        if self._client is None:
            self._client = self._await()
            self._used = self._clock.now()
        return self._client

    def _await(self) -> Client:
        """Return a connection to the first controller that answers; one that restarts or moves is waited for."""
        refusals: list[_Away] = []
        began = self._clock.now()

        def attempt() -> Optional[Client]:
            try:
                return self._open()
            except _Away as away:
                refusals.append(away)
                return None

        client = until(self._clock, self._patience, attempt)
        waited = self._clock.now() - began if refusals else 0.0
        self._patience = max(0.0, self._patience - waited)
        if client is None:
            raise Unreachable(f"{refusals[-1]}; waited {waited:.0f} s, look at `systemctl status linstor-controller`")
        if refusals:
            self._waited = True
            self._trail.info(f"LINSTOR's controller was away: {refusals[0]}")
        return client

    def _open(self) -> Client:
        uris = controller_uris(self._settings)
        check_files(self._settings)
        failures, passing = [], False
        for position, uri in enumerate(uris):
            patience = PATIENCE_SECONDS if position == len(uris) - 1 else CONNECT_SECONDS
            try:
                return self._connect(uri, patience)
            except (linstor.LinstorError, OSError, http.client.HTTPException, ValueError, zlib.error) as error:
                failures.append(f"{uri}: {plain(error)}")
                passing = passing or passes(error)
        kind = _Away if passing else Unreachable
        raise kind("no LINSTOR controller answers (" + "; ".join(failures) + "); check LS_CONTROLLERS")

    def _connect(self, uri: str, patience: float) -> Client:
        try:
            return self._connect_to(uri, patience)
        except Moved as moved:
            host = urlsplit(uri).hostname or ""
            return self._connect_to(f"linstor+ssl://{f'[{host}]' if ':' in host else host}:{moved.port}", patience)

    def _connect_to(self, uri: str, patience: float) -> Client:
        settings = self._settings
        try:
            client = Client(uri, timeout=CONNECT_SECONDS, keep_alive=False, agent_info="linstor_un")
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
        watch(client._rest_conn.sock)
        self._warn_about(client)
        return client

    def _warn_about(self, client: Client) -> None:
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


def _decoded(raw: bytes, status: int, host: str) -> Any:
    if not raw:
        return None
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        text = one_line(raw[:120].decode("utf-8", "replace"))
        raise Lost(f"LINSTOR controller {host} answered HTTP {status} with what is not JSON: {text}")
