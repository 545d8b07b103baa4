"""The rows that went worst, with all that is needed to see why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medtune.evaluation.promptcblue.counts import score_row
from medtune.evaluation.promptcblue.protocols import Protocol
from medtune.evaluation.promptcblue.records import Row, group_by_task, is_right, parse_again

MAX_CHARS, MAX_ITEMS = 4000, 200  # of what is shown of a row


def find_worst(
    rows: Sequence[Row], texts: Sequence[str], most: int, protocol: Protocol
) -> list[dict[str, Any]]:
    """Returns at most ``most`` rows of each task, the worst first; rows that are all right are never shown.

    Long texts and lists are cut, and say so. Half of a surrogate pair is written as its escape.
    """
    numbered = {id(row): number for number, row in enumerate(rows)}
    worst = []
    for members in group_by_task(rows, protocol).values():
        wrong = [row for row in members if not is_right(row)]
        for row in sorted(wrong, key=lambda row: score_row(row.counts))[:most]:
            worst.append(_describe(row, texts[numbered[id(row)]], protocol))
    return worst


def _describe(row: Row, text: str, protocol: Protocol) -> dict[str, Any]:
    record = row.reference.record
    return {
        "sample_id": row.sample_id,
        "task": row.task.name,
        "score": 100 * score_row(row.counts),
        "readable": row.is_readable,
        "error": row.error or row.metric_error,
        "input": cut(str(record.get("input", ""))),
        "gold": cut(record["target"]),
        "prediction": cut(text),
        "parsed_gold": cut(row.reference.gold),
        "parsed_prediction": cut(parse_again(row, text, protocol)),
    }


def cut(value: Any) -> Any:
    """Returns a JSON value with long texts and lists cut, in characters that UTF-8 has."""
    if isinstance(value, str):
        more = len(value) - MAX_CHARS
        shown = f"{value[:MAX_CHARS]}… ({more} more characters)" if more > 0 else value
        return shown.encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        return {key: cut(inner) for key, inner in value.items()}
    if isinstance(value, list):
        more = len(value) - MAX_ITEMS
        return [cut(inner) for inner in value[:MAX_ITEMS]] + ([f"… ({more} more)"] if more > 0 else [])
    return value
