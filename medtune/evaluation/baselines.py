"""What needs no model: the predictions that a trained one has to beat.

Three systems look at the training answers and at what a test row itself offers, never at a test answer:

- ``majority``: each task's most frequent training answer.
- ``constant``: the one training answer that scores best on a slice of the training rows.
- ``random_candidate``: what the row offers, put into the task's grammar by a fixed rule. A label task gets a
  random one of its choices. A normalization task gets every candidate, which beats one drawn at random in
  expectation for any number of them. A finding task whose question lists the findings gets each of them with
  the most frequent training label. Every other task gets the majority answer.

A dictionary of the training entities would score higher still; it is left out because it is learning.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from medtune.evaluation.promptcblue import PROTOCOLS, score_predictions
from medtune.evaluation.scores import Scores, TaskScore, mean
from medtune.evaluation.text import score_headline

Record = Mapping[str, Any]

MAX_CANDIDATES = 32  # training answers that `constant` tries
MAX_SLICE = 128  # training rows that it tries them on
LISTED_FINDINGS = re.compile(r"实体[：:](.+)")  # "临床发现实体：a，b" in the official prompts
LABEL_TYPES = frozenset({"cls", "matching"})


def trivial_predictions(train: Iterable[Record], test: Sequence[Record], seed: int) -> dict[str, list[str]]:
    """Returns one text per test record from each of ``majority``, ``constant`` and ``random_candidate``.

    Args:
        train: Training records with their ``target``. Records without ``task_dataset`` form one task.
        test: The records to answer; their ``target`` is not read. A task without training rows is answered
            with empty texts, except where the row itself offers an answer.
        seed: Decides the random choices and the training slices.

    Raises:
        ValueError: A training record has no text as its ``target``.
    """
    examples = _group_by_task(train)
    majority = {task: find_majority(records) for task, records in examples.items()}
    constant = {
        task: find_constant(records, random.Random(f"{seed} {task}")) for task, records in examples.items()
    }
    labels = {task: _find_common_label(records) for task, records in examples.items()}
    chance = random.Random(seed)
    tasks = [_name_task(record) for record in test]
    return {
        "majority": [majority.get(task, "") for task in tasks],
        "constant": [constant.get(task, "") for task in tasks],
        "random_candidate": [
            _answer_from_row(record, labels.get(task, ""), majority.get(task, ""), chance)
            for task, record in zip(tasks, test, strict=True)
        ],
    }


def best_of(systems: Mapping[str, Scores]) -> Scores:
    """Returns each task's best score of several systems, as the one row ``trivial``.

    The choice is made on the rows that are scored, in favour of the trivial side: who beats it task by task
    beats every one of the systems.

    Raises:
        ValueError: There is no system, or they were not scored on the same tasks.
    """
    names = {tuple(sorted(scores.tasks)) for scores in systems.values()}
    if len(names) != 1:
        raise ValueError(f"best_of needs systems scored on the same tasks, not {len(names)} sets of tasks")
    first = next(iter(systems.values()))
    tasks = {name: _pick_best([scores.tasks[name] for scores in systems.values()]) for name in first.tasks}
    counted = tasks.values() if first.headline is None else [tasks[first.headline]]
    return Scores(
        protocol=first.protocol,
        score=mean(task.score for task in counted),
        official_score=None,
        official_error=f"no official score: each task's best of {', '.join(systems)}",
        robust_score=mean(task.robust for task in counted),
        tasks=tasks,
        headline=first.headline,
    )


def _pick_best(results: Sequence[TaskScore]) -> TaskScore:
    return max(results, key=lambda result: result.score)


def _name_task(record: Record) -> str:
    return str(record.get("task_dataset") or "")


def _group_by_task(records: Iterable[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = defaultdict(list)
    for index, record in enumerate(records):
        if not isinstance(record.get("target"), str):
            kind = type(record.get("target")).__name__
            raise ValueError(f"train[{index}]: target is {kind}, not text; pass what training sees")
        groups[_name_task(record)].append(record)
    return groups


def _rank_targets(records: Sequence[Record]) -> list[str]:
    """The answers, most frequent first; of equally frequent ones the earlier."""
    return [target for target, _ in Counter(record["target"] for record in records).most_common()]


def find_majority(records: Sequence[Record]) -> str:
    """Returns the most frequent answer of one task's records."""
    return _rank_targets(records)[0]


def find_constant(records: Sequence[Record], chance: random.Random) -> str:
    """Returns the answer that, given to every row, scores best on a slice of one task's own records.

    Half of the candidates are the most frequent answers, half are drawn from the rest.
    """
    ranked = _rank_targets(records)
    frequent, rest = ranked[: MAX_CANDIDATES // 2], ranked[MAX_CANDIDATES // 2 :]
    candidates = frequent + chance.sample(rest, min(len(rest), MAX_CANDIDATES - len(frequent)))
    rows = chance.sample(list(records), min(len(records), MAX_SLICE))
    score = _choose_scorer(rows)
    return max(candidates, key=lambda candidate: score(rows, [candidate] * len(rows)))


def _choose_scorer(rows: Sequence[Record]) -> Callable[[Sequence[Record], list[str]], float]:
    task = _name_task(rows[0])
    for name, protocol in PROTOCOLS.items():
        if protocol.find_task(task):
            return lambda rows, texts: score_predictions(rows, texts, name).score
    return lambda rows, texts: score_headline([row["target"] for row in rows], texts)


def _find_common_label(records: Sequence[Record]) -> str:
    """Returns the label that ends most lines of a finding task's answers, and ``""`` for other tasks."""
    labels = Counter(
        label
        for record in records
        if record.get("task_type") == "attr_cls"
        for line in record["target"].split("\n")[1:]
        if (label := line.partition("：")[2]) in (record.get("answer_choices") or ())
    )
    return labels.most_common(1)[0][0] if labels else ""


def _answer_from_row(record: Record, label: str, majority: str, chance: random.Random) -> str:
    choices = record.get("answer_choices") or []
    task_type = record.get("task_type")
    if task_type in LABEL_TYPES and choices:
        return str(chance.choice(choices))
    if task_type == "normalization" and choices:
        return "，".join(choices)
    findings = _list_findings(record, choices) if task_type == "attr_cls" and label else []
    if findings:
        return "\n".join([majority.split("\n")[0], *(f"{finding}：{label}" for finding in findings)])
    return majority


def _list_findings(record: Record, choices: Sequence[str]) -> list[str]:
    """Returns the findings that the question itself lists; the last list wins, for dialogues come first."""
    listed = [match.group(1) for match in LISTED_FINDINGS.finditer(str(record.get("input", "")))]
    for text in reversed(listed):
        findings = [finding.strip() for finding in text.split("，") if finding.strip()]
        if not set(findings) & set(choices):
            return findings
    return []
