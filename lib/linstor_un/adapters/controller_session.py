"""Asking and changing: reads are repeated when their answer is lost, changes are read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Callable, Optional, TypeVar
from urllib.parse import quote, urlencode

from ..errors import DriverError, Failed, Refused, Uncertain, Unreachable
from ..retry import until
from ..settings import Settings
from ..world import Clock, Trail
from . import controller_answers as answers
from .controller_answers import Entry
from .controller_features import understands
from .controller_link import Link, Lost, Reply

Value = TypeVar("Value")

# Reads wait for a change that holds LINSTOR's locks while it talks to a slow satellite, which may take 45 s.
READ_SECONDS = 60.0


class Seen(Enum):
    """What reading back showed of a change. UNTOLD: no trace of it, which proves nothing."""

    DONE = "done"
    NOTHING = "nothing"
    PARTLY = "partly"
    UNTOLD = "untold"


def path(*parts: str, query: Optional[Mapping[str, Any]] = None) -> str:
    """Return a REST path below /v1; every part and every value of the query is quoted."""
    joined = "/v1/" + "/".join(quote(part, safe="") for part in parts)
    return f"{joined}?{urlencode(query, doseq=True)}" if query else joined


class Session:
    """One process's conversation with LINSTOR; nothing is sent before the first question."""

    def __init__(self, settings: Settings, clock: Clock, trail: Trail) -> None:
        self._settings = settings
        self._clock = clock
        self._trail = trail
        self._link = Link(settings, clock, trail)
        # Seconds that are left in this run to wait for what a controller does not know yet.
        self._patience = settings.timeout / 30

    def close(self) -> None:
        """Close the connection."""
        self._link.close()

    def _understands(self, feature: str) -> bool:
        return understands(self._link.rest, feature)

    def _ask(self, method: str, address: str, body: Any, seconds: float) -> Reply:
        """Send a request; where the controller was away before, its satellites get a little time to be back as well."""
        if self._link.returned():
            until(self._clock, self._settings.timeout / 15, self._satellites_are_back)
        return self._link.request(method, address, body, seconds)

    def _satellites_are_back(self) -> Optional[bool]:
        """A controller that has just started knows of no opener and finds no place until they are."""
        try:
            reply = self._link.request("GET", path("nodes"), None, READ_SECONDS)
        except Lost:
            return None
        nodes = reply.document if isinstance(reply.document, list) else []
        return all(node.get("connection_status") == "ONLINE" for node in nodes if isinstance(node, dict)) or None

    def _read(self, doing: str, address: str, kind: type, *, method: str = "GET", body: Any = None) -> Any:
        """Return the document of a reading call; a lost answer is asked for once more.

        Raises Failed when the answer is lost again, besides what the answer tells.
        """
        satellites = method != "GET"
        seconds = float(self._settings.timeout) if satellites else min(READ_SECONDS, self._settings.timeout)
        try:
            reply = self._ask(method, address, body, seconds)
        except Lost as lost:
            if lost.late:
                raise Failed(f"cannot {doing}: {lost}")
            try:
                reply = self._ask(method, address, body, seconds)
            except Lost as again:
                raise Failed(f"cannot {doing}: {again}")
        try:
            return answers.content(reply, doing, kind)
        except Lost as lost:
            raise Failed(f"cannot {doing}: {lost}")

    def _parse(self, doing: str, parse: Callable[[Any], Value], items: Iterable[Any]) -> list[Value]:
        """Return the parsed items. Raises Failed when the document is not what LINSTOR documents."""
        try:
            return [parse(item) for item in items]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Failed(f"cannot {doing}: LINSTOR's answer is not understood ({type(error).__name__}: {error})")

    def _change(
        self,
        doing: str,
        method: str,
        address: str,
        body: Any,
        look: Callable[[], Seen],
        *,
        proof: bool = False,
        times: int = 1,
    ) -> Optional[list[Entry]]:
        """Send a changing request once, and return its entries.

        Arguments: look, reads how much of the change is there; proof, what it sees as done is done, although
        LINSTOR says that a satellite failed (998: some calls answered so were carried out); times, how many time
        limits it may take, because it makes LINSTOR ask the satellites so much more often.
        Returns None when the answer was lost and reading back showed that it is done.
        Raises what the answer tells; when it was lost, Refused if nothing happened, Uncertain if that stays open.
        """
        try:
            reply = self._ask(method, address, body, float(self._settings.timeout) * times)
            return answers.result(reply, doing)
        except Lost as lost:
            self._trail.debug(f"{doing}: {lost}; reading back")
            self._settle(doing, lost, look, times)
            return None
        except Failed as failed:
            if not proof or not self._is_done(look):
                raise
            self._trail.warn(f"{failed}, but it is done")
            return None

    def _is_done(self, look: Callable[[], Seen]) -> bool:
        try:
            return look() is Seen.DONE
        except DriverError as error:
            self._trail.debug(f"reading back: {error}")
            return False

    def _settle(self, doing: str, lost: Lost, look: Callable[[], Seen], times: int) -> None:
        """Look until the change is done, or until a controller that still worked on it would have shown it.

        A tenth of the time limit is for that; a controller that restarts has half of it to come back. What takes
        several time limits and is seen to be under way has them.
        """
        timeout = self._settings.timeout
        patience = timeout / 10
        longest = timeout * times if times > 1 else patience
        first: list[float] = []

        def verdict() -> Optional[Seen]:
            try:
                last = look()
            except (Unreachable, Failed) as error:
                self._trail.debug(f"{doing}: reading back: {error}")
                return None
            first.append(self._clock.now())
            over = self._clock.now() - first[0] >= (longest if last is Seen.PARTLY else patience)
            return last if last is Seen.DONE or over else None

        seen = until(self._clock, max(timeout / 2, longest), verdict)
        if seen is Seen.DONE:
            return
        if seen is Seen.NOTHING and not lost.slow:
            raise Refused(f"cannot {doing}: {lost}; nothing happened")
        state = {
            Seen.NOTHING: "so far nothing happened",
            Seen.PARTLY: "it may be under way",
            Seen.UNTOLD: "nothing tells whether it happened",
        }
        raise Uncertain(f"cannot {doing}: {lost}; {state[seen] if seen else 'reading back failed too'}")
