"""One rank of a run: ``python -m medtune.worker RUN_DIR``, alone or under torchrun.

Knows no Hydra: it reads the settled ``config.yaml`` of the run folder, so ranks cannot disagree.
"""

import logging
import os
import signal
import sys
import time
from pathlib import Path

from medtune.config.load import load_config
from medtune.runtime.errors import ConfigError, Interrupted
from medtune.runtime.hardware import visible_gpus
from medtune.runtime.logging import set_up_logging
from medtune.runtime.parent import end_with_parent
from medtune.runtime.ranks import leave
from medtune.runtime.record import RunFolder, write_json

EXIT_FAILED, EXIT_CONFIG, EXIT_INTERRUPTED = 1, 2, 130

log = logging.getLogger("rank")  # not of medtune.*: to the rank's log file, not to the console


def main(arguments: list[str]) -> int:
    """Runs the task of a run folder; the launcher shows what ``logs/error-N.json`` says."""
    folder = RunFolder(Path(arguments[0]).resolve())
    global_rank = int(os.environ.get("RANK", "0"))
    if parent := os.environ.get("MEDTUNE_PARENT"):  # torchrun, which does not outlive a second Ctrl-C
        end_with_parent(int(parent), signal.SIGKILL)
    set_up_logging(folder, global_rank)
    if not visible_gpus():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found nothing else
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' bars would fill a log file
    try:
        run_task(folder)
    except Interrupted as interruption:
        log.info("interrupted: %s", interruption)
        leave()  # all ranks agreed to stop
        return 128 + interruption.signal_number
    except KeyboardInterrupt:
        log.info("interrupted at once", exc_info=True)
        return EXIT_INTERRUPTED
    except Exception as error:  # the last place where a failure can be recorded
        log.info("failed", exc_info=True)
        record_failure(folder, global_rank, error)
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED
    return 0


def run_task(folder: RunFolder) -> None:
    """Reads the configuration and hands over to the task's module."""
    config = load_config(folder.config_file)
    from medtune.tasks import run  # here, so that an import that fails is recorded like any failure

    run(config, folder)
    leave()


def record_failure(folder: RunFolder, global_rank: int, error: Exception) -> None:
    """Writes the cause where the launcher looks for it; the traceback is in the rank's log."""
    cause = {"time": time.time(), "rank": global_rank, "type": type(error).__name__, "message": str(error)}
    try:
        write_json(folder.logs / f"error-{global_rank}.json", cause)
    except ValueError:  # on a disk that is full to the last byte the screen is all that is left
        sys.stderr.write(f"medtune: rank {global_rank}: {error}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(
            "usage: python -m medtune.worker RUN_DIR   (python -m medtune makes that folder and starts this)"
        )
    sys.exit(main(sys.argv[1:]))
