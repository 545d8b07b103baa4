"""Between plain YAML and the dataclasses of the schema, strictly, without Hydra or OmegaConf."""

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from medtune.config.keys import Key, describe, own_keys, schema_keys, section_names
from medtune.config.schema import Config
from medtune.config.suggest import did_you_mean, nearest, nearest_key
from medtune.runtime.errors import ConfigError

Section = TypeVar("Section")
WRONG = object()  # what `convert` gives for a value that its type cannot hold


def load_config(path: Path) -> Config:
    """Reads a run's ``config.yaml``.

    Raises:
        ConfigError: The file is not there, does not parse, or holds keys or values that the schema
            does not know.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is not there") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no settings")
    return config_from_dict(content)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Makes a ``Config`` of plain values; keys that are not given keep their defaults.

    Raises:
        ConfigError: All keys that the schema does not know and all values it cannot hold.
    """
    config, problems = read_config(values)
    if problems:
        raise ConfigError(problems)
    return config


def read_config(values: Mapping[str, Any]) -> tuple[Config, list[str]]:
    """As :func:`config_from_dict`, but gives the problems back, and defaults in the wrong values' place."""
    problems: list[str] = []
    return read_section(Config, values, "", problems), problems


def config_to_dict(config: Config) -> dict[str, Any]:
    """The plain values of every key, as ``config.yaml`` holds them."""
    return asdict(config)


def read_section(section: type[Section], values: Any, prefix: str, problems: list[str]) -> Section:
    """Makes a dataclass of a mapping, adding to ``problems`` what does not fit."""
    if not isinstance(values, Mapping):
        problems.append(f"{prefix.rstrip('.')}={values} is a section: its keys are set one by one")
        values = {}
    known = {key.name: key for key in own_keys(section)}  # type: ignore[arg-type] # it is hashable
    for name in values:
        if name not in known:
            problems.append(unknown_key(prefix, name, values[name], known))
    read: dict[str, Any] = {}
    for name, key in known.items():
        if name not in values:
            continue
        if is_dataclass(key.type):
            read[name] = read_section(typing.cast(type, key.type), values[name], f"{prefix}{name}.", problems)
        else:
            value = convert(values[name], key.type)
            problem = value_problem(replace(key, name=f"{prefix}{name}"), values[name], value)
            if problem:
                problems.append(problem)
            else:
                read[name] = value
    return section(**read)


def unknown_key(prefix: str, name: str, value: Any, siblings: Iterable[str]) -> str:
    """The problem of a key that the schema does not have."""
    key = f"{prefix}{name}"
    candidates = [*section_names(), *schema_keys(), *(f"{prefix}{sibling}" for sibling in siblings)]
    return f"{key}={show(value)}: there is no key {key}" + did_you_mean(
        nearest_key(key, list(dict.fromkeys(candidates)))
    )


def value_problem(key: Key, given: Any, converted: Any) -> str | None:
    """The problem of a known key's value: of another type, or none of its choices."""
    if converted is WRONG:
        return f"{key.name}={show(given)} is not {describe(key.type)}"
    if key.choices and converted not in key.choices:
        near = nearest(str(given), key.choices)
        meant = did_you_mean(f"{key.name}={near}" if near else None)
        return f"{key.name}={show(given)} is none of {', '.join(key.choices)}{meant}"
    return None


def convert(value: Any, annotation: Any) -> Any:
    """``value`` as its type holds it, or ``WRONG``.

    A whole number will do where a number is asked for, and so will ``2e-5``, which YAML reads as text.
    """
    if isinstance(annotation, types.UnionType):
        members = [convert(value, member) for member in typing.get_args(annotation)]
        return next((member for member in members if member is not WRONG), WRONG)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        return convert_all(value, arguments[0])
    if origin is dict:
        return convert_mapping(value, arguments[1])
    if annotation is Any:
        return value
    if annotation is float and not isinstance(value, bool):
        return as_number(value)
    return value if type(value) is annotation else WRONG


def convert_all(value: Any, annotation: Any) -> Any:
    """A list whose members are all of one type, or ``WRONG``."""
    if not isinstance(value, list | tuple):
        return WRONG
    members = [convert(member, annotation) for member in value]
    return WRONG if WRONG in members else members


def convert_mapping(value: Any, annotation: Any) -> Any:
    """A mapping from text to values of one type, or ``WRONG``."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return WRONG
    members = {key: convert(member, annotation) for key, member in value.items()}
    return WRONG if any(member is WRONG for member in members.values()) else members


def as_number(value: Any) -> Any:
    """``value`` as a float, or ``WRONG``."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return WRONG


def show(value: Any) -> str:
    """``value`` as one types it on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(show(member) for member in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{show(member)}" for key, member in value.items()) + "}"
    return str(value)
