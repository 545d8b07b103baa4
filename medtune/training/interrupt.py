"""Signals end the run at the end of a step, with its state saved."""

import logging
import signal
import sys
import time
from types import FrameType
from typing import Any

import lightning.pytorch as L

from medtune.training.agreement import Agreement
from medtune.training.saving import Checkpoints

log = logging.getLogger(__name__)

# SIGUSR1 is what SLURM is asked to send some time before the limit: --signal=B:USR1@300.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# One Ctrl-C can arrive from the terminal, from the launcher and from torchrun: these are not a second one.
ECHO_SECONDS = 1.0


class Interrupt(L.Callback):
    """Stops the fit after the step in which one of SIGNALS arrived; a second one aborts.

    Only after SIGUSR1 another is awaited: at its limit, SLURM's SIGTERM follows of itself.

    The ranks agree on the step, a step later: see :class:`Agreement`.

    Args:
        checkpoints: Saves the state before the fit ends.

    Attributes:
        signal_number: The signal that ended the fit; None when it was not interrupted.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self.signal_number: int | None = None
        self._received = 0
        self._received_at = 0.0
        # Asked for before Lightning puts its own in their place.
        self._previous: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
        self._agreement = Agreement("max")

    @property
    def is_asked(self) -> bool:
        """Whether this process has received a signal."""
        return bool(self._received)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Takes the signals over from Lightning, whose handlers lose the step or exit at once."""
        for number in SIGNALS:
            signal.signal(number, self._receive)
        # Lightning asks rank zero about SIGTERM before every micro batch, and waits for the answer;
        # the agreement below replaces it.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received and time.monotonic() - self._received_at < ECHO_SECONDS:
            return
        if self._received == signal.SIGUSR1:
            self._received = 0
        if self._received:
            log.error("second signal: stopping at once, without saving")
            signal.signal(number, signal.SIG_DFL)
            sys.exit(128 + number)
        self._received, self._received_at = number, time.monotonic()
        log.warning("%s: stopping after this step; once more stops at once", signal.Signals(number).name)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the end of a step: saves and ends the fit when some rank received a signal."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.global_step == trainer.max_steps:
            return
        number = self._agreement.exchange(self._received, trainer, pl_module.device)
        if not number:
            return
        self.signal_number = number
        self.checkpoints.save(trainer)
        # Not trainer.should_stop, which would validate once more.
        trainer.fit_loop.epoch_loop.max_steps = trainer.global_step

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Gives the signals back and waits for the last agreement."""
        self._agreement.forget()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
