"""Reads the command line against the schema, so that all its mistakes are told together.

Hydra stops at the first mistake, suggests ``+key`` for a misspelt key, and takes ``+key`` without a
word. Here every override is looked at by itself, and each is rewritten so that a ``+`` is never needed
and never hides a mistake.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medtune.config.keys import Key, describe, open_node, schema_keys, section_keys
from medtune.config.load import show
from medtune.config.resolvers import CONF
from medtune.config.schema import Config
from medtune.config.suggest import did_you_mean, nearest, nearest_key

# A word with a letter that Hydra's grammar does not have, in a list or alone.
FOREIGN_WORD = re.compile(r"""[^\s,\[\]{}()'":=]*[^\x00-\x7f][^\s,\[\]{}()'":=]*""")
LIST_GROUPS = ("logger",)  # groups of which several options make sense at once


@dataclass
class CommandLine:
    """The overrides of one command, split into what Hydra may see and what is wrong.

    Attributes:
        accepted: Overrides for Hydra, rewritten so that each does what was meant.
        problems: One sentence for each of the others.
        swept: Keys and groups with several values, for ``-m``.
    """

    accepted: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    swept: list[str] = field(default_factory=list)


def group_options(*folders: Path) -> dict[str, list[str]]:
    """Each config group and its options, from the folders that hold them."""
    options: dict[str, set[str]] = {}
    for folder in (CONF, *folders):
        for file in folder.glob("*/*.yaml"):
            options.setdefault(file.parent.name, set()).add(file.stem)
    return {group: sorted(names) for group, names in sorted(options.items()) if group != "hydra"}


def read_command_line(
    overrides: Sequence[str], groups: Mapping[str, list[str]], *, multirun: bool
) -> CommandLine:
    """Checks each override by itself.

    Args:
        overrides: As typed.
        groups: Config groups and their options.
        multirun: Whether several values of a key make several trials.
    """
    line = CommandLine()
    for text in overrides:
        override = parse(text)
        if override is None:
            line.problems.append(syntax_problem(text, groups))
            continue
        override = with_lists(override)
        problems = list(override_problems(override, groups, multirun=multirun))
        line.problems += problems
        if not problems:
            line.accepted.append(rewritten(override, groups))
            if override.is_sweep_override():
                line.swept.append(override.key_or_group)
    return line


def parse(text: str) -> Override | None:
    """Reads one override; None when it is none.

    Hydra's grammar has no letters but ASCII's, and many signs only inside quotes. What it cannot read is
    therefore tried again with its foreign words in quotes, and then with the whole value in quotes.
    """
    key, sign, value = text.partition("=")
    foreign_quoted = FOREIGN_WORD.sub(lambda match: quoted(match.group(0)), value)
    attempts = [text, f"{key}={foreign_quoted}", f"{key}={quoted(value)}"] if sign else [text]
    for attempt in attempts:
        with suppress(OverrideParseException):
            return OverridesParser.create().parse_overrides([attempt])[0]
    return None


def with_lists(override: Override) -> Override:
    """The override with a word alone, where a key takes a list, as a list of one."""
    key = schema_keys().get(override.key_or_group)
    if key is None or not key.is_list_of_texts or override.is_delete() or override.is_sweep_override():
        return override
    value = plain(override.value())
    if not isinstance(value, str) or "${" in value:
        return override
    one = f"{override.key_or_group}=[{quoted(value)}]"
    return OverridesParser.create().parse_overrides([one])[0]


def quoted(value: str) -> str:
    """A value as one piece of text for Hydra."""
    return "'" + value.replace("'", "\\'") + "'"


def syntax_problem(text: str, groups: Mapping[str, list[str]]) -> str:
    """The problem of an override that does not parse."""
    if text.startswith("-"):
        bare = text.lstrip("-")
        return f"{text}: a setting is KEY=VALUE, without dashes{did_you_mean(bare if '=' in bare else None)}"
    as_option = next((f"{group}={text}" for group, names in groups.items() if text in names), None)
    return f"{text}: a setting is KEY=VALUE{did_you_mean(as_option)}"


def is_hydra(override: Override) -> bool:
    """Whether an override is for Hydra itself."""
    return override.key_or_group.split(".")[0].split("/")[0] == "hydra"


