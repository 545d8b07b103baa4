"""The command ``python -m medtune``: looks at all of it first, then lets Hydra run it."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from medtune.config.compose import (
    HYDRA_VERSION,
    compose_settings,
    option_folders,
    plain_settings,
    register_schema,
)
from medtune.config.overrides import (
    CommandLine,
    group_options,
    read_command_line,
    single_values,
    typed_keys,
)
from medtune.config.resolvers import CONF
from medtune.launch.console import say, show_problems
from medtune.launch.outcome import EXIT_REFUSED, EXIT_SIGNAL, INTERRUPTED
from medtune.launch.run import Request, run, settle_request
from medtune.launch.run_folder import OUTPUTS, folder_name, make_writable_folder, new_id
from medtune.launch.sweep import Sweep
from medtune.runtime.errors import ConfigError


@dataclass
class Plan:
    """What a command line asks for, found acceptable.

    Attributes:
        settings: Composed; of a sweep the first value of each key.
        is_sweep: Whether it runs trials.
        swept: Keys that differ between trials.
    """

    line: CommandLine
    settings: DictConfig
    is_sweep: bool
    swept: list[str]


def main(arguments: Sequence[str]) -> int:
    """Runs a command line and gives its exit code: 0, 1 failed, 2 refused, 128 + signal when interrupted."""
    try:
        return obey(arguments)
    except KeyboardInterrupt:  # before a worker was started, or between two trials
        say("interrupted")
        return EXIT_SIGNAL + signal.SIGINT


def obey(arguments: Sequence[str]) -> int:
    """Does what a command line asks for."""
    options = read_options(arguments)
    if options.hydra_help or options.shell_completion or options.info:
        hand_to_hydra(options, options.overrides, lambda _: 0)
        return 0
    try:
        plan = make_plan(options)
    except ConfigError as error:
        show_problems(error.problems)
        return EXIT_REFUSED
    if options.cfg:
        hand_to_hydra(options, plan.line.accepted, lambda _: 0)
        return 0
    if plan.is_sweep:
        return run_sweep(options, plan)
    return run_once(options, plan)


def read_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Hydra's options and the overrides, in any order; an unknown option is left among the overrides."""
    options, unknown = get_args_parser().parse_known_intermixed_args(list(arguments))
    options.overrides = [*options.overrides, *unknown]
    return options


def make_plan(options: argparse.Namespace) -> Plan:
    """Reads, composes and settles the command; starts nothing.

    Raises:
        ConfigError: All problems of the command line, its YAML files and their combination.
    """
    folder = Path(options.config_dir).resolve() if options.config_dir else None
    groups = group_options(*([folder] if folder else []))
    line = read_command_line(options.overrides, groups, multirun=bool(options.multirun))
    try:
        settings = compose(options, single_values(line.accepted))
        is_sweep = bool(options.multirun) or settings.hydra.mode == RunMode.MULTIRUN
        if is_sweep:
            line.problems += problems_of_all_trials(options, settings, line)
        elif not options.cfg:
            settle_request(request_of(settings, line.accepted, line.problems))
    except ConfigError as error:
        raise ConfigError(list(dict.fromkeys([*line.problems, *error.problems]))) from error
    if line.problems:
        raise ConfigError(line.problems)
    return Plan(line, settings, is_sweep, [*line.swept, *sweeper_params(settings)])


def compose(options: argparse.Namespace, overrides: Sequence[str]) -> DictConfig:
    """Composes with the folders that the command line names."""
    folder = Path(options.config_dir).resolve() if options.config_dir else None
    return compose_settings(overrides, name=options.config_name or "config", folder=folder)


def sweeper_params(settings: DictConfig) -> dict[str, str]:
    """The values that a ``sweep=`` option gives: key to values, as on a command line."""
    params = settings.hydra.sweeper.get("params") or {}
    return {str(key): str(value) for key, value in params.items()}


