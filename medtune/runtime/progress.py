"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BEFORE_FIRST_LINE = 3.0

log = logging.getLogger(__name__)

_around: list[Callable[[str], None]] = []  # the bars of the work that goes on around this


class Advance(Protocol):
    """Shows how far the work has come."""

    def __call__(self, count: int, *, tokens: int = 0, share: float | None = None) -> None:
        """Takes what was done since the last call.

        Args:
            count: Units done.
            tokens: Tokens in them, where their rate is worth showing.
            share: Of the whole work, how much is done now, where units differ or their total is not known.
        """
        ...


@contextmanager
def progress(what: str, unit: str, total: int | None = None) -> Iterator[Advance]:
    """Yields a function that shows how far ``what`` has come.

    Args:
        what: A gerund phrase: "tokenising train.json".
        unit: Plural of what is counted.
        total: How many there will be, when known.
    """
    if _around:
        shown = noted(what, unit, total, _around[-1])
    else:
        shown = bar(what, unit, total) if sys.stderr.isatty() else lines(what, unit, total)
    with shown as advance:
        yield advance


@contextmanager
def shown_by(show: Callable[[str], None] | None) -> Iterator[None]:
    """Within the block progress is told to ``show``, the bar of the work that it is a part of.

    Args:
        show: Takes a short text; None: progress is shown as ever.
    """
    if show is None:
        yield
        return
    _around.append(show)
    try:
        yield
    finally:
        _around.remove(show)


@contextmanager
def noted(what: str, unit: str, total: int | None, show: Callable[[str], None]) -> Iterator[Advance]:
    """Tells ``show`` after every call; it draws no faster than it likes."""
    done = Done(unit, total)
    show(what)

    def advance(count: int, *, tokens: int = 0, share: float | None = None) -> None:
        done.add(count, tokens, share)
        show(f"{what}: {done.amount}{done.left}")

    yield advance


@dataclass
class Done:
    """How far the work has come.

    Attributes:
        unit: Plural of what is counted.
        total: How many there will be, when known.
        count: How many are done.
        tokens: Tokens in them.
        share: Of the whole; None: unknown.
    """

    unit: str
    total: int | None
    count: int = 0
    tokens: int = 0
    share: float | None = None
    started: float = field(default_factory=lambda: time.monotonic())

    def add(self, count: int, tokens: int, share: float | None) -> None:
        """Counts what was done since the last call."""
        self.count += count
        self.tokens += tokens
        self.share = share if share is not None or not self.total else self.count / self.total

    @property
    def amount(self) -> str:
        """Units done, of how many where that is known, and their rate."""
        seconds = max(time.monotonic() - self.started, 1e-9)
        of_total = f" of {self.total}" if self.total else ""
        tokens = f", {self.tokens / seconds:,.0f} tokens/s" if self.tokens else ""
        return f"{self.count}{of_total} {self.unit}, {self.count / seconds:.0f}/s{tokens}"

    @property
    def left(self) -> str:
        """How long the rest will take, when that can be told."""
        if not self.share:
            return ""
        seconds = (time.monotonic() - self.started) * (1 / min(self.share, 1.0) - 1)
        return f", {seconds:.0f} s left" if seconds < 120 else f", {seconds / 60:.0f} min left"


@contextmanager
def bar(what: str, unit: str, total: int | None) -> Iterator[Advance]:
    """A rich bar that disappears when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}")]
    done = Done(unit, total)
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None, done="")

        def advance(count: int, *, tokens: int = 0, share: float | None = None) -> None:
            done.add(count, tokens, share)
            known: dict[str, Any] = {} if done.share is None else {"total": 1.0, "completed": done.share}
            shown.update(task, done=done.amount + done.left, **known)

        yield advance


@contextmanager
def lines(what: str, unit: str, total: int | None) -> Iterator[Advance]:
    """A log line every few seconds; nothing for work that is soon done."""
    done = Done(unit, total)
    due = done.started + SECONDS_BEFORE_FIRST_LINE

    def advance(count: int, *, tokens: int = 0, share: float | None = None) -> None:
        nonlocal due
        done.add(count, tokens, share)
        now = time.monotonic()
        if now >= due:
            due = now + SECONDS_BETWEEN_LINES
            log.info("%s: %s%s", what, done.amount, done.left)

    yield advance
