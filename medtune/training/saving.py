"""When a checkpoint is due, and that it is a good state."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from medtune.config.schema import CheckpointConfig, Config
from medtune.training.agreement import Agreement
from medtune.training.checkpoints import Checkpoint
from medtune.training.keeping import Kept
from medtune.training.metrics import Metrics, NonFiniteLossError, name_rows
from medtune.training.modules import LanguageModelModule, SeenRows
from medtune.training.resume import adapters_below
from medtune.training.writing import Writer

UNKNOWN = torch.tensor(float("nan"))  # the rows of a step are kept for their names, not for their loss


class Checkpoints(L.Callback):
    """Has checkpoints written when they are due, and others removed.

    Args:
        folder: ``RUN_DIR/checkpoints``.
        config: The settled configuration.
        layout: See :class:`~medtune.training.checkpoints.Checkpoint`.
        metrics: Its line is written first: counters are whole, and a bad loss is never saved.
        source: Where the fit resumes from.
        data: A fingerprint of the training rows.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        layout: str,
        metrics: Metrics,
        source: Checkpoint | None,
        data: str | None = None,
    ) -> None:
        self.folder = folder
        self.config = config
        self.settings: CheckpointConfig = config.checkpoint
        self.layout = layout
        self.metrics = metrics
        self.data = data
        self.adapters = adapters_below(config)
        self.kept = Kept(folder, self.settings)
        self.writer = Writer(self.settings.asynchronous)
        self.last_step = source.global_step if source and source.path.parent == folder else -1
        self._saved_at = 0.0
        self._clock = Agreement("max")
        self._counted = Agreement("sum")
        self._tokens = 0
        self._step_tokens = 0
        self._step_rows: list[SeenRows] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock, and takes over the tokens that were seen before a resume."""
        self._saved_at, self._tokens = time.monotonic(), self.metrics.tokens

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the end of a step, after its validation if it had one: saves when it is due."""
        self.writer.raise_failure()
        self._step_tokens += batch["tokens"]
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._step_rows.clear()
        step = trainer.global_step
        self._step_rows.append(SeenRows(step, batch["epoch"], batch["rows"], UNKNOWN))
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        # All of them are asked in every step: the ranks meet in some.
        reasons = [
            step == trainer.max_steps,
            *(n and step % n == 0 for n in (self.settings.every_n_steps, self.settings.keep_every_n_steps)),
            self._enough_tokens(trainer, pl_module.device),
            self._enough_minutes(trainer, pl_module.device),
            self._is_among_best(trainer),
        ]
        if any(reasons):
            self.save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Saves where something else ended the fit, such as EarlyStopping; waits for what is under way."""
        self.save(trainer)
        self._clock.forget()
        self._counted.forget()
        self.writer.wait()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Lets the checkpoint that is being written become whole; it is from before the failure."""
        self.writer.settle()

    def save(self, trainer: L.Trainer) -> None:
        """Writes ``step-N``, all ranks together, then removes those that are not to be kept.

        Raises:
            NonFiniteLossError: Loss or weights are nan or infinite; nothing is written.
            ValueError: The disk is full or cannot be written.
        """
        if trainer.global_step == self.last_step:
            return
        module = trainer.lightning_module
        assert isinstance(module, LanguageModelModule)
        self.metrics.flush(trainer, module)
        with self.metrics.watch.paused():
            self._check_weights(trainer, module)
            path = self.folder / f"step-{trainer.global_step}"
            self.writer.write(trainer, path, self._mark(trainer), self.kept.remove_others)
        self.last_step, self._saved_at = trainer.global_step, time.monotonic()
        self._clock.forget()

    def _mark(self, trainer: L.Trainer) -> dict[str, Any]:
        return {
            "global_step": trainer.global_step,
            "rows": trainer.global_step * self.config.data.global_batch_size,
            "layout": self.layout,
            "world_size": trainer.world_size,
            "validation": self.metrics.results_at(trainer.global_step),
            "data": self.data,
            "adapters": self.adapters,
            "config": asdict(self.config),
        }

    def _enough_tokens(self, trainer: L.Trainer, device: torch.device) -> bool:
        """Whether a multiple of ``every_n_tokens`` was passed: in this step, with ranks in the last."""
        every = self.settings.every_n_tokens
        of_step, self._step_tokens = self._step_tokens, 0
        if every is None:
            return False
        before = self._tokens
        self._tokens += self._counted.exchange(of_step, trainer, device)
        return before // every < self._tokens // every

    def _enough_minutes(self, trainer: L.Trainer, device: torch.device) -> bool:
        """Whether rank zero's clock, in this step or with several ranks in the last, says it is time."""
        every = self.settings.every_n_minutes
        if every is None:
            return False
        is_time = trainer.is_global_zero and time.monotonic() - self._saved_at >= 60 * every
        return bool(self._clock.exchange(int(is_time), trainer, device))

    def _is_among_best(self, trainer: L.Trainer) -> bool:
        """Whether this step was measured and is one of the best so far, as rank zero finds."""
        results = self.metrics.results_at(trainer.global_step)
        if not self.settings.keep_best or self.settings.monitor not in results:
            return False
        is_better = False
        if trainer.is_global_zero:
            self.writer.wait()  # its mark counts
            is_better = self.kept.would_keep(trainer.global_step, results)
        return bool(trainer.strategy.broadcast(is_better))

    def _check_weights(self, trainer: L.Trainer, module: LanguageModelModule) -> None:
        """Holds that the last update left finite weights; its loss was, its gradient need not have been."""
        bad = first_not_finite(module)
        number = torch.tensor(float(bad is not None), device=module.device)
        if not float(trainer.strategy.reduce(number, reduce_op="sum")):
            return
        rows = "; ".join(name_rows(seen, self.metrics.describe_row) for seen in self._step_rows)
        where = f"{bad} is nan or infinite" if bad else "weights of another rank are nan or infinite"
        raise NonFiniteLossError(
            f"step {trainer.global_step}: {where} after the update, though the loss was not, on {rows} of "
            "the training split; the last checkpoint is untouched. Lower optim.lr, lengthen "
            "schedule.warmup_steps, or look at those rows"
        )


def first_not_finite(module: LanguageModelModule) -> str | None:
    """The name of the first trained parameter whose share on this rank is not finite."""
    for name, parameter in module.model.named_parameters():
        if not parameter.requires_grad:
            continue
        share = getattr(parameter, "ds_tensor", parameter).detach()  # ZeRO-3's partition
        share = share.to_local() if hasattr(share, "to_local") else share  # FSDP2's
        if not bool(torch.isfinite(share).all()):
            return str(name)
    return None
