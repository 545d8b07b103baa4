"""Files and folders that the settings name: made absolute, and checked before anything starts."""

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medtune.config.evaluations import evaluated_split
from medtune.config.keys import value_of
from medtune.config.schema import Config, SourceConfig
from medtune.config.sources import source_of_split, sources_with_split
from medtune.runtime.errors import ConfigError

PATH_KEYS = (
    "data.cache_dir",
    "weights",
    "generate.input",
    "generate.output",
    "evaluate.predictions",
    "evaluate.references",
    "evaluate.against",
    "export.output",
    "export.llama_cpp",
    "adapter.start",
)
PATH_LISTS = ("adapter.stack", "adapter.merge")
MODEL_KEYS = ("model.path", "model.tokenizer")  # a folder or a hub id
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
RESUME_WORDS = ("never", "auto")


def absolute(path: str, start: Path) -> str:
    """``path`` from the root, with ``~`` spelled out; relative ones start at ``start``."""
    return str((start / Path(path).expanduser()).resolve())


def with_absolute_paths(config: Config, start: Path) -> None:
    """Makes every path of ``config`` absolute, in place, so that the worker may run anywhere.

    A hub id stays as it is unless a folder of that name is there.
    """
    for key in PATH_KEYS:
        path = value_of(config, key)
        if path:
            assign(config, key, absolute(path, start))
    for key in PATH_LISTS:
        paths = value_of(config, key)
        paths[:] = [absolute(path, start) for path in paths]
    for source in [vars(config.data), *(config.data.sources.values())]:
        if isinstance(source, dict):
            settle_source_paths(source, start)
    for key in MODEL_KEYS:
        path = value_of(config, key)
        if path and is_local(path, start):
            assign(config, key, absolute(path, start))
    if config.resume not in RESUME_WORDS:
        config.resume = absolute(config.resume, start)
    if config.run_dir:
        config.run_dir = absolute(config.run_dir, start)


def settle_source_paths(source: dict[str, Any], start: Path) -> None:
    """Makes the paths of a source absolute: its folder, a local hub folder, and splits that lie elsewhere.

    A split is a name in ``dir``; without a ``dir``, or when it is not found there, a path from ``start``.
    """
    if isinstance(source.get("dir"), str):
        source["dir"] = absolute(source["dir"], start)
    if isinstance(source.get("hub"), str):
        if is_local(source["hub"], start):
            source["hub"] = absolute(source["hub"], start)
        return
    splits = source.get("splits")
    if isinstance(splits, dict):
        source["splits"] = {split: place(value, source.get("dir"), start) for split, value in splits.items()}


def place(value: Any, folder: str | None, start: Path) -> Any:
    """A split's value: as it is when it lies in ``folder``, else its path from ``start`` when it is there."""
    if not isinstance(value, str) or (folder and exists(Path(folder) / value)):
        return value
    elsewhere = absolute(value, start)
    return elsewhere if exists(Path(elsewhere)) or not folder else value


def assign(config: Config, key: str, value: str) -> None:
    """Sets a dotted key."""
    section, _, name = key.rpartition(".")
    setattr(value_of(config, section) if section else config, name, value)


def is_local(path: str, start: Path) -> bool:
    """Whether a model's path means a folder: it is there, or it cannot be a hub id."""
    return not HUB_ID.fullmatch(path) or (start / Path(path).expanduser()).exists()


def path_problems(config: Config) -> Iterator[str]:
    """Paths that are not there."""
    yield from model_problems(config)
    yield from data_problems(config)
    for key, meaning in (
        ("weights", "a run folder, a checkpoint in one, or an exported model"),
        ("generate.input", "a file of prompts"),
        ("evaluate.predictions", "a predictions file"),
        ("evaluate.references", "a file of gold records"),
        ("evaluate.against", "a run folder with predictions, or a predictions file"),
    ):
        path = value_of(config, key)
        if path and uses(config, key) and not Path(path).exists():
            yield f"{key}={path} is not there; it must name {meaning}"
    output = config.generate.output
    if output and config.task == "generate" and Path(output).is_dir():
        yield f"generate.output={output} is a folder; name a file in it"
    adapter = config.adapter
    earlier = [("start", adapter.start), *(("stack", path) for path in adapter.stack)]
    for name, path in (*earlier, *(("merge", path) for path in adapter.merge)):
        if path and config.task == "train" and not Path(path).exists():
            yield f"adapter.{name}={path} is not there; it must name an adapter folder, or its run"
    if config.resume not in RESUME_WORDS and not Path(config.resume).exists():
        yield f"resume={config.resume} is not there; it must be never, auto or the path of a checkpoint"


def uses(config: Config, key: str) -> bool:
    """Whether the task reads the file at ``key``."""
    readers = {
        "weights": ("generate", "evaluate", "export", "chat", "serve"),
        "generate.input": ("generate",),
        "evaluate.predictions": ("evaluate",),
        "evaluate.references": ("evaluate",),
        "evaluate.against": ("evaluate",),
    }
    return config.task in readers[key]


