"""What one row adds to its task's figures, and the figures of rows together.

Every official figure is a function of sums over rows (labels: of pairs). So a row's answers can be dropped as
soon as they are counted, and rows can be drawn anew without being read anew (``evaluation/bootstrap.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medtune.evaluation.promptcblue import rouge
from medtune.evaluation.promptcblue.errors import MetricError
from medtune.evaluation.promptcblue.labels import score_labels
from medtune.evaluation.promptcblue.parsing import Answer
from medtune.evaluation.promptcblue.protocols import MACRO_F1, MICRO_F1, ROUGE_L, TREE_RATIO, Task
from medtune.evaluation.promptcblue.trees import TreeCounts, compare_trees, score_counts
from medtune.evaluation.promptcblue.tuples import TupleCounts, compare_tuples, score_tuples


@dataclass(frozen=True, slots=True)
class LabelPair:
    """A label beside the predicted one, an empty one already replaced by the task's default."""

    gold: str
    predicted: str


@dataclass(frozen=True, slots=True)
class RougeSums:
    """A row's figures, added up over its sections; a text is one section."""

    sections: int
    rouge_1: float
    rouge_2: float
    rouge_l: float


RowCounts = TupleCounts | LabelPair | RougeSums | TreeCounts


def count_row(task: Task, gold: Answer, predicted: Answer) -> RowCounts:
    """Returns what the row adds to its task's figures.

    Raises:
        MetricError: The official metric dies on this row.
    """
    if task.metric == TREE_RATIO:
        return compare_trees(predicted, gold)
    if task.metric == ROUGE_L:
        pairs = pair_sections(gold, predicted) if task.grammar == "report" else [(gold, predicted)]
        figures = [rouge.compare_texts(*pair) for pair in pairs]
        return RougeSums(len(pairs), *(sum(column) for column in zip((0.0, 0.0, 0.0), *figures, strict=True)))
    if task.metric == MICRO_F1:
        return compare_tuples(gold, predicted)
    return LabelPair(gold, predicted or task.default)


def pair_sections(gold: Mapping[str, str], predicted: Mapping[str, str]) -> list[tuple[str, str]]:
    """Each section of the gold report beside the predicted one; one that the answer lacks counts as empty."""
    return [(text.strip(), predicted.get(section, "").strip()) for section, text in gold.items()]


def measure_counts(task: Task, rows: Sequence[Any]) -> dict[str, float]:
    """Returns every figure (0 to 1) of rows that :func:`count_row` counted, the task's headline first.

    Raises:
        MetricError: The official metric dies on these rows.
    """
    if task.metric == TREE_RATIO:
        ratio, node_f1, path_f1 = score_counts(rows)
        return {TREE_RATIO: ratio, "node_f1": node_f1, "path_f1": path_f1}
    if task.metric == ROUGE_L:
        return average_rouge(rows)
    if task.metric == MICRO_F1:
        precision, recall, f1 = score_tuples(rows)
    else:
        golds, predictions = [row.gold for row in rows], [row.predicted for row in rows]
        precision, recall, f1 = score_labels(golds, predictions, task.default, macro=task.metric == MACRO_F1)
    return {"f1": f1, "precision": precision, "recall": recall}


def average_rouge(rows: Sequence[RougeSums]) -> dict[str, float]:
    """Returns the means over all sections.

    Raises:
        MetricError: No gold report has a section, over which the official code divides.
    """
    sections = sum(row.sections for row in rows)
    if not sections:
        raise MetricError("no gold report has a section")
    return {
        ROUGE_L: sum(row.rouge_l for row in rows) / sections,
        "rouge_1": sum(row.rouge_1 for row in rows) / sections,
        "rouge_2": sum(row.rouge_2 for row in rows) / sections,
    }


def score_row(counts: RowCounts) -> float:
    """Returns how good one row is by itself: its F1, label hit, mean ROUGE-L or tree ratio.

    Between 0 and 1, a tree ratio below 0 too. A row where nothing was asked for and nothing was answered is
    perfect, though it adds nothing to a micro F1.
    """
    if isinstance(counts, LabelPair):
        return float(counts.gold == counts.predicted)
    if isinstance(counts, RougeSums):
        return counts.rouge_l / counts.sections if counts.sections else 1.0
    if isinstance(counts, TupleCounts):
        return divide_or_perfect(2 * counts.hits, counts.predicted + counts.wanted)
    return 1 - counts.edits / counts.most_edits if counts.most_edits else float(not counts.edits)


def divide_or_perfect(numerator: float, denominator: float) -> float:
    """A share of nothing at all is the whole."""
    return numerator / denominator if denominator else 1.0
