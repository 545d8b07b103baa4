"""The optimizers by name."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from medtune.config.schema import OptimConfig
from medtune.training.groups import parameter_groups

Groups = list[dict[str, Any]]


def build_optimizer(model: nn.Module, config: OptimConfig, fused: bool = True) -> Optimizer:
    """Builds the optimizer over the parameters that are trained.

    Args:
        model: transformers' or peft's, placed.
        config: Chooses the optimizer.
        fused: Let AdamW update all parameters in one kernel.

    Raises:
        ValueError: Nothing in the model is trained.
    """
    groups = parameter_groups(model, config)
    if not groups:
        raise ValueError("no parameter of the model is trained; set adapter=lora, or quantization=none")
    if config.name == "adamw":
        first, second = config.betas
        return torch.optim.AdamW(
            without_rank(groups), lr=config.lr, betas=(first, second), eps=config.eps, fused=fused
        )
    return BUILDERS[config.name](groups, config)


def _sgd(groups: Groups, config: OptimConfig) -> Optimizer:
    return torch.optim.SGD(without_rank(groups), lr=config.lr)


def _adafactor(groups: Groups, config: OptimConfig) -> Optimizer:
    return torch.optim.Adafactor(without_rank(groups), lr=config.lr)


def _bits_and_bytes(name: str, **fixed: Any) -> Callable[[Groups, OptimConfig], Optimizer]:
    """A builder of bitsandbytes' optimizer ``name``, which costs seconds to import."""

    def build(groups: Groups, config: OptimConfig) -> Optimizer:
        import bitsandbytes.optim

        optimizer: Optimizer = getattr(bitsandbytes.optim, name)(
            without_rank(groups), lr=config.lr, betas=tuple(config.betas), **fixed, **_eps(name, config)
        )
        return optimizer

    return build


def _eps(name: str, config: OptimConfig) -> dict[str, float]:
    return {} if name.startswith("Lion") else {"eps": config.eps}


def _galore(groups: Groups, config: OptimConfig) -> Optimizer:
    from galore_torch import GaLoreAdamW
    from galore_torch.galore_projector import GaLoreProjector

    settings = {"rank": config.rank, "update_proj_gap": config.update_interval, "scale": config.scale}
    projected = with_rank(groups, {**settings, "proj_type": "std"})
    optimizer = GaLoreAdamW(
        projected, lr=config.lr, betas=tuple(config.betas), eps=config.eps, no_deprecation_warning=True
    )
    return plain_state(optimizer, lambda: GaLoreProjector(config.rank))


def _apollo(groups: Groups, config: OptimConfig) -> Optimizer:
    from apollo_torch import APOLLOAdamW
    from apollo_torch.random_projector import GradientProjector

    settings = {"rank": config.rank, "update_proj_gap": config.update_interval, "scale": config.scale}
    projected = with_rank(groups, {**settings, "proj_type": "std", "proj": "random", "scale_type": "channel"})
    optimizer = APOLLOAdamW(projected, lr=config.lr, betas=tuple(config.betas), eps=config.eps)
    return plain_state(optimizer, lambda: GradientProjector(config.rank))


BUILDERS: dict[str, Callable[[Groups, OptimConfig], Optimizer]] = {
    "adamw_8bit": _bits_and_bytes("AdamW8bit"),
    "paged_adamw": _bits_and_bytes("PagedAdamW"),
    "paged_adamw_8bit": _bits_and_bytes("PagedAdamW8bit"),
    "adafactor": _adafactor,
    "lion": _bits_and_bytes("Lion"),
    "lion_8bit": _bits_and_bytes("Lion8bit"),
    "galore": _galore,
    "apollo": _apollo,
    "sgd": _sgd,
}


def without_rank(groups: Groups) -> Groups:
    """The groups for an optimizer that treats all shapes alike."""
    return [{key: value for key, value in group.items() if key != "low_rank"} for group in groups]


def with_rank(groups: Groups, settings: dict[str, Any]) -> Groups:
    """The groups for an optimizer that projects matrices of decoder layers, with its settings at theirs."""
    return [
        {**plain, **(settings if group["low_rank"] else {})}
        for group, plain in zip(groups, without_rank(groups), strict=True)
    ]


def plain_state(optimizer: Optimizer, make_projector: Callable[[], Any]) -> Optimizer:
    """Lets the state of GaLore and APOLLO be saved in plain types: a projector as the mapping of its numbers.

    Args:
        optimizer: Keeps an object under ``projector`` in its state.
        make_projector: Makes one of the same class, whose numbers are then set.
    """

    def numbers(projector: Any) -> dict[str, Any]:
        # Not its texts, which torch takes apart into letters when it loads them.
        return {name: value for name, value in vars(projector).items() if not isinstance(value, str)}

    def flatten(_: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
        state = {
            at: {key: numbers(value) if key == "projector" else value for key, value in values.items()}
            for at, values in saved["state"].items()
        }
        return {**saved, "state": state}

    def restore(loaded: Optimizer) -> None:
        for values in loaded.state.values():
            if isinstance(values.get("projector"), dict):
                projector = make_projector()
                vars(projector).update(values["projector"])
                values["projector"] = projector

    optimizer.register_state_dict_post_hook(flatten)
    optimizer.register_load_state_dict_post_hook(restore)
    return optimizer
