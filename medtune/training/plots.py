"""The pictures of a fit: ``RUN_DIR/plots/loss.png`` and, of a mix, ``loss_by_source.png``."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medtune.training.metrics import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTHING = 0.9  # share of the past in the smoothed curve


def smooth(values: list[float], share: float = SMOOTHING) -> list[float]:
    """Exponential moving average without a bias to its start (Adam's correction, arXiv:1412.6980)."""
    smoothed, mean, weight = [], 0.0, 0.0
    for value in values:
        mean = share * mean + (1 - share) * value
        weight = share * weight + (1 - share)
        smoothed.append(mean / weight)
    return smoothed


def column(lines: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of the lines that have ``key``."""
    chosen = [line for line in lines if line.get(key) is not None]
    return [line["step"] for line in chosen], [line[key] for line in chosen]


def source_names(lines: list[dict[str, Any]]) -> list[str]:
    """The sources that have a loss of their own, in the order in which they appear."""
    found = (re.fullmatch("(?:train|val)/loss/(.+)", key) for line in lines for key in line)
    return list(dict.fromkeys(match[1] for match in found if match))


def plot_loss(metrics_file: Path, picture: Path) -> None:
    """Draws training loss (raw and smoothed), validation loss and learning rate over the steps.

    Where several sources are mixed, ``<picture>_by_source`` beside it shows the losses of each. Does
    nothing when no line has a training loss yet.
    """
    lines = read_metrics(metrics_file) if metrics_file.exists() else []
    if not column(lines, "train/loss")[0]:
        return
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw_loss(lines, picture)
    if source_names(lines):
        draw_sources(lines, picture.with_stem(f"{picture.stem}_by_source"))


def draw_loss(lines: list[dict[str, Any]], picture: Path) -> None:
    """The loss above, the learning rate below."""
    figure = new_figure(height=6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    steps, losses = column(lines, "train/loss")
    upper.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=1, label="train")
    upper.plot(steps, smooth(losses), color="tab:blue", label="train, smoothed")
    val_steps, val_losses = column(lines, "val/loss")
    if val_steps:
        upper.plot(val_steps, val_losses, "o-", color="tab:orange", markersize=4, label="validation")
    label_loss(upper)
    lower.plot(*column(lines, "train/lr"), color="tab:gray")
    lower.set(ylabel="learning rate")
    label_steps(lower)
    figure.savefig(picture, dpi=120)


def draw_sources(lines: list[dict[str, Any]], picture: Path) -> None:
    """One colour per source: training loss smoothed, validation as dots; the whole in black."""
    figure = new_figure(height=5)
    axes = figure.subplots()
    steps, losses = column(lines, "train/loss")
    axes.plot(steps, smooth(losses), color="black", linewidth=1, label="all sources")
    for at, name in enumerate(source_names(lines)):
        steps, losses = column(lines, f"train/loss/{name}")
        axes.plot(steps, smooth(losses), color=f"C{at}", linewidth=1, label=name)
        axes.plot(*column(lines, f"val/loss/{name}"), "o--", color=f"C{at}", linewidth=0.8, markersize=4)
    label_loss(axes)
    label_steps(axes)
    figure.savefig(picture, dpi=120)


def new_figure(height: float) -> "Figure":
    """A figure of 8 inches by ``height`` that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def label_loss(axes: "Axes") -> None:
    """Names the unit and the curves."""
    axes.set_ylabel("loss (nats per learned token)")
    axes.legend()
    axes.grid(alpha=0.3)


def label_steps(axes: "Axes") -> None:
    """Counts steps along the lower edge."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