def model_problems(config: Config) -> Iterator[str]:
    """A model or tokenizer folder that is not there, or is not one."""
    if not needs_model(config):
        return
    holds_model = config.weights is not None and (Path(config.weights) / "config.json").is_file()
    for key in MODEL_KEYS:
        path = value_of(config, key)
        if not path or HUB_ID.fullmatch(path) or (holds_model and key == "model.path"):
            continue
        if Path(path).is_file():
            yield f"{key}={path} is a file; give the folder that holds it, {key}={Path(path).parent}"
        elif not Path(path).is_dir():
            yield f"{key}={path} is not there; set it to a folder with a transformers model, or to a hub id"
        elif key == "model.path" and not (Path(path) / "config.json").is_file():
            yield f"{key}={path} holds no config.json, so it is no transformers model"


def needs_model(config: Config) -> bool:
    """Whether the task loads a model or its tokenizer."""
    return not (config.task == "evaluate" and config.evaluate.predictions)


def data_problems(config: Config) -> Iterator[str]:
    """Files of the splits that the task reads and that are not there."""
    problems: list[str] = []
    counted = [split for split in splits_read(config) if split not in splits_answered(config)]
    if config.task != "evaluate" or is_measured(config):
        counted = []
    for split in splits_read(config):
        try:
            source, inner = source_of_split(config.data, split)
        except (ConfigError, ValueError):
            continue  # data_checks says so
        prefix = f"data.sources.{source.name}" if config.data.mix else "data"
        if source.hub is None and inner in source.splits:
            other = ", or eval.trivial=false" if split in counted else ""
            problems += file_problems(source, inner, prefix, other)
    yield from dict.fromkeys(problems)  # a folder that is not there concerns every split


def file_problems(source: SourceConfig, split: str, prefix: str, other: str) -> Iterator[str]:
    """A split's file, folder or pattern that is not there, where it can be had, and how to do without it."""
    origin = f" (origin: {source.origin})" if source.origin else ""
    value = source.splits[split]
    folder = Path(source.dir) if source.dir else None
    if Path(value).is_absolute():
        if not exists(Path(value)):
            yield f"{prefix}.splits.{split}={value} is not there{origin}"
    elif folder is None:
        yield f"{prefix}.dir is not set, and data={source.name} needs it; set {prefix}.dir=FOLDER{origin}"
    elif not folder.is_dir():
        yield f"{prefix}.dir={folder} is not there; set {prefix}.dir=FOLDER{origin}"
    elif not exists(folder / value):
        yield (
            f"{prefix}.splits.{split}={value} is not in {prefix}.dir={folder}; "
            f"set {prefix}.dir=FOLDER or {prefix}.splits.{split}=FILE{other}{origin}"
        )


def exists(path: Path) -> bool:
    """Whether a file, a folder or a match of a pattern is there."""
    return path.exists() or bool(glob.glob(str(path)))


def splits_read(config: Config) -> list[str]:
    """The splits whose files the task opens."""
    answered = splits_answered(config)
    data = config.data
    if is_measured(config):
        return files_measured(config)
    prefixes = [f"{name}/" for name in data.mix] or [""]
    if config.task in ("train", "prepare"):
        learned = [f"{prefix}{split}" for prefix in prefixes for split in ("train", "validation")]
        early = evaluated_split(config) if config.task == "train" and config.eval.every_n_steps else None
        return list(dict.fromkeys([*learned, *answered, *filter(None, [early])]))
    if answered and config.task == "evaluate" and config.eval.trivial and not config.evaluate.predictions:
        # The rules without learning count its answers.
        trained = [f"{split.rpartition('/')[0]}/train" if data.mix else "train" for split in answered]
        return list(dict.fromkeys([*trained, *answered]))
    return answered


def splits_answered(config: Config) -> list[str]:
    """The splits whose prompts are answered or whose gold is compared with; none when a file is named."""
    named = [config.generate.split] if config.generate.split else []
    if config.task == "train":
        return config.data.eval_splits if config.eval.after_fit is not False else []
    if is_measured(config):
        return []  # nothing is answered; see splits_measured
    if config.task == "generate":
        return [] if config.generate.input else named or config.data.eval_splits[:1]
    if config.task == "evaluate" and config.evaluate.predictions:
        return named or ([] if config.evaluate.references else config.data.eval_splits[:1])
    if config.task != "evaluate":
        return []
    return named or ([config.eval.split] if config.eval.split else config.data.eval_splits)


def is_measured(config: Config) -> bool:
    """Whether the run measures texts in place of answering prompts."""
    return config.task == "evaluate" and config.evaluate.perplexity


def splits_measured(config: Config) -> list[str]:
    """The splits whose perplexity is asked for."""
    if config.generate.split:
        return [config.generate.split]
    try:
        is_held_out = bool(sources_with_split(config.data, "validation"))
    except ConfigError:
        is_held_out = False  # data_checks says what is wrong
    return ["validation"] if is_held_out else list(config.data.eval_splits)


def files_measured(config: Config) -> list[str]:
    """The splits, each of one source, whose files a measurement opens; what is held out lies in ``train``."""
    try:
        found = [pair for split in splits_measured(config) for pair in sources_with_split(config.data, split)]
    except ConfigError:
        return []  # data_checks says so
    prefix = "{}/" if config.data.mix else ""
    return [
        prefix.format(source.name) + (split if split in source.splits else "train") for source, split in found
    ]
