"""One run: settle the composed values, make the run folder, start the worker, tell how it ended."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtune.config.checks import Machine, Rule
from medtune.config.overrides import typed_keys
from medtune.config.resolvers import CONF
from medtune.config.schema import Config
from medtune.config.settle import Settled, settle
from medtune.launch.console import say, show_problems, warn
from medtune.launch.local import relative, run_locally
from medtune.launch.outcome import EXIT_REFUSED, REFUSED, Outcome, judge, tell
from medtune.launch.run_folder import make_run_folder, release, write_run_folder
from medtune.launch.task_names import task_name_problems
from medtune.runtime.errors import ConfigError
from medtune.runtime.families import packing_refusal
from medtune.runtime.hardware import cpu_cores, visible_gpus
from medtune.runtime.record import RunFolder, merge_json
from medtune.training.limits import training_problems
from medtune.training.resume import describe_changes, resume_rule, source_of
from medtune.training.strategies import strategy_problems


def packing_problems(config: Config) -> Iterator[str]:
    """Packed rows for a family that mixes them; where the settings do not name it, the worker finds out."""
    model_type = family_of(config)
    if config.task == "train" and config.data.packing != "none" and model_type is not None:
        refusal = packing_refusal(model_type)
        if refusal is not None:
            yield f"model.{refusal}"


def family_of(config: Config) -> str | None:
    """The model's ``model_type``, as far as the settings or a folder here say it."""
    model = config.model
    if model.model_type is not None or model.path is None or not Path(model.path).is_dir():
        return model.model_type or model.architecture.get("model_type")
    try:
        settings = json.loads((Path(model.path) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # told when the model is loaded
    return settings.get("model_type") if isinstance(settings, dict) else None


# Rules that the layers below keep beside what they are about.
RULES: tuple[Rule, ...] = (
    strategy_problems,
    packing_problems,
    training_problems,
    task_name_problems,
    resume_rule,
)

# Who starts the ranks, by launcher.name. Each runs the worker on a written run folder to its end and gives
# the exit codes by rank and the signal that the launcher got. One for a cluster goes here, beside local.py.
Launcher = Callable[[Config, RunFolder], tuple[Mapping[int, int], int | None]]
LAUNCHERS: dict[str, Launcher] = {"local": run_locally}


@dataclass(frozen=True)
class Request:
    """What one run is asked to do.

    Attributes:
        values: Composed plain values.
        overrides: Of this run, as Hydra was given them.
        problems: Already known.
        folders: Where options were looked up.
    """

    values: Mapping[str, Any]
    overrides: Sequence[str]
    problems: Sequence[str] = ()
    folders: Sequence[Path] = (CONF,)


def settle_request(request: Request) -> Settled:
    """Settles what is asked on this machine, from this folder.

    Raises:
        ConfigError: All problems.
    """
    machine = Machine(gpus=visible_gpus(), cores=cpu_cores())
    return settle(
        request.values,
        typed_keys(request.overrides),
        machine,
        Path.cwd(),
        problems=request.problems,
        rules=RULES,
        folders=request.folders,
    )


def run(request: Request) -> tuple[Outcome, Path | None]:
    """Runs what is asked.

    Returns:
        How it ended, and the run folder, None when it was refused.
    """
    try:
        settled = settle_request(request)
        folder = make_run_folder(settled.config)
        changes = changes_on_resume(settled.config)
        changes += write_run_folder(folder, settled.config, request.overrides)
    except ConfigError as error:
        show_problems(error.problems)
        return Outcome(REFUSED, EXIT_REFUSED, "\n".join(error.problems)), None
    try:
        return run_in(folder, settled, changes), folder.path
    finally:
        release(folder.path)


def run_in(folder: RunFolder, settled: Settled, changes: Sequence[str]) -> Outcome:
    """Runs what was settled in the folder that was written for it."""
    for note in dict.fromkeys([*settled.notes, *changes]):
        say(note)
    for warning in settled.warnings:
        warn(warning)
    say(f"run folder: {relative(folder.path)}")
    codes, received = LAUNCHERS[settled.config.launcher.name](settled.config, folder)
    outcome = judge(folder, codes, received)
    record(outcome, folder)
    tell(outcome, settled.config, folder)
    return outcome


def changes_on_resume(config: Config) -> list[str]:
    """A line for each key that is other than in the checkpoint that the run goes on from."""
    checkpoint = source_of(config)
    return describe_changes(checkpoint, config) if checkpoint is not None else []


def record(outcome: Outcome, folder: RunFolder) -> None:
    """Makes sure that a run that ended badly says so in ``result.json``, or on a full disk that it cannot."""
    if outcome.code:
        cause = {"message": outcome.message} if outcome.message else {}
        try:
            merge_json(folder.result_file, {"status": outcome.status, **cause})
        except (OSError, ValueError) as error:
            say(f"medtune: {error}")
