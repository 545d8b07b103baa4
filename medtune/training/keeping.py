"""Which checkpoints stay: the newest, the best, and some for good."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from medtune.config.schema import CheckpointConfig
from medtune.runtime.errors import ConfigError
from medtune.training.checkpoints import BEST, MARK, Checkpoint, best_first, whole_checkpoints
from medtune.training.resume import mode_of


class Kept:
    """The checkpoints of a run. Which are the best stands in their marks alone, so a resumed run knows it.

    Args:
        folder: ``RUN_DIR/checkpoints``.
        settings: How many of which stay.
    """

    def __init__(self, folder: Path, settings: CheckpointConfig) -> None:
        self.folder = folder
        self.settings = settings

    def ranked(self, *checkpoints: Checkpoint) -> list[Checkpoint]:
        """Those that were validated, the best first."""
        return best_first(checkpoints, self.settings.monitor, mode_of(self.settings))

    def best(self) -> Checkpoint | None:
        """The best that stands; None when the best are not kept."""
        if not self.settings.keep_best:
            return None
        return next(iter(self.ranked(*whole_checkpoints(self.folder))), None)

    def would_keep(self, step: int, validation: Mapping[str, float]) -> bool:
        """Whether a checkpoint of this step would be among the best."""
        here = Checkpoint(self.folder, step, 0, "", 1, {}, validation)
        return here in self.ranked(here, *whole_checkpoints(self.folder))[: self.settings.keep_best]

    def remove_others(self) -> None:
        """Removes the checkpoints that are not to stay; ``best`` leads to the best from then on."""
        whole = whole_checkpoints(self.folder)
        stay = {checkpoint.global_step for checkpoint in whole[-self.settings.keep_last :]}
        if self.settings.keep_best:
            best = self.ranked(*whole)[: self.settings.keep_best]
            stay |= {checkpoint.global_step for checkpoint in best}
            link(self.folder / BEST, best[0].path if best else None)
        for checkpoint in whole:
            every, step = self.settings.keep_every_n_steps, checkpoint.global_step
            if step in stay or (every and step % every == 0):
                continue
            # The mark goes first: what is left of an interrupted removal is not taken for a checkpoint.
            (checkpoint.path / MARK).unlink()
            shutil.rmtree(checkpoint.path)


def link(place: Path, target: Path | None) -> None:
    """Has the link ``place`` lead to ``target`` beside it, in one step; None removes it."""
    if place.is_dir() and not place.is_symlink():  # a copy of the folder, made by following the link
        shutil.rmtree(place)
    if target is None:
        place.unlink(missing_ok=True)
        return
    aside = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target.name)
    aside.replace(place)


def check_monitor(settings: CheckpointConfig, known: Iterable[str]) -> None:
    """Holds that a validation reports what the best checkpoints are chosen by.

    Raises:
        ConfigError: It does not.
    """
    names = list(known)
    if settings.keep_best and settings.monitor not in names:
        raise ConfigError(
            f"checkpoint.monitor={settings.monitor} is nothing that this run's validation reports; "
            f"it reports {', '.join(names)}"
        )
