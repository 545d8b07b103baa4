"""The keys of the schema by their dotted names, with the type and the values each may have."""

import functools
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from typing import Any

from medtune.config.schema import Config


@dataclass(frozen=True)
class Key:
    """One key of the schema.

    Attributes:
        type: Its annotation, with ``None`` among the union's members when null is allowed.
        choices: The only values it may have; empty when any of its type will do.
    """

    name: str
    type: Any
    choices: tuple[str, ...]

    @property
    def is_list_of_texts(self) -> bool:
        """Whether it holds a list of which a text may be a member."""
        return typing.get_origin(self.type) is list and typing.get_args(self.type)[0] in (str, Any)

    @property
    def is_open(self) -> bool:
        """Whether it is a mapping whose own keys the schema does not name."""
        return typing.get_origin(self.type) is dict


@cache
def schema_keys() -> dict[str, Key]:
    """Every key that is not a section, in the order of the schema."""
    return {key.name: key for key in walk(Config, "")}


def walk(section: type, prefix: str) -> Iterator[Key]:
    """The keys of a dataclass and of the dataclasses in it."""
    for key in own_keys(section):
        if is_dataclass(key.type):
            yield from walk(typing.cast(type, key.type), f"{prefix}{key.name}.")
        else:
            yield replace(key, name=prefix + key.name)


@cache
def own_keys(section: type) -> list[Key]:
    """The fields of a dataclass, sections among them, by their own names."""
    hints = typing.get_type_hints(section)
    return [
        Key(item.name, hints[item.name], tuple(item.metadata.get("choices", ()))) for item in fields(section)
    ]


@cache
def section_keys(section: str) -> list[str]:
    """The keys under a section; empty when there is no section of that name."""
    return [name for name in schema_keys() if name.startswith(section + ".")]


@cache
def section_names() -> list[str]:
    """The dotted names of the sections: ``data``, ``data.columns``, ..."""
    names = [name.rpartition(".")[0] for name in schema_keys()]
    return [name for name in dict.fromkeys(names) if name]


def open_node(dotted: str) -> Key | None:
    """The open key that ``dotted`` lies in, if it lies in one: ``strategy`` for ``strategy.stage``."""
    parts = dotted.split(".")
    for length in range(1, len(parts)):
        key = schema_keys().get(".".join(parts[:length]))
        if key and key.is_open:
            return key
    return None


def describe(annotation: Any) -> str:
    """The type in words: "a whole number or null"."""
    if isinstance(annotation, types.UnionType):
        return " or ".join(describe(member) for member in typing.get_args(annotation))
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list:
        return f"a list of {PLURAL.get(arguments[0], 'values')}"
    if origin is dict:
        return "a mapping of names to values"
    return SINGULAR.get(annotation, getattr(annotation, "__name__", str(annotation)))


SINGULAR = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    types.NoneType: "null",
}
PLURAL = {str: "names", int: "whole numbers", float: "numbers"}


def value_of(config: Config, dotted: str) -> Any:
    """The value of ``config`` at a dotted key or section."""
    return functools.reduce(getattr, dotted.split("."), config)
