"""The rules between settings about data: sources, mixes, splits, filters."""

import math
import re
from collections.abc import Iterator

from medtune.config.load import show
from medtune.config.paths import splits_answered
from medtune.config.roles import role_problems
from medtune.config.schema import Config, DataConfig, SourceConfig
from medtune.config.sources import sources_of
from medtune.config.suggest import did_you_mean, nearest
from medtune.runtime.errors import ConfigError

TASKS_OF_ROWS = ("train", "prepare")


def data_problems(config: Config) -> Iterator[str]:
    """Everything about ``data`` that the settings alone show."""
    try:
        sources = sources_of(config.data)
    except ConfigError as error:
        yield from error.problems
        return
    for name, source in sources.items():
        prefix = f"data.sources.{name}" if config.data.mix else "data"
        yield from source_problems(source, prefix)
        yield from learning_problems(config, source, prefix)
    yield from mix_problems(config, sources)
    yield from split_problems(config, sources)
    yield from answer_problems(config, sources)
    yield from batch_size_problems(config.data)


def source_problems(source: SourceConfig, prefix: str) -> Iterator[str]:
    """Values of one source that make no sense by themselves."""
    size = source.validation_size
    if size is not None and not (0 < size < 1 or (size >= 1 and size == int(size))):
        yield f"{prefix}.validation_size={show(size)} must be a share between 0 and 1, or a whole number"
    if size is not None and "validation" in source.splits:
        yield (
            f"{prefix}.validation_size={show(size)}, but there is a validation split already "
            f"({prefix}.splits.validation={source.splits['validation']}); leave one of them out"
        )
    for key in ("max_examples", "max_tokens"):
        value = getattr(source, key)
        if value is not None and value < 1:
            yield f"{prefix}.{key}={show(value)} must be at least 1"
    for split in source.sha1:
        if split not in source.splits:
            meant = did_you_mean(nearest(split, source.splits))
            yield f"{prefix}.sha1.{split}: there is no such split, so nothing would be compared{meant}"
    for key in ("subset", "revision", "folder"):
        if getattr(source, key) is not None and source.hub is None:
            yield f"{prefix}.{key}={getattr(source, key)} belongs to a hub data set; set {prefix}.hub=ID too"
    if source.streaming and source.hub is None:
        yield f"{prefix}.streaming=true reads a hub data set; local files are always streamed: leave it out"
    yield from role_problems(source.roles, f"{prefix}.roles")
    yield from filter_problems(source, f"{prefix}.filter")


def filter_problems(source: SourceConfig, prefix: str) -> Iterator[str]:
    """Bounds that cross or lie outside what they mean."""
    limits = source.filter
    for key in ("min_chars", "max_chars"):
        value = getattr(limits, key)
        if value is not None and value < 1:
            yield f"{prefix}.{key}={value} must be at least 1"
    if limits.min_chars and limits.max_chars and limits.min_chars > limits.max_chars:
        yield (
            f"{prefix}.min_chars={limits.min_chars} is above {prefix}.max_chars={limits.max_chars}; "
            "no record could stay"
        )
    for key in ("match", "exclude"):
        try:
            re.compile(getattr(limits, key) or "")
        except re.error as error:
            yield f"{prefix}.{key}={getattr(limits, key)} is no regular expression: {error}"
    for key in ("min_language_share", "max_repeated_share"):
        value = getattr(limits, key)
        if value is not None and not 0 <= value <= 1:
            yield f"{prefix}.{key}={show(value)} must be from 0 to 1"


def learning_problems(config: Config, source: SourceConfig, prefix: str) -> Iterator[str]:
    """Rows that the objective cannot learn from this source."""
    if config.task not in TASKS_OF_ROWS:
        return
    if source.objective is not None and source.objective not in ("sft", "pretrain"):
        yield f"{prefix}.objective={source.objective} is none of sft, pretrain"
        return
    if source.objective is not None and not config.data.mix:
        yield f"{prefix}.objective={source.objective}: a data set alone follows the run's objective=..."
        return
    if objective_of(config, source) != "sft":
        return
    key = f"{prefix}.objective" if config.data.mix else "objective"
    if source.format == "text":
        yield (
            f"objective=sft learns responses, but data={source.name} ({prefix}.format=text) has none; "
            f"set {key}=pretrain"
        )
    if source.overlong == "split":
        yield (
            f"{prefix}.overlong=split cuts a text into several, which would part a response from its prompt; "
            f"set {key}=pretrain, or {prefix}.overlong=truncate"
        )
    if config.data.packing == "concat":
        of = f" of {source.name}" if config.data.mix else ""
        yield (
            f"data.packing=concat cuts rows anywhere, which would part a response{of} from its prompt; "
            f"set {key}=pretrain, or data.packing=bfd"
        )


def objective_of(config: Config, source: SourceConfig) -> str | None:
    """What is learned of a source as far as the settings tell; None: its first record will."""
    if not config.data.mix:
        return config.objective
    if source.objective is not None or config.objective == "pretrain":
        return source.objective or config.objective
    return {"text": "pretrain", "auto": None}.get(source.format, config.objective)


