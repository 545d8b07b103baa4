"""From composed values to the settings of one run: inherited, absolute, derived, checked."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtune.config.checks import TASKS_OF_MANY, Machine, Rule, check
from medtune.config.inherit import (
    RUN_RECORD,
    SECTIONS_OF_WEIGHTS,
    TASKS_ON_WEIGHTS,
    Record,
    all_sections,
    find_records,
    read_record,
    seed_problem,
    with_record,
)
from medtune.config.load import read_config
from medtune.config.mix import with_mixed_sources
from medtune.config.paths import HUB_ID, with_absolute_paths
from medtune.config.registry import resolve_registry
from medtune.config.resolvers import CONF
from medtune.config.schema import WHOLE_MODELS, ColumnsConfig, Config, TemplateConfig
from medtune.config.serve_checks import one_process_problems
from medtune.config.sources import SOURCE_KEYS
from medtune.config.unused import unused_warning, within
from medtune.runtime.errors import ConfigError

SAMPLE_TOKENIZER = CONF.parent / "data" / "sample" / "tokenizer"
OWN_OF_A_COMMAND = ("run_dir", "resume")  # never taken from the run that is continued


@dataclass
class Settled:
    """What a run will do, and what the user should know about it.

    Attributes:
        notes: Where settings came from that were not typed.
        warnings: Such as the typed keys that have no effect, in one line.
    """

    config: Config
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def settle(
    values: Mapping[str, Any],
    typed: Sequence[str],
    machine: Machine,
    start: Path,
    *,
    problems: Sequence[str] = (),
    rules: Sequence[Rule] = (),
    folders: Sequence[Path] = (CONF,),
) -> Settled:
    """Settles composed values into the configuration that the worker reads.

    Args:
        values: Plain values of the schema's keys.
        typed: Keys and groups of the command line.
        machine: Where the run starts.
        start: The folder that relative paths start from.
        problems: What is already known to be wrong, told with the rest.
        rules: Those of other layers.
        folders: Where the sources of a mix are looked up.

    Raises:
        ConfigError: All problems.
    """
    values, notes, refused = inherit(values, typed, start)
    values, unmixed = with_mixed_sources(values, typed, folders)
    config, unreadable = read_config(values)
    with_absolute_paths(config, start)
    forget_published(config, typed)
    notes += find_tokenizer(config, typed)
    notes += borrow_tokenizer(config, typed)
    notes += choose_evaluation(config)
    unresolved = resolve_registries(config)
    crowded = list(one_process_problems(config))
    choose_devices(config, machine)
    unbatched = batch_rows(config, typed)
    found = [
        *problems,
        *refused,
        *unmixed,
        *unreadable,
        *unresolved,
        *crowded,
        *unbatched,
        *check(config, machine, rules),
    ]
    if found:
        raise ConfigError(list(dict.fromkeys(found)))
    warning = unused_warning(config, typed)
    return Settled(config, notes, [warning] if warning else [])


def inherit(
    values: Mapping[str, Any], typed: Sequence[str], start: Path
) -> tuple[Mapping[str, Any], list[str], list[str]]:
    """Takes over the settings of a run that is continued, or of the weights that are used.

    Returns:
        The settings, where they came from, and what speaks against it.
    """
    notes: list[str] = []
    records: list[Record] = []
    earlier = earlier_run(values, start)
    if earlier:
        names = [name for name in all_sections() if name not in OWN_OF_A_COMMAND]
        values, _ = with_record(values, read_record(earlier), names, typed)
        notes.append(f"continuing the run of {earlier}; its settings hold where this command names no others")
    weights = values.get("weights")
    if isinstance(weights, str) and values.get("task") in TASKS_ON_WEIGHTS:
        wanted = list(SECTIONS_OF_WEIGHTS)
        records = find_records(start / Path(weights).expanduser())
        for record in records:
            values, taken = with_record(values, record, wanted, typed)
            wanted = [name for name in wanted if name not in taken]
            if taken:
                notes.append(f"{', '.join(taken)}: as in {record.file}")
    seeded = (record for record in records if "seed" in record.values)
    problem = next((seed_problem(values, record, typed) for record in seeded), None)
    return values, notes, [problem] if problem else []


def earlier_run(values: Mapping[str, Any], start: Path) -> Path | None:
    """The settings file of the run that ``resume=auto`` continues, None when there is none yet."""
    folder = values.get("run_dir")
    if values.get("resume") != "auto" or not isinstance(folder, str):
        return None
    file = start / Path(folder).expanduser() / RUN_RECORD
    # Unlike is_file(), no error for a folder that may not be looked into; making the run folder tells of it.
    return file if os.path.isfile(file) else None


def choose_devices(config: Config, machine: Machine) -> None:
    """Decides kind and number of devices where the settings leave them open."""
    trainer = config.trainer
    if trainer.accelerator == "auto":
        trainer.accelerator = "cuda" if machine.gpus else "cpu"
    if config.task not in TASKS_OF_MANY:
        trainer.devices = 1
    elif trainer.devices is None and config.task != "train" and config.generate.engine == "vllm":
        trainer.devices = 1  # vLLM divides a model itself
    elif trainer.devices is None:
        trainer.devices = max(1, machine.gpus) if trainer.accelerator == "cuda" else 1


def forget_published(config: Config, typed: Sequence[str]) -> None:
    """Drops what a model option says of its own hub id, where the command line names another model."""
    if "model.path" not in typed:
        return
    if "model.revision" not in typed:
        config.model.revision = None
    if not any(within(key, "model.architecture") for key in typed):
        config.model.architecture = {}


def find_tokenizer(config: Config, typed: Sequence[str]) -> list[str]:
    """Takes the tokenizer beside the weights where the one of their run is gone; returns notes."""
    model = config.model
    if config.task not in TASKS_ON_WEIGHTS or not config.weights or not model.tokenizer:
        return []
    if "model.tokenizer" in typed or not os.path.isabs(model.tokenizer) or Path(model.tokenizer).is_dir():
        return []
    for folder in (Path(config.weights), Path(config.weights) / "model"):
        if has_tokenizer_files(str(folder)):
            gone, model.tokenizer = model.tokenizer, str(folder)
            return [f"model.tokenizer: {folder}, since {gone} is gone"]
    return []


def borrow_tokenizer(config: Config, typed: Sequence[str]) -> list[str]:
    """Gives a model with random weights the sample's tokenizer where its own is not here; returns notes.

    A template that speaks in control tokens of the model's own goes with it, unless it was typed.
    """
    model = config.model
    if model.init != "random" or model.tokenizer is not None or config.weights is not None:
        return []
    if model.path is not None and has_tokenizer_files(model.path):
        return []
    model.tokenizer = str(SAMPLE_TOKENIZER)
    reason = f"that of {model.path} is not on this machine" if model.path else "none is named"
    notes = [f"model.tokenizer: the sample's own ({SAMPLE_TOKENIZER}), with random weights, since {reason}"]
    if needs_own_tokens(config.template) and not any(within(key, "template") for key in typed):
        notes.append(f"template=plain: template={config.template.name} needs the model's own tokenizer")
        config.template = TemplateConfig()
    return notes


def needs_own_tokens(template: TemplateConfig) -> bool:
    """Whether a template has control tokens that the sample's tokenizer does not know."""
    keys = ("start", "system", "first_prompt", "prompt", "response", "separator", "end", "text", "stop")
    pieces = [piece for key in keys for piece in getattr(template, key) if isinstance(piece, dict)]
    tokens = [piece.get("token") for piece in pieces if not piece.get("optional")]
    return template.chat or any(token not in (None, "bos", "eos") for token in tokens)


