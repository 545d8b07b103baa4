"""Checkpoints that are whole or not there, and the way back from one, under every strategy.

``RUN_DIR/checkpoints/step-N`` holds ``state`` (Lightning's file, or the directory of a sharding
strategy), ``rng-R.pt`` of every rank, and ``checkpoint.json``, which is written last.
"""

import logging
import pickle
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from medtune.config.schema import Config
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import disk_error, read_json, replace_folder, write_json
from medtune.training.metrics import Metrics
from medtune.training.modules import LanguageModelModule

log = logging.getLogger(__name__)

MARK = "checkpoint.json"
STATE = "state"
STEP_FOLDER = re.compile(r"step-(\d+)")

# What a checkpoint's optimizer state and position mean; another value could not take effect.
FIXED = (
    "seed", "objective", "data.global_batch_size", "trainer.precision", "optim.name", "optim.lr",
    "optim.betas", "optim.eps", "optim.weight_decay", "adapter.name", "adapter.rank", "quantization.name",
    "adapter.alpha", "adapter.target_modules", "adapter.modules_to_save", "adapter.init",
    "adapter.first_layers", "adapter.last_layers", "adapter.trainable",
    # Which rows a step shows.
    "data.sequence_length", "data.packing", "data.pack_groups", "data.overlong", "data.max_examples",
    "data.max_tokens", "data.validation_size", "data.filter", "data.dedup", "data.dedup_threshold",
    "data.format", "data.columns", "data.roles", "data.learn", "data.learn_thinking", "data.on_error",
    "template",
    "data.contamination", "data.mix", "data.mix_by", "data.mix_temperature", "data.mix_stop", "data.sources",
)  # fmt: skip
# Keys of a source that do not say what its rows are, but where its files lie, or what is scored.
PLACES = ("name", "dir", "origin", "hub", "splits", "eval_splits", "sha1", "verify")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        path: The folder.
        global_step: Optimizer steps done.
        rows: Training rows consumed since the start, over all epochs.
        layout: ``file``, ``zero1``, ``zero2``, ``zero3`` or ``fsdp``: how ``state`` is laid out.
        world_size: Ranks that wrote it.
        config: The settings of the run, plain.
    """

    path: Path
    global_step: int
    rows: int
    layout: str
    world_size: int
    config: dict[str, Any]

    @property
    def state(self) -> Path:
        """What Lightning wrote."""
        return self.path / STATE


def open_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint's mark.

    Raises:
        ConfigError: There is nothing, no checkpoint, or one that was not finished.
    """
    if not path.is_dir():
        raise ConfigError(
            f"{path} is not a checkpoint: no such folder; a checkpoint is RUN_DIR/checkpoints/step-N"
        )
    if not (path / MARK).is_file():
        what = "was not written to its end" if (path / STATE).exists() else "is not a checkpoint"
        within = whole_checkpoints(path / "checkpoints")
        other = within[-1].path if within else "an older step-N folder, or resume=auto"
        raise ConfigError(f"{path} {what}: {MARK} is missing. Use {other}")
    try:
        mark = read_json(path / MARK)
        return Checkpoint(
            path, mark["global_step"], mark["rows"], mark["layout"], mark["world_size"], dict(mark["config"])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(damage(path, MARK, error)) from error


def damage(path: Path, name: str, error: Exception) -> str:
    """The message for a checkpoint that bears the mark of a whole one and yet cannot be read."""
    reason = f"{type(error).__name__} {error}".strip().split(". ")[0]
    return (
        f"{path} is damaged: {name} cannot be read ({reason}). Copy it here again if it came from elsewhere, "
        "or remove the folder: resume=auto then takes the newest older one, or starts anew without one"
    )


def read_state(path: Path, name: str, **how: Any) -> Any:
    """Reads a file of a checkpoint that torch wrote.

    Args:
        path: The checkpoint.
        name: The file in it.
        how: Further arguments of ``torch.load``.

    Raises:
        ConfigError: It is missing or damaged.
    """
    try:
        return torch.load(path / name, weights_only=True, **how)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise ConfigError(damage(path, name, error)) from error


def whole_checkpoints(folder: Path) -> list[Checkpoint]:
    """The whole checkpoints in ``folder``, oldest step first; unfinished ones are passed over."""
    if not folder.is_dir():
        return []
    paths = [
        path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name) and (path / MARK).is_file()
    ]
    return sorted((open_checkpoint(path) for path in paths), key=lambda checkpoint: checkpoint.global_step)


def choose_checkpoint(resume: str, folder: Path) -> Checkpoint | None:
    """The checkpoint that ``resume`` means.

    Args:
        resume: ``never``, ``auto`` (the newest whole one of ``folder``, if any) or a path.
        folder: ``RUN_DIR/checkpoints``.

    Raises:
        ConfigError: A path that is no whole checkpoint.
    """
    if resume == "never":
        return None
    if resume == "auto":
        found = whole_checkpoints(folder)
        return found[-1] if found else None
    return open_checkpoint(Path(resume))


