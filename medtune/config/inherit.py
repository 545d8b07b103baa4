"""Settings that come from an earlier run: those of the weights, and those of a run that is continued."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from medtune.config.keys import schema_keys
from medtune.config.schema import WHOLE_MODELS, Config
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import read_json

# What the weights were trained with, and what using them therefore needs.
# The seed draws the base under an adapter when model.init=random.
# What was learned of dialogues is what their perplexity is of.
SECTIONS_OF_WEIGHTS = ("model", "adapter", "quantization", "template", "data", "seed", "objective")
TASKS_ON_WEIGHTS = ("generate", "evaluate", "export", "chat", "serve")
RUN_RECORD = "config.yaml"
EXPORT_RECORD = "medtune.json"
LEVELS_UP = 3  # from what lies in RUN/checkpoints/X


@dataclass(frozen=True)
class Record:
    """The settings that were found beside something that a run wrote."""

    file: Path
    values: Mapping[str, Any]


def find_records(weights: Path) -> list[Record]:
    """The records of the export and the run that ``weights`` belong to, the nearest first.

    An export knows its model and template, the run around it the data too. Foreign weights have none.

    Raises:
        ConfigError: A record is there and cannot be read.
    """
    here = weights.resolve()
    folders = [here / "model", here, *here.parents][: LEVELS_UP + 2]
    files = [folder / name for folder in folders for name in (EXPORT_RECORD, RUN_RECORD)]
    return [read_record(file) for file in files if file.is_file()]


def read_record(file: Path) -> Record:
    """Reads a run's or an export's settings."""
    try:
        values = (
            read_json(file) if file.suffix == ".json" else yaml.safe_load(file.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds no settings")
    return Record(file, values)


def with_record(
    composed: Mapping[str, Any], record: Record, names: Iterable[str], typed: Iterable[str]
) -> tuple[dict[str, Any], list[str]]:
    """Puts a record's sections in the place of the composed ones; what was typed stays.

    Args:
        composed: The settings of this command.
        record: Those of the earlier run.
        names: Top-level keys to take.
        typed: Keys and groups of this command line. A group keeps its section as composed.

    Returns:
        The settings, and the top-level keys that were taken.
    """
    typed = list(typed)
    taken = [name for name in names if name in record.values and name not in typed]
    merged = dict(composed)
    for name in taken:
        merged[name] = record.values[name]
    for key in typed:
        section, _, inner = key.partition(".")
        if section in taken and inner:
            merged[section] = put(merged[section], inner.split("."), composed[section])
    return merged, taken


def seed_problem(values: Mapping[str, Any], record: Record, typed: Iterable[str]) -> str | None:
    """Why a typed seed cannot hold for weights of ``record``; None when it can.

    Args:
        values: The settings of this command, with the record's in them.
        record: The nearest that names a seed.
        typed: Keys and groups of this command line.
    """
    old, new = record.values.get("seed"), values.get("seed")
    adapter = value_at(values, "adapter.name")
    is_drawn = value_at(values, "model.init") == "random" and adapter not in (None, *WHOLE_MODELS)
    if not is_drawn or "seed" not in typed or new == old:
        return None
    return (
        f"seed={new}, but {record.file} has seed={old}, from which model.init=random drew the base that "
        f"adapter={adapter} was trained on; leave seed out"
    )


def put(into: Any, path: list[str], source: Any) -> Any:
    """``into`` with the value that ``source`` has at ``path``."""
    if not path or not isinstance(source, Mapping):
        return source
    if path[0] not in source:
        return into
    changed = dict(into) if isinstance(into, Mapping) else {}
    changed[path[0]] = put(changed.get(path[0]), path[1:], source[path[0]])
    return changed


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Keys of the schema whose values differ between two records: key, old, new."""
    pairs = ((key, value_at(before, key), value_at(after, key)) for key in schema_keys())
    return [(key, old, new) for key, old, new in pairs if old != new]


def value_at(values: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, None where the record does not have it."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def all_sections() -> list[str]:
    """The top-level keys of the schema."""
    return [item.name for item in fields(Config)]
