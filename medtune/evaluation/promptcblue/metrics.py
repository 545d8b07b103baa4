"""The official measures over one task's rows, each on the scale 0 to 1 in which the organisers compute."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medtune.evaluation.promptcblue import rouge, trees
from medtune.evaluation.promptcblue.parsing import Answer
from medtune.evaluation.promptcblue.protocols import MACRO_F1, MICRO_F1, ROUGE_L, TREE_RATIO, Task


def _write_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _collect_tuples(records: Iterable[Mapping[str, Any]]) -> set[tuple[str, ...]]:
    """The values in the order of their keys; the keys themselves are no part of an answer's identity."""
    distinct = {id(record): record for record in records}.values()
    return {tuple(_write_json(record[key]) for key in sorted(record)) for record in distinct}


def score_extraction(golds: Sequence[Answer], predictions: Sequence[Answer]) -> tuple[float, float, float]:
    """Returns precision, recall and F1 over the tuples of all rows together; all 0 without a single hit."""
    hits = predicted = wanted = 0
    for gold, answer in zip(golds, predictions, strict=True):
        gold_tuples, tuples = _collect_tuples(gold), _collect_tuples(answer)
        hits += len(gold_tuples & tuples)
        predicted += len(tuples)
        wanted += len(gold_tuples)
    if not hits:
        return 0.0, 0.0, 0.0
    precision, recall = hits / predicted, hits / wanted
    return precision, recall, 2 * precision * recall / (precision + recall)


def _divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def _weigh(values: Mapping[str, float], weights: Mapping[str, int]) -> float:
    return sum(weights[label] * value for label, value in values.items()) / sum(weights.values())


def score_labels(
    golds: Sequence[str], predictions: Sequence[str], default: str, macro: bool
) -> tuple[float, float, float]:
    """Returns precision, recall and F1 as scikit-learn's ``classification_report`` averages them.

    Args:
        golds: The right labels.
        predictions: The predicted ones, one per gold label.
        default: What an empty prediction counts as.
        macro: Whether each label weighs the same, labels that exist only as predictions included (the
            ``macro avg`` line), or as often as it is right (``weighted avg``).
    """
    predictions = [label or default for label in predictions]
    wanted, predicted = Counter(golds), Counter(predictions)
    hits = Counter(gold for gold, label in zip(golds, predictions, strict=True) if gold == label)
    labels = wanted | predicted
    weights = {label: 1 if macro else wanted[label] for label in labels}
    precision = {label: _divide(hits[label], predicted[label]) for label in labels}
    recall = {label: _divide(hits[label], wanted[label]) for label in labels}
    f1 = {label: 2 * hits[label] / (wanted[label] + predicted[label]) for label in labels}
    return _weigh(precision, weights), _weigh(recall, weights), _weigh(f1, weights)


def measure(task: Task, golds: Sequence[Answer], predictions: Sequence[Answer]) -> dict[str, float]:
    """Returns every figure of the task's metric, its headline first.

    Raises:
        MetricError: The official metric dies on these rows.
    """
    if task.metric == TREE_RATIO:
        ratio, node_f1, path_f1 = trees.score_trees(golds, predictions)
        return {TREE_RATIO: ratio, "node_f1": node_f1, "path_f1": path_f1}
    if task.metric == ROUGE_L:
        score = rouge.score_reports if task.grammar == "report" else rouge.score_texts
        rouge_1, rouge_2, rouge_l = score(golds, predictions)
        return {ROUGE_L: rouge_l, "rouge_1": rouge_1, "rouge_2": rouge_2}
    if task.metric == MICRO_F1:
        precision, recall, f1 = score_extraction(golds, predictions)
    else:
        precision, recall, f1 = score_labels(golds, predictions, task.default, macro=task.metric == MACRO_F1)
    return {"f1": f1, "precision": precision, "recall": recall}
