"""Composes ``conf/`` and the command line with Hydra into plain values."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml.error import MarkedYAMLError

from medtune.config.keys import schema_keys, section_names
from medtune.config.resolvers import CONF, register_resolvers
from medtune.config.schema import Config
from medtune.config.suggest import did_you_mean, nearest_key
from medtune.runtime.errors import ConfigError

HYDRA_VERSION = "1.3"


def register_schema() -> None:
    """Gives Hydra the schema and our resolvers."""
    ConfigStore.instance().store("schema", node=Config)
    register_resolvers()


def compose_settings(
    overrides: Sequence[str], *, name: str = "config", folder: Path | None = None
) -> DictConfig:
    """Composes the settings, Hydra's own under ``hydra`` included.

    Args:
        overrides: For Hydra, without several values for a key.
        name: The primary config.
        folder: A further folder of options, looked up before ``conf/``.

    Raises:
        ConfigError: What Hydra could not compose, with the file and key.
    """
    register_schema()
    search = [f"hydra.searchpath=['file://{folder}']"] if folder else []
    try:
        with initialize_config_dir(str(CONF), version_base=HYDRA_VERSION):
            return compose(name, [*search, *overrides], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(composition_problem(error)) from error
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{mark.name}:{mark.line + 1}:{mark.column + 1}: " if mark else ""
        raise ConfigError(f"{place}not YAML: {error.problem}") from error


def composition_problem(error: Exception) -> str:
    """Hydra's message in one sentence, with a suggestion for an unknown key of a file."""
    text = str(error)
    if merged := re.fullmatch(r"Error merging override \+*(.*)", text):
        # What is wrong with the value is in the cause alone, whose further lines are of OmegaConf's types.
        cause = str(error.__cause__ or "it does not fit").splitlines()[0]
        return f"{merged.group(1)}: {'it cannot be null' if 'is not Optional' in cause else cause}"
    place = re.search(r"In '([^']+)'", text)
    key = re.search(r"full_key: (\S+)", text)
    where = f"{place.group(1)}.yaml: " if place else ""
    if key and re.search(r"Key '[^']+' not in", text):
        near = nearest_key(key.group(1), [*section_names(), *schema_keys()])
        return f"{where}there is no key {key.group(1)}{did_you_mean(near)}"
    if key:
        reason = re.search(r"Value .*", text)
        return f"{where}{key.group(1)}: {reason.group(0) if reason else text.splitlines()[0]}"
    lines = [line.strip() for line in text.split("Config search path:")[0].splitlines() if line.strip()]
    return " ".join(lines)


def plain_settings(settings: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """The composed values without Hydra's own, interpolations resolved.

    Returns:
        The values, keys left out that must be set and are not, and a problem for each of those.
    """
    settings = settings.copy()
    OmegaConf.set_struct(settings, False)
    settings.pop("hydra", None)
    try:
        missing = sorted(OmegaConf.missing_keys(settings))
        values = OmegaConf.to_container(settings, resolve=True, throw_on_missing=False, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise ConfigError(composition_problem(error)) from error
    assert isinstance(values, dict)
    problems = [f"{key} is not set; set {key}={example(key)}" for key in missing]
    return without_missing(values), problems


def option_folders(settings: DictConfig) -> list[Path]:
    """The folders that composed settings were looked up in, those of the command line first."""
    sources = settings.hydra.runtime.config_sources if "hydra" in settings else []
    return [Path(source.path) for source in sources if source.schema == "file"] or [CONF]


def example(key: str) -> str:
    """What a value of ``key`` may look like: its choices, or its name in capitals."""
    known = schema_keys().get(key)
    return "|".join(known.choices) if known and known.choices else key.rpartition(".")[2].upper()


def without_missing(values: dict[Any, Any]) -> dict[str, Any]:
    """``values`` without the keys that hold OmegaConf's mark of a missing value."""
    kept = {str(key): value for key, value in values.items() if value != "???"}
    return {key: without_missing(value) if isinstance(value, dict) else value for key, value in kept.items()}
