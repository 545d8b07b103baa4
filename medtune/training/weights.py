"""The trained weights: gathered from a running strategy, read from any checkpoint, written as a folder."""

import io
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.utils import logging as hf_logging

from medtune.config.inherit import EXPORT_RECORD
from medtune.config.schema import Config
from medtune.models.folders import settle_remote_code
from medtune.models.soft_prompt import save_prompt, virtual_ids
from medtune.runtime.record import RunFolder, whole_folder, write_json
from medtune.training.card import write_card
from medtune.training.checkpoints import Checkpoint
from medtune.training.modules import LanguageModelModule
from medtune.training.state import read_state
from medtune.training.strategies import layout_of

log = logging.getLogger(__name__)

PREFIX = "model."  # of the network's tensors inside the LightningModule
SETTINGS_SECTIONS = ("model", "template", "adapter", "quantization", "objective", "seed")


def weights_of(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Reads the network's tensors from a checkpoint of any layout, in this one process.

    Returns:
        Tensors on the CPU by their names in the network. ZeRO's are its float32 masters. A run with an
        adapter kept only what was trained.
    """
    readers = {"file": _weights_of_file, "fsdp": _weights_of_distributed}
    weights = readers.get(checkpoint.layout, _weights_of_zero)(checkpoint.state)
    return {name.removeprefix(PREFIX): tensor.detach() for name, tensor in weights.items()}


def _weights_of_file(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = read_state(path.parent, path.name, map_location="cpu", mmap=True)["state_dict"]
    return state


def _weights_of_zero(path: Path) -> dict[str, Tensor]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # it prints how it proceeds
        state = get_fp32_state_dict_from_zero_checkpoint(
            str(path), "checkpoint", exclude_frozen_parameters=True
        )
    return dict(state)


def _weights_of_distributed(path: Path) -> dict[str, Tensor]:
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    state: dict[str, Any] = {}
    # As torch's own dcp_to_torch_save does it, but without the optimizer's two thirds.
    planner = _EmptyStateDictLoadPlanner(keys={"state_dict"})
    _load_state_dict(state, storage_reader=FileSystemReader(path), planner=planner, no_dist=True)
    weights: dict[str, Tensor] = state["state_dict"]
    return weights


def gathered_weights(module: LanguageModelModule, layout: str, is_global_zero: bool) -> dict[str, Tensor]:
    """The network's tensors, whole, on the CPU of rank zero; empty on the others. All ranks call it.

    Of an adapted network the adapter's alone: nobody needs the base gathered.
    """
    if hasattr(module.model, "peft_config") and layout in ("zero3", "fsdp"):
        return _gathered_adapter(module.model, layout, is_global_zero)
    if layout == "zero3":
        return _gathered_from_zero(module.model, is_global_zero)
    if layout == "fsdp":
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        whole: dict[str, Any] = get_model_state_dict(module.model, options=options)
        return whole
    if not is_global_zero:
        return {}
    return {name: tensor.detach().cpu() for name, tensor in module.model.state_dict().items()}


def _gathered_adapter(model: nn.Module, layout: str, is_global_zero: bool) -> dict[str, Tensor]:
    tensors = {name: tensor for name, tensor in model.named_parameters() if is_adapter_tensor(name)}
    weights = {}
    for name, tensor in tensors.items():
        whole = _whole_of_zero(tensor) if layout == "zero3" else tensor.full_tensor()  # type: ignore[attr-defined]
        if is_global_zero:
            weights[name] = whole.detach().cpu()
    # Under every name that a buffer of several modules has.
    buffers = model.named_buffers(remove_duplicate=False)
    weights.update({name: buffer.cpu() for name, buffer in buffers if is_adapter_tensor(name)})
    return weights if is_global_zero else {}


def _whole_of_zero(parameter: Tensor) -> Tensor:
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().cpu().clone()


def is_adapter_tensor(name: str) -> bool:
    """Whether a parameter or buffer of this name is an adapter's."""
    return any(mark in name for mark in (".lora_", ".ia3_l.", ".vera_", ".modules_to_save."))


def _gathered_from_zero(model: nn.Module, is_global_zero: bool) -> dict[str, Tensor]:
    import deepspeed

    weights: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter]):
            if is_global_zero:
                weights[name] = parameter.detach().cpu().clone()
    persistent = {name for name, _ in model.named_buffers()} & set(model.state_dict())
    weights.update({name: buffer.cpu() for name, buffer in model.named_buffers() if name in persistent})
    return weights if is_global_zero else {}


