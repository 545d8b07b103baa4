"""Where the official scripts die, told apart by what is lost."""

from __future__ import annotations


class FatalRowError(ValueError):
    """A row on which the official parser raises, whereupon every row of the file is lost."""

    def __init__(self, exception: str, reason: str) -> None:
        """Keeps the name of the official exception beside the reason."""
        super().__init__(f"{exception}: {reason}")
        self.exception = exception
        self.reason = reason


class MetricError(ValueError):
    """Rows on which the official metric raises, whereupon the whole file scores 0."""
