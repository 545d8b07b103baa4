"""Files and folders that the settings name: made absolute, and checked before anything starts."""

import re
from collections.abc import Iterator
from pathlib import Path

from medtune.config.keys import value_of
from medtune.config.schema import Config

PATH_KEYS = (
    "data.dir",
    "data.cache_dir",
    "weights",
    "generate.input",
    "generate.output",
    "evaluate.predictions",
    "evaluate.references",
    "export.output",
)
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
    for key in MODEL_KEYS:
        path = value_of(config, key)
        if path and is_local(path, start):
            assign(config, key, absolute(path, start))
    if config.resume not in RESUME_WORDS:
        config.resume = absolute(config.resume, start)
    if config.run_dir:
        config.run_dir = absolute(config.run_dir, start)


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
    ):
        path = value_of(config, key)
        if path and uses(config, key) and not Path(path).exists():
            yield f"{key}={path} is not there; it must name {meaning}"
    if config.resume not in RESUME_WORDS and not Path(config.resume).exists():
        yield f"resume={config.resume} is not there; it must be never, auto or the path of a checkpoint"


def uses(config: Config, key: str) -> bool:
    """Whether the task reads the file at ``key``."""
    readers = {
        "weights": ("generate", "evaluate", "export", "chat"),
        "generate.input": ("generate",),
        "evaluate.predictions": ("evaluate",),
        "evaluate.references": ("evaluate",),
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
        if not Path(path).is_dir():
            yield f"{key}={path} is not there; set it to a folder with a transformers model, or to a hub id"
        elif key == "model.path" and not (Path(path) / "config.json").is_file():
            yield f"{key}={path} holds no config.json, so it is no transformers model"


def needs_model(config: Config) -> bool:
    """Whether the task loads a model or its tokenizer."""
    return not (config.task == "evaluate" and config.evaluate.predictions)


def data_problems(config: Config) -> Iterator[str]:
    """Files of ``data.splits`` that the task reads and that are not there."""
    read = splits_read(config)
    if not read:
        return
    splits = [split for split in read if split in config.data.splits]
    folder = Path(config.data.dir) if config.data.dir else None
    origin = f" (origin: {config.data.origin})" if config.data.origin else ""
    if folder is None:
        yield f"data.dir is not set, and data={config.data.name} needs it; set data.dir=FOLDER{origin}"
    elif not folder.is_dir():
        yield f"data.dir={folder} is not there; set data.dir=FOLDER{origin}"
    else:
        for split in splits:
            if not (folder / config.data.splits[split]).is_file():
                yield (
                    f"data.splits.{split}={config.data.splits[split]} is not in data.dir={folder}; "
                    f"set data.dir=FOLDER or data.splits.{split}=FILE{origin}"
                )


def splits_read(config: Config) -> list[str]:
    """The splits whose files the task opens."""
    answered = splits_answered(config)
    if config.task in ("train", "prepare"):
        return list(dict.fromkeys(["train", "validation", *answered]))
    if answered and config.task == "evaluate" and config.eval.trivial and not config.evaluate.predictions:
        return ["train", *answered]  # the rules without learning count its answers
    return answered


def splits_answered(config: Config) -> list[str]:
    """The splits whose prompts are answered or whose gold is compared with; none when a file is named."""
    named = [config.generate.split] if config.generate.split else []
    if config.task == "train":
        return config.data.eval_splits if config.eval.after_fit else []
    if config.task == "generate":
        return [] if config.generate.input else named or config.data.eval_splits[:1]
    if config.task == "evaluate" and config.evaluate.predictions:
        return named or ([] if config.evaluate.references else config.data.eval_splits[:1])
    return named or config.data.eval_splits if config.task == "evaluate" else []
