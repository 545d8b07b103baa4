"""What a person sees while the model learns: a bar on a terminal, plain lines elsewhere."""

import logging
import sys
import time
from typing import Any

import lightning.pytorch as L
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from medtune.training.metrics import Metrics

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 5.0
# Rich draws at ten times that rate unless told otherwise, in a thread beside the steps: a tenth of the time
# that a tiny model on one core takes for them.
DRAWINGS_PER_SECOND = 1.0


def build_progress(kind: str, metrics: Metrics) -> list[L.Callback]:
    """The callbacks of ``trainer.progress``: ``auto``, ``bar``, ``lines`` or ``none``."""
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "lines"
    if kind == "none":
        return []
    return [Bar(metrics) if kind == "bar" else Lines(metrics)]


def describe(metrics: Metrics, step: int, total_steps: int, seconds_per_step: float) -> str:
    """The newest figures in a few words, with the time that is left."""
    parts = []
    if metrics.last:
        parts += [
            f"loss {metrics.last['train/loss']:.4f}",
            f"{metrics.last['train/learned_tokens_per_second']:,.0f} learned tokens/s",
        ]
    if metrics.last_validation:
        parts.append(f"val {metrics.last_validation['val/loss']:.4f}")
    if metrics.last_evaluation:
        parts.append(f"score {metrics.last_evaluation['eval/score']:.2f}")
    parts.append(f"{format_seconds((total_steps - step) * seconds_per_step)} left")
    return " · ".join(parts)


def format_seconds(seconds: float) -> str:
    """Hours, minutes and seconds, the leading ones only when needed."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Lines(L.Callback):
    """A log line every few seconds and after the last step."""

    def __init__(self, metrics: Metrics, seconds_between: float = SECONDS_BETWEEN_LINES) -> None:
        self.metrics = metrics
        self.seconds_between = seconds_between
        self._began = self._shown = 0.0
        self._first_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._began = self._shown = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Shows a line when it is time and a step has ended."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or not trainer.is_global_zero:
            return
        now, step = time.monotonic(), trainer.global_step
        if now - self._shown < self.seconds_between and step != trainer.max_steps:
            return
        self._shown = now
        pace = (now - self._began) / max(1, step - self._first_step)
        self.show(step, trainer.max_steps, describe(self.metrics, step, trainer.max_steps, pace))

    def show(self, step: int, total_steps: int, text: str) -> None:
        """Writes the line."""
        log.info("step %d/%d · %s", step, total_steps, text)


class Bar(Lines):
    """A rich bar, drawn once a second; its clock runs on while a step or a validation takes long."""

    def __init__(self, metrics: Metrics) -> None:
        super().__init__(metrics, seconds_between=0.5 / DRAWINGS_PER_SECOND)
        self._progress: Progress | None = None
        self._task: Any = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draws the empty bar on rank zero."""
        super().on_train_start(trainer, pl_module)
        if not trainer.is_global_zero:
            return
        self._progress = Progress(
            TextColumn("step {task.completed}/{task.total}"), BarColumn(), TextColumn("{task.description}"),
            TimeElapsedColumn(), console=Console(stderr=True),
            refresh_per_second=DRAWINGS_PER_SECOND,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=trainer.max_steps, completed=trainer.global_step)
        before = sys.stderr
        self._progress.start()
        self._restream(before, sys.stderr)

    def _restream(self, old: Any, new: Any) -> None:
        """Sends log lines where rich prints them above the bar instead of into it."""
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                handler.setStream(new)

    def show(self, step: int, total_steps: int, text: str) -> None:
        """Moves the bar; what is drawn next shows it."""
        assert self._progress is not None
        self._progress.update(self._task, completed=step, description=text)

    def note(self, text: str) -> None:
        """Shows what goes on between two steps."""
        if self._progress is not None:
            self._progress.update(self._task, description=text)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leaves the bar as it stands, also after an error."""
        if self._progress is not None:
            proxy = sys.stderr
            self._progress.stop()
            self._restream(proxy, sys.stderr)
            self._progress = None

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Lightning skips the teardown then."""
        self.teardown(trainer, pl_module, "fit")
