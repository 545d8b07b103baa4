"""The folders of earlier adapters: which are meant, in which order, and on which base. Imports no peft."""

import filecmp
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from medtune.config.inherit import EXPORT_RECORD
from medtune.config.load import show
from medtune.config.schema import Config
from medtune.models.folders import (
    ADAPTER_FILE,
    ADAPTER_WEIGHTS,
    check_adapter_weights,
    is_adapter,
    read_settings,
)
from medtune.runtime.errors import ConfigError

MERGED = "merged_adapters"
"""Beside an adapter: those that were folded into its base before, numbered in their order."""


def find_adapter(key: str, path: str) -> Path:
    """The adapter folder that ``path`` means: itself, or ``model`` in a run folder.

    Raises:
        ConfigError: Neither is one, or its weights are not there or damaged.
    """
    for folder in (Path(path), Path(path) / "model"):
        if is_adapter(folder):
            check_adapter_weights(key, folder)
            return folder
    raise ConfigError(
        f"{key}={path} is no adapter: looked for {ADAPTER_FILE} in it and in its folder 'model'"
    )


def merged_below(folder: Path) -> list[Path]:
    """The adapters that must be folded into the base before the one in ``folder`` fits it, in order."""
    return sorted((folder / MERGED).glob("*"), key=lambda path: int(path.name))


def with_merged_below(merged: list[tuple[str, str]], above: list[tuple[str, str]]) -> list[tuple[str, Path]]:
    """What must be folded into a base, in order: each adapter after those below it, and none twice.

    Args:
        merged: Adapters to fold in, each with the key that names it.
        above: Adapters that are not folded in, but may have been trained on a base with others in it.
    """
    found: list[tuple[str, Path]] = []
    for key, path in (*merged, *above):
        folder = find_adapter(key, path)
        own = [folder] if (key, path) in merged else []
        for candidate in (*merged_below(folder), *own):
            check_adapter_weights(key, candidate)
            if not any(is_same(candidate, earlier) for _, earlier in found):
                found.append((key, candidate))
    return found


def is_same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same adapter weights."""
    return filecmp.cmp(one / ADAPTER_WEIGHTS, other / ADAPTER_WEIGHTS, shallow=False)


def check_base(key: str, folder: Path, model: PreTrainedModel, config: Config) -> None:
    """Raises ConfigError for an adapter that was trained on another base than ``model``.

    By what its folder says: the family, the name, stretched positions, and the seed of a random base. Shapes
    show when it is loaded. A base of the same name may lie in another folder.
    """
    card: dict[str, Any] = read_settings(folder / EXPORT_RECORD)
    base = read_settings(folder / ADAPTER_FILE).get("base_model_name_or_path") or ""
    own = model.config._name_or_path
    if base and own and Path(base).name != Path(own).name:
        raise ConfigError(
            f"{key}={folder} was trained on {base}, but this run's base is {own}; set model.path to that "
            f"base. If it is the same model under another name, change base_model_name_or_path in its "
            f"{ADAPTER_FILE}"
        )
    known: dict[str, Any] = card.get("model") or {}
    family = known.get("model_type")
    if family and family != model.config.model_type:
        raise ConfigError(
            f"{key}={folder} was trained on a {family}, but this run's base is a {model.config.model_type}"
        )
    # A base may well be stretched only now; one that was no longer is would turn positions into others.
    stretched = known.get("rope_scaling")
    if stretched and stretched != config.model.rope_scaling:
        raise ConfigError(
            f"{key}={folder} was trained with model.rope_scaling={show(stretched)}; set the same, so that "
            "its positions are those that it knows"
        )
    was_random, is_random = known.get("init") == "random", config.model.init == "random"
    if was_random and is_random and card.get("seed") != config.seed:
        raise ConfigError(
            f"{key}={folder} was trained on random weights of seed={card.get('seed')}, but this run draws "
            f"its base from seed={config.seed}; set seed={card.get('seed')}"
        )
