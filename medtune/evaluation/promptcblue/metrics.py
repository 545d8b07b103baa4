"""The official measures over one task's answers, each on the scale 0 to 1 in which the organisers compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medtune.evaluation.promptcblue.counts import RowCounts, count_row, measure_counts
from medtune.evaluation.promptcblue.labels import score_labels
from medtune.evaluation.promptcblue.parsing import Answer
from medtune.evaluation.promptcblue.protocols import Task
from medtune.evaluation.promptcblue.tuples import compare_tuples, score_tuples

__all__ = ["measure", "score_extraction", "score_labels"]


def measure(task: Task, golds: Sequence[Answer], predictions: Sequence[Answer]) -> dict[str, float]:
    """Returns every figure of the task's metric, its headline first.

    Raises:
        MetricError: The official metric dies on these rows.
    """
    rows: list[RowCounts] = [
        count_row(task, gold, answer) for gold, answer in zip(golds, predictions, strict=True)
    ]
    return measure_counts(task, rows)


def score_extraction(
    golds: Sequence[Sequence[Mapping[str, Any]]], predictions: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[float, float, float]:
    """Returns precision, recall and F1 over the tuples of all rows together; all 0 without a single hit."""
    return score_tuples([compare_tuples(*pair) for pair in zip(golds, predictions, strict=True)])