def mix_problems(config: Config, sources: dict[str, SourceConfig]) -> Iterator[str]:
    """Weights and limits from which no mix can be made."""
    data = config.data
    if not data.mix_temperature > 0:  # nan is neither
        yield f"data.mix_temperature={show(data.mix_temperature)} must be above 0"
    if not 0 < data.dedup_threshold <= 1:
        yield f"data.dedup_threshold={show(data.dedup_threshold)} must be above 0 and at most 1"
    if not data.mix:
        return
    repeated = {name for name in data.mix if data.mix.count(name) > 1}
    if repeated:
        yield f"data.mix={show(data.mix)} names {', '.join(sorted(repeated))} twice; give it a weight instead"
    weights = {name: source.weight for name, source in sources.items()}
    for name, source in sources.items():
        for key in ("weight", "max_passes"):
            value = getattr(source, key)
            if value is not None and (not math.isfinite(value) or value < 0):
                yield f"data.sources.{name}.{key}={show(value)} must be a number from 0"
    missing = [name for name, weight in weights.items() if weight is None]
    if missing and len(missing) < len(weights) and data.mix_by != "epochs":
        keys = " ".join(f"data.sources.{name}.weight=..." for name in missing)
        yield f"some sources of the mix have a weight, {', '.join(missing)} none; set {keys}, or none at all"
    if weights and all(weight == 0 for weight in weights.values()):
        yield "every weight of the mix is 0, so nothing would be learned; raise one"
    if data.mix_stop == "steps" and config.task in TASKS_OF_ROWS and config.trainer.max_steps is None:
        yield "data.mix_stop=steps ends the mix after trainer.max_steps; set trainer.max_steps=N"
    if data.mix_stop == "steps" and data.mix_by == "epochs":
        yield "data.mix_stop=steps has no use with data.mix_by=epochs, where the weights say how much is read"


def split_problems(config: Config, sources: dict[str, SourceConfig]) -> Iterator[str]:
    """Split names that the sources do not have."""
    has = {name: list(source.splits) for name, source in sources.items()}
    if config.task in TASKS_OF_ROWS:
        for name, source in sources.items():
            is_named_elsewhere = source.dataset or source.hub or source.name == "dataset_info"
            if "train" not in source.splits and not is_named_elsewhere:
                prefix = f"data.sources.{name}" if config.data.mix else "data"
                yield (
                    f"task={config.task} needs {prefix}.splits.train=FILE; data={name} has "
                    f"{', '.join(has[name]) or 'no splits'}"
                )
    known = split_names(config.data, sources)
    shown = f"data={config.data.name} has {', '.join(known) or 'no splits'}"
    for split in splits_answered(config):
        if split in known or split == config.eval.split:  # of which evaluation_problems speaks
            continue
        near = nearest(split, known)
        if split == config.generate.split and config.task != "train":
            meant = did_you_mean(f"generate.split={near}" if near else None)
            yield f"generate.split={split} is not a split; {shown}{meant}"
        else:
            yield f"data.eval_splits={show(config.data.eval_splits)}: {shown}{did_you_mean(near)}"


def split_names(data: DataConfig, sources: dict[str, SourceConfig]) -> list[str]:
    """Every split as it is named on the command line."""
    if not data.mix:
        return list(data.splits)
    return [f"{name}/{split}" for name, source in sources.items() for split in source.splits]


def answer_problems(config: Config, sources: dict[str, SourceConfig]) -> Iterator[str]:
    """Nothing to answer or to compare with, or prompts that the format does not have."""
    answered = splits_answered(config)
    texts = [name for name, source in sources.items() if source.format == "text"]
    for split in answered:
        if not config.data.mix and texts:
            yield "data.format=text has no prompts to answer; set data.eval_splits=[]"
            break
        if split.partition("/")[0] in texts:
            key = "eval.split" if split == config.eval.split else "data.eval_splits"
            yield f"{key}: {split} is text, which has no prompts to answer; leave it out"
    if config.task == "generate" and not config.generate.input and not answered:
        yield "task=generate has nothing to answer; set generate.split=SPLIT or generate.input=FILE"
    if config.task == "evaluate" and config.evaluate.references and not config.evaluate.predictions:
        yield (
            f"evaluate.references={config.evaluate.references} is what evaluate.predictions is scored "
            "against, and there is none; set evaluate.predictions=FILE, or generate.split=SPLIT to answer one"
        )
    elif config.task == "evaluate" and not answered and not config.evaluate.perplexity:
        if not config.evaluate.predictions:
            yield "task=evaluate has nothing to answer; set generate.split=SPLIT"
        elif not config.evaluate.references:
            yield "task=evaluate has no gold; set generate.split=SPLIT or evaluate.references=FILE"


def batch_size_problems(data: DataConfig) -> Iterator[str]:
    """A batch in tokens that holds no row."""
    tokens = data.global_batch_tokens
    if tokens is not None and tokens < data.sequence_length:
        yield (
            f"data.global_batch_tokens={tokens} is less than one row of data.sequence_length="
            f"{data.sequence_length}; raise it"
        )