def override_problems(
    override: Override, groups: Mapping[str, list[str]], *, multirun: bool
) -> Iterator[str]:
    """What is wrong with one override."""
    if is_hydra(override):
        return
    if override.is_sweep_override() and not multirun:
        key, _, values = str(override.input_line).partition("=")
        yield (
            f"{override.input_line} gives several values: add -m to run a trial for each, "
            f"or write one list: {key}=[{values}]"
        )
        return
    name = override.key_or_group
    if name in groups:
        yield from group_problems(override, groups[name])
    else:
        yield from key_problems(override, groups)


def group_problems(override: Override, options: list[str]) -> Iterator[str]:
    """Options of a group that do not exist."""
    group = override.key_or_group
    for value in values_of(override):
        if isinstance(value, list) and group not in LIST_GROUPS:
            yield f"{group}={show(value)}: {group} takes one option: {', '.join(options)}"
            continue
        for option in value if isinstance(value, list) else [value]:
            if option is not None and str(option) not in options:
                near = nearest(str(option), options)
                meant = did_you_mean(f"{group}={near}" if near else None)
                yield f"{group}={show(option)} is none of {', '.join(options)}{meant}"


def key_problems(override: Override, groups: Mapping[str, list[str]]) -> Iterator[str]:
    """A key that does not exist, or values that it cannot have."""
    name = override.key_or_group
    text = str(override.input_line)
    key = schema_keys().get(name)
    if open_node(name):
        return
    if key is None and section_keys(name):
        yield f"{text}: {name} is a section; its keys are {', '.join(section_keys(name))}"
    elif key is None:
        yield f"{text}: there is no key {name}{did_you_mean(meant_key(name, groups))}"
    elif override.is_delete():
        yield f"{text}: a key cannot be removed, only set: {name}=VALUE"
    else:
        for value in values_of(override):
            yield from typed_value_problems(key, value)


def meant_key(name: str, groups: Mapping[str, list[str]]) -> str | None:
    """The key or group that a misspelt name probably meant."""
    return nearest_key(name, [*groups, *schema_keys()])


def typed_value_problems(key: Key, value: Any) -> Iterator[str]:
    """Why a known key cannot have ``value``, by the conversions that OmegaConf makes."""
    if isinstance(value, str) and "${" in value:
        return
    settings = OmegaConf.structured(Config)
    try:
        OmegaConf.update(settings, key.name, value, merge=not key.is_open)
    except (OmegaConfBaseException, ValueError):
        yield f"{key.name}={show(value)} is not {describe(key.type)}"
        return
    if key.choices and str(value) not in key.choices:
        near = nearest(str(value), key.choices)
        meant = did_you_mean(f"{key.name}={near}" if near else None)
        yield f"{key.name}={show(value)} is none of {', '.join(key.choices)}{meant}"


def values_of(override: Override) -> list[Any]:
    """The values that an override gives, one or several; none for a deletion or a range."""
    if override.is_delete():
        return []
    if not override.is_sweep_override():
        return [plain(override.value())]
    sweep = override.value()
    return [plain(value) for value in sweep.list] if isinstance(sweep, ChoiceSweep) else []


def plain(value: Any) -> Any:
    """A value of Hydra's parser without its quotes."""
    if isinstance(value, list):
        return [plain(member) for member in value]
    if isinstance(value, dict):
        return {str(plain(key)): plain(member) for key, member in value.items()}
    return getattr(value, "text", value)


def rewritten(override: Override, groups: Mapping[str, list[str]]) -> str:
    """The override as Hydra must see it: ``++`` for open nodes and what is in them, no sign anywhere else."""
    text = str(override.input_line)
    if override.is_delete() or is_hydra(override):
        return text
    name, bare = override.key_or_group, text.lstrip("+")
    key = schema_keys().get(name)
    is_whole_node = key is not None and key.is_open and name not in groups
    return f"++{bare}" if open_node(name) or is_whole_node else bare


def single_values(overrides: Iterable[str], *, last: bool = False) -> list[str]:
    """Overrides with each sweep replaced by one of its values; a range without values is left out.

    Args:
        overrides: For Hydra's sweeper.
        last: Take each sweep's last value instead of its first.
    """
    single = []
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if not override.is_sweep_override():
            single.append(str(override.input_line))
        elif override.is_discrete_sweep():
            sign = "++" if open_node(override.key_or_group) else ""
            value = list(override.sweep_string_iterator())[-1 if last else 0]
            single.append(f"{sign}{override.key_or_group}={value}")
    return single


def typed_keys(overrides: Iterable[str]) -> list[str]:
    """The keys and groups that overrides set, Hydra's own left out."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return [override.key_or_group for override in parsed if not is_hydra(override)]
