"""The one shape in which every evaluation answers, and which scores.json holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TaskScore:
    """What one system reaches on one task. Scores run from 0 to 100 (a Text2DT ratio can fall below 0)."""

    metric: str
    score: float
    """The task's headline number: what enters the mean."""
    rows: int
    details: dict[str, float] = field(default_factory=dict)
    """Every figure of the metric, 0-100: precision, recall and f1, or rouge_1, rouge_2 and rouge_l, ..."""
    parse_failures: tuple[str, ...] = ()
    """The ``sample_id`` of each row whose text is no answer in the task's grammar."""
    error: str | None = None
    """Why the official scripts give up on this task; ``score`` is then 0."""
    robust_score: float | None = None
    """The score with each malformed row counted as empty; None where nothing was malformed."""
    by: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """The same figures by what the rows are about: ``{"type": {"PER": {"f1": ...}}}``."""

    @property
    def robust(self) -> float:
        """The score that malformed rows cannot bring to nothing."""
        return self.score if self.robust_score is None else self.robust_score

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry in scores.json; ``error`` and ``robust_score`` only for a refused task."""
        entry: dict[str, Any] = {"metric": self.metric, "score": self.score, **self.details}
        entry |= {"rows": self.rows, "parse_failures": list(self.parse_failures)}
        if self.error is not None:
            entry |= {"error": self.error, "robust_score": self.robust}
        if self.by:
            entry["by"] = self.by
        return entry


@dataclass(frozen=True, slots=True)
class Scores:
    """What one system reaches on one file."""

    protocol: str
    score: float
    """The headline, 0-100: for PromptCBLUE the mean over the tasks that the file holds."""
    official_score: float | None
    """What the organisers' scripts answer for this file; None where they have no answer for such a file."""
    official_error: str | None
    robust_score: float
    """As ``score``, with each malformed row counted as empty instead of costing its whole task."""
    tasks: dict[str, TaskScore]
    headline: str | None = None
    """The one task that ``score`` repeats, where it is not the mean of all."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures has to know: measures that are left out, texts that were cut."""
    source: Mapping[str, Any] | None = None
    """Of a predictions file: its rows, and which of them have no record or no text."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, in the shape of scores.json."""
        summary: dict[str, Any] = {"protocol": self.protocol, "score": self.score}
        if self.headline is not None:
            summary["headline"] = self.headline
        summary["official_score"] = self.official_score
        summary["official_error"] = self.official_error
        summary["robust_score"] = self.robust_score
        if self.notes:
            summary["notes"] = list(self.notes)
        if self.source is not None:
            summary["source"] = dict(self.source)
        summary["tasks"] = {name: task.to_dict() for name, task in self.tasks.items()}
        return summary


def mean(values: Iterable[float]) -> float:
    """Returns the plain mean, and 0 for nothing at all."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0
