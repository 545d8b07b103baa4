"""Where messages go: the console on rank zero, ``logs/rank-N.log`` on every rank."""

import logging
import sys
import warnings

from medtune.runtime.record import RunFolder

# Libraries whose INFO lines tell a user nothing about the run.
NOISY = (
    "httpx", "urllib3", "fsspec", "filelock", "matplotlib", "numexpr", "transformers", "lightning",
    "lightning.pytorch", "lightning.fabric", "DeepSpeed", "deepspeed", "bitsandbytes", "torch.distributed",
)  # fmt: skip


def set_up_logging(folder: RunFolder, global_rank: int) -> None:
    """Sends our INFO lines to the console of rank zero and everything to the rank's log file.

    Python warnings go to the log file only: they are for developers, and a user who reads none of
    them must still see ours.
    """
    folder.logs.mkdir(parents=True, exist_ok=True)
    logging.raiseExceptions = False  # a full disk must not fill the screen with the handlers' tracebacks
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers.clear()
    to_file = logging.FileHandler(folder.logs / f"rank-{global_rank}.log", encoding="utf-8")
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(to_file)
    if global_rank == 0:
        to_console = logging.StreamHandler(sys.stderr)
        to_console.setFormatter(logging.Formatter("%(message)s"))
        to_console.addFilter(lambda entry: entry.name.startswith("medtune") or entry.levelno >= logging.ERROR)
        root.addHandler(to_console)
    logging.captureWarnings(True)
    warnings.simplefilter("default")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