def problems_of_all_trials(options: argparse.Namespace, settings: DictConfig, line: CommandLine) -> list[str]:
    """Problems that no trial escapes: those of both the first and the last value of every swept key.

    A problem of single trials is theirs: they are refused when their turn comes.
    """
    typed = set(typed_keys(line.accepted))
    params = [f"{key}={value}" for key, value in sweeper_params(settings).items() if key not in typed]
    swept = [*line.accepted, *params]
    first = trial_problems(options, single_values(swept))
    last = trial_problems(options, single_values(swept, last=True)) if first else []
    return [problem for problem in first if problem in last]


def trial_problems(options: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """The problems of one combination of values."""
    try:
        settle_request(request_of(compose(options, overrides), overrides))
    except ConfigError as error:
        return error.problems
    return []


def request_of(settings: DictConfig, overrides: Sequence[str], problems: Sequence[str] = ()) -> Request:
    """What composed settings ask for."""
    values, missing = plain_settings(settings)
    return Request(values, overrides, [*problems, *missing], option_folders(settings))


def run_once(options: argparse.Namespace, plan: Plan) -> int:
    """One run."""

    def job(settings: DictConfig) -> int:
        outcome, _ = run(request_of(settings, job_overrides()))
        return outcome.code

    return hand_to_hydra(options, plan.line.accepted, job)


def run_sweep(options: argparse.Namespace, plan: Plan) -> int:
    """A run for each trial that Hydra's sweeper proposes; stops when one is interrupted."""
    sweep = Sweep(sweep_folder(plan.settings), plan.swept)
    try:
        make_writable_folder(sweep.folder, exist_ok=True)  # where Hydra writes before the first trial
    except ConfigError as error:
        show_problems(error.problems)
        return EXIT_REFUSED

    def job(settings: DictConfig) -> int:
        overrides = job_overrides()
        differing = sweep.settings_of(overrides)
        folder = sweep.folder_of(differing)
        OmegaConf.update(settings, "run_dir", str(folder))
        if settings.group is None:
            OmegaConf.update(settings, "group", sweep.id)
        outcome, _ = run(request_of(settings, overrides))
        sweep.add(differing, folder, outcome)
        if outcome.status == INTERRUPTED:
            sys.exit(outcome.code)
        return outcome.code

    try:
        hand_to_hydra(options, [*plan.line.accepted, f"hydra.sweep.dir='{sweep.folder}'"], job)
    finally:
        if sweep.trials:
            sweep.tell()
    return sweep.code


def sweep_folder(settings: DictConfig) -> Path:
    """The sweep's own folder: ``run_dir``, or a new one under ``outputs/NAME``."""
    if settings.run_dir is not None:
        return Path(settings.run_dir).resolve()
    return (OUTPUTS / folder_name(settings.name) / f"sweep-{new_id()}").resolve()


def job_overrides() -> list[str]:
    """The overrides of the job that Hydra runs now."""
    return [str(text) for text in HydraConfig.get().overrides.task]


def hand_to_hydra(
    options: argparse.Namespace, overrides: Sequence[str], job: Callable[[DictConfig], int]
) -> int:
    """Has Hydra do what its options say; ``job`` is called for each composed configuration.

    Returns:
        The exit code of the last job, 0 when Hydra ran none.
    """
    register_schema()
    codes = [0]

    def task(settings: DictConfig) -> None:
        codes.append(job(settings))

    before = sys.argv
    sys.argv = [before[0], *hydra_options(options), *overrides]
    try:
        hydra.main(version_base=HYDRA_VERSION, config_path=str(CONF), config_name="config")(task)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = before
    return codes[-1]


def hydra_options(options: argparse.Namespace) -> list[str]:
    """The options of the command line as Hydra's parser reads them."""
    given: list[str] = []
    for name, value in vars(options).items():
        if name == "overrides" or not value:
            continue
        given.append("--" + name.replace("_", "-"))
        if value is not True:
            given.append(str(value))
    return given
