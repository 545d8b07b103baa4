"""A whole copy of a network whose weights are divided over the ranks, for as long as it answers.

Answering on the divided weights would gather all of them for every token. A copy gathers them once, a
decoder layer at a time, and each rank then decodes its share of the prompts without the others.
"""

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from medtune.config.schema import Config
from medtune.models.answering import put_tensors, structure_of
from medtune.models.placing import adapter_modules, decoder_layers
from medtune.runtime.ranks import gather

DIVIDED = ("zero3", "fsdp")  # layouts in which no rank holds whole weights


class WorkingCopy:
    """Makes whole copies of one network on each rank's device.

    Args:
        model: The network before a strategy divides it; its structure alone is kept.
        config: ``model.dtype`` is the type in which the base answers; auto: that of the trained weights.

    Attributes:
        seconds: What the last copy took to gather.
        bytes: Its size on each rank.
    """

    def __init__(self, model: nn.Module, config: Config) -> None:
        self.structure = structure_of(model)
        self.dtype = None if config.model.dtype == "auto" else getattr(torch, config.model.dtype)
        self.seconds = 0.0
        self.bytes = 0

    @contextmanager
    def of(self, live: nn.Module, device: torch.device) -> Iterator[nn.Module]:
        """Yields a copy of ``live`` with its present weights; all ranks together. It is gone afterwards.

        Raises:
            RuntimeError: Some rank has no room for it; on all ranks.
        """
        began = time.perf_counter()
        model = copy.deepcopy(self.structure)
        kept = adapter_modules(model)
        own = {id(tensor) for module in kept for tensor in module.parameters(recurse=False)}
        values = self._room(model, live, own, device)
        with torch.no_grad():
            for names in by_part(live, [name for name, _ in model.named_parameters()]):
                sources = [live.get_parameter(name) for name in names]
                with gathered(sources):
                    for name, source in zip(names, sources, strict=True):
                        values[id(model.get_parameter(name))].copy_(whole(source))
            for name, buffer in model.named_buffers():
                values[id(buffer)].copy_(live.get_buffer(name))
        put_tensors(model, values)
        self.seconds = time.perf_counter() - began
        self.bytes = sum(value.nbytes for value in values.values())
        del values
        try:
            yield model.eval()
        finally:
            del model
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _room(
        self, model: nn.Module, live: nn.Module, own: set[int], device: torch.device
    ) -> dict[int, Tensor]:
        """Memory for every tensor of the copy, or the same error on all ranks before any is gathered."""
        values: dict[int, Tensor] = {}
        problem = None
        try:
            for name, shape in model.named_parameters():
                dtype = live.get_parameter(name).dtype
                if self.dtype is not None and shape.is_floating_point() and id(shape) not in own:
                    dtype = self.dtype
                values[id(shape)] = torch.empty(shape.shape, dtype=dtype, device=device)
            for name, buffer in model.named_buffers():
                source = live.get_buffer(name)
                values[id(buffer)] = torch.empty(buffer.shape, dtype=source.dtype, device=device)
        except RuntimeError as error:  # torch's OutOfMemoryError is one
            values.clear()
            problem = str(error).splitlines()[0]
        problems = [found for found in gather(problem) if found]
        if problems:
            raise RuntimeError(f"no room for a whole copy of the model on each rank: {problems[0]}")
        return values


def by_part(model: nn.Module, names: Sequence[str]) -> list[list[str]]:
    """Names of tensors by the decoder layer that they are in; those in none come last."""
    layers = set(decoder_layers(model))
    prefixes = [f"{name}." for name, module in model.named_modules() if module in layers]
    groups: dict[str, list[str]] = {prefix: [] for prefix in [*prefixes, ""]}
    for name in names:
        groups[next((prefix for prefix in prefixes if name.startswith(prefix)), "")].append(name)
    return [group for group in groups.values() if group]


def gathered(parameters: Sequence[Any]) -> Any:
    """Within it ZeRO-3's parameters are whole on each rank; nothing for those of others."""
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(list(parameters))


def whole(parameter: Any) -> Tensor:
    """The values of a parameter that FSDP2 has divided, or has together at the moment; a collective call."""
    tensor: Tensor = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
    return tensor.detach()
