"""Waiting for something to become true, on an injected clock."""

from __future__ import annotations

from typing import Callable, Optional, TypeVar

from .world import Clock

Value = TypeVar("Value")


def until(
    clock: Clock, seconds: float, look: Callable[[], Optional[Value]], pause: float = 0.2, longest: float = 5.0
) -> Optional[Value]:
    """Call `look` until it returns something, at growing intervals.

    Arguments: seconds, how long at most; pause and longest, the first and the greatest interval in seconds.
    Returns what `look` returned, or None when the time is over. `look` is called at least once.
    Raises what `look` raises.
    """
    end = clock.now() + seconds
    while True:
        value = look()
        if value is not None:
            return value
        left = end - clock.now()
        if left <= 0:
            return None
        clock.sleep(min(pause, left))
        pause = min(pause * 1.5, longest)
