"""Two runs side by side: what differs, how sure that is, and the table and picture that show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.evaluation.report import make_ascii, shorten_task

if TYPE_CHECKING:
    from rich.table import Table

MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two systems, 0 to 100."""

    metric: str
    rows: int
    score: float
    against: float
    low: float
    """The confidence interval of ``score - against``."""
    high: float
    share_better: float
    """In how many of the resamples ``score`` was above ``against``, 0 to 1."""

    @property
    def difference(self) -> float:
        """How much better the run is than the other."""
        return self.score - self.against

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, Any]:
        """Returns the entry in comparison.json."""
        return {**asdict(self), "difference": self.difference}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A run against another on the same rows."""

    overall: Difference
    tasks: Mapping[str, Difference]
    resamples: int
    level: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, in the shape of comparison.json."""
        tasks = {name: task.to_dict() for name, task in self.tasks.items()}
        settings = {"resamples": self.resamples, "level": self.level, "seed": self.seed}
        return {**settings, "overall": self.overall.to_dict(), "tasks": tasks}

    def lines(self) -> dict[str, Difference]:
        """The tasks, then the mean."""
        return {**self.tasks, MEAN: self.overall}


def comparison_table(comparison: Comparison, title: str) -> Table:
    """Returns a row per task; a star marks a difference whose interval leaves zero out."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.ASCII2, title_justify="left", pad_edge=True)
    table.add_column("task", no_wrap=True)
    columns = ("this", "against", "difference", f"{comparison.level:.0%} interval", "better in")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for name, line in comparison.lines().items():
        star = " *" if line.is_clear else ""
        table.add_row(
            shorten_task(name),
            f"{line.score:.2f}",
            f"{line.against:.2f}",
            f"{line.difference:+.2f}{star}",
            f"{line.low:+.2f} to {line.high:+.2f}",
            f"{line.share_better:.1%}",
        )
    return table


def plot_comparison(comparison: Comparison, path: Path, title: str) -> None:
    """Draws a forest plot as a PNG: each difference with its interval, the mean at the bottom."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = comparison.lines()
    places = range(len(lines))
    figure = Figure(figsize=(7.0, 1.6 + 0.3 * len(lines)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, line in zip(places, lines.values(), strict=True):
        color = "C0" if line.is_clear else "0.5"
        axes.plot([line.low, line.high], [place, place], color=color, linewidth=2)
        axes.plot([line.difference], [place], "o", color=color, markersize=5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.axhline(len(lines) - 1.5, color="0.8", linewidth=0.8)
    axes.set_yticks(places, list(map(make_ascii(list(lines), "task"), lines)))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set(xlabel=f"this run minus the other, in points, with {comparison.level:.0%} interval", title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
