"""PromptCBLUE records on their way to a score: checked, read, and gathered by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medtune.evaluation.promptcblue.counts import RowCounts, count_row, score_row
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

PERFECT = 1 - 1e-6  # a text that is all right has a ROUGE-L of 0.999999995


@dataclass(frozen=True, slots=True)
class Reference:
    """A gold record, checked and read."""

    record: Mapping[str, Any]
    sample_id: str
    task: Task
    choices: Sequence[str] | None
    gold: Answer


@dataclass(frozen=True, slots=True)
class Row:
    """A gold record with what its prediction counts for; the parsed prediction itself is not kept."""

    reference: Reference
    counts: RowCounts
    """What the prediction adds to the figures; of a malformed one, what nothing at all would add."""
    is_readable: bool
    """Whether the text has the form of an answer."""
    error: str | None
    """Why the official parser dies on this row."""
    metric_error: str | None
    """Why the official metric dies on this row."""

    @property
    def sample_id(self) -> str:
        """The record's."""
        return self.reference.sample_id

    @property
    def task(self) -> Task:
        """The record's."""
        return self.reference.task


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


def name_place(index: int, record: object) -> str:
    """Returns how messages name a record whose file is not known.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(record, Mapping):
        raise _refuse(f"references[{index}]", f"a {type(record).__name__}", "pass one mapping per record")
    return f"references[{index}] ({record.get('sample_id', 'no sample_id')})"


def read_reference(record: Mapping[str, Any], place: str, protocol: Protocol) -> Reference:
    """Reads a gold record.

    Raises:
        ValueError: It is none of PromptCBLUE's, or holds no answer; begins with ``place``.
    """
    task = find_task(record, place, protocol)
    choices = _find_choices(record, place, task)
    gold = _read_gold(_find_target(record, place), place, task, choices, protocol)
    return Reference(record, str(record.get("sample_id", "xxxx")), task, choices, gold)


def read_references(
    records: Sequence[Mapping[str, Any]], protocol: Protocol, places: Sequence[str] | None = None
) -> list[Reference]:
    """Reads gold records; ``places`` are their files and lines, for messages."""
    named = places or [name_place(index, record) for index, record in enumerate(records)]
    return [read_reference(record, place, protocol) for record, place in zip(records, named, strict=True)]


def read_row(index: int, reference: Reference, prediction: object, protocol: Protocol) -> Row:
    """Reads and counts the prediction for one record.

    Raises:
        ValueError: The prediction is no text. What a model may have written in its text raises nothing.
    """
    if not isinstance(prediction, str):
        kind = type(prediction).__name__
        raise _refuse(f"predictions[{index}]", f"{kind}, not text", 'pass "" for a row without an answer')
    task, error, metric_error = reference.task, None, None
    try:
        answer = parse_answer(prediction, task, reference.choices, protocol)
        is_readable = follows_grammar(prediction, answer, task, reference.choices, protocol)
        counts = count_row(task, reference.gold, answer)
    except FatalRowError as fatal:
        error = f"{fatal} in row {index} ({reference.sample_id}, {task.name})"
    except MetricError as broken:
        metric_error = str(broken)
    if error or metric_error:
        is_readable, counts = False, count_row(task, reference.gold, make_empty_answer(task))
    return Row(reference, counts, is_readable, error, metric_error)


def read_rows(references: Sequence[Reference], predictions: Sequence[str], protocol: Protocol) -> list[Row]:
    """Reads a prediction per record, in order."""
    return [
        read_row(index, reference, prediction, protocol)
        for index, (reference, prediction) in enumerate(zip(references, predictions, strict=True))
    ]


def is_right(row: Row) -> bool:
    """Whether nothing is missing and nothing too much."""
    return score_row(row.counts) >= PERFECT


def parse_again(row: Row, text: str, protocol: Protocol) -> Answer:
    """Returns what the text of a row, which is counted already, is read as."""
    try:
        return parse_answer(text, row.task, row.reference.choices, protocol)
    except FatalRowError:
        return make_empty_answer(row.task)


def _read_gold(
    target: str, place: str, task: Task, choices: Sequence[str] | None, protocol: Protocol
) -> Answer:
    try:
        gold = parse_answer(target, task, choices, protocol)
    except FatalRowError as error:
        raise _refuse(place, f"its target is no {task.name} answer ({error})", "repair the record") from error
    if task.grammar == "tree":
        try:
            build_tree(gold)
        except MetricError as error:
            raise _refuse(
                place, f"its target is no {task.name} answer ({error})", "repair the record"
            ) from error
    return gold


def group_by_task(rows: Iterable[Row], protocol: Protocol) -> dict[Task, list[Row]]:
    """Gathers rows by task, in the protocol's order, without the tasks that have none."""
    groups: dict[Task, list[Row]] = {task: [] for task in protocol.tasks}
    for row in rows:
        groups[row.task].append(row)
    return {task: members for task, members in groups.items() if members}
