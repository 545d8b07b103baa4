"""From a network as its files hold it, or as mere shapes, to weights of their final type and place.

It goes part by part: each decoder layer, then what no layer holds. Weight files are mapped into memory, not
read, and a network with random weights is built on the meta device, without any memory; so a process never
holds more than one part of its own beside what the strategy keeps, however many ranks a machine has.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from medtune.config.schema import Config

Prepare = Callable[[nn.Module], None]
"""Gives the weights of a part their values and types, before a strategy places it."""

META = torch.device("meta")
PRODUCTS = {
    "32-true": torch.float32,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "16-mixed": torch.float16,
}
"""In what the matrix products of a fit are computed, by ``trainer.precision``."""


@dataclass(frozen=True)
class WeightTypes:
    """In what a network's weights are held."""

    trained: torch.dtype
    frozen: torch.dtype


def training_types(config: Config, stored: torch.dtype) -> WeightTypes:
    """The types for a fit.

    Args:
        config: Its precision decides; under a mixed one ``model.dtype`` decides for frozen weights.
        stored: Of the files, or of the network as built.
    """
    if config.trainer.precision == "32-true":
        return WeightTypes(torch.float32, torch.float32)
    if config.trainer.precision == "bf16-true":
        return WeightTypes(torch.bfloat16, torch.bfloat16)
    if config.model.dtype != "auto":
        return WeightTypes(torch.float32, getattr(torch, config.model.dtype))
    # The products are of that type in either case, and autocast cannot mix the two halves.
    half = PRODUCTS[config.trainer.precision]
    return WeightTypes(torch.float32, stored if stored == torch.float32 else half)


def answering_types(config: Config, stored: torch.dtype) -> WeightTypes:
    """The types for a model that only answers: ``model.dtype``, else those of the files."""
    dtype = stored
    if config.model.dtype != "auto":
        dtype = getattr(torch, config.model.dtype)
    elif config.trainer.precision == "bf16-true":
        dtype = torch.bfloat16
    return WeightTypes(dtype, dtype)


def prepare_for(model: Any, config: Config, for_training: bool) -> Prepare:
    """What a strategy calls for each of :func:`parts` before it places it.

    Args:
        model: transformers' or peft's.
        config: Gives types and seed.
        for_training: See :func:`training_types` and :func:`answering_types`.
    """
    base = base_model(model)
    types = (training_types if for_training else answering_types)(config, base.dtype)
    # An adapter that only answers keeps its own type, as peft has it: rounded to the base's it would lose a
    # tenth of its update.
    kept = frozenset() if for_training else adapter_modules(model)

    def prepare(part: nn.Module) -> None:
        draw(base, part, config.seed)
        cast(part, types, kept)

    return prepare


def cast_shared_matrices(model: nn.Module, config: Config) -> None:
    """Gives VeRA's random matrices, which are buffers, the type of the trained vectors that go with them."""
    dtype = training_types(config, torch.float32).trained
    for module in model.modules():
        if type(module).__name__ == "BufferDict":  # peft's, which costs seconds to import
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(dtype)


def adapter_modules(model: nn.Module) -> frozenset[nn.Module]:
    """The modules that peft has put beside those of the network."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "adapter_layer_names")]
    added = [getattr(layer, name, None) for layer in layers for name in layer.adapter_layer_names]
    return frozenset(inner for module in added if isinstance(module, nn.Module) for inner in module.modules())


def base_model(model: Any) -> PreTrainedModel:
    """The network below an adapter's wrapper."""
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base


