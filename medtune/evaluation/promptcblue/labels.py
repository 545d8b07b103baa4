"""Averages over labels, as scikit-learn's ``classification_report`` takes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def _divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


def _weigh(values: Mapping[str, float], weights: Mapping[str, int]) -> float:
    return sum(weights[label] * value for label, value in values.items()) / sum(weights.values())


def score_labels(
    golds: Sequence[str], predictions: Sequence[str], default: str, macro: bool
) -> tuple[float, float, float]:
    """Returns precision, recall and F1.

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
