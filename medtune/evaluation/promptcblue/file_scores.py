"""Scores a predictions file of any content: as the organisers would, and with what is wrong set aside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from medtune.evaluation.promptcblue.matching import Matched, match
from medtune.evaluation.promptcblue.predictions_file import Line
from medtune.evaluation.promptcblue.protocols import Protocol
from medtune.evaluation.promptcblue.records import Reference, Row, read_rows
from medtune.evaluation.promptcblue.scoring import find_missing_tasks, score_rows
from medtune.evaluation.promptcblue.submission import (
    NO_SAMPLE_ID,
    PARSER_DIES,
    READ_FIELDS,
    Structured,
    score_records,
)
from medtune.evaluation.scores import Scores

COMPARED_FIELDS = ("sample_id", "task_dataset", "answer_choices")


@dataclass(frozen=True, slots=True)
class FileScores:
    """A scored file, with its rows beside their records."""

    scores: Scores
    rows: list[Row]
    matched: Matched


def score_lines(references: Sequence[Reference], lines: Sequence[Line], protocol: Protocol) -> FileScores:
    """Scores the lines of a predictions file.

    Returns:
        ``official_score`` and ``official_error`` are what the organisers' scripts make of the file as it is;
        every other figure is that of the answers beside their records, wherever in the file they were.
    """
    matched = match([reference.record for reference in references], lines)
    rows = read_rows(references, matched.texts, protocol)
    scores = score_rows(rows, protocol)
    if not find_missing_tasks(protocol, scores.tasks) and not _is_in_order(references, lines, matched):
        official, error = _score_officially(references, lines, matched, protocol)
        scores = replace(scores, official_score=official, official_error=error)
    return FileScores(replace(scores, source=matched.to_dict()), rows, matched)


def _is_in_order(references: Sequence[Reference], lines: Sequence[Line], matched: Matched) -> bool:
    """Whether the official scripts would see just the answers that were matched, each in its place."""
    if any(line.error for line in lines) or not matched.is_whole or len(lines) != len(references):
        return False
    return all(
        all(record.get(name) == reference.record.get(name) for name in COMPARED_FIELDS)
        and all(name in record for name in READ_FIELDS)
        for reference, record in zip(references, matched.records, strict=True)
    )


def _score_officially(
    references: Sequence[Reference], lines: Sequence[Line], matched: Matched, protocol: Protocol
) -> tuple[float, str | None]:
    if broken := next((line for line in lines if line.error), None):
        return 0.0, f"{PARSER_DIES} {broken.error} (line {broken.number})"
    golds: Structured = {task.name: [] for task in protocol.tasks}
    for reference in references:
        sample_id = reference.record.get("sample_id", NO_SAMPLE_ID)
        golds[reference.task.name].append({"sample_id": sample_id, "answer": reference.gold})
    result = score_records(golds, matched.records, protocol)
    return result.score, result.error
