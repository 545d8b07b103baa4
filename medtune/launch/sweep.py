"""Sweeps: a run folder and a process tree for each trial, one after another, and a table of all."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtune.launch.console import say
from medtune.launch.local import relative
from medtune.launch.outcome import FINISHED, INTERRUPTED, Outcome
from medtune.launch.run_folder import folder_name
from medtune.launch.trial_scores import as_json, as_markdown, collect_scores, draw, lay_out
from medtune.runtime.record import RunFolder, read_json, write_json, write_text

RESULTS = ("train_loss", "val_loss", "score")
LONGEST_LABEL = 100  # a folder's name may have 255 bytes


@dataclass
class Trial:
    """One run of a sweep.

    Attributes:
        settings: What differs between the trials: key to value, as typed.
        results: Of ``result.json``; None where the run has none.
    """

    number: int
    settings: dict[str, str]
    folder: Path
    status: str
    results: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sweep:
    """The trials of one command.

    Attributes:
        swept: Keys and groups of which the command gives several values.
        code: Exit code of the command: 0 when every trial finished.
    """

    folder: Path
    swept: Sequence[str]
    trials: list[Trial] = field(default_factory=list)
    code: int = 0

    @property
    def id(self) -> str:
        """What the runs are grouped by."""
        return self.folder.name

    def settings_of(self, overrides: Sequence[str]) -> dict[str, str]:
        """The part of a trial's overrides that differs between trials."""
        pairs = [text.lstrip("+").partition("=") for text in overrides]
        return {key: value.strip("'") for key, _, value in pairs if key in self.swept}

    def folder_of(self, settings: dict[str, str]) -> Path:
        """The next trial's folder: its number and what differs."""
        label = ",".join(f"{key}={value}" for key, value in settings.items())[:LONGEST_LABEL]
        name = f"{len(self.trials)}-{label}" if label else str(len(self.trials))
        return self.folder / folder_name(name)

    def add(self, settings: dict[str, str], folder: Path, outcome: Outcome) -> None:
        """Records how a trial ended, in its folder too when it was refused before it had one."""
        result = result_of(RunFolder(folder), outcome)
        results = {name: result.get(name) for name in RESULTS}
        self.trials.append(Trial(len(self.trials), settings, folder, outcome.status, results))
        if outcome.status == INTERRUPTED:
            self.code = outcome.code
        elif outcome.status != FINISHED:
            self.code = self.code or 1

    def tell(self) -> None:
        """Shows the table and writes it to ``sweep.txt`` and ``sweep.csv``."""
        rows = self.rows()
        text = aligned(rows)
        try:
            write_text(self.folder / "sweep.txt", text)
            write_text(self.folder / "sweep.csv", as_csv(rows))
        except ValueError as error:  # a full disk
            say(f"medtune: {error}")
            self.code = self.code or 1
        say(text.rstrip("\n"))
        self.tell_tasks()
        say(f"sweep: {relative(self.folder)}")

    def tell_tasks(self) -> None:
        """Shows the trials' scores task by task where several were scored; writes ``tasks.md`` and others."""
        split, scored = collect_scores([(trial.settings, trial.folder) for trial in self.trials])
        if len(scored) < 2:
            return
        rows, title = lay_out(scored), f"Scores on {split} (0-100), task by task"
        table = self.folder / "tasks.json"
        try:
            write_json(table, as_json(split, scored))
            write_text(self.folder / "tasks.csv", as_csv(rows))
            write_text(self.folder / "tasks.md", as_markdown(rows, title))
            problem = draw(table, self.folder / "tasks.png")
        except ValueError as error:  # a full disk
            problem, self.code = str(error), self.code or 1
        say(f"{title}:\n{aligned(rows)}".rstrip("\n"))
        if problem:
            say(f"medtune: no picture of it: {problem}")

    def rows(self) -> list[list[str]]:
        """The table, its heading first."""
        keys = list(dict.fromkeys(key for trial in self.trials for key in trial.settings))
        heading = ["trial", *keys, "status", *RESULTS, "folder"]
        return [heading, *(row_of(trial, keys) for trial in self.trials)]


def result_of(folder: RunFolder, outcome: Outcome) -> dict[str, Any]:
    """What a trial's ``result.json`` says, which is written for one that has none."""
    file = folder.result_file
    try:
        if not file.exists():
            write_json(file, {"status": outcome.status, "message": outcome.message})
        result: dict[str, Any] = read_json(file)
    except (OSError, ValueError) as error:  # a full disk, or no permission
        say(f"medtune: {error}")
        return {}
    return result


def row_of(trial: Trial, keys: Sequence[str]) -> list[str]:
    """One line of the table."""
    settings = [trial.settings.get(key, "") for key in keys]
    results = [number(trial.results.get(name)) for name in RESULTS]
    return [str(trial.number), *settings, trial.status, *results, trial.folder.name]


def number(value: Any) -> str:
    """A result with the digits that matter; ``-`` where there is none."""
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "".join(line.rstrip() + "\n" for line in lines)


def as_csv(rows: Sequence[Sequence[str]]) -> str:
    """Rows for a spreadsheet."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
