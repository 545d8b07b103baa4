"""A network that is being trained, made ready to answer in between and left exactly as it was."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medtune.config.schema import Config
from medtune.models.attention_choice import choose_attention
from medtune.models.placing import adapter_modules, base_model, tensors_of


@contextmanager
def ready_to_answer(model: Any, config: Config) -> Iterator[None]:
    """Within the block the network decodes as one that was loaded to answer.

    Its attention is the one that decodes, which takes a cache, and compiled layers run as written: they are
    compiled for one shape, and an answer has another at every token. Whoever generates sets the mode.
    """
    settings = base_model(model).config
    attention = settings._attn_implementation
    compiled: dict[nn.Module, Any] = {
        module: module._compiled_call_impl for module in model.modules() if module._compiled_call_impl
    }
    settings._attn_implementation = choose_attention(config, settings, for_training=False)
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        settings._attn_implementation = attention
        for module, call in compiled.items():
            module._compiled_call_impl = call


def has_mixed_types(model: nn.Module) -> bool:
    """Whether weights of the network itself differ in type, so that only autocast computes with them."""
    added = adapter_modules(model)
    types = {
        parameter.dtype
        for module in model.modules()
        if module not in added
        for parameter in module.parameters(recurse=False)
        if parameter.is_floating_point()
    }
    return len(types) > 1


def structure_of(model: nn.Module) -> nn.Module:
    """A copy of ``model`` whose weights and buffers are mere shapes; tied ones are tied in it too."""
    shapes: dict[int, Any] = {}
    for tensor in tensors_of(model):
        shape = torch.empty_like(tensor, device="meta")
        is_weight = isinstance(tensor, nn.Parameter)
        shapes[id(tensor)] = nn.Parameter(shape, requires_grad=False) if is_weight else shape
    return copy.deepcopy(model, shapes)


def put_tensors(model: nn.Module, values: dict[int, Tensor]) -> None:
    """Puts values in the places of the weights and buffers of ``model``, by the ids of those."""
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(values[id(old)], requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module._buffers[name] = values[id(buffer)]
