"""Take-backs, registered before the effect they belong to and run newest first.

    with undo.by("definition one-image-5", controller.delete_definition, name):
        controller.spawn(...)

A take-back must be idempotent and bounded in time: it runs also when it is unknown whether
the effect happened. Only `Refused` (certainly nothing happened) strikes it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Callable, NamedTuple

from .errors import DriverError, Refused, one_line


class _TakeBack(NamedTuple):
    label: str
    step: Callable[..., Any]
    arguments: tuple[Any, ...]
    borrowed: bool


class Undo:
    """The take-backs of one run of one action."""

    def __init__(self) -> None:
        self._stack: list[_TakeBack] = []

    @contextmanager
    def by(self, label: str, step: Callable[..., Any], *arguments: Any) -> Iterator[None]:
        """Register `step(*arguments)` as the take-back of the block's effect.

        Arguments: label, the noun that is left behind when the take-back fails too.
        """
        yield from self._register(_TakeBack(label, step, arguments, borrowed=False))

    @contextmanager
    def borrow(self, label: str, step: Callable[..., Any], *arguments: Any) -> Iterator[None]:
        """Like `by`, for what has to be given back after success as well (a bridge host's attachment)."""
        yield from self._register(_TakeBack(label, step, arguments, borrowed=True))

    def _register(self, take_back: _TakeBack) -> Iterator[None]:
        self._stack.append(take_back)
        try:
            yield
        except Refused:
            self._stack.remove(take_back)
            raise

    def give_back(self) -> None:
        """Give back what was borrowed, before an action calls its work complete: a rerun would not look for it then.

        What cannot be given back stays for `settle` or `unwind`, which name it.
        """
        for entry in [entry for entry in reversed(self._stack) if entry.borrowed]:
            with suppress(DriverError):
                entry.step(*entry.arguments)
                self._stack.remove(entry)

    def settle(self) -> list[str]:
        """The action succeeded: give back what was borrowed, keep the rest.

        Returns the labels of what could not be given back, each with its reason.
        """
        self._stack = [entry for entry in self._stack if entry.borrowed]
        return self.unwind()

    def unwind(self) -> list[str]:
        """Take everything back, newest first; one failure does not stop the others.

        Returns the labels of what is left behind, each with its reason.
        """
        left: list[str] = []
        while self._stack:
            entry = self._stack.pop()
            try:
                entry.step(*entry.arguments)
            except DriverError as error:
                left.append(f"{entry.label} ({error})")
            except Exception as error:  # a bug in one take-back must not keep the others from running
                left.append(f"{entry.label} ({type(error).__name__}: {one_line(str(error))})")
        return left
