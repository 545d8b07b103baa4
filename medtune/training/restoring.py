"""Taking a checkpoint's state up: whether it fits, and which settings hold from then on."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch.optim import Optimizer

from medtune.config.schema import Config
from medtune.runtime.errors import ConfigError
from medtune.training.checkpoints import Checkpoint
from medtune.training.resume import moves_training
from medtune.training.state import read_state, set_rng_state

log = logging.getLogger(__name__)

SHOWN_NAMES = 3  # in the message about what does not fit

Groups = list[list[dict[str, Any]]]  # the settings of each parameter group of each optimizer


class Restore(L.Callback):
    """Takes up what Lightning does not, and holds that what it takes up fits.

    Args:
        config: The settled configuration.
        layout: See :class:`~medtune.training.checkpoints.Checkpoint`.
        source: Where the fit resumes from; None when it starts anew.
    """

    def __init__(self, config: Config, layout: str, source: Checkpoint | None) -> None:
        self.config = config
        self.layout = layout
        self.source = source
        self._optimizer_states: list[dict[str, Any]] = []
        self._settings: Groups = []

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restates Lightning's counter of micro batches for this run's accumulation.

        Lightning stores micro batches; with another number of ranks a step has another number of them,
        and its groups would be misaligned without an error.
        """
        self._optimizer_states = checkpoint.get("optimizer_states", []) if self.layout == "file" else []
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        micro_batches = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for counters in (progress["total"], progress["current"]):
            counters.update(dict.fromkeys(("ready", "started", "processed", "completed"), micro_batches))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Holds that the optimizer, which is there by now, can take the state, which it is given next."""
        if self._optimizer_states:
            check_optimizer_fits(self._optimizer_states, trainer.optimizers)
        self._optimizer_states = []
        self._settings = settings_of(trainer.optimizers)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sets the random streams, as they were at the checkpoint, or apart on every rank; then the rates."""
        # Ranks must not drop the same units; the weights were drawn from the same seed before.
        torch.manual_seed(self.config.seed + trainer.global_rank)
        if self.source is None:
            return
        if self.source.world_size == trainer.world_size:
            set_rng_state(read_state(self.source.path, f"rng-{trainer.global_rank}.pt"))
        if moves_training(self.source, self.config):
            put_settings(trainer, self._settings)
        log.info("resumed from %s at step %d", self.source.path, self.source.global_step)


def check_weights_fit(checkpoint: dict[str, Any], module: L.LightningModule) -> None:
    """Holds that a checkpoint's weights are those of this network, before any of them is loaded.

    Raises:
        ConfigError: Names or shapes differ.
    """
    if checkpoint.get("state_dict"):  # a sharding strategy loads in place
        check_shapes({name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}, module)


def check_shapes(saved: Mapping[str, tuple[int, ...]], module: L.LightningModule) -> None:
    """As :func:`check_weights_fit`, for the whole shapes of the saved weights by name."""
    own = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    needed = own if module.strict_loading else {n for n, p in module.named_parameters() if p.requires_grad}
    differing = [
        f"{name} is {list(shape)} there, {list(own[name])} here"
        for name, shape in saved.items()
        if name in own and shape != own[name]
    ]
    differing += [f"{name} is not there" for name in needed if name not in saved]
    differing += [f"{name} is not here" for name in saved if name not in own]
    if differing:
        raise ConfigError(
            f"resume: the checkpoint holds the weights of another network or adapter: "
            f"{_first_of(differing)}. Resume with the settings it was written with, or start anew from its "
            "weights with model.path"
        )


def check_optimizer_fits(states: list[dict[str, Any]], optimizers: list[Any]) -> None:
    """Holds that the optimizer's state in a checkpoint is one of this optimizer, before it is loaded.

    Raises:
        ConfigError: Groups, parameters, or what is kept of each differ.
    """
    for saved, optimizer in zip(states, optimizers, strict=True):
        own = optimizer.state_dict()
        differing = []
        if len(saved["param_groups"]) != len(own["param_groups"]):
            differing = [f"{len(saved['param_groups'])} groups there, {len(own['param_groups'])} here"]
        for number, (there, here) in enumerate(zip(saved["param_groups"], own["param_groups"], strict=False)):
            if len(there["params"]) != len(here["params"]):
                differing.append(
                    f"group {number} has {len(there['params'])} parameters there, {len(here['params'])} here"
                )
            # A newer torch may know more settings of the same optimizer; another one has others.
            if there.keys() - here.keys() and here.keys() - there.keys():
                differing.append(f"settings {sorted(there.keys() ^ here.keys())} are of one of them only")
        if differing:
            raise ConfigError(
                "resume: the checkpoint holds the state of another optimizer than "
                f"{type(optimizer).__name__}: {_first_of(differing)}. Resume with the optim.* it was written "
                "with, or start anew from its weights with model.path"
            )


def _first_of(differing: list[str]) -> str:
    more = len(differing) - SHOWN_NAMES
    return "; ".join(differing[:SHOWN_NAMES]) + (f"; and {more} more" if more > 0 else "")


def not_taken_up(path: Path, error: BaseException) -> ConfigError:
    """The message for a state that a sharding strategy could not load.

    Args:
        path: The checkpoint.
        error: What its library said.
    """
    reason = (str(error).strip().splitlines() or [""])[0]
    return ConfigError(
        f"resume: the state in {path} cannot be taken up ({type(error).__name__}: {reason}). It is damaged, "
        "or another optimizer's. Resume from an older checkpoint or with the settings it was written with, "
        "or start anew from its weights with model.path"
    )


def settings_of(optimizers: list[Optimizer]) -> Groups:
    """The settings of the parameter groups, as they are configured."""
    return [
        [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        for optimizer in optimizers
    ]


def put_settings(trainer: L.Trainer, settings: Groups) -> None:
    """Has the settings of this run hold where the loaded state brought those of the checkpoint.

    Optimizers keep learning rate, betas and weight decay in their state, and schedules the peak they start
    from and the next step's rate: without this a change that was accepted would have no effect.
    """
    for optimizer, groups in zip(trainer.optimizers, settings, strict=True):
        for group, own in zip(optimizer.param_groups, groups, strict=True):
            group.update(own)
    schedulers: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    for scheduler in schedulers:
        if not hasattr(scheduler, "lr_lambdas"):
            continue  # no function of the step: what it has come to is its state
        groups = scheduler.optimizer.param_groups
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        factors = [rate(scheduler.last_epoch) for rate in scheduler.lr_lambdas]
        for group, peak, factor in zip(groups, scheduler.base_lrs, factors, strict=True):
            group["lr"] = peak * factor
        scheduler._last_lr = [group["lr"] for group in groups]
