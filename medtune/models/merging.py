"""Adapters folded into their base, or several low-rank ones written as one."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from medtune.models.adapters import TRAINED, load_adapter, without_peft_warnings
from medtune.models.folders import ADAPTER_WEIGHTS
from medtune.models.stored_quantization import check_mergeable


def merge_adapter(model: PeftModel) -> PreTrainedModel:
    """Folds the adapter into its base and returns the base; ``model`` must not be used afterwards.

    A quantised base is dequantised first. The adapter was trained on those very weights: merged into the
    unquantised original, or quantised again, the result would be another function.
    """
    base = model.get_base_model()
    assert isinstance(base, PreTrainedModel)
    check_mergeable(base)
    if getattr(base, "hf_quantizer", None) is None:
        return _merged(model)
    settings, state = model.peft_config[TRAINED], get_peft_model_state_dict(model)
    state = {name: tensor.detach().clone() for name, tensor in state.items()}
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):
        setattr(base, flag, False)  # peft would refuse to unload, and transformers never takes them back
    model.unload()
    base.dequantize()
    forget_packing(base)
    with without_peft_warnings():
        plain = PeftModel(base, settings, autocast_adapter_dtype=True)
        set_peft_model_state_dict(plain, state)
    return _merged(plain)


def forget_packing(model: PreTrainedModel) -> None:
    """Drops what transformers noted of unpacking stored weights, which it would undo on saving."""
    conversions: list[Any] = getattr(model, "_weight_conversions", None) or []
    kept = [
        conversion
        for conversion in conversions
        if not any("bitsandbytes" in type(step).__module__ for step in getattr(conversion, "operations", ()))
    ]
    if len(kept) < len(conversions):
        model._weight_conversions = kept  # type: ignore[assignment]


def _merged(model: PeftModel) -> PreTrainedModel:
    merged: PreTrainedModel = model.merge_and_unload()
    return merged


def merge_earlier(model: PreTrainedModel, folder: Path, key: str) -> PreTrainedModel:
    """``model`` with the adapter in ``folder`` folded in, ready to be trained or adapted again."""
    return _merged(load_adapter(model, folder, trainable=False, key=key)).requires_grad_(True)


def save_adapter(model: PeftModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes the adapter that learned, with those that acted below it, as one folder over the original base.

    Args:
        model: For its settings; its weights may lie elsewhere.
        weights: The adapters' tensors by name.
        folder: Made if it is not there.
    """
    if len(model.peft_config) == 1:
        model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
        return
    settings, state = one_of_all(model, weights)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    settings.save_pretrained(str(folder))


def one_of_all(model: PeftModel, weights: dict[str, Tensor]) -> tuple[LoraConfig, dict[str, Tensor]]:
    """The sum of all low-rank adapters as one: their ranks side by side, the same function.

    sum of s·B·A is [s1·B1, s2·B2, ...]·[A1; A2; ...], at a scale of 1.
    """
    own = model.peft_config[TRAINED]
    assert isinstance(own, LoraConfig)
    # What is trained whole beside the low-rank updates is the same in either form.
    kept = get_peft_model_state_dict(model, weights, adapter_name=TRAINED, save_embedding_layers=False)
    state = {name: tensor for name, tensor in kept.items() if ".lora_" not in name}
    ranks: dict[str, int] = {}
    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        down, up = _side_by_side(path, module, weights)
        state[f"{path}.lora_A.weight"], state[f"{path}.lora_B.weight"] = down, up
        ranks[path.removeprefix("base_model.model.")] = len(down)
    most = max(set(ranks.values()), key=list(ranks.values()).count)
    others = {path: rank for path, rank in ranks.items() if rank != most}
    values: dict[str, Any] = own.to_dict() | {
        "r": most,
        "lora_alpha": most,
        "rank_pattern": others,
        "alpha_pattern": dict(others),
        "use_rslora": False,
        "target_modules": _targets(model, ranks),
        "inference_mode": True,
    }
    names = LoraConfig.__dataclass_fields__
    return LoraConfig(**{key: value for key, value in values.items() if key in names}), state


def _side_by_side(path: str, module: Any, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    downs, ups = [], []
    for name in module.lora_A:
        downs.append(weights[f"{path}.lora_A.{name}.weight"].float())
        ups.append(weights[f"{path}.lora_B.{name}.weight"].float() * module.scaling[name])
    return torch.cat(downs).contiguous(), torch.cat(ups, dim=1).contiguous()


def _targets(model: PeftModel, ranks: dict[str, int]) -> list[str]:
    """Short names where they mean the same modules, else whole paths."""
    short = {path.rpartition(".")[2] for path in ranks}
    meant = {name for name, _ in model.get_base_model().named_modules() if name.rpartition(".")[2] in short}
    return sorted(short if meant == ranks.keys() else ranks)
