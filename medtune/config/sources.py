"""The sources of ``data``: the data set itself, or those of a mix."""

from dataclasses import fields
from typing import Any

from medtune.config.load import read_section
from medtune.config.schema import DataConfig, SourceConfig
from medtune.runtime.errors import ConfigError

SOURCE_KEYS = tuple(item.name for item in fields(SourceConfig))


def sources_of(data: DataConfig) -> dict[str, SourceConfig]:
    """The sources by name, in the order of the mix; one, named as the data set, where nothing is mixed.

    Raises:
        ConfigError: Keys or values under ``data.sources`` that a source does not have.
    """
    if not data.mix:
        return {data.name: SourceConfig(**{key: getattr(data, key) for key in SOURCE_KEYS})}
    problems: list[str] = []
    sources = {name: read_source(data, name, problems) for name in data.mix}
    if problems:
        raise ConfigError(problems)
    return sources


def read_source(data: DataConfig, name: str, problems: list[str]) -> SourceConfig:
    """One source of a mix, as ``data.sources`` has it."""
    values: dict[str, Any] = {**(data.sources.get(name) or {}), "name": name}
    return read_section(SourceConfig, values, f"data.sources.{name}.", problems)


def sources_with_split(data: DataConfig, split: str) -> list[tuple[SourceConfig, str]]:
    """The sources that have a split, and its name there; none where it is the name of none.

    In a mix ``SOURCE/SPLIT`` is that of one source, and ``SPLIT`` alone that of each that has it.
    ``validation`` is also what ``validation_size`` holds out of ``train``.
    """
    sources = sources_of(data)
    name, _, inner = split.partition("/")
    if data.mix and inner:
        sources, split = {key: source for key, source in sources.items() if key == name}, inner
    return [(source, split) for source in sources.values() if has_split(source, split)]


def has_split(source: SourceConfig, split: str) -> bool:
    """Whether a source has a split of its own or holds one out; of a hub data set it may turn out later."""
    is_held_out = split == "validation" and source.validation_size is not None
    return split in source.splits or is_held_out or bool(source.hub and not source.splits)


def source_of_split(data: DataConfig, split: str) -> tuple[SourceConfig, str]:
    """The source that a split belongs to, and the split's name there.

    In a mix a split is named ``source/split``; ``split`` alone means that of the data set itself.

    Raises:
        ValueError: There is no such source.
    """
    sources = sources_of(data)
    if not data.mix:
        return sources[data.name], split
    name, _, inner = split.partition("/")
    if name not in sources or not inner:
        raise ValueError(
            f"split {split!r}: in a mix a split is named SOURCE/SPLIT; the sources are {', '.join(sources)}"
        )
    return sources[name], inner