def parts(model: nn.Module) -> list[nn.Module]:
    """The decoder layers, then the whole, of which the rest is left."""
    return [*decoder_layers(model), model]


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The layers that transformers calls indivisible, else the members of the longest module list."""
    names = set(getattr(base_model(model), "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    if layers:
        return layers
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len, default=()))


def place_whole(model: nn.Module, prepare: Prepare, device: torch.device | str = "cpu") -> nn.Module:
    """Prepares ``model`` and moves it to ``device``, a part at a time."""
    for part in parts(model):
        prepare(part)
        part.to(device)
    return model


@torch.no_grad()
def cast(part: nn.Module, types: WeightTypes, kept: frozenset[nn.Module] = frozenset()) -> None:
    """Gives the weights of a part their types; those of ``kept``, placed already or quantised, stay."""
    for module in part.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point() and not is_placed(parameter) and module not in kept:
                dtype = types.trained if parameter.requires_grad else types.frozen
                if parameter.dtype != dtype:
                    parameter.data = parameter.data.to(dtype)


def is_placed(parameter: Tensor) -> bool:
    """Whether FSDP2 or ZeRO-3 has divided it already."""
    return hasattr(parameter, "ds_id") or hasattr(parameter, "device_mesh")


def is_drawn(model: nn.Module) -> bool:
    """Whether all weights have values."""
    return not any(parameter.device == META for parameter in model.parameters())


@torch.no_grad()
def draw(base: PreTrainedModel, part: nn.Module, seed: int) -> None:
    """Draws the weights of a part that are mere shapes, as transformers initialises them, in float32.

    A module's values depend on ``seed`` and its name alone, not on the strategy, the other parts or the type
    of the weights.

    Args:
        base: The network, whose rules of initialisation hold and which names the modules.
        part: Itself or a module in it; adapters on it are drawn too.
        seed: Of the run.
    """
    fresh = materialise(part)
    if not fresh:
        return
    names = {module: name.replace(".base_layer", "") for name, module in base.named_modules()}
    pending = set(fresh)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        for module in children_first(part):
            tensors = {id(tensor) for tensor in tensors_of(module)}
            if not tensors or not tensors <= fresh:
                continue
            # The CPU's generator alone: torch.manual_seed would set those of GPUs back too.
            torch.default_generator.manual_seed(zlib.crc32(f"{seed}:{names.get(module, '')}".encode()))
            if hasattr(module, "reset_lora_parameters"):  # peft's, around a layer that has been drawn
                for adapter in module.active_adapters:  # type: ignore[union-attr]
                    module.reset_lora_parameters(adapter, init_lora_weights=True)  # type: ignore[operator]
                continue
            own = {id(tensor) for tensor in tensors_of(module, recurse=False)}
            # Not a head that is tied to the embedding: it has been drawn with that. But modules that hold
            # others have their turn: some draw a child's weights again (GPT-2, by the network's depth).
            if not own or own & pending:
                base._init_weights(module)
                pending -= own


def materialise(part: nn.Module) -> set[int]:
    """Gives meta weights and buffers of a part memory on the CPU, tied ones the same.

    Returns:
        The ids of the new tensors; parameters are float32.
    """
    made: dict[int, Tensor] = {}
    for module in part.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            if old.device == META:
                # Named, since a strategy's context may make another device or type the default.
                empty = torch.empty(old.shape, dtype=torch.float32, device="cpu")
                made.setdefault(id(old), nn.Parameter(empty, requires_grad=old.requires_grad))
                setattr(module, name, made[id(old)])
        for name, old_buffer in list(module.named_buffers(recurse=False)):
            if old_buffer.device == META:
                made.setdefault(id(old_buffer), torch.empty_like(old_buffer, device="cpu"))
                module._buffers[name] = made[id(old_buffer)]
    return {id(tensor) for tensor in made.values()}


def children_first(module: nn.Module) -> Iterator[nn.Module]:
    """``module`` after all that it holds, as transformers initialises."""
    for child in module.children():
        yield from children_first(child)
    yield module


def tensors_of(module: nn.Module, recurse: bool = True) -> Iterator[Tensor]:
    """Parameters and buffers."""
    yield from module.parameters(recurse)
    yield from module.buffers(recurse)
