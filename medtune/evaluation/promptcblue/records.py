"""PromptCBLUE records on their way to a score: checked, read, and gathered by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medtune.evaluation.promptcblue.errors import FatalRowError, MetricError
from medtune.evaluation.promptcblue.grammar import follows_grammar
from medtune.evaluation.promptcblue.parsing import (
    CHOICE_GRAMMARS,
    Answer,
    make_empty_answer,
    parse_answer,
)
from medtune.evaluation.promptcblue.protocols import Protocol, Task, suggest_task
from medtune.evaluation.promptcblue.trees import build_tree


@dataclass(frozen=True, slots=True)
class Row:
    """One record with its answer beside the right one."""

    sample_id: str
    task: Task
    gold: Answer
    answer: Answer
    """What the prediction is read as; of a malformed one, what nothing at all is read as."""
    is_readable: bool
    """Whether the text has the form of an answer."""
    error: str | None
    """Why the official parser dies on this row."""
    metric_error: str | None
    """Why the official metric dies on this row."""


def _refuse(place: str, problem: str, fix: str) -> ValueError:
    return ValueError(f"{place}: {problem}; {fix}")


def find_task(record: Mapping[str, Any], place: str, protocol: Protocol) -> Task:
    """Returns the task that a record names.

    Raises:
        ValueError: It names none, or none that ``protocol`` knows.
    """
    if "task_dataset" not in record:
        raise _refuse(place, "no task_dataset", "score other data with medtune.evaluation.text.score_texts")
    name = record["task_dataset"]
    task = protocol.find_task(name)
    if task is None:
        raise _refuse(place, f"unknown task_dataset {name!r}", suggest_task(protocol, name))
    return task


def _find_choices(record: Mapping[str, Any], place: str, task: Task) -> Sequence[str] | None:
    choices = record.get("answer_choices")
    if choices is None and task.grammar not in CHOICE_GRAMMARS:
        return None
    if not isinstance(choices, list | tuple) or not all(isinstance(choice, str) for choice in choices):
        kind = type(choices).__name__
        raise _refuse(place, f"answer_choices of a {task.name} record is {kind}", "make it a list of strings")
    return choices


def _find_target(record: Mapping[str, Any], place: str) -> str:
    target = record.get("target")
    if not isinstance(target, str):
        kind = type(target).__name__
        raise _refuse(place, f"target is {kind}, not text", "give each record its gold answer")
    if not target.strip():
        raise _refuse(place, "target is empty", "the public test files hold no answers: score on the dev set")
    return target


def _name_place(index: int, record: object) -> str:
    if not isinstance(record, Mapping):
        raise _refuse(f"references[{index}]", f"a {type(record).__name__}", "pass one mapping per record")
    return f"references[{index}] ({record.get('sample_id', 'no sample_id')})"


def read_row(index: int, record: Mapping[str, Any], prediction: object, protocol: Protocol) -> Row:
    """Reads the gold answer and the prediction of one record.

    Raises:
        ValueError: The record is none of PromptCBLUE's, or the prediction is no text. What a model may have
            written in its text raises nothing.
    """
    place = _name_place(index, record)
    task = find_task(record, place, protocol)
    choices = _find_choices(record, place, task)
    gold = _read_gold(_find_target(record, place), place, task, choices, protocol)
    if not isinstance(prediction, str):
        kind = type(prediction).__name__
        raise _refuse(f"predictions[{index}]", f"{kind}, not text", 'pass "" for a row without an answer')
    error = metric_error = None
    try:
        answer = parse_answer(prediction, task, choices, protocol)
        is_readable = follows_grammar(prediction, answer, task, choices, protocol)
        metric_error = find_metric_error(task, answer)
    except FatalRowError as fatal:
        error = f"{fatal} in row {index} ({record.get('sample_id', 'xxxx')}, {task.name})"
    if error or metric_error:
        answer, is_readable = make_empty_answer(task), False
    return Row(str(record.get("sample_id", "xxxx")), task, gold, answer, is_readable, error, metric_error)


def _read_gold(
    target: str, place: str, task: Task, choices: Sequence[str] | None, protocol: Protocol
) -> Answer:
    try:
        gold = parse_answer(target, task, choices, protocol)
    except FatalRowError as error:
        raise _refuse(place, f"its target is no {task.name} answer ({error})", "repair the record") from error
    if metric_error := find_metric_error(task, gold):
        raise _refuse(place, f"its target is no {task.name} answer ({metric_error})", "repair the record")
    return gold


def find_metric_error(task: Task, answer: Answer) -> str | None:
    """Says why the official metric would die on this answer alone, if it would."""
    if task.grammar != "tree":
        return None
    try:
        build_tree(answer)
    except MetricError as error:
        return str(error)
    return None


def group_by_task(rows: Iterable[Row], protocol: Protocol) -> dict[Task, list[Row]]:
    """Gathers rows by task, in the protocol's order, without the tasks that have none."""
    groups: dict[Task, list[Row]] = {task: [] for task in protocol.tasks}
    for row in rows:
        groups[row.task].append(row)
    return {task: members for task, members in groups.items() if members}
