"""From a request to its handler: paths, bodies, and the answers LINSTOR's HTTP layer gives by itself."""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Union

from . import bodies
from .answers import ERROR, UNPARSABLE, Answer, Document, Hang, Refused
from .cluster import Cluster

Handler = Callable[[Cluster, "Request"], Union[Answer, Document]]


@dataclass
class Route:
    """One handler. `body` is "", "required" or "optional"; `since` and `before` bound the versions that have it."""

    method: str
    path: str
    handler: Handler
    body: str = ""
    since: tuple[int, int] = (1, 0)
    before: tuple[int, int] = (99, 0)
    hang_unparsable: tuple[int, int] = (99, 0)

    @property
    def parts(self) -> list[str]:
        return self.path.strip("/").split("/")

    def in_version(self, version: tuple[int, int]) -> bool:
        return self.since <= version < self.before


ROUTES: list[Route] = []


def route(method: str, path: str, **more: Any) -> Callable[[Handler], Handler]:
    """Register a handler for METHOD and a path with {parameters}."""
    def register(handler: Handler) -> Handler:
        ROUTES.append(Route(method, path, handler, **more))
        return handler
    return register


@dataclass
class Request:
    """One request as a handler sees it; `params` are the path's, `query` lists of values by key."""

    method: str
    path: str
    query: dict[str, list[str]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    raw: Optional[bytes] = None
    params: dict[str, str] = field(default_factory=dict)
    body: Any = None
    answer: Optional[Answer] = None
    report: Optional[Callable[[str], str]] = None

    def answering(self, context: int, refs: Optional[dict[str, Any]] = None, ok_status: int = 200) -> Answer:
        """Start the answer of this call: its operation and object, and what all its entries refer to."""
        self.answer = Answer(context, refs or {}, ok_status, error_report=self.report)
        return self.answer

    def number(self, key: str, default: int = 0) -> int:
        """Return a number from the query; anything else makes LINSTOR throw."""
        values = self.query.get(key)
        if not values:
            return default
        return _integer(values[0])

    def volume_number(self) -> int:
        return _integer(self.params["volume_number"])

    def flag(self, key: str) -> bool:
        return self.query.get(key, ["false"])[0].lower() == "true"

    def page(self, items: list[Any]) -> list[Any]:
        """Cut a list to limit and offset; without a limit the offset is ignored, as LINSTOR does."""
        limit, offset = self.number("limit"), self.number("offset")
        return items[offset:offset + limit] if limit > 0 else items


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise Refused(ERROR | 998, "An unknown error occurred.", masked=False, report=True) from None


@dataclass
class Response:
    """What goes back to the client; `body` None means no body at all."""

    status: int
    body: Optional[bytes] = None
    content_type: str = "application/json"


def respond(cluster: Cluster, method: str, target: str, headers: dict[str, str], raw: Optional[bytes]) -> Response:
    """Answer one request. `target` is path and query as sent, header names are lower case.

    Raises Hang where the controller would never answer.
    """
    path, _, query = target.partition("?")
    request = Request(method, path, urllib.parse.parse_qs(query, keep_blank_values=True), headers, raw,
                      report=cluster.report)
    early = _outside_api(cluster, request) or _transport_refusal(request)
    if early is not None:
        return early
    found, methods = _find(cluster, request)
    if found is None:
        return _no_route(request, methods)
    try:
        with cluster.lock:
            _read_body(cluster, found, request)
            answer = found.handler(cluster, request)
            cluster.settled()
    except Refused as refusal:
        answer = request.answer or Answer(0, error_report=cluster.report)
        answer.entries.clear()
        answer.refuse(refusal)
    if isinstance(answer, Document):
        body = None if answer.value is None else _encode(answer)
        return Response(answer.status, body, answer.content_type)
    return Response(answer.status, json.dumps(answer.entries, ensure_ascii=False).encode())


def _encode(document: Document) -> bytes:
    if isinstance(document.value, str):
        return document.value.encode()
    return json.dumps(document.value, ensure_ascii=False).encode()


def _find(cluster: Cluster, request: Request) -> tuple[Optional[Route], list[str]]:
    parts = request.path.strip("/").split("/")
    major, minor = cluster.version.name.split(".")
    version, methods, best = (int(major), int(minor)), [], None
    for one in ROUTES:
        if len(one.parts) != len(parts) or not one.in_version(version):
            continue
        params = _match(one.parts, parts)
        if params is None:
            continue
        methods.append(one.method)
        wanted = "GET" if request.method == "HEAD" else request.method
        if one.method == wanted and (best is None or len(params) < len(best[1])):
            best = (one, params)
    if best is not None:
        request.params = best[1]
    return (best[0] if best else None), methods


def _match(pattern: list[str], parts: list[str]) -> Optional[dict[str, str]]:
    params = {}
    for wanted, part in zip(pattern, parts):
        if wanted.startswith("{"):
            params[wanted.strip("{}")] = urllib.parse.unquote(part)
        elif wanted != part:
            return None
    return params


def _read_body(cluster: Cluster, found: Route, request: Request) -> None:
    if not found.body or (found.body == "optional" and not request.raw):
        request.body = {}
        return
    name = f"{found.method} {found.path}"
    try:
        request.body = bodies.parse(name, cluster.version.name, request.raw or b"")
    except bodies.Unparsable as problem:
        major, minor = cluster.version.name.split(".")
        if (int(major), int(minor)) >= found.hang_unparsable:
            raise Hang(str(problem)) from problem
        status = 400 if name in bodies.ANSWER_400 else 500
        raise Refused(UNPARSABLE, "Unable to parse input json.", masked=False, status=status,
                      details=str(problem)) from problem
    if request.body is None and found.body == "required":
        if found.hang_unparsable < (99, 0):
            raise Hang("null is no body")
        raise Refused(ERROR | 998, "An unknown error occurred.", masked=False, report=True)


def plain_error(text: str, status: int, details: str = "") -> Response:
    """Return an error of the HTTP layer: one entry 998 without operation and object."""
    answer = Answer(0)
    answer.add(ERROR | 998, text, bare=True, details=details)
    return Response(status, json.dumps(answer.entries).encode())


def _outside_api(cluster: Cluster, request: Request) -> Optional[Response]:
    if request.path == "/":
        page = f"<html><title>Linstor REST server</title><body>API {cluster.version.rest}</body></html>"
        return Response(200, page.encode(), "text/plain")
    if request.path == "/health":
        return Response(200)
    if request.path == "/ui":
        return Response(404, b"<html><body>Not Found</body></html>", "text/html;charset=ISO-8859-1")
    return None


def _transport_refusal(request: Request) -> Optional[Response]:
    accept = request.headers.get("accept", "*/*")
    if "*/*" not in accept and "application/json" not in accept and "text/event-stream" not in accept:
        return plain_error("An unknown error occurred.", 500, "HTTP 406 Not Acceptable")
    kind = request.headers.get("content-type")
    if kind is not None and request.method in ("POST", "PUT", "PATCH"):
        if not kind:
            return Response(400)
        if not kind.startswith("application/json"):
            return plain_error("An unknown error occurred.", 500, "HTTP 415 Unsupported Media Type")
    return None


def _no_route(request: Request, methods: list[str]) -> Response:
    if methods and request.method == "OPTIONS":
        return Response(200, ", ".join(["HEAD", *methods, "OPTIONS"]).encode(), "text/plain")
    if methods:
        text = f"Method '{request.method}' not allowed on path '{request.path}'."
        return plain_error(text, 405, "HTTP 405 Method Not Allowed")
    return plain_error(f"Path '{request.path}' not found on server.", 404, "HTTP 404 Not Found")
