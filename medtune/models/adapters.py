"""Add-on weights over a frozen base, through peft: making them, loading them, lying on earlier ones."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.ia3 import IA3Layer
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers import PreTrainedModel

from medtune.config.schema import Config
from medtune.models.adapter_checks import check_loaded, check_sums, explain_misfit
from medtune.models.adapter_methods import method_settings
from medtune.models.parameter_counts import log_trained_share
from medtune.models.soft_prompt import is_prompt
from medtune.runtime.errors import ConfigError

TRAINED = "default"  # peft's name of the adapter that learns
ORIGIN = "origin"  # of the one that takes PiSSA's first components away
STACKED = "stacked_"  # of earlier ones, with their number behind it
PISSA_ROUNDS = {"pissa": None, "pissa_niter_16": 16}


def add_adapter(model: PreTrainedModel, config: Config) -> PeftModel:
    """Wraps ``model``: a fresh adapter that changes nothing yet, and a frozen base.

    Raises:
        ConfigError: A target module that the network does not have.
    """
    settings = method_settings(model, config)
    # Seeded apart, so that every rank draws the same adapter and no other random stream moves.
    with torch.random.fork_rng(devices=[]), drawing_in_float32(), without_peft_warnings():
        torch.manual_seed(config.seed)
        wrapped = _wrap(model, settings)
        if config.adapter.name == "pissa":
            _start_from_components(wrapped, settings, config.adapter.init)
    _answer_in_type_of_input(wrapped)
    _finish(wrapped, config)
    return wrapped


def load_adapter(model: PreTrainedModel, folder: Path, trainable: bool, key: str = "weights") -> PeftModel:
    """Wraps ``model`` with the adapter that lies in ``folder``.

    Raises:
        ConfigError: It does not fit the model.
    """
    refuse_prompt(folder, key)
    with without_peft_warnings(), explain_misfit(f"{key}={folder}"):
        wrapped = PeftModel.from_pretrained(model, str(folder), is_trainable=trainable)
        check_loaded(wrapped, folder, TRAINED)
    _answer_in_type_of_input(wrapped)
    return wrapped


def refuse_prompt(folder: Path, key: str) -> None:
    """Raises ConfigError for a trained prompt where weights are asked for."""
    if is_prompt(folder):
        raise ConfigError(
            f"{key}={folder} is a trained prompt (prompt_tuning): tokens, no weights that could be folded "
            "into others or lie below them; it can only be used as weights=, or trained on with "
            "adapter=prompt_tuning adapter.start"
        )


def continue_adapter(model: PreTrainedModel, folder: Path, config: Config) -> PeftModel:
    """Wraps ``model`` with the adapter in ``folder``, which is trained on.

    Raises:
        ConfigError: It does not fit the model, or is another method than ``adapter.name``.
    """
    wrapped = load_adapter(model, folder, trainable=True, key="adapter.start")
    found = method_name(wrapped.peft_config[TRAINED])
    if found != config.adapter.name:
        raise ConfigError(
            f"adapter.start={folder} is a {found} adapter, but adapter={config.adapter.name}; set "
            f"adapter={found}"
        )
    _finish(wrapped, config)
    return wrapped


def method_name(settings: PeftConfig) -> str:
    """The option of ``adapter`` that trains what ``settings`` describe."""
    if isinstance(settings, LoraConfig):
        return "dora" if settings.use_dora else "rslora" if settings.use_rslora else "lora"
    return str(getattr(settings.peft_type, "value", settings.peft_type)).lower()


def _finish(wrapped: PeftModel, config: Config) -> None:
    """Puts the earlier adapters below, lets the new one alone learn, and says what share that is."""
    if config.adapter.stack:
        check_sums(wrapped.peft_config[TRAINED], f"adapter={config.adapter.name}")
    for number, path in enumerate(config.adapter.stack):
        _stack(wrapped, Path(path), f"{STACKED}{number}")
    _activate_all(wrapped)
    log_trained_share("adapter", wrapped)


def _answer_in_type_of_input(wrapped: PeftModel) -> None:
    """Has (IA)^3 on packed weights give bfloat16 for bfloat16.

    Peft computes in float32 there and leaves the result so: keys and values, but not the queries.
    """

    def restore(layer: nn.Module, inputs: Any, result: Tensor) -> Tensor:
        return result if torch.is_autocast_enabled(result.device.type) else result.to(inputs[0].dtype)

    for module in wrapped.modules():
        if isinstance(module, IA3Layer):
            module.register_forward_hook(restore)


def _stack(wrapped: PeftModel, folder: Path, name: str) -> None:
    source = f"adapter.stack={folder}"
    refuse_prompt(folder, "adapter.stack")
    check_sums(PeftConfig.from_pretrained(str(folder)), source)
    with without_peft_warnings(), explain_misfit(source):
        wrapped.load_adapter(str(folder), adapter_name=name, is_trainable=False)
        check_loaded(wrapped, folder, name)


def _activate_all(wrapped: PeftModel) -> None:
    """Lets every adapter act and the trained one alone learn."""
    names = list(wrapped.peft_config)
    if len(names) == 1:
        return
    wrapped.base_model.set_adapter(names)  # type: ignore[operator]  # which also lets all of them learn
    still = tuple(f".{name}." for name in names if name != TRAINED)
    for name, parameter in wrapped.named_parameters():
        if any(part in name for part in still):
            parameter.requires_grad_(False)


def _wrap(model: PreTrainedModel, settings: PeftConfig) -> PeftModel:
    wrapped = get_peft_model(model, settings)
    assert isinstance(wrapped, PeftModel)
    return wrapped


def _start_from_components(wrapped: PeftModel, settings: PeftConfig, init: str) -> None:
    """Begins B·A with the largest singular values and vectors of each matrix (PiSSA, arXiv:2404.02948).

    The paper takes them out of the base. Here the base stays as it is, and a frozen second adapter subtracts
    them: the same function, but it is also the function of what is written, the sum of both over the
    original base. A base in bfloat16 that had given them up would be rounded once more, and a quantised one
    cannot give them up at all.
    """
    assert isinstance(settings, LoraConfig)
    targets = wrapped.peft_config[TRAINED].target_modules  # type: ignore[attr-defined]
    origin = LoraConfig(
        r=settings.r, lora_alpha=settings.lora_alpha, target_modules=targets, task_type="CAUSAL_LM"
    )
    wrapped.add_adapter(ORIGIN, origin)
    for module in wrapped.modules():
        if isinstance(module, LoraLayer):
            weight = dequantize_module_weight(module.get_base_layer()).detach().float()
            if settings.r > min(weight.shape):
                raise ConfigError(
                    f"adapter.rank={settings.r} with adapter=pissa: a matrix of {tuple(weight.shape)} has "
                    f"only {min(weight.shape)} components; lower the rank, or leave that module out of "
                    "adapter.target_modules"
                )
            down, up = principal_factors(weight, settings.r, PISSA_ROUNDS[init])
            scale = module.scaling[TRAINED] ** 0.5
            for name, sign in ((TRAINED, 1), (ORIGIN, -1)):
                _set_weight(module.lora_A[name], down / scale)
                _set_weight(module.lora_B[name], sign * up / scale)


def _set_weight(layer: Any, value: Tensor) -> None:
    layer.weight.data = value.to(layer.weight.device, torch.float32).contiguous()


def principal_factors(weight: Tensor, rank: int, rounds: int | None) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B [out, rank] whose product is the best approximation of ``weight`` of that rank.

    Args:
        weight: float32 [out, in].
        rank: At most the shorter side.
        rounds: Of a randomised decomposition; None computes it whole.
    """
    if rounds is None:
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        left, values, right = left[:, :rank], values[:rank], right[:rank]
    else:
        left, values, columns = torch.svd_lowrank(weight, rank, niter=rounds)
        right = columns.T
    roots = values.sqrt()
    return roots[:, None] * right, left * roots


@contextmanager
def drawing_in_float32() -> Iterator[None]:
    """A fit in bf16-true makes bfloat16 torch's default, in which one seed draws other numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Hides that peft asks a model for ``is_gradient_checkpointing``, which transformers renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield
