"""What may change between a checkpoint and the run that goes on from it; known without torch."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medtune.config.inherit import value_at
from medtune.config.keys import schema_keys
from medtune.config.load import show
from medtune.config.schema import CheckpointConfig, Config
from medtune.config.unused import idle_reason, within
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder
from medtune.training.checkpoints import Checkpoint, choose_checkpoint
from medtune.training.strategies import layout_of

# Where a data set's files lie and what is scored. Which rows come of it is compared by itself.
PLACES = (
    *("name", "dir", "origin", "hub", "subset", "folder", "revision", "streaming", "dataset"),
    *("splits", "eval_splits", "sha1", "verify"),
)
# Keys and sections that may change freely. What is none of these, of ENDS or of FITTED bears on the
# training: a key that is added to the schema does until it is named here.
HARMLESS = (
    # What a run is called, what it reports, and what it does beside the training.
    *("name", "group", "tags", "run_dir", "task", "weights", "resume", "resume_allow", "logger", "launcher"),
    *("checkpoint", "eval", "generate", "evaluate", "export", "model.name", "template.name"),
    *("trainer.log_every_n_steps", "trainer.val_every_n_steps", "trainer.val_max_rows", "trainer.progress"),
    *(f"data.{name}" for name in (*PLACES, "cache_dir", "num_workers", "prepare_workers")),
    # How the same steps are computed: equal but for rounding, and for the units that dropout draws.
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "data.micro_batch_size", "strategy"),
    *("model.attention", "model.fused_kernels", "model.gradient_checkpointing", "deterministic"),
    "data.global_batch_tokens",  # data.global_batch_size follows from it, and is compared
)
# Where the run ends. Another end is told, not refused: it is typed to go on, and the schedule is drawn anew.
ENDS = ("trainer.max_steps", "trainer.max_epochs")
# What the tensors of a checkpoint were made for; with another value they cannot be used at all.
FITTED = {
    **dict.fromkeys(
        (
            *("model.model_type", "model.vocab_size", "model.hidden_size", "model.intermediate_size"),
            *("model.num_hidden_layers", "model.num_attention_heads", "model.num_key_value_heads"),
            "model.tie_word_embeddings",
        ),
        "another network",
    ),
    **dict.fromkeys(
        (
            *("adapter.name", "adapter.rank", "adapter.target_modules", "model.lora_targets", "adapter.init"),
            *("adapter.modules_to_save", "adapter.num_virtual_tokens", "adapter.first_layers"),
            *("adapter.last_layers", "adapter.trainable", "adapter.stack"),
        ),
        "another adapter",
    ),
    # GaLore's and APOLLO's projectors keep their own settings in the state.
    **dict.fromkeys(
        ("optim.name", "optim.rank", "optim.update_interval", "optim.scale"), "another optimizer"
    ),
    **dict.fromkeys(
        ("optim.layer_lr_decay", "optim.embedding_lr", "optim.lora_plus_ratio"), "another grouping of weights"
    ),
}
ADAPTER_WEIGHTS = "adapter_model.safetensors"  # as models.folders has it, which imports torch
OWN = ("run_dir", "resume", "resume_allow")  # of each command
# What the training rows follow from.
ROWS = ("data", "template", "objective", "seed", "model.tokenizer", "model.path", "trainer.max_steps")


def mode_of(settings: CheckpointConfig) -> str:
    """Whether less or more of ``checkpoint.monitor`` is better."""
    if settings.mode != "auto":
        return settings.mode
    lesser = ("val/loss", "val/perplexity", "eval/parse_failures")
    return "min" if settings.monitor.startswith(lesser) else "max"


def effect_of(key: str) -> str:
    """What another value of a schema's key does to a run that is continued.

    Returns:
        ``none``; ``end`` (moves the end of the run); ``unusable`` (the state does not fit); ``training``
        (the run is no longer the one that never stopped).
    """
    if key in ENDS:
        return "end"
    if key in FITTED:
        return "unusable"
    return "none" if any(within(key, name) for name in HARMLESS) else "training"


def source_of(config: Config) -> Checkpoint | None:
    """The checkpoint from which a run as configured goes on; None when it starts anew.

    Raises:
        ConfigError: It is named and is no whole checkpoint, or the newest is damaged.
    """
    if config.task != "train" or config.resume == "never":
        return None
    return choose_checkpoint(config.resume, RunFolder(Path(config.run_dir or ".")).checkpoints)


def resume_rule(config: Config) -> Iterator[str]:
    """The launcher's rule: a checkpoint that is no good, or that these settings cannot go on from."""
    if config.resume not in ("never", "auto") and not Path(config.resume).exists():
        return  # told with the other paths
    try:
        checkpoint = source_of(config)
    except ConfigError as error:
        yield from error.problems
        return
    if checkpoint is not None:
        world_size = (config.trainer.devices or 1) * config.trainer.num_nodes
        yield from resume_problems(checkpoint, config, layout_of(config), world_size)


