"""Results that take a while, kept beside the tokens as named arrays."""

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medtune.data.tokens.prepare import only_one_process
from medtune.runtime.record import whole_folder

Arrays = dict[str, NDArray[Any]]

FILE = "arrays.npz"

log = logging.getLogger(__name__)


def cached_arrays(cache: Path, name: str, what: str, make: Callable[[], Arrays]) -> Arrays:
    """The arrays of ``make``, from the cache when they are there; one process makes them, others wait.

    Args:
        cache: Folder of everything that is kept.
        name: Tells from what they are made; equal names mean equal arrays.
        what: The same for a reader.
        make: Called when they are not there, or damaged.

    Raises:
        ConfigError: The cache cannot be written.
        ValueError: The disk is full; nothing half-written is left.
    """
    arrays = read_arrays(cache / name / FILE)
    if arrays is not None:
        return arrays
    with only_one_process(cache, name, what):
        arrays = read_arrays(cache / name / FILE)
        if arrays is None:
            arrays = make()
            with whole_folder(cache / name) as aside:
                np.savez(aside / FILE, **arrays)  # type: ignore[arg-type] # its stub confuses names and flags
    return arrays


def read_arrays(path: Path) -> Arrays | None:
    """The arrays of a file, whose sums the format checks; None when there is none or it is damaged."""
    if not path.is_file():
        return None
    try:
        # Opened here: what np.load opens stays open when it finds damage.
        with path.open("rb") as disk, np.load(disk, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("data: %s is damaged and made again: %s", path, error)
        return None