def save_model(trainer: L.Trainer, module: LanguageModelModule, tokenizer: Any, run: RunFolder) -> None:
    """Writes the trained weights as ``RUN_DIR/model``, a Hugging Face folder; all ranks call it.

    With an adapter it is the adapter's folder, which names its base.

    Raises:
        ValueError: It could not be written; what was there is still there.
    """
    config = module.config
    weights = gathered_weights(module, layout_of(config), trainer.is_global_zero)
    if trainer.is_global_zero:
        write_model(module.model, weights, tokenizer, config, run.model, run)
        log.info("model %s", run.model)
    trainer.strategy.barrier()


def write_model(
    model: Any,
    weights: dict[str, Tensor],
    tokenizer: Any,
    config: Config,
    folder: Path,
    run: RunFolder | None = None,
    step: int | None = None,
) -> None:
    """Writes a model folder that explains itself; see :func:`save_model`.

    Args:
        model: The network (for its configuration and its own way of saving), as transformers or peft has it.
        weights: Its whole tensors by name.
        tokenizer: Saved beside it.
        config: Of the run; the sections in ``SETTINGS_SECTIONS`` go to ``medtune.json``.
        folder: Replaced once the new one is whole.
        run: The run that trained it, for its card.
        step: Of the checkpoint that the weights are of, likewise; None: the run's last.
    """
    weights = share_tied(model, weights)
    size = sum(tensor.nbytes for tensor in weights.values())
    with whole_folder(folder) as aside:
        try:
            with no_progress_bars(), cache_on(model):
                if hasattr(model, "peft_config") or virtual_ids(model):
                    write_adapter(model, weights, aside)
                else:
                    model.save_pretrained(aside, state_dict=weights)
            tokenizer.save_pretrained(aside)
            settle_remote_code(aside, config.model.path)
            write_json(aside / EXPORT_RECORD, settings_of(config))
            write_card(aside, config, run, step)
        except SafetensorError as error:
            raise OSError(0, f"{error}; about {size / 2**20:.0f} MiB are needed") from error


def write_adapter(model: Any, weights: dict[str, Tensor], folder: Path) -> None:
    """Writes an adapter or prompt that can be used without the folders of earlier ones that lie below it.

    Stacked ones are a part of it; copies of those that were folded into its base lie beside it.
    """
    from medtune.models.adapter_folders import MERGED  # here, since peft costs seconds
    from medtune.models.merging import save_adapter

    save = save_prompt if virtual_ids(model) else save_adapter
    save(model, weights, folder)
    for number, path in enumerate(getattr(model, "merged_adapters", ())):
        shutil.copytree(path, folder / MERGED / str(number), ignore=shutil.ignore_patterns(MERGED))


@contextmanager
def cache_on(model: Any) -> Iterator[None]:
    """Keeps a file from saying that answers go without a cache, as a fit does."""
    before, model.config.use_cache = model.config.use_cache, True
    yield
    model.config.use_cache = before


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Silences transformers' bars: writing a few shards is no news."""
    was_on = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    yield
    if was_on:
        hf_logging.enable_progress_bar()


def share_tied(model: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` with one tensor under all names of a tied parameter, as transformers knows to write once.

    What FSDP2 and ZeRO-3 gather, and what a checkpoint holds, are copies of their own.
    """
    names: dict[int, str] = {}
    same = {
        name: names.setdefault(id(parameter), name)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    }
    return {name: weights.get(same.get(name, name), tensor) for name, tensor in weights.items()}


def settings_of(config: Config) -> dict[str, Any]:
    """What a reader of a model folder must know to use it as it was trained."""
    whole = asdict(config)
    return {section: whole[section] for section in SETTINGS_SECTIONS}
