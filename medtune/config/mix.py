"""Fills ``data.sources`` of a mix from the options of ``conf/data`` that it names."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from medtune.config.schema import DataConfig
from medtune.config.sources import SOURCE_KEYS
from medtune.config.suggest import did_you_mean, nearest

OF_ALL = "*"  # in ``data.eval_splits``: those of the sources

# Keys of ``data`` that, set there, hold for every source of a mix.
SHARED_KEYS = (
    *("learn", "learn_thinking", "filter", "on_error", "verify", "overlong"),
    *("max_examples", "max_tokens", "validation_size"),
)


def with_mixed_sources(
    values: Mapping[str, Any], typed: Sequence[str], folders: Sequence[Path]
) -> tuple[dict[str, Any], list[str]]:
    """Composed values with every source of ``data.mix`` spelled out.

    A source's keys come from its option of ``conf/data``, then from ``data`` itself (``SHARED_KEYS``
    only), then from ``data.sources.NAME``, and then from the keys of ``data`` that were typed where those
    of the source were not; the later wins.

    Args:
        values: Plain values of the schema's keys.
        typed: Keys of the command line.
        folders: Where options are looked up, the first first.

    Returns:
        The values and what is wrong with them.
    """
    data = values.get("data")
    if not isinstance(data, Mapping) or not data.get("mix") or not isinstance(data["mix"], list):
        return dict(values), []
    names, given = [str(name) for name in data["mix"]], data.get("sources") or {}
    if not isinstance(given, Mapping):
        return dict(values), []  # the reader of the settings says so
    problems: list[str] = []
    sources = {}
    for name in names:
        own, option = given.get(name) or {}, read_option(name, folders, problems)
        if not isinstance(own, Mapping):
            problems.append(f"data.sources.{name}={own} is a section: its keys are set one by one")
        elif option is None and not own:
            problems.append(unknown_source(name, folders))
        else:
            under = merged(merged(option or {}, shared_values(data)), own)
            sources[name] = merged(under, typed_values(data, name, typed))
    problems += [
        unnamed_source(name, names) for name in given if name not in names and not is_left(name, typed)
    ]
    wanted = data.get("eval_splits") or []
    if OF_ALL in wanted or ("data.mix" in typed and "data.eval_splits" not in typed):
        wanted = [*splits_of(sources)]
    return {**values, "data": {**data, "sources": sources, "eval_splits": wanted}}, problems


def is_left(name: str, typed: Sequence[str]) -> bool:
    """Whether a source's keys are those of an earlier run, whose mix this command line replaces."""
    return "data.mix" in typed and not any(key.startswith(f"data.sources.{name}") for key in typed)


def typed_values(data: Mapping[str, Any], name: str, typed: Sequence[str]) -> dict[str, Any]:
    """The shared keys that were typed for the whole mix and not for this source."""
    values: dict[str, Any] = {}
    for key in typed:
        section, _, inner = key.removeprefix("data.").partition(".")
        if (
            not key.startswith("data.")
            or section not in SHARED_KEYS
            or f"data.sources.{name}.{section}" in typed
        ):
            continue
        if inner and isinstance(data[section], Mapping):
            if f"data.sources.{name}.{section}.{inner}" not in typed:
                values.setdefault(section, {})[inner] = data[section][inner]
        elif not inner:
            values[section] = data[section]
    return values


def read_option(name: str, folders: Sequence[Path], problems: list[str]) -> dict[str, Any] | None:
    """The source keys of an option of ``conf/data``; None when there is none of that name."""
    file = next((path for folder in folders if (path := folder / "data" / f"{name}.yaml").is_file()), None)
    if file is None:
        return None
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        problems.append(f"{file}: {error}")
        return {}
    if not isinstance(content, dict) or content.get("mix") or content.get("defaults"):
        problems.append(f"data.mix names {name}, which is a mix itself; name its sources instead")
        return {}
    return {str(key): value for key, value in content.items() if key in SOURCE_KEYS}


def unnamed_source(name: str, names: Sequence[str]) -> str:
    """The problem of keys for a source that the mix does not have."""
    meant = did_you_mean(nearest(name, names))
    return f"data.sources.{name}: data.mix=[{','.join(map(str, names))}] does not name it{meant}"


def unknown_source(name: str, folders: Sequence[Path]) -> str:
    """The problem of a name that is neither an option nor described."""
    options = sorted({path.stem for folder in folders for path in (folder / "data").glob("*.yaml")})
    return (
        f"data.mix names {name}, which is no option of data ({', '.join(options)}) and has no keys of its "
        f"own (data.sources.{name}.dir=FOLDER data.sources.{name}.splits.train=FILE)"
        f"{did_you_mean(nearest(name, options))}"
    )


def shared_values(data: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of ``data`` that hold for all sources and are not at their defaults."""
    defaults = DataConfig()
    shared = {}
    for key in SHARED_KEYS:
        default = getattr(defaults, key)
        plain = vars(default) if key == "filter" else default
        if key in data and data[key] != plain:
            shared[key] = data[key]
    return shared


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on ``under``, section by section."""
    result = dict(under)
    for key, value in over.items():
        below = result.get(key)
        result[key] = (
            merged(below, value) if isinstance(below, dict) and isinstance(value, Mapping) else value
        )
    return result


def splits_of(sources: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The splits that the sources want scored, as a mix names them."""
    for name, source in sources.items():
        for split in source.get("eval_splits") or []:
            yield f"{name}/{split}"
