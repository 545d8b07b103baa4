"""When the validation rows are read."""

from typing import Any

import lightning.pytorch as L
import torch


class Validation(L.Callback):
    """Runs Lightning's validation loop every few steps and after the last one.

    Lightning counts micro batches, skips a last incomplete interval, and validates once more when it is
    asked to stop; a run that was interrupted should end soon instead.

    Args:
        every_n_steps: Steps between two validations.
    """

    def __init__(self, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Validates at the end of a step when it is due."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or not trainer.enable_validation:
            return
        if trainer.global_step % self.every_n_steps == 0 or trainer.global_step == trainer.max_steps:
            run_validation(trainer)


def run_validation(trainer: L.Trainer) -> None:
    """Runs the validation loop inside the fit, as Lightning's own training loop does."""
    connector = trainer._logger_connector
    first_loop_iter = connector._first_loop_iter
    trainer.validating = True
    # A loader draws its workers' seed from the stream that dropout uses: how often a run is validated would
    # otherwise change what it learns.
    with torch.random.fork_rng(devices=[]):
        trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    connector._first_loop_iter = first_loop_iter
