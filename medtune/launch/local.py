"""``launcher=local``: the worker on this machine, alone, or several through torchrun."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from medtune.config.resolvers import PROJECT
from medtune.config.schema import Config
from medtune.launch.elastic import EXIT_CODES
from medtune.launch.processes import GRACE_SECONDS, run_child
from medtune.launch.run_folder import HELD
from medtune.runtime.hardware import cpu_cores
from medtune.runtime.record import RunFolder, read_json

# By which a rank knows its place; torchrun sets them anew, a worker alone must not find an outer run's.
PLACE_OF_A_RANK = (
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "MEDTUNE_PARENT"),
)

# Signals by which a task is meant to end: there is nothing to save, and nothing was interrupted.
ENDS_WELL = {"chat": (signal.SIGINT,), "serve": (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}


def run_locally(config: Config, folder: RunFolder) -> tuple[Mapping[int, int], int | None]:
    """Runs the worker to its end.

    Returns:
        Exit codes by rank (see :func:`medtune.launch.outcome.judge`), and the signal that ended the run
        from outside.
    """
    world_size = config.trainer.devices or 1
    command = worker_command(config, folder, world_size)
    code, received = run_child(
        command,
        worker_environment(config, world_size),
        is_conversation=config.task == "chat",
        # A worker that outlives a killed launcher is still at work in the folder.
        handles=[HELD[folder.path]] if folder.path in HELD else [],
    )
    if code == 0 and received in ENDS_WELL.get(config.task, ()):
        received = None
    return exit_codes(folder, code), received


def worker_command(config: Config, folder: RunFolder, world_size: int) -> list[str]:
    """The one process to start."""
    if world_size == 1:
        return [sys.executable, "-m", "medtune.worker", str(folder.path)]
    port = config.launcher.master_port
    ports = [str(port)] if port else []
    return [sys.executable, "-m", "medtune.launch.elastic", str(folder.path), str(world_size), *ports]


def exit_codes(folder: RunFolder, code: int) -> dict[int, int]:
    """Exit codes by rank, those of the first to fail first; of one process its own ``code``."""
    file = folder.logs / EXIT_CODES
    if code and file.exists():
        return {int(rank): value for rank, value in read_json(file).items()}
    return {0: code}


def worker_environment(config: Config, world_size: int) -> dict[str, str]:
    """The variables of every rank: this source tree, its share of the cores, no GPU that is not wanted."""
    environment = {key: value for key, value in os.environ.items() if key not in PLACE_OF_A_RANK}
    paths = [str(PROJECT), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if world_size > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cpu_cores() // world_size)))
        # torchrun kills ranks this long after a signal; before torch 2.13 always after 30 seconds.
        environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = f"{GRACE_SECONDS:.0f}"
    if config.deterministic:
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA starts; torch refuses without it
    if config.trainer.accelerator == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if config.task == "serve":
        # Batches come and go for days: large tensors go back to the system when they are freed. glibc would
        # raise its threshold to keep them, and its heap then varies by a third with what was asked when.
        environment.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**20))
    return environment


def relative(path: Path) -> str:
    """``path`` as one types it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
