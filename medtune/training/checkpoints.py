"""What a checkpoint is, read without torch: its mark, and which of them a run goes on from.

``RUN_DIR/checkpoints/step-N`` holds ``state`` (Lightning's file, or the directory of a sharding
strategy), ``rng-R.pt`` of every rank, and ``checkpoint.json``, the mark, which is written last.
``RUN_DIR/checkpoints/best`` is a link to the best of them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtune.runtime.errors import ConfigError
from medtune.runtime.record import read_json

MARK = "checkpoint.json"
STATE = "state"
BEST = "best"
STEP_FOLDER = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint.

    Attributes:
        path: The folder.
        global_step: Optimizer steps done.
        rows: Training rows consumed since the start, over all epochs.
        layout: ``file``, ``zero1``, ``zero2``, ``zero3`` or ``fsdp``: how ``state`` is laid out.
        world_size: Ranks that wrote it.
        config: The settings of the run, plain.
        validation: What the validation after this very step reported; empty without one.
        data: A fingerprint of the training rows; None where they had none.
        adapters: One of the earlier adapters that lie below what learned; None where there are none.
    """

    path: Path
    global_step: int
    rows: int
    layout: str
    world_size: int
    config: dict[str, Any]
    validation: Mapping[str, float] = field(default_factory=dict)
    data: str | None = None
    adapters: str | None = None

    @property
    def state(self) -> Path:
        """What Lightning wrote."""
        return self.path / STATE


def open_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint's mark.

    Raises:
        ConfigError: There is nothing, no checkpoint, or one that was not finished.
    """
    if not path.is_dir():
        raise ConfigError(
            f"{path} is not a checkpoint: no such folder; a checkpoint is RUN_DIR/checkpoints/step-N"
        )
    if not (path / MARK).is_file():
        what = "was not written to its end" if (path / STATE).exists() else "is not a checkpoint"
        within = whole_checkpoints(path / "checkpoints")
        other = within[-1].path if within else "an older step-N folder, or resume=auto"
        raise ConfigError(f"{path} {what}: {MARK} is missing. Use {other}")
    try:
        mark = read_json(path / MARK)
        return Checkpoint(
            path,
            mark["global_step"],
            mark["rows"],
            mark["layout"],
            mark["world_size"],
            dict(mark["config"]),
            dict(mark.get("validation", {})),
            mark.get("data"),
            mark.get("adapters"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(damage(path, MARK, error)) from error


def damage(path: Path, name: str, error: Exception) -> str:
    """The message for a checkpoint that bears the mark of a whole one and yet cannot be read."""
    reason = f"{type(error).__name__} {error}".strip().split(". ")[0]
    return (
        f"{path} is damaged: {name} cannot be read ({reason}). Copy it here again if it came from elsewhere, "
        "or remove the folder: resume=auto then takes the newest older one, or starts anew without one"
    )


def whole_checkpoints(folder: Path) -> list[Checkpoint]:
    """The whole checkpoints in ``folder``, oldest step first; unfinished ones are passed over."""
    if not folder.is_dir():
        return []
    paths = [
        path for path in folder.iterdir() if STEP_FOLDER.fullmatch(path.name) and (path / MARK).is_file()
    ]
    return sorted((open_checkpoint(path) for path in paths), key=lambda checkpoint: checkpoint.global_step)


def choose_checkpoint(resume: str, folder: Path) -> Checkpoint | None:
    """The checkpoint that ``resume`` means.

    Args:
        resume: ``never``, ``auto`` (the newest whole one of ``folder``, if any) or a path.
        folder: ``RUN_DIR/checkpoints``.

    Raises:
        ConfigError: A path that is no whole checkpoint.
    """
    if resume == "never":
        return None
    if resume == "auto":
        found = whole_checkpoints(folder)
        return found[-1] if found else None
    return open_checkpoint(Path(resume))


def best_first(checkpoints: Sequence[Checkpoint], monitor: str, mode: str) -> list[Checkpoint]:
    """Those that were validated, by their value of ``monitor``; of equal ones the older first."""
    valued = [c for c in checkpoints if math.isfinite(c.validation.get(monitor, math.nan))]
    sign = 1 if mode == "min" else -1
    return sorted(valued, key=lambda c: (sign * c.validation[monitor], c.global_step))
