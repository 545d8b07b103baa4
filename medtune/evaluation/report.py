"""Shows several systems' scores side by side: a table for the terminal, its Markdown twin, and a plot."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medtune.evaluation.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.table import Table

MAX_COLUMNS = 100  # terminal columns that a table may fill
TASK_PREFIXES = ("CHIP-", "KUAKE-", "IMCS-V2-")
NO_SCORE = "-"

Grid = list[list[str]]


def shorten_task(name: str) -> str:
    """Returns a task's short name, unique within a protocol: IMCS-V2-NER is NER, CMeEE-V2 is CMeEE."""
    for prefix in TASK_PREFIXES:
        name = name.removeprefix(prefix)
    return name.removesuffix("-V2")


def scores_table(rows: Mapping[str, Scores], title: str = "") -> Table:
    """Returns a table with one row per system, and tasks and the mean as columns.

    Where that is wider than 100 columns, tasks go down the side and systems across. Borders are ASCII:
    terminals with a Chinese font draw box characters twice as wide as they count them.
    """
    return grid_table(lay_out_scores(rows), title)


def grid_table(grid: Grid, title: str = "") -> Table:
    """A table of cells, header first; the first column is of names, the others of figures."""
    from rich import box
    from rich.table import Table

    header, *body = grid
    table = Table(title=title or None, box=box.ASCII2, title_justify="left", pad_edge=True)
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for cells in body:
        table.add_row(*cells)
    return table


def scores_text(rows: Mapping[str, Scores], title: str = "") -> str:
    """Returns the same table as Markdown whose columns also line up where it is read as plain text."""
    return grid_text(lay_out_scores(rows), title)


def grid_text(grid: Grid, title: str = "") -> str:
    """As :func:`grid_table`, in Markdown."""
    widths = [max(measure_width(cell) for cell in column) for column in zip(*grid, strict=True)]
    rule = ["-" * width if index == 0 else "-" * (width - 1) + ":" for index, width in enumerate(widths)]
    lines = ["| " + " | ".join(_pad_cells(cells, widths)) + " |" for cells in (grid[0], rule, *grid[1:])]
    return "\n".join(([title, ""] if title else []) + lines)


def lay_out_scores(rows: Mapping[str, Scores]) -> Grid:
    """Returns the cells of the table, header first, turned so that it fits a terminal.

    Raises:
        ValueError: There is no system to show.
    """
    if not rows:
        raise ValueError("no scores to show; pass at least one system")
    tasks = list_tasks(rows)
    header = ["system", *map(shorten_task, tasks), name_summary(rows)]
    body = [
        [name, *(_format_task(scores, task) for task in tasks), format_score(scores.score)]
        for name, scores in rows.items()
    ]
    grid = [header, *body]
    if measure_grid(grid) <= MAX_COLUMNS:
        return grid
    turned = [list(column) for column in zip(*grid, strict=True)]
    turned[0][0] = "task"
    return turned


def list_tasks(rows: Mapping[str, Scores]) -> list[str]:
    """Returns every task that some system was scored on, in the order of first appearance."""
    return list(dict.fromkeys(task for scores in rows.values() for task in scores.tasks))


def name_summary(rows: Mapping[str, Scores]) -> str:
    """Returns what the last column holds: the mean over tasks, or the headline measure of plain text."""
    return "score" if any(scores.headline for scores in rows.values()) else "mean"


def format_score(score: float) -> str:
    """Returns a score as it is read: 0 to 100 with two digits."""
    return f"{score:.2f}"


def _format_task(scores: Scores, task: str) -> str:
    return format_score(scores.tasks[task].score) if task in scores.tasks else NO_SCORE


def measure_width(text: str) -> int:
    """Returns the terminal columns that text takes; Chinese characters take two each."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def measure_grid(grid: Grid) -> int:
    """Returns the terminal columns that a grid takes with its borders."""
    widths = [max(measure_width(cell) for cell in column) for column in zip(*grid, strict=True)]
    return sum(widths) + 3 * len(widths) + 1


def _pad_cells(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    gaps = [" " * (width - measure_width(cell)) for cell, width in zip(cells, widths, strict=True)]
    numbers = [gap + cell for cell, gap in zip(cells, gaps, strict=True)][1:]
    return [cells[0] + gaps[0], *numbers]


def plot_scores(rows: Mapping[str, Scores], path: Path | str) -> Path:
    """Draws a group of bars per task, one bar per system, as a PNG.

    Drawn without pyplot, so that it needs no display and leaves no global state behind. Names outside ASCII
    are written as numbers, because the fonts that come with matplotlib have no Chinese. A Text2DT ratio
    below 0 is drawn as 0.

    Returns:
        The path of the file, whose folder is made where it is missing.

    Raises:
        ValueError: There is no system to show.
    """
    if not rows:
        raise ValueError("no scores to plot; pass at least one system")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list_tasks(rows)
    groups = len(tasks) + 1
    width = min(14.0, max(6.0, 1.5 + 0.28 * groups * (len(rows) + 1)))  # inches
    figure = Figure(figsize=(width, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_bars(axes, rows, tasks)
    names = [*map(make_ascii(tasks, "task"), tasks), name_summary(rows)]
    axes.set_xticks(range(groups), names)
    if groups > 7:
        axes.tick_params(axis="x", labelrotation=45)
    axes.set(xlabel="task", ylabel="score (0-100)", ylim=(0, 100), xlim=(-0.6, groups - 0.4))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(len(rows), 5), frameon=False)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, format="png")
    return target


def _draw_bars(axes: Axes, rows: Mapping[str, Scores], tasks: Sequence[str]) -> None:
    width = 0.8 / len(rows)
    label = make_ascii(list(rows), "system")
    for place, (name, scores) in enumerate(rows.items()):
        reached = [scores.tasks[task].score if task in scores.tasks else 0.0 for task in tasks]
        offset = (place - (len(rows) - 1) / 2) * width
        heights = [max(0.0, value) for value in (*reached, scores.score)]
        axes.bar([group + offset for group in range(len(heights))], heights, width, label=label(name))


def make_ascii(names: Sequence[str], kind: str) -> Callable[[str], str]:
    """Returns a function that shortens an ASCII name and numbers any other."""
    places = {name: f"{kind} {place}" for place, name in enumerate(names, start=1)}
    return lambda name: shorten_task(name) if name.isascii() else places[name]
