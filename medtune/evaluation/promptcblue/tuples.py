"""Precision, recall and F1 over the tuples that extraction answers are made of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TupleCounts:
    """Distinct tuples of one row."""

    hits: int
    predicted: int
    wanted: int


def _write_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _collect_tuples(records: Iterable[Mapping[str, Any]]) -> set[tuple[str, ...]]:
    """The values in the order of their keys; the keys themselves are no part of an answer's identity."""
    distinct = {id(record): record for record in records}.values()
    return {tuple(_write_json(record[key]) for key in sorted(record)) for record in distinct}


def compare_tuples(gold: Sequence[Mapping[str, Any]], predicted: Sequence[Mapping[str, Any]]) -> TupleCounts:
    """Counts one row."""
    wanted, tuples = _collect_tuples(gold), _collect_tuples(predicted)
    return TupleCounts(len(wanted & tuples), len(tuples), len(wanted))


def score_tuples(rows: Sequence[TupleCounts]) -> tuple[float, float, float]:
    """Returns precision, recall and F1 over the tuples of all rows together; all 0 without a single hit."""
    hits, predicted, wanted = (sum(getattr(row, name) for row in rows) for name in TupleCounts.__slots__)
    if not hits:
        return 0.0, 0.0, 0.0
    precision, recall = hits / predicted, hits / wanted
    return precision, recall, 2 * precision * recall / (precision + recall)
