"""The picture of a fit: ``RUN_DIR/plots/loss.png``."""

from pathlib import Path
from typing import Any

from medtune.training.metrics import read_metrics

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


def plot_loss(metrics_file: Path, picture: Path) -> None:
    """Draws training loss (raw and smoothed), validation loss and learning rate over the steps.

    Does nothing when no line has a training loss yet.
    """
    lines = read_metrics(metrics_file) if metrics_file.exists() else []
    steps, losses = column(lines, "train/loss")
    if not steps:
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=1, label="train")
    upper.plot(steps, smooth(losses), color="tab:blue", label="train, smoothed")
    val_steps, val_losses = column(lines, "val/loss")
    if val_steps:
        upper.plot(val_steps, val_losses, "o-", color="tab:orange", markersize=4, label="validation")
    upper.set_ylabel("loss (nats per learned token)")
    upper.legend()
    upper.grid(alpha=0.3)
    lower.plot(*column(lines, "train/lr"), color="tab:gray")
    lower.set(xlabel="step", ylabel="learning rate")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    lower.grid(alpha=0.3)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=120)
