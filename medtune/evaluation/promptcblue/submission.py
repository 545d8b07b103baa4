"""Scores a whole predictions file as the organisers do: rows missing, doubled or astray included."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medtune.evaluation.promptcblue.counts import RowCounts, count_row, measure_counts
from medtune.evaluation.promptcblue.errors import FatalRowError, MetricError
from medtune.evaluation.promptcblue.parsing import CHOICE_GRAMMARS, Answer, parse_answer
from medtune.evaluation.promptcblue.protocols import Protocol, Task, find_protocol

Structured = dict[str, list[dict[str, Any]]]

MISSING = "There are missing predictions in the submission, please check again!"
BROKEN_METRIC = "Error in calculating metrics!"
PARSER_DIES = "the official parser dies:"
READ_FIELDS = ("input", "target", "task_dataset", "task_type", "answer_choices")
NO_SAMPLE_ID = "xxxx"


@dataclass(frozen=True, slots=True)
class SubmissionResult:
    """The organisers' answer to a file."""

    score: float
    """0-100; 0 for a file that they refuse."""
    report: dict[str, float] = field(default_factory=dict)
    """Their ``scoreJson``: every task's score under their key, and ``score``."""
    error: str | None = None
    """Why they refuse the file."""
    details: dict[str, dict[str, float]] = field(default_factory=dict)
    """Every figure of every task, 0 to 1."""


@dataclass(slots=True)
class _TaskRows:
    """What is known of one task's submitted rows, position by position."""

    sample_ids: list[Any] = field(default_factory=list)
    counts: list[RowCounts] = field(default_factory=list)
    broken: str | None = None


def score_submission(
    gold: Sequence[Mapping[str, Any]], submitted: Iterable[Mapping[str, Any]], protocol: str = "ccks2023"
) -> SubmissionResult:
    """Scores the records of a ``test_predictions.json`` against the gold records.

    A submitted answer is counted and dropped at once, so that a file of huge answers takes no more memory
    than its largest.

    Args:
        gold: Records with their gold ``target``, every task of the protocol among them.
        submitted: Records whose ``target`` is the generated text, in the order of the file.
        protocol: ``ccks2023`` or ``chip2023``.

    Raises:
        ValueError: The gold records themselves cannot be read.
    """
    rules = find_protocol(protocol)
    try:
        golds = parse_records(gold, rules)
    except FatalRowError as error:
        raise ValueError(f"the gold records are not {rules.name}'s: {error}; repair them") from error
    return score_records(golds, submitted, rules)


def score_records(
    golds: Structured, submitted: Iterable[Mapping[str, Any]], protocol: Protocol
) -> SubmissionResult:
    """As :func:`score_submission`, against gold records that were parsed."""
    rows = {task.name: _TaskRows() for task in protocol.tasks}
    try:
        for number, record in enumerate(submitted, start=1):
            task, row = read_record(record, number, protocol)
            _count_record(task, row, golds[task.name], rows[task.name])
    except FatalRowError as error:
        return SubmissionResult(0.0, error=f"{PARSER_DIES} {error}")
    return _score_rows(golds, rows, protocol)


def _count_record(task: Task, row: Mapping[str, Any], golds: Sequence[Any], rows: _TaskRows) -> None:
    """Holds a row against the gold row in its place; which of the two it belongs to is found out later."""
    place = len(rows.sample_ids)
    rows.sample_ids.append(row["sample_id"])
    if place >= len(golds):
        return
    try:
        rows.counts.append(count_row(task, golds[place]["answer"], row["answer"]))
    except MetricError as error:
        rows.broken = rows.broken or str(error)


def parse_records(records: Iterable[Mapping[str, Any]], protocol: Protocol) -> Structured:
    """Returns the content of the official results.json.

    Raises:
        FatalRowError: The official parser dies on one of the records.
    """
    structured: Structured = {task.name: [] for task in protocol.tasks}
    for number, record in enumerate(records, start=1):
        task, row = read_record(record, number, protocol)
        structured[task.name].append(row)
    return structured


def read_record(record: Mapping[str, Any], number: int, protocol: Protocol) -> tuple[Task, dict[str, Any]]:
    """Returns a record's task and its entry in the official results.json.

    Raises:
        FatalRowError: The official parser dies on it.
    """
    task = _find_task(record, number, protocol)
    answer = _read_target(record, number, task, protocol)
    row = {"sample_id": record.get("sample_id", NO_SAMPLE_ID), "answer": answer}
    _refuse_unwritable(row["sample_id"], number)
    return task, row


def _find_task(record: Mapping[str, Any], number: int, protocol: Protocol) -> Task:
    absent = [name for name in READ_FIELDS if name not in record]
    if absent:
        raise FatalRowError("KeyError", f"row {number} has no {absent[0]}")
    name = record["task_dataset"]
    task = protocol.find_task(name)
    if task is None:
        raise FatalRowError("ValueError", f"row {number} has the unknown task_dataset {name!r:.100}")
    return task


def _read_target(record: Mapping[str, Any], number: int, task: Task, protocol: Protocol) -> Answer:
    target, choices = record["target"], record["answer_choices"]
    if not isinstance(target, str):
        raise FatalRowError("AttributeError", f"row {number}: target is {type(target).__name__}, not text")
    if task.grammar not in CHOICE_GRAMMARS:
        choices = None
    elif not isinstance(choices, list):
        raise FatalRowError("AssertionError", f"row {number}: answer_choices is {type(choices).__name__}")
    elif not all(isinstance(choice, str) for choice in choices):
        _refuse_unwritable(choices, number)
    try:
        return parse_answer(target, task, choices, protocol)
    except FatalRowError as error:
        raise FatalRowError(error.exception, f"row {number}: {error.reason}") from error


def _refuse_unwritable(value: Any, number: int) -> None:
    """The official script writes what it found as UTF-8 and dies on half a surrogate pair."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise FatalRowError("UnicodeEncodeError", f"row {number}: {error.reason}") from error


def _score_rows(golds: Structured, answers: Mapping[str, _TaskRows], protocol: Protocol) -> SubmissionResult:
    """Scores what was counted; the first task with a problem decides the refusal."""
    details: dict[str, dict[str, float]] = {}
    for task in protocol.tasks:
        gold, rows = golds[task.name], answers[task.name]
        if len(gold) != len(rows.sample_ids):
            found = len(rows.sample_ids)
            return SubmissionResult(0.0, error=f"{MISSING} {task.name}: {found} rows, not {len(gold)}")
        if [row["sample_id"] for row in gold] != rows.sample_ids:
            return SubmissionResult(0.0, error=f"{BROKEN_METRIC} {task.name}: sample ordering is wrong!")
        if rows.broken:
            return SubmissionResult(0.0, error=f"{BROKEN_METRIC} {task.name}: {rows.broken}")
        try:
            details[task.name] = measure_counts(task, rows.counts)
        except (MetricError, ZeroDivisionError) as error:
            return SubmissionResult(0.0, error=f"{BROKEN_METRIC} {task.name}: {error}")
    return _report(details, protocol)


def _report(details: dict[str, dict[str, float]], protocol: Protocol) -> SubmissionResult:
    headlines = {task.official_key: next(iter(details[task.name].values())) for task in protocol.tasks}
    score = sum(headlines.values()) / len(headlines) * 100
    report = {key: value * 100 for key, value in headlines.items()} | {"score": score}
    return SubmissionResult(score, report, details=details)
