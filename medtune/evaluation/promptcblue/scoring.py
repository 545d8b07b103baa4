"""Scores predictions that stand beside their records: per task, and as the organisers would answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medtune.evaluation.promptcblue.counts import measure_counts
from medtune.evaluation.promptcblue.errors import MetricError
from medtune.evaluation.promptcblue.protocols import Protocol, Task, find_protocol
from medtune.evaluation.promptcblue.records import Row, group_by_task, read_references, read_rows
from medtune.evaluation.scores import Scores, TaskScore, mean

PERCENT = 100.0


def score_predictions(
    references: Sequence[Mapping[str, Any]], predictions: Sequence[str], protocol: str = "ccks2023"
) -> Scores:
    """Scores one generated text per PromptCBLUE record.

    Args:
        references: Records with their gold ``target``, ``task_dataset`` and, if any, ``answer_choices``.
        predictions: The generated texts, in the order of the records, not stripped.
        protocol: ``ccks2023`` (16 tasks) or ``chip2023`` (18 tasks).

    Returns:
        ``score`` is the mean over the tasks that the records hold; a task that the official scripts cannot
        score counts 0 in it. ``robust_score`` counts the malformed rows of such a task as empty instead.
        ``official_score`` equals the organisers' scripts for a file with every task, and is None otherwise.

    Raises:
        ValueError: The two differ in length, a record is none of the protocol's, or a prediction is no text.
    """
    rules = find_protocol(protocol)
    if len(references) != len(predictions):
        raise ValueError(
            f"{len(references)} references but {len(predictions)} predictions; "
            "pass one prediction per record, in order"
        )
    return score_rows(read_rows(read_references(references, rules), predictions, rules), rules)


def score_rows(rows: Sequence[Row], rules: Protocol) -> Scores:
    """Scores rows that were read, as :func:`score_predictions` says."""
    tasks = {task: score_task(task, members) for task, members in group_by_task(rows, rules).items()}
    official_score, official_error = _answer_officially(rules, rows, tasks)
    return Scores(
        protocol=rules.name,
        score=mean(result.score for result in tasks.values()),
        official_score=official_score,
        official_error=official_error,
        robust_score=mean(result.robust for result in tasks.values()),
        tasks={task.name: result for task, result in tasks.items()},
    )


def score_task(task: Task, rows: Sequence[Row]) -> TaskScore:
    """Scores the rows of one task."""
    error = next((row.error or row.metric_error for row in rows if row.error or row.metric_error), None)
    try:
        figures = measure_counts(task, [row.counts for row in rows])
    except MetricError as fatal:
        figures, error = {task.metric: 0.0}, error or str(fatal)
    details = {name: value * PERCENT for name, value in figures.items()}
    reached = next(iter(details.values()))
    return TaskScore(
        metric=task.metric,
        score=reached if error is None else 0.0,
        rows=len(rows),
        details=details if error is None else dict.fromkeys(details, 0.0),
        parse_failures=tuple(row.sample_id for row in rows if not row.is_readable),
        error=error,
        robust_score=None if error is None else reached,
    )


def _answer_officially(
    protocol: Protocol, rows: Sequence[Row], tasks: Mapping[Task, TaskScore]
) -> tuple[float | None, str | None]:
    """Returns the organisers' score and what they say when they refuse one."""
    if missing := find_missing_tasks(protocol, [task.name for task in tasks]):
        return None, f"no official score: {protocol.name} also needs {', '.join(missing)}"
    if fatal := next((row.error for row in rows if row.error), None):
        return 0.0, f"the official parser dies: {fatal}"
    if broken := next(((task, result.error) for task, result in tasks.items() if result.error), None):
        return 0.0, f"Error in calculating metrics! {broken[0].name}: {broken[1]}"
    return mean(result.score for result in tasks.values()), None


def find_missing_tasks(protocol: Protocol, tasks: Iterable[str]) -> list[str]:
    """Returns the protocol's tasks that are not among ``tasks``; without one there is no official score."""
    found = set(tasks)
    return [task.name for task in protocol.tasks if task.name not in found]