def choose_evaluation(config: Config) -> list[str]:
    """Decides whether a fit is followed by answers, where the settings leave it open; returns notes."""
    if config.eval.after_fit is not None:
        return []
    measures = _is_adapter_on_noise(config) and config.weights is None
    config.eval.after_fit = not measures
    if not measures or config.task != "train" or not config.data.eval_splits:
        return []
    return [
        f"eval.after_fit=false: adapter={config.adapter.name} on random weights can answer nothing; set "
        "eval.after_fit=true to score it all the same"
    ]


def _is_adapter_on_noise(config: Config) -> bool:
    return config.model.init == "random" and config.adapter.name not in WHOLE_MODELS


def has_tokenizer_files(path: str) -> bool:
    """Whether a folder, or the hub's cache for a hub id, holds tokenizer files."""
    folders = [Path(path)]
    if HUB_ID.fullmatch(path) and not folders[0].is_dir():
        home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
        hub = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
        folders = list(hub.glob(f"models--{path.replace('/', '--')}/snapshots/*"))
    return any(next(folder.glob("tokenizer*"), None) for folder in folders)


def resolve_registries(config: Config) -> list[str]:
    """Reads what a ``dataset_info.json`` says about the sources that name a key of it; returns problems."""
    data = config.data
    problems: list[str] = []
    if not data.mix and data.dataset is not None:
        values, problems = resolve_registry({key: getattr(data, key) for key in SOURCE_KEYS})
        for key, value in values.items():
            setattr(
                data, key, ColumnsConfig(**value) if key == "columns" and isinstance(value, dict) else value
            )
    elif not data.mix and data.name == "dataset_info" and config.task in ("train", "prepare"):
        problems = ["data=dataset_info needs data.dataset=KEY, a key of the dataset_info.json in data.dir"]
    for name, source in data.sources.items():
        if isinstance(source, dict) and source.get("dataset") is not None:
            data.sources[name], found = resolve_registry(source)
            problems += [f"data.sources.{name}: {problem}" for problem in found]
    return problems


def batch_rows(config: Config, typed: Sequence[str]) -> list[str]:
    """Turns ``data.global_batch_tokens`` into rows; returns problems."""
    data = config.data
    if data.global_batch_tokens is None:
        return []
    if "data.global_batch_size" in typed:
        return [
            f"data.global_batch_tokens={data.global_batch_tokens} and data.global_batch_size="
            f"{data.global_batch_size} say the same in tokens and in rows; set one of them"
        ]
    devices = (config.trainer.devices or 1) * config.trainer.num_nodes
    per_pass = max(1, (data.micro_batch_size or 1) * devices)
    rows = data.global_batch_tokens / max(1, data.sequence_length)
    data.global_batch_size = max(1, round(rows / per_pass)) * per_pass
    return []
