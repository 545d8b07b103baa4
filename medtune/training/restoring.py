"""Taking a checkpoint's state up: whether it fits, and which settings hold from then on."""

from typing import Any

import lightning.pytorch as L
from torch.optim import Optimizer

from medtune.runtime.errors import ConfigError

SHOWN_NAMES = 3  # in the message about what does not fit

Groups = list[list[dict[str, Any]]]  # the settings of each parameter group of each optimizer


def check_weights_fit(checkpoint: dict[str, Any], module: L.LightningModule) -> None:
    """Holds that a checkpoint's weights are those of this network, before any of them is loaded.

    Raises:
        ConfigError: Names or shapes differ.
    """
    if not checkpoint.get("state_dict"):
        return  # of a sharding strategy, which loads in place
    saved = {name: tuple(value.shape) for name, value in checkpoint["state_dict"].items()}
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
            if there.keys() != here.keys():
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
        groups = scheduler.optimizer.param_groups
        scheduler.base_lrs = [group["initial_lr"] for group in groups]
        factors = [rate(scheduler.last_epoch) for rate in scheduler.lr_lambdas]
        for group, peak, factor in zip(groups, scheduler.base_lrs, factors, strict=True):
            group["lr"] = peak * factor
        scheduler._last_lr = [group["lr"] for group in groups]
