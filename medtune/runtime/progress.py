"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BEFORE_FIRST_LINE = 3.0

log = logging.getLogger(__name__)


@contextmanager
def progress(what: str, unit: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Yields ``advance(n)``, which shows how far ``what`` has come.

    Args:
        what: A gerund phrase: "tokenising train.json".
        unit: Plural of what is counted.
        total: How many there will be, when known.
    """
    shown = bar(what, unit, total) if sys.stderr.isatty() else lines(what, unit, total)
    with shown as advance:
        yield advance


@contextmanager
def bar(what: str, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A rich bar that disappears when the work is done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit)]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda count: shown.advance(task, count)


@contextmanager
def lines(what: str, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A log line every few seconds; nothing for work that is soon done."""
    done = 0
    started = time.monotonic()
    due = started + SECONDS_BEFORE_FIRST_LINE

    def advance(count: int) -> None:
        nonlocal done, due
        done += count
        now = time.monotonic()
        if now >= due:
            due = now + SECONDS_BETWEEN_LINES
            rate = done / (now - started)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            of_total = f" of {total}" if total else ""
            log.info("%s: %d%s %s, %.0f/s%s", what, done, of_total, unit, rate, left)

    yield advance
