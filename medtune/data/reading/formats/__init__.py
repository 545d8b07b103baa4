"""From raw records to :class:`~medtune.data.examples.Example`: a module per family of formats."""

from medtune.data.reading.formats.detect import detect_format
from medtune.data.reading.formats.reader import Reader

__all__ = ["Reader", "detect_format"]
