"""How far a long step is: a line in its log now and then, never one an item.

The lines are messages of this module's logger. A step writes them to its log (``steps.logged``);
elsewhere they are seen where messages of ``consilience.progress`` are let through. What a step
computes knows nothing of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

log = logging.getLogger(__name__)

FIRST = 10.0
"""Seconds until the first line: what is done by then says nothing."""
GROWTH = 0.2
"""The next line comes when so much of the time so far has passed again: ever less often,"""
LONGEST = 300.0
"""but after so many seconds at the latest."""

_WIDTH = 20

Item = TypeVar("Item")


class Progress:
    """Counts what is done, and says now and then how far it is and how long it still takes.

    Parameters
    ----------
    total
        How many there are; None where that is not known.
    what
        What is counted, in the plural, such as ``pictures``.
    clock
        Returns seconds.
    """

    def __init__(
        self, total: int | None, what: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.what, self._clock = total, what, clock
        self.done = 0
        self._began = clock()
        self._next = FIRST

    def advance(self, count: int = 1) -> None:
        """Count so many more as done."""
        self.done += count
        passed = self._clock() - self._began
        if passed < self._next or not self.done:
            return
        if self.total is None or self.done < self.total:
            log.info(self._say(passed))
        self._next = passed + min(max(FIRST, GROWTH * passed), LONGEST)

    def finish(self) -> None:
        """Say how long all took, if it was long enough for a line."""
        passed = self._clock() - self._began
        if passed >= FIRST:
            log.info(f"{self.done:,} {self.what} in {say_duration(passed)}")

    def _say(self, passed: float) -> str:
        each = passed / self.done
        rate = f"{1 / each:,.1f} a second" if each < 1 else f"{each:,.1f} s each"
        if not self.total:
            return f"{self.done:,} {self.what}, {rate}"
        share = self.done / self.total
        bar = "#" * int(_WIDTH * share)
        return (
            f"[{bar:.<{_WIDTH}}] {self.done:,} of {self.total:,} {self.what} ({share:.0%}), "
            f"{rate}, {say_duration(each * (self.total - self.done))} left"
        )


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Give ``items`` on one by one, and say how far they are.

    Parameters
    ----------
    items
        What is worked through.
    what
        What they are, in the plural.
    total
        How many there are; their length where they have one.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    progress = Progress(total, what)
    for item in items:
        yield item
        progress.advance()
    progress.finish()


def say_duration(seconds: float) -> str:
    """Say a duration in at most two units: ``8 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    left = round(seconds)
    for size, larger, smaller in ((86400, "d", "h"), (3600, "h", "min"), (60, "min", "s")):
        if left >= size:
            # In units of the smaller, so that no minute of 60 seconds appears.
            step = {"h": 3600, "min": 60, "s": 1}[smaller]
            whole, rest = divmod(round(left / step) * step, size)
            return f"{whole} {larger}" + (f" {rest // step} {smaller}" if rest else "")
    return f"{left} s"
