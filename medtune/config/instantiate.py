"""Builds what an open node describes: ``_target_`` names the callable, the other keys are its arguments."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

TARGET = "_target_"


def instantiate(node: Mapping[str, Any], **more: Any) -> Any:
    """Calls the target of ``node`` with its other keys and with those of ``more`` that it takes.

    A mapping with a ``_target_`` of its own among the arguments is built first, at any depth. ``more`` is
    what a run offers to whatever it builds: our builders take it, other people's classes know nothing of it.

    Raises:
        ValueError: ``node`` has no ``_target_``, or its target cannot be imported.
    """
    if TARGET not in node:
        raise ValueError(f"{dict(node)} has no {TARGET}, which names what to build")
    arguments = {key: build_inner(value) for key, value in node.items() if key != TARGET}
    build = locate(node[TARGET])
    return build(**arguments, **{name: value for name, value in more.items() if takes(build, name)})


def takes(build: Any, name: str) -> bool:
    """Whether a callable has an argument of that very name."""
    return name in inspect.signature(build).parameters


def build_inner(value: Any) -> Any:
    """Builds the nodes inside an argument."""
    if isinstance(value, Mapping):
        if TARGET in value:
            return instantiate(value)
        return {key: build_inner(member) for key, member in value.items()}
    if isinstance(value, list):
        return [build_inner(member) for member in value]
    return value


def locate(target: str) -> Any:
    """The object that a dotted path names, importing the longest part of it that is a module.

    Raises:
        ValueError: No module, or nothing of that name in it.
    """
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            # A module that exists but lacks one of its own imports must say so itself.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                raise ValueError(f"{TARGET}={target}: {name} has no {'.'.join(parts[length:])}")
            found = getattr(found, part)
        return found
    raise ValueError(f"{TARGET}={target}: there is no package {parts[0]}")
