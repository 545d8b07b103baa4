"""The parser of a submission: from ``test_predictions.json`` to the ``results.json`` that is scored.

It reads as the official one does, except that no row can end it: a row on which the official parser or metric
would die, and with it the whole file, is answered with nothing and named on standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medtune.evaluation.promptcblue.errors import FatalRowError
from medtune.evaluation.promptcblue.parsing import CHOICE_GRAMMARS, Answer, make_empty_answer, parse_answer
from medtune.evaluation.promptcblue.protocols import PROTOCOLS, Protocol, Task


def post_process(lines: Iterable[str], protocol: Protocol) -> dict[str, list[dict[str, Any]]]:
    """Returns each task's answers in the order of the lines; a line that names no task is left out."""
    results: dict[str, list[dict[str, Any]]] = {task.name: [] for task in protocol.tasks}
    for number, line in enumerate(lines, start=1):
        record = read_record(line)
        task = protocol.find_task(record.get("task_dataset", ""))
        if task is None:
            warn(number, "no JSON object with a known task_dataset; left out")
            continue
        try:
            answer = read_answer(record, task, protocol)
        except FatalRowError as error:
            warn(number, f"{task.name} {record.get('sample_id')!r:.80}: {error}; answered with nothing")
            answer = make_empty_answer(task)
        results[task.name].append({"sample_id": record.get("sample_id", "xxxx"), "answer": answer})
    return results


def read_record(line: str) -> Mapping[str, Any]:
    """Returns the object in a line, or an empty one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def read_answer(record: Mapping[str, Any], task: Task, protocol: Protocol) -> Answer:
    """Returns what the official parser reads.

    Raises:
        FatalRowError: It dies, or the official metric does.
    """
    target, choices = record.get("target"), record.get("answer_choices")
    if not isinstance(target, str):
        raise FatalRowError("AttributeError", f"target is {type(target).__name__}, not text")
    if task.grammar not in CHOICE_GRAMMARS:
        choices = None
    elif not isinstance(choices, list):
        raise FatalRowError("AssertionError", f"answer_choices is {type(choices).__name__}")
    answer = parse_answer(target, task, choices, protocol)
    if task.grammar == "tree" and not all(
        is_scorable(triple) for node in answer for triple in node["triples"]
    ):
        raise FatalRowError("AttributeError", "a triple that is not made of strings")
    return answer


def is_scorable(triple: object) -> bool:
    """Whether the official metric, which lower-cases a triple's elements, survives it."""
    return isinstance(triple, (list, str)) and all(isinstance(element, str) for element in triple)


def warn(number: int, reason: str) -> None:
    """Says on standard error what was done about a row."""
    print(f"line {number}: {reason}", file=sys.stderr)


def main(arguments: Sequence[str], protocol: str) -> None:
    """Reads the file that is named first and writes the one that is named second."""
    source, target = arguments
    with open(source, encoding="utf-8-sig", errors="replace") as lines:
        results = post_process(lines, PROTOCOLS[protocol])
    with open(target, "w", encoding="utf-8", errors="replace") as file:
        json.dump(results, file, ensure_ascii=False, indent=2)
