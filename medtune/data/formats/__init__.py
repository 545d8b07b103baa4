"""From raw records to :class:`~medtune.data.examples.Example`: a module per family of formats."""

from typing import Any

from medtune.data.formats.detect import detect_format
from medtune.data.formats.reader import Reader

__all__ = ["Reader", "detect_format"]


def __getattr__(name: str) -> Any:
    """The old places of ``read_examples`` and ``split_path``."""
    if name in ("read_examples", "split_path"):
        from medtune.data import reading

        return getattr(reading, name)
    raise AttributeError(name)
