"""The old names of :mod:`medtune.data.records`."""

from medtune.data.files import open_bytes
from medtune.data.records import read_lines, read_records

__all__ = ["open_bytes", "read_lines", "read_records"]
