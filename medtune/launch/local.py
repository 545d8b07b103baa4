"""``launcher=local``: the worker on this machine, one process per device."""

import os
import sys
from pathlib import Path

from medtune.config.resolvers import PROJECT
from medtune.config.schema import Config
from medtune.launch.processes import free_port, own_environment, rank_environments, run_ranks
from medtune.runtime.hardware import cpu_cores
from medtune.runtime.record import RunFolder


def run_locally(config: Config, folder: RunFolder) -> tuple[list[int], int | None]:
    """Runs the worker to its end.

    Returns:
        Exit codes by rank, and the signal that ended the run from outside.
    """
    command = [sys.executable, "-m", "medtune.worker", str(folder.path)]
    world_size = config.trainer.devices or 1
    base = worker_environment(config, world_size)
    if world_size == 1:
        return run_ranks(command, [base])
    port = config.launcher.master_port or free_port()
    return run_ranks(command, rank_environments(base, world_size, port))


def worker_environment(config: Config, world_size: int) -> dict[str, str]:
    """The variables of every rank: this source tree, its share of the cores, no GPU that is not wanted."""
    environment = own_environment()
    paths = [str(PROJECT), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    if world_size > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cpu_cores() // world_size)))
    if config.trainer.accelerator == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment


def relative(path: Path) -> str:
    """``path`` as one types it here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