def changes(checkpoint: Checkpoint, config: Config) -> dict[str, tuple[Any, Any]]:
    """Every key of the schema that has another value now: (before, now)."""
    now, defaults = asdict(config), asdict(Config())
    pairs = {
        # A key that is newer than the checkpoint had its default's meaning.
        key: (recorded(checkpoint.config, key, value_at(defaults, key)), value_at(now, key))
        for key in schema_keys()
        if key not in OWN
    }
    return {key: (old, new) for key, (old, new) in pairs.items() if old != new}


def recorded(values: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value at a dotted key of a record; ``default`` where the record does not have the key."""
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return default
        found = found[part]
    return found


def describe_changes(checkpoint: Checkpoint, config: Config) -> list[str]:
    """A line for each key that has another value than in the checkpoint."""
    found = changes(checkpoint, config)
    lines = [f"{key}: {show(old)} before, {show(new)} now" for key, (old, new) in found.items()]
    if any(key in ENDS for key in found) and depends_on_end(config):
        lines.append(
            f"schedule={config.schedule.name} is stretched over the new number of steps from step "
            f"{checkpoint.global_step} on"
        )
    return lines


def moves_training(checkpoint: Checkpoint, config: Config) -> bool:
    """Whether a key that bears on the steps to come, or on their number, is other than in the checkpoint."""
    return any(effect_of(key) != "none" for key in changes(checkpoint, config))


def depends_on_end(config: Config) -> bool:
    """Whether the learning rate of a step depends on how many follow."""
    warms_by_share = config.schedule.warmup_steps is None and config.schedule.warmup_ratio > 0
    return config.schedule.name != "constant" or warms_by_share


def resume_problems(checkpoint: Checkpoint, config: Config, layout: str, world_size: int) -> list[str]:
    """Reasons why a run as configured cannot go on from ``checkpoint``, each a sentence or two."""
    by_effect: dict[str, dict[str, tuple[Any, Any]]] = {"unusable": {}, "training": {}}
    for key, values in changes(checkpoint, config).items():
        effect = effect_here(key, values, config, layout)
        if effect in by_effect:
            by_effect[effect][key] = values
    problems = [*_unusable(checkpoint, by_effect["unusable"]), *_breaking(checkpoint, config, by_effect)]
    problems += adapter_problems(checkpoint, config)
    if layout != checkpoint.layout:
        problems.append(
            f"strategy: {checkpoint.path} was written in the layout {checkpoint.layout!r}, this run uses "
            f"{layout!r}; resume with the same strategy, or start from its weights"
        )
    elif layout.startswith("zero") and world_size != checkpoint.world_size:
        problems.append(
            f"trainer.devices: {checkpoint.path} was written by {checkpoint.world_size} ranks, this run has "
            f"{world_size}; ZeRO resumes only on as many (strategy=fsdp on any number)"
        )
    if config.trainer.max_steps is not None:
        problems += end_problems(checkpoint, config.trainer.max_steps, "trainer.max_steps")
    return problems


def end_problems(checkpoint: Checkpoint, total_steps: int, key: str) -> list[str]:
    """A run that would end before the step it goes on from."""
    if total_steps >= checkpoint.global_step:
        return []
    return [
        f"{key}: the run would end at step {total_steps}, but {checkpoint.path} is at step "
        f"{checkpoint.global_step} already; set more, or resume from an earlier checkpoint"
    ]


def effect_here(key: str, values: tuple[Any, Any], config: Config, layout: str) -> str:
    """As :func:`effect_of`, for this run's settings and the two values of the key."""
    if idle_reason(config, key) is not None:
        return "none"
    if key == "trainer.max_steps" and config.data.mix and config.data.mix_stop == "steps":
        return "training"  # such a mix is drawn for their number
    if key == "data.sources":
        old, new = (_without_places(value) for value in values)
        return "none" if old == new else "training"
    if key == "trainer.precision" and layout.startswith("zero"):
        return "unusable"
    if key == "seed" and config.model.init == "random" and config.adapter.name != "none":
        return "unusable"
    return effect_of(key)


def _without_places(sources: Any) -> Any:
    return {
        name: {inner: value for inner, value in source.items() if inner not in PLACES}
        for name, source in (sources or {}).items()
    }


def _unusable(checkpoint: Checkpoint, found: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for key, values in found.items():
        reason = {
            "trainer.precision": "another precision, in which ZeRO's files are laid out",
            "seed": "another seed, which draws the random base under an adapter",
        }.get(key) or FITTED[key]
        reasons.setdefault(reason, []).append(_pair(key, values))
    for reason, pairs in reasons.items():
        yield (
            f"{'; '.join(pairs)}: {checkpoint.path} holds the state of {reason}, which cannot be used. "
            "Resume with the former values, or start anew in another run_dir"
        )


def _breaking(
    checkpoint: Checkpoint, config: Config, by_effect: Mapping[str, Mapping[str, tuple[Any, Any]]]
) -> Iterator[str]:
    refused = {
        key: values
        for key, values in by_effect["training"].items()
        if not is_allowed(key, config.resume_allow)
    }
    if refused:
        pairs = "; ".join(_pair(key, values) for key, values in refused.items())
        names = ",".join([*config.resume_allow, *refused])
        yield (
            f"{pairs}: {checkpoint.path} was written with the former, and the run would not go on as it "
            f"began. Resume with the former values, or accept the change with 'resume_allow=[{names}]'"
        )


def is_allowed(key: str, allowed: list[str]) -> bool:
    """Whether ``resume_allow`` names a key or a section it lies in."""
    return any(within(key, name) for name in allowed)


def _pair(key: str, values: tuple[Any, Any]) -> str:
    old, new = values
    return f"{key}={show(new)} ({show(old)} before)"


def data_problems(checkpoint: Checkpoint, config: Config, data: str | None) -> list[str]:
    """Other training rows than the checkpoint's, though the settings ask for the same.

    Args:
        checkpoint: Where the run goes on from.
        config: Of this run.
        data: The fingerprint of this run's rows.
    """
    if checkpoint.data is None or data == checkpoint.data or is_allowed("data", config.resume_allow):
        return []
    accepted = [
        key
        for key, values in changes(checkpoint, config).items()
        if effect_here(key, values, config, checkpoint.layout) == "training"
    ]
    if any(within(key, name) for key in accepted for name in ROWS):
        return []  # as it was asked for
    return [
        f"data: the training rows are not those that {checkpoint.path} was written with, though the "
        "settings are: the files have changed since. Put the former back, or accept the change with "
        "resume_allow=[data]"
    ]


def adapters_below(config: Config) -> str | None:
    """A fingerprint of the adapters that are merged or stacked below the new one; None without any."""
    paths = [Path(path) for path in (*config.adapter.merge, *config.adapter.stack)]
    if not paths:
        return None
    found = hashlib.sha256()
    for path in paths:
        folder = path if (path / ADAPTER_WEIGHTS).is_file() else path / "model"
        for file in (*sorted(folder.glob(f"merged_adapters/*/{ADAPTER_WEIGHTS}")), folder / ADAPTER_WEIGHTS):
            if file.is_file():  # else it is told where it is loaded
                with file.open("rb") as stream:
                    found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()[:16]


def adapter_problems(checkpoint: Checkpoint, config: Config) -> list[str]:
    """Other earlier adapters than the checkpoint's in the same places."""
    if checkpoint.adapters is None or is_allowed("adapter", config.resume_allow):
        return []
    if changes(checkpoint, config).keys() & {"adapter.merge", "adapter.stack"}:
        return []  # told by name, or asked for
    if adapters_below(config) == checkpoint.adapters:
        return []
    paths = ", ".join((*config.adapter.merge, *config.adapter.stack))
    choice = ", or accept the change with resume_allow=[adapter]" if config.task == "train" else ""
    return [
        f"adapter: {paths} changed since {checkpoint.path} was written, which holds only what was trained "
        f"over the former. Put the former back{choice}"
    ]