def resume_problems(checkpoint: Checkpoint, config: Config, layout: str, world_size: int) -> list[str]:
    """Reasons why a run as configured cannot go on from ``checkpoint``."""
    now, then = asdict(config), checkpoint.config
    # A mix over steps is drawn for their number.
    fixed = (*FIXED, "trainer.max_steps") if config.data.mix and config.data.mix_stop == "steps" else FIXED
    problems = [
        f"{key}={_lookup(now, key)} but {checkpoint.path} was written with {_lookup(then, key)}; "
        "its state belongs to that value"
        for key in fixed
        if _lookup(now, key) != _lookup(then, key)
    ]
    if layout != checkpoint.layout:
        problems.append(
            f"strategy: {checkpoint.path} was written in the layout {checkpoint.layout!r}, this run uses "
            f"{layout!r}; resume with the same strategy, or start from its weights"
        )
    elif layout.startswith("zero") and world_size != checkpoint.world_size:
        problems.append(
            f"trainer.devices: {checkpoint.path} was written by {checkpoint.world_size} ranks, this run has "
            f"{world_size}; ZeRO resumes only on as many (strategy=fsdp on any number)"
        )
    return problems


def _lookup(values: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values.get(part, {})
    if key == "data.sources":  # their files may have moved
        return {
            name: {inner: value for inner, value in source.items() if inner not in PLACES}
            for name, source in values.items()
        }
    return values


class PlainFile(TorchCheckpointIO):
    """Writes straight to the file; Lightning builds the whole file in memory first, to be atomic."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Saves ``checkpoint`` at ``path``, which lies in a folder that is not yet whole."""
        torch.save(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
        """Reads what :meth:`save_checkpoint` wrote, by tensors and plain types alone."""
        del weights_only
        file = Path(path)
        return read_state(file.parent, file.name, map_location=map_location)


class Checkpoints(L.Callback):
    """Writes checkpoints and restores what Lightning does not keep.

    Args:
        folder: ``RUN_DIR/checkpoints``.
        config: The settled configuration.
        layout: See :class:`Checkpoint`.
        metrics: Its line is written first: counters are whole, and a bad loss is never saved.
        source: Where the fit resumes from.
    """

    def __init__(
        self, folder: Path, config: Config, layout: str, metrics: Metrics, source: Checkpoint | None
    ) -> None:
        self.folder = folder
        self.config = config
        self.layout = layout
        self.metrics = metrics
        self.source = source
        self.last_step = source.global_step if source and source.path.parent == folder else -1

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restates Lightning's counter of micro batches for this run's accumulation.

        Lightning stores micro batches; with another number of ranks a step has another number of them,
        and its groups would be misaligned without an error.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        micro_batches = checkpoint["global_step"] * trainer.accumulate_grad_batches
        for counters in (progress["total"], progress["current"]):
            counters.update(dict.fromkeys(("ready", "started", "processed", "completed"), micro_batches))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Sets the random streams: as they were at the checkpoint, or apart on every rank."""
        # Ranks must not drop the same units; the weights were drawn from the same seed before.
        torch.manual_seed(self.config.seed + trainer.global_rank)
        if self.source is None:
            return
        if self.source.world_size == trainer.world_size:
            set_rng_state(read_state(self.source.path, f"rng-{trainer.global_rank}.pt"))
        log.info("resumed from %s at step %d", self.source.path, self.source.global_step)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves at the end of a step when it is due, and after the last."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        every, step = self.config.checkpoint.every_n_steps, trainer.global_step
        if step == trainer.max_steps or (every and step % every == 0):
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Writes ``step-N``, all ranks together, then removes old ones."""
        if trainer.global_step == self.last_step:
            return
        module = trainer.lightning_module
        assert isinstance(module, LanguageModelModule)
        self.metrics.flush(trainer, module)
        with self.metrics.watch.paused():
            path = self.folder / f"step-{trainer.global_step}"
            write_checkpoint(trainer, path, self._mark(trainer))
            self.last_step = trainer.global_step
            if trainer.is_global_zero:
                self._remove_old()
        log.info("checkpoint %s", path)

    def _mark(self, trainer: L.Trainer) -> dict[str, Any]:
        return {
            "global_step": trainer.global_step,
            "rows": trainer.global_step * self.config.data.global_batch_size,
            "layout": self.layout,
            "world_size": trainer.world_size,
            "config": asdict(self.config),
        }

    def _remove_old(self) -> None:
        for checkpoint in whole_checkpoints(self.folder)[: -self.config.checkpoint.keep_last]:
            # The mark goes first: what is left of an interrupted removal is not taken for a checkpoint.
            (checkpoint.path / MARK).unlink()
            shutil.rmtree(checkpoint.path)


def write_checkpoint(trainer: L.Trainer, path: Path, mark: dict[str, Any]) -> None:
    """Writes a checkpoint aside, marks it, and renames it; a part of one never bears the name.

    Raises:
        ValueError: The disk is full or cannot be written.
    """
    aside = path.with_name(f".{path.name}.partial")
    try:
        if trainer.is_global_zero:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
        trainer.strategy.barrier()
        trainer.save_checkpoint(aside / STATE)
        torch.save(rng_state(), aside / f"rng-{trainer.global_rank}.pt")
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            write_json(aside / MARK, mark)
            replace_folder(aside, path)
    except (OSError, RuntimeError) as error:
        if not _is_disk_error(error):
            raise
        shutil.rmtree(aside, ignore_errors=True)
        cause = error if isinstance(error, OSError) else OSError(0, "torch could not write all of it")
        raise disk_error(path, cause) from error
    trainer.strategy.barrier()


def _is_disk_error(error: Exception) -> bool:
    # torch.save reports a failed write as a RuntimeError of its zip writer, in one of these wordings; the
    # last is of the file's end, which is written when it is closed.
    writer = ("PytorchStreamWriter failed", "inline_container.cc", "iostream error")
    return isinstance(error, OSError) or any(words in str(error) for words in writer)


def rng_state() -> dict[str, Any]:
    """The state of this process's random streams, in plain types and tensors."""
    name, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Restores what :func:`rng_state` returned."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
