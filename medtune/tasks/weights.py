"""What ``weights`` means: a folder that can be loaded, made from a checkpoint where there is none yet."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from medtune.config.keys import value_of
from medtune.config.schema import Config
from medtune.models.folders import find_weights
from medtune.models.load import load_model
from medtune.models.tokenizers import load_tokenizer
from medtune.runtime.errors import ConfigError
from medtune.training.checkpoints import Checkpoint, open_checkpoint, whole_checkpoints
from medtune.training.resume import adapter_problems, recorded
from medtune.training.weights import weights_of, write_model


@contextmanager
def settle_weights(config: Config) -> Iterator[str | None]:
    """Yields a model or adapter folder for ``config.weights``; None when the configured model is meant.

    Raises:
        ConfigError: ``weights`` is neither a model, an adapter, a run nor a checkpoint.
    """
    checkpoint = checkpoint_in(config.weights) if config.weights else None
    if checkpoint is None:
        yield str(find_weights(config.weights)) if config.weights else None
        return
    with tempfile.TemporaryDirectory(prefix="medtune-") as parent:
        folder = Path(parent) / "model"
        write_checkpoint_model(config, checkpoint, folder)
        yield str(folder)


def checkpoint_in(weights: str) -> Checkpoint | None:
    """The checkpoint that a path means: itself, or the newest of a run folder that has no model yet."""
    folder = Path(weights)
    if folder.parent.name == "checkpoints" or (folder / "checkpoint.json").exists():
        return open_checkpoint(folder)
    if (folder / "model").is_dir():
        return None
    found = whole_checkpoints(folder / "checkpoints")
    return found[-1] if found else None


def write_checkpoint_model(config: Config, checkpoint: Checkpoint, folder: Path) -> None:
    """Writes a checkpoint's weights as a Hugging Face folder, whatever strategy saved them."""
    if problems := adapter_problems(checkpoint, config):
        raise ConfigError(problems)
    model = load_model(held_as_trained(config, checkpoint), for_training=True)
    # What was frozen is not in the checkpoint; it is as it was when the run began.
    weights = {**model.state_dict(), **weights_of(checkpoint)}
    write_model(model, weights, load_tokenizer(config.model), config, folder)


def held_as_trained(config: Config, checkpoint: Checkpoint) -> Config:
    """``config`` with the types of the run that wrote ``checkpoint``, not those that this command answers in.

    PiSSA's components and packed weights are made from the base: from a base that is rounded otherwise they
    would be others than those that the trained weights go with.
    """
    keys = ("model.dtype", "trainer.precision")
    dtype, precision = (recorded(checkpoint.config, key, value_of(config, key)) for key in keys)
    model, trainer = replace(config.model, dtype=dtype), replace(config.trainer, precision=precision)
    return replace(config, weights=None, model=model, trainer=trainer)
