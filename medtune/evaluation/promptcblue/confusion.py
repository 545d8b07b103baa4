"""Which label was taken for which: a table per classification task, as CSV and as a picture."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medtune.evaluation.promptcblue.counts import LabelPair
from medtune.evaluation.promptcblue.protocols import MACRO_F1, WEIGHTED_F1, Protocol
from medtune.evaluation.promptcblue.records import Row, group_by_task

MAX_WRONG = 20  # labels outside the gold ones that get a column of their own
LABEL_CHARS = 60
MAX_WRITTEN = 16  # a larger picture has no room for numbers in its cells
FORMULA_SIGNS = ("=", "+", "-", "@")


@dataclass(frozen=True, slots=True)
class Confusion:
    """Rows of one task by gold label (down) and predicted label (across)."""

    task: str
    golds: list[str]
    """The gold labels, the most frequent first."""
    columns: list[str]
    """The same, then what was predicted besides, then perhaps one for the rest of that."""
    cells: list[list[int]]


def count_confusions(rows: Sequence[Row], protocol: Protocol) -> list[Confusion]:
    """Returns a table per classification task; an empty prediction counts as the task's default."""
    return [
        count_confusion(task.name, [row.counts for row in members if isinstance(row.counts, LabelPair)])
        for task, members in group_by_task(rows, protocol).items()
        if task.metric in (MACRO_F1, WEIGHTED_F1)
    ]


def count_confusion(task: str, pairs: Sequence[LabelPair]) -> Confusion:
    """Counts one task's pairs."""
    golds = [label for label, _ in Counter(pair.gold for pair in pairs).most_common()]
    known = set(golds)
    wrong = Counter(pair.predicted for pair in pairs if pair.predicted not in known).most_common()
    named = [label for label, _ in wrong[:MAX_WRONG]]
    places = {label: place for place, label in enumerate([*golds, *named])}
    rest = [f"({len(wrong) - MAX_WRONG} other labels)"] if len(wrong) > MAX_WRONG else []
    columns = [shorten_label(label) for label in places] + rest
    cells = [[0] * len(columns) for _ in golds]
    for pair in pairs:
        cells[places[pair.gold]][places.get(pair.predicted, len(places))] += 1
    return Confusion(task, [shorten_label(label) for label in golds], columns, cells)


def shorten_label(label: str) -> str:
    """Returns what fits into a cell, on one line."""
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in label[:LABEL_CHARS])
    return f"{shown}…" if len(label) > LABEL_CHARS else shown


def write_table(table: Confusion) -> str:
    """Returns the CSV text: numbered labels, the gold ones down, the predicted ones across, and each sum."""
    file = io.StringIO()
    writer = csv.writer(file)
    numbered = [f"{number} {label}" for number, label in enumerate(table.columns, start=1)]
    writer.writerow(["number", "gold \\ predicted", *numbered, "rows"])
    for number, (label, cells) in enumerate(zip(table.golds, table.cells, strict=True), start=1):
        # A spreadsheet would run a cell that begins like a formula.
        shown = f"'{label}" if label.startswith(FORMULA_SIGNS) else label
        writer.writerow([number, shown, *cells, sum(cells)])
    return file.getvalue()


def plot_confusion(table: Confusion, path: Path) -> None:
    """Draws the shares of each gold label's rows as a PNG; labels are the numbers of the CSV.

    The fonts that come with matplotlib have no Chinese.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    high, wide = len(table.golds), len(table.columns)
    across, down = (min(16.0, max(4.0, 1.2 + 0.25 * wide)), min(14.0, max(2.6, 1.4 + 0.25 * high)))  # inches
    figure = Figure(figsize=(across, down), dpi=100)
    FigureCanvasAgg(figure)
    # Fixed margins: a layout that is worked out draws everything twice.
    axes = figure.add_axes((0.7 / across, 0.6 / down, 1 - 0.9 / across, 1 - 1.3 / down))
    shares = [[cell / max(1, sum(cells)) for cell in cells] for cells in table.cells]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if max(high, wide) <= MAX_WRITTEN:
        for row, cells in enumerate(table.cells):
            for column, cell in enumerate(cells):
                color = "white" if shares[row][column] > 0.5 else "black"
                axes.text(column, row, str(cell), ha="center", va="center", fontsize=7, color=color)
    axes.set_xticks(range(wide), [str(number) for number in range(1, wide + 1)], fontsize=7)
    axes.set_yticks(range(high), [str(number) for number in range(1, high + 1)], fontsize=7)
    axes.set(xlabel="predicted label", ylabel="gold label")
    axes.set_title(
        f"{table.task}: share of the gold label's rows\nnumbers: confusion_{table.task}.csv", fontsize=8
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
