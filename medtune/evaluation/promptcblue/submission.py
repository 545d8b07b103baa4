"""Scores a whole predictions file as the organisers do: rows missing, doubled or astray included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medtune.evaluation.promptcblue.errors import FatalRowError, MetricError
from medtune.evaluation.promptcblue.metrics import measure
from medtune.evaluation.promptcblue.parsing import CHOICE_GRAMMARS, Answer, parse_answer
from medtune.evaluation.promptcblue.protocols import Protocol, Task, find_protocol

Structured = dict[str, list[dict[str, Any]]]

MISSING = "There are missing predictions in the submission, please check again!"
BROKEN_METRIC = "Error in calculating metrics!"
READ_FIELDS = ("input", "target", "task_dataset", "task_type", "answer_choices")


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


def score_submission(
    gold: Sequence[Mapping[str, Any]], submitted: Sequence[Mapping[str, Any]], protocol: str = "ccks2023"
) -> SubmissionResult:
    """Scores the records of a ``test_predictions.json`` against the gold records.

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
    try:
        answers = parse_records(submitted, rules)
    except FatalRowError as error:
        return SubmissionResult(0.0, error=f"the official parser dies: {error}")
    return score_structured(golds, answers, rules)


def parse_records(records: Sequence[Mapping[str, Any]], protocol: Protocol) -> Structured:
    """Returns the content of the official results.json.

    Raises:
        FatalRowError: The official parser dies on one of the records.
    """
    structured: Structured = {task.name: [] for task in protocol.tasks}
    for number, record in enumerate(records, start=1):
        task = _find_task(record, number, protocol)
        answer = _read_target(record, number, task, protocol)
        structured[task.name].append({"sample_id": record.get("sample_id", "xxxx"), "answer": answer})
    return structured


def _find_task(record: Mapping[str, Any], number: int, protocol: Protocol) -> Task:
    absent = [name for name in READ_FIELDS if name not in record]
    if absent:
        raise FatalRowError("KeyError", f"row {number} has no {absent[0]}")
    name = record["task_dataset"]
    task = protocol.find_task(name)
    if task is None:
        raise FatalRowError("ValueError", f"row {number} has the unknown task_dataset {name!r}")
    return task


def _read_target(record: Mapping[str, Any], number: int, task: Task, protocol: Protocol) -> Answer:
    target, choices = record["target"], record["answer_choices"]
    if not isinstance(target, str):
        raise FatalRowError("AttributeError", f"row {number}: target is {type(target).__name__}, not text")
    if task.grammar in CHOICE_GRAMMARS and not isinstance(choices, list):
        raise FatalRowError("AssertionError", f"row {number}: answer_choices is {type(choices).__name__}")
    try:
        return parse_answer(target, task, choices, protocol)
    except FatalRowError as error:
        raise FatalRowError(error.exception, f"row {number}: {error.reason}") from error


def score_structured(golds: Structured, answers: Structured, protocol: Protocol) -> SubmissionResult:
    """Scores what the parser made of both files; the first task with a problem decides the refusal."""
    details: dict[str, dict[str, float]] = {}
    for task in protocol.tasks:
        gold, answer = golds[task.name], answers[task.name]
        if len(gold) != len(answer):
            return SubmissionResult(0.0, error=f"{MISSING} {task.name}: {len(answer)} rows, not {len(gold)}")
        if [row["sample_id"] for row in gold] != [row["sample_id"] for row in answer]:
            return SubmissionResult(0.0, error=f"{BROKEN_METRIC} {task.name}: sample ordering is wrong!")
        try:
            details[task.name] = measure(task, *([row["answer"] for row in rows] for rows in (gold, answer)))
        except (MetricError, ZeroDivisionError) as error:
            return SubmissionResult(0.0, error=f"{BROKEN_METRIC} {task.name}: {error}")
    return _report(details, protocol)


def _report(details: dict[str, dict[str, float]], protocol: Protocol) -> SubmissionResult:
    headlines = {task.official_key: next(iter(details[task.name].values())) for task in protocol.tasks}
    score = sum(headlines.values()) / len(headlines) * 100
    report = {key: value * 100 for key, value in headlines.items()} | {"score": score}
    return SubmissionResult(score, report, details=details)
