"""Losses, rates and counters of the fit: one JSON line per logged step, and the loggers' feed."""

import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from medtune.data.rows.order import NO_ROW, StepPlan
from medtune.runtime.record import write_text
from medtune.training.modules import LanguageModelModule, SeenRows

DESCRIBED_ROWS = 4  # in the message about a bad loss

log = logging.getLogger(__name__)


class NonFiniteLossError(Exception):
    """The loss became nan or infinite; the message names the step and the rows."""


class Stopwatch:
    """Time spent training: what runs inside :meth:`paused` does not count."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap, pauses left out; starts the next."""
        now = time.perf_counter()
        seconds, self.began = now - self.began, now
        return max(seconds, 1e-9)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the block's time out of the lap."""
        start = time.perf_counter()
        yield
        self.began += time.perf_counter() - start


class Metrics(L.Callback):
    """Sums what the steps did and writes it every few steps.

    Nothing of it waits for the device between two lines: the sums stay where they are made, and the
    ranks' shares meet once per line.

    Args:
        file: ``metrics.jsonl``; appended to.
        every_n_steps: Steps between two lines.
        plan: For the ``epoch`` column.
        describe_row: Says which examples a row of an epoch holds, for the message about a bad loss.
    """

    def __init__(
        self,
        file: Path,
        every_n_steps: int,
        plan: StepPlan,
        describe_row: Callable[[int, int], str] | None = None,
    ) -> None:
        self.file = file
        self.every_n_steps = every_n_steps
        self.plan = plan
        self.describe_row = describe_row
        self.watch = Stopwatch()
        self.tokens = 0
        self.learned_tokens = 0
        self.seconds = 0.0
        self.last: dict[str, Any] = {}
        self.last_validation: dict[str, Any] = {}
        self.validated_step: int | None = None
        self.last_evaluation: dict[str, float] = {}
        self.evaluated_step: int | None = None
        self.evaluation_seconds = 0.0
        self._window_tokens = 0
        self._window_learned = 0
        self._warned_of_idle_step = False
        self._recent: deque[tuple[float, int]] = deque(maxlen=2)

    @property
    def recent_loss(self) -> float | None:
        """Mean loss of the learned tokens of the last two lines: the last line alone may be one step's."""
        learned = sum(count for _, count in self._recent)
        return sum(ce_sum for ce_sum, _ in self._recent) / max(1, learned) if self._recent else None

    def state_dict(self) -> dict[str, Any]:
        """The counters, for a checkpoint; every line before it has been written."""
        return {
            "tokens": self.tokens,
            "learned_tokens": self.learned_tokens,
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting where a checkpoint was written."""
        self.tokens, self.learned_tokens = state_dict["tokens"], state_dict["learned_tokens"]
        self.seconds = state_dict["seconds"]
        self.evaluation_seconds = state_dict.get("evaluation_seconds", 0.0)  # older ones have none

    def results_at(self, step: int) -> dict[str, float]:
        """What the validation and the evaluation after this very step reported; empty without either."""
        validated = self.last_validation if self.validated_step == step else {}
        return {**validated, **(self.last_evaluation if self.evaluated_step == step else {})}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Removes lines of steps that will be taken again, and starts the clock."""
        if trainer.is_global_zero:
            forget_lines_after(self.file, trainer.global_step)
        self.watch.lap()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts a micro batch, and at the end of a step writes a line when one is due."""
        self._window_tokens += batch["tokens"]
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._window_learned += batch["step_tokens"]
        step = trainer.global_step
        if not batch["step_tokens"]:
            self._warn_of_idle_step(step)
        if step % self.every_n_steps == 0 or step == trainer.max_steps:
            assert isinstance(pl_module, LanguageModelModule)
            self.flush(trainer, pl_module)

    def _warn_of_idle_step(self, step: int) -> None:
        """Tells, once, of a step without a label: its loss is 0 and its update comes from momentum alone."""
        if not self._warned_of_idle_step:
            log.warning(
                "step %d has no learned token (nor may others): its loss counts as 0. The labels of all its "
                "rows are masked; see data_report.json, or raise data.global_batch_size",
                step,
            )
        self._warned_of_idle_step = True

    def flush(self, trainer: L.Trainer, module: LanguageModelModule) -> None:
        """Writes a line about the steps since the last one, if there were any; all ranks together.

        Raises:
            NonFiniteLossError: The loss of one of those steps is nan or infinite.
        """
        if not self._window_tokens and not self._window_learned:
            return
        sums = torch.tensor([0.0, 0.0, self._window_tokens], dtype=torch.float64, device=module.device)
        sums[0] += module.step_sum
        sums[1] += module.step_cross_entropy
        sums = torch.cat([sums, module.step_sources.to_tensor(module.device)])
        minimised, ce_sum, tokens, *by_source = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        if not math.isfinite(minimised):
            raise NonFiniteLossError(
                non_finite_message(module.seen_rows, trainer.global_step, self.describe_row)
            )
        ce_sum = minimised if module.objective.is_plain else ce_sum
        seconds, learned = self.watch.lap(), self._window_learned
        self.tokens += int(tokens)
        self.learned_tokens += learned
        self.seconds += seconds
        self._clear(module)
        self._recent.append((ce_sum, learned))
        self.last = {
            "train/loss": ce_sum / max(1, learned),
            **({} if module.objective.is_plain else {"train/objective": minimised / max(1, learned)}),
            **module.step_sources.means("train/loss", by_source),
            "train/lr": module.learning_rate_of(trainer.global_step),
            "train/grad_norm": gradient_norm(trainer, module),
            "train/tokens_per_second": tokens / seconds,
            "train/learned_tokens_per_second": learned / seconds,
        }
        self.write(trainer, self.last)

    def _clear(self, module: LanguageModelModule) -> None:
        module.step_sum = module.step_cross_entropy = 0.0
        module.step_sources.clear()
        module.seen_rows.clear()
        self._window_tokens = self._window_learned = 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Closes the line before the validation."""
        assert isinstance(pl_module, LanguageModelModule)
        self.flush(trainer, pl_module)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the validation's own line."""
        assert isinstance(pl_module, LanguageModelModule)
        self.last_validation = dict(pl_module.val_results)
        self.validated_step = trainer.global_step
        self.write(trainer, self.last_validation)
        self.watch.lap()

    def write(self, trainer: L.Trainer, values: dict[str, Any]) -> None:
        """Appends a line and hands it to the loggers; rank zero only."""
        if not trainer.is_global_zero:
            return
        step = trainer.global_step
        line = {
            "step": step,
            "epoch": round(self.plan.epochs_at(step), 4),
            "train/tokens": self.tokens,
            "train/learned_tokens": self.learned_tokens,
            "train/seconds": round(self.seconds, 3),
            **values,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for logger in trainer.loggers:
            logger.log_metrics({key: value for key, value in line.items() if key != "step"}, step=step)


def gradient_norm(trainer: L.Trainer, module: LanguageModelModule) -> float | None:
    """The global norm of the last step's gradient before clipping; a collective call under FSDP2."""
    norm: Any = module.grad_norm
    if getattr(trainer.strategy, "clips_gradients", False):
        norm = trainer.strategy.deepspeed_engine.get_global_grad_norm()  # type: ignore[attr-defined]
    if norm is None:
        return None
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def non_finite_message(
    seen_rows: list[SeenRows], step: int, describe_row: Callable[[int, int], str] | None
) -> str:
    """Says where the first bad loss was seen on this rank."""
    for seen in seen_rows:
        if not bool(torch.isfinite(seen.loss_sum)):
            return (
                f"step {seen.step}: the loss is {float(seen.loss_sum)} on {name_rows(seen, describe_row)} of "
                "the training split; the last checkpoint is untouched. Lower optim.lr, lengthen "
                "schedule.warmup_steps, set trainer.gradient_clip_norm=1.0 (and with 16-mixed "
                "trainer.precision=bf16-mixed), or look at those rows"
            )
    return f"step {step} or one just before it: the loss is not finite on another rank; see that rank's log"


def name_rows(seen: SeenRows, describe_row: Callable[[int, int], str] | None) -> str:
    """The rows of a micro batch, the first of them with the examples they hold."""
    rows = [row for row in seen.rows if row != NO_ROW]
    if describe_row is None:
        return f"rows {rows}"
    examples = [f"row {row}: {describe_row(seen.epoch, row)}" for row in rows[:DESCRIBED_ROWS]]
    if len(rows) > DESCRIBED_ROWS:
        examples.append("...")
    return f"rows {rows} ({'; '.join(examples)})"


def forget_lines_after(file: Path, step: int) -> None:
    """Removes the lines of steps after ``step`` and a last line that was cut off by a crash."""
    if not file.exists():
        return
    kept = []
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            log.warning("%s: dropped a line that is not whole: %.60r", file, text)
            continue
        if line["step"] <= step:
            kept.append(text)
    write_text(file, "".join(text + "\n" for text in kept))


def read_metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, oldest first."""
    return [json.loads(text) for text in file.read_text(encoding="utf-8").splitlines()]
