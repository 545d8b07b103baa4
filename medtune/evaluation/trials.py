"""Draws the trials of a sweep: ``python -m medtune.evaluation.trials TABLE.json PICTURE.png``."""

import sys
from pathlib import Path

from medtune.evaluation.report import plot_scores
from medtune.evaluation.scores import Scores, TaskScore
from medtune.runtime.record import read_json


def read_trials(table: Path) -> dict[str, Scores]:
    """What each trial reached, by its label; equal labels are told apart by number."""
    rows: dict[str, Scores] = {}
    for number, trial in enumerate(read_json(table)["trials"]):
        label = trial["label"] if trial["label"] not in rows else f"{trial['label']} ({number})"
        tasks = {name: TaskScore("", score, rows=0) for name, score in trial["tasks"].items()}
        rows[label] = Scores("", trial["overall"], None, None, trial["overall"], tasks)
    return rows


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m medtune.evaluation.trials TABLE.json PICTURE.png")
    plot_scores(read_trials(Path(sys.argv[1])), sys.argv[2])
