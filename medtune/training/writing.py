"""Writes checkpoints that are whole or not there, while training waits or goes on."""

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from medtune.runtime.record import disk_error, replace_folder, sync_folder, write_json
from medtune.training.checkpoints import MARK, STATE
from medtune.training.state import copied_to_host, rng_state

log = logging.getLogger(__name__)


class Writer:
    """Writes one checkpoint at a time: aside, synced, marked, then renamed; a part never bears the name.

    Args:
        asynchronous: Copy the state to main memory and write it in a thread; training goes on. For
            states that one rank writes whole.
    """

    def __init__(self, asynchronous: bool) -> None:
        self._threads = ThreadPoolExecutor(1, "checkpoint") if asynchronous else None
        self._pending: Future[None] | None = None

    def write(
        self, trainer: L.Trainer, path: Path, mark: Mapping[str, Any], after: Callable[[], None]
    ) -> None:
        """Writes the state of training as the checkpoint ``path``; all ranks together.

        Args:
            trainer: Whose state.
            path: ``RUN_DIR/checkpoints/step-N``.
            mark: Written last.
            after: Called by rank zero when the checkpoint stands.

        Raises:
            ValueError: The disk is full or cannot be written; here, or of the checkpoint before this one.
        """
        self.wait()
        aside = path.with_name(f".{path.name}.partial")
        with told_of_disk(path, aside):
            if trainer.is_global_zero:
                make_empty(aside)
            trainer.strategy.barrier()
            torch.save(rng_state(), aside / f"rng-{trainer.global_rank}.pt")
            if self._threads is None:
                trainer.save_checkpoint(aside / STATE)
                trainer.strategy.barrier()
        if self._threads is not None:
            self._write_later(self._threads, trainer, path, mark, after)
        elif trainer.is_global_zero:
            finish(aside, path, mark, after)
        trainer.strategy.barrier()

    def _write_later(
        self,
        threads: ThreadPoolExecutor,
        trainer: L.Trainer,
        path: Path,
        mark: Mapping[str, Any],
        after: Callable[[], None],
    ) -> None:
        """Copies the state and has a thread write it."""
        # Lightning means by it: with optimizer and counters, not the weights alone. Nothing is unpickled.
        state = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if trainer.is_global_zero:
            state = copied_to_host(state)
        trainer.strategy.barrier()  # every rank's random state is in its file
        if trainer.is_global_zero:
            self._pending = threads.submit(write_state, state, path, mark, after)

    def raise_failure(self) -> None:
        """Tells of a checkpoint that could not be written meanwhile; waits for nothing.

        Raises:
            ValueError: It could not be written.
        """
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the checkpoint under way stands.

        Raises:
            ValueError: It could not be written.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def settle(self) -> None:
        """Waits too, but only logs a failure: another one ends the run already."""
        try:
            self.wait()
        except ValueError as error:
            log.error("%s", error)


@contextmanager
def told_of_disk(path: Path, aside: Path) -> Iterator[None]:
    """Turns what a full disk raises in the block into one message, and removes what was written aside."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not is_disk_error(error):
            raise
        shutil.rmtree(aside, ignore_errors=True)
        cause = error if isinstance(error, OSError) else OSError(0, "torch could not write all of it")
        raise disk_error(path, cause) from error


def write_state(
    state: dict[str, Any], path: Path, mark: Mapping[str, Any], after: Callable[[], None]
) -> None:
    """The thread's part: the state's file, and what :func:`finish` does."""
    aside = path.with_name(f".{path.name}.partial")
    with told_of_disk(path, aside):
        torch.save(state, aside / STATE)
    finish(aside, path, mark, after)


def finish(aside: Path, path: Path, mark: Mapping[str, Any], after: Callable[[], None]) -> None:
    """Marks the checkpoint that lies aside as whole and gives it its name."""
    with told_of_disk(path, aside):
        write_json(aside / MARK, mark)
        replace_folder(aside, path)
    log.info("checkpoint %s", path)
    after()


def make_empty(folder: Path) -> None:
    """Makes ``folder`` anew, and the one around it where there is none."""
    shutil.rmtree(folder, ignore_errors=True)
    if not folder.parent.is_dir():
        folder.parent.mkdir(parents=True)
        sync_folder(folder.parent.parent)
    folder.mkdir()


def is_disk_error(error: Exception) -> bool:
    """Whether a write failed for the disk's sake."""
    # torch.save reports a failed write as a RuntimeError of its zip writer, in one of these wordings; the
    # last is of the file's end, which is written when it is closed.
    writer = ("PytorchStreamWriter failed", "inline_container.cc", "iostream error")
    return isinstance(error, OSError) or any(words in str(error) for words in writer)
