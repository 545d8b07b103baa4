"""Two systems' rows of the same records, compared task by task with a paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from medtune.evaluation.bootstrap import LEVEL, RESAMPLES, Floats, draw_weights, find_interval
from medtune.evaluation.comparison import Comparison, Difference
from medtune.evaluation.promptcblue.counts import measure_counts
from medtune.evaluation.promptcblue.errors import MetricError
from medtune.evaluation.promptcblue.protocols import (
    MACRO_F1,
    MICRO_F1,
    ROUGE_L,
    TREE_RATIO,
    Protocol,
    Task,
)
from medtune.evaluation.promptcblue.records import Row, group_by_task

BLOCK = 250  # resamples at a time: bounds what weights and labels of a large task take


def compare_rows(
    rows: Sequence[Row],
    others: Sequence[Row],
    protocol: Protocol,
    seed: int,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Comparison:
    """Compares the headline figures of two systems' rows, which stand in the same order.

    Rows are drawn within each task, so that every task keeps its size; the overall figure is the mean over
    tasks of each draw. Malformed rows count as empty on both sides, as in the robust score.
    """
    tasks, drawn = {}, []
    groups, other_groups = group_by_task(rows, protocol), group_by_task(others, protocol)
    for task, members in groups.items():
        counts = [[row.counts for row in side] for side in (members, other_groups[task])]
        score, other = (100 * measure_headline(task, side) for side in counts)
        differences = 100 * resample(task, counts, resamples, (seed, protocol.tasks.index(task)))
        drawn.append(differences)
        low, high = find_interval(differences, level)
        better = float((differences > 0).mean())
        tasks[task.name] = Difference(task.metric, len(members), score, other, low, high, better)
    overall = np.mean(drawn, axis=0)
    low, high = find_interval(overall, level)
    score, other = (
        float(np.mean([getattr(task, name) for task in tasks.values()])) for name in ("score", "against")
    )
    better = float((overall > 0).mean())
    mean = Difference("mean", len(rows), score, other, low, high, better)
    return Comparison(mean, tasks, resamples, level, seed)


def measure_headline(task: Task, rows: Sequence[Any]) -> float:
    """Returns a task's figure, 0 to 1; 0 where the official metric dies on the rows together."""
    try:
        return next(iter(measure_counts(task, rows).values()))
    except MetricError:
        return 0.0


def resample(task: Task, sides: Sequence[Sequence[Any]], resamples: int, seed: tuple[int, ...]) -> Floats:
    """Returns the difference of two systems in each resample."""
    tables = [tabulate(task, side) for side in sides]
    weights = draw_weights(len(sides[0]), resamples, seed)
    differences = [
        np.subtract(*(score_sums(task, block @ table) for table in tables))
        for block in np.array_split(weights, -(-resamples // BLOCK))
    ]
    return np.concatenate(differences)


def tabulate(task: Task, rows: Sequence[Any]) -> Floats:
    """Returns a line of numbers for each row, whose sums over rows decide the task's headline figure."""
    if task.metric == TREE_RATIO:
        return np.array([(row.edits, row.most_edits) for row in rows], dtype=np.float64)
    if task.metric == ROUGE_L:
        return np.array([(row.rouge_l, row.sections) for row in rows], dtype=np.float64)
    if task.metric == MICRO_F1:
        return np.array([(row.hits, row.predicted, row.wanted) for row in rows], dtype=np.float64)
    return tabulate_labels([(row.gold, row.predicted) for row in rows])


def tabulate_labels(pairs: Sequence[tuple[str, str]]) -> Floats:
    """Returns three blocks with a column per label: whether it was hit, predicted, and right."""
    places = {label: place for place, label in enumerate(dict.fromkeys(chain(*pairs)))}
    table = np.zeros((len(pairs), 3, len(places)))
    for row, (gold, predicted) in enumerate(pairs):
        table[row, 0, places[gold]] = gold == predicted
        table[row, 1, places[predicted]] = 1
        table[row, 2, places[gold]] = 1
    return table.reshape(len(pairs), -1)


def score_sums(task: Task, sums: Floats) -> Floats:
    """Returns the headline figure of each line of sums, by the official formula."""
    if task.metric == TREE_RATIO:
        return np.where(sums[:, 1] > 0, 1 - sums[:, 0] / np.maximum(sums[:, 1], 1), 0)
    if task.metric == ROUGE_L:
        return sums[:, 0] / np.maximum(sums[:, 1], 1)
    if task.metric == MICRO_F1:
        return 2 * sums[:, 0] / np.maximum(sums[:, 1] + sums[:, 2], 1)
    hits, predicted, wanted = np.moveaxis(sums.reshape(len(sums), 3, -1), 1, 0)
    f1 = 2 * hits / np.maximum(predicted + wanted, 1)
    weights = (predicted + wanted > 0).astype(np.float64) if task.metric == MACRO_F1 else wanted
    averages: Floats = (weights * f1).sum(axis=1) / weights.sum(axis=1)
    return averages
