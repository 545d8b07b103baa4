"""The scores of a sweep's trials side by side, task by task: as text, Markdown, CSV, JSON and a picture."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.config.resolvers import PROJECT
from medtune.runtime.record import RunFolder, read_json

OVERALL = "overall"
PICTURE_SECONDS = 120
# What one compares who sweeps over nothing but the objective.
OBJECTIVES = {"pretrain": "all-token (pretrain)", "sft": "masked (sft)"}


@dataclass(frozen=True)
class TrialScores:
    """What one trial reached on one split.

    Attributes:
        label: What its settings say apart from the other trials'.
        folder: Its run folder's name.
        tasks: Task to score, 0-100.
        overall: Their headline.
    """

    label: str
    folder: str
    tasks: Mapping[str, float]
    overall: float


def label_of(settings: Mapping[str, str]) -> str:
    """A trial's short name in a table."""
    if list(settings) == ["objective"]:
        return OBJECTIVES.get(settings["objective"], settings["objective"])
    return ", ".join(f"{key}={value}" for key, value in settings.items()) or "as configured"


def read_scores(folder: Path, split: str | None = None) -> tuple[str, dict[str, float], float] | None:
    """The split, the score of each task and the overall one of a run; None where it was not scored.

    Args:
        folder: Of the run.
        split: To take; None: its headline.
    """
    file = RunFolder(folder).scores_file
    if not file.is_file():
        return None
    try:
        scores = read_json(file)
        split = split or str(scores["split"])
        model = scores["splits"][split]["model"]
        tasks = {str(name): float(task["score"]) for name, task in model["tasks"].items()}
        return split, tasks, float(model["score"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # of another kind, or cut off


def collect_scores(trials: Sequence[tuple[Mapping[str, str], Path]]) -> tuple[str, list[TrialScores]]:
    """The trials that were scored on the split of the first one that was, and that split.

    Args:
        trials: What differs between them, and their run folders.
    """
    split: str | None = None
    found = []
    for settings, folder in trials:
        scores = read_scores(folder, split)
        if scores is not None:
            split, tasks, overall = scores
            found.append(TrialScores(label_of(settings), folder.name, tasks, overall))
    return split or "", found


def lay_out(trials: Sequence[TrialScores]) -> list[list[str]]:
    """The table, its heading first: a row per task, a column per trial, then each less the first."""
    first, *others = trials
    tasks = list(dict.fromkeys(task for trial in trials for task in trial.tasks))
    heading = [
        "task",
        *(trial.label for trial in trials),
        *(difference_name(trial, trials) for trial in others),
    ]
    rows = [heading]
    for task in [*tasks, OVERALL]:
        values = [trial.overall if task == OVERALL else trial.tasks.get(task) for trial in trials]
        rows.append(
            [task, *map(as_score, values), *(as_difference(value, values[0]) for value in values[1:])]
        )
    return rows


def difference_name(trial: TrialScores, trials: Sequence[TrialScores]) -> str:
    """The heading of a trial's difference from the first."""
    return "difference" if len(trials) == 2 else f"{trial.label} - {trials[0].label}"


def as_score(value: float | None) -> str:
    """A score as it is read; ``-`` where there is none."""
    return "-" if value is None else f"{value:.2f}"


def as_difference(value: float | None, base: float | None) -> str:
    """How much more it is, with its sign."""
    return "-" if value is None or base is None else f"{value - base:+.2f}"


def as_markdown(rows: Sequence[Sequence[str]], title: str) -> str:
    """Rows as a Markdown table, numbers on the right."""
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return f"{title}\n\n" + "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]) + "\n"


def as_json(split: str, trials: Sequence[TrialScores]) -> dict[str, Any]:
    """The same for programs, unrounded."""
    return {
        "split": split,
        "trials": [
            {"label": t.label, "folder": t.folder, "overall": t.overall, "tasks": dict(t.tasks)}
            for t in trials
        ],
    }


def draw(table: Path, picture: Path) -> str | None:
    """Has a process of its own draw the JSON table: the launcher imports nothing that draws.

    Returns:
        Why there is no picture; None when there is one.
    """
    command = [sys.executable, "-m", "medtune.evaluation.trials", str(table), str(picture)]
    try:
        done = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, timeout=PICTURE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else None
