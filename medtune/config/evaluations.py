"""Which split is answered while a model learns, and what cannot be; known without torch."""

from collections.abc import Iterator

from medtune.config.schema import Config, SourceConfig
from medtune.config.sources import sources_of
from medtune.config.suggest import did_you_mean, nearest

VALIDATION = "validation"


def evaluated_split(config: Config) -> str | None:
    """The split of evaluations during training; None where no split could be.

    A checkpoint that is chosen by a test split's score would make that score worthless, so the validation
    split comes first.
    """
    data = config.data
    if config.eval.split is not None:
        return config.eval.split
    for name, source in sources_of(data).items():
        if VALIDATION in source.splits and source.format != "text":
            return f"{name}/{VALIDATION}" if data.mix else VALIDATION
    return data.eval_splits[0] if data.eval_splits else None


def splits_of(config: Config) -> list[str]:
    """Every split by the name that ``eval.split`` takes; none where a hub data set has its own."""
    sources = sources_of(config.data)
    if any(source.hub and not source.splits for source in sources.values()):
        return []
    return [
        f"{name}/{split}" if config.data.mix else split
        for name, source in sources.items()
        for split in source.splits
    ]


def source_of_evaluation(config: Config) -> SourceConfig | None:
    """The source of :func:`evaluated_split`."""
    split = evaluated_split(config)
    if split is None:
        return None
    sources = sources_of(config.data)
    name = split.partition("/")[0] if config.data.mix else config.data.name
    return sources.get(name)


def evaluation_problems(config: Config) -> Iterator[str]:
    """Evaluations during training without anything to answer, or under a strategy that is not ours."""
    every = config.eval.every_n_steps
    named, known = config.eval.split, splits_of(config)
    if config.task in ("train", "evaluate") and named is not None and known and named not in known:
        yield f"eval.split={named} is none of {', '.join(known)}{did_you_mean(nearest(named, known))}"
        return
    if config.task != "train" or every is None:
        return
    if evaluated_split(config) is None:
        yield (
            f"eval.every_n_steps={every} needs a split whose records have responses to score against, and "
            f"data={config.data.name} has neither data.splits.validation nor data.eval_splits; name one with "
            "eval.split=NAME"
        )
    target = str(config.strategy.get("_target_", ""))
    if target and not target.startswith("medtune.training.strategies."):
        yield (
            f"eval.every_n_steps={every} with strategy._target_={target}: how it lays weights out is not "
            "known here; set strategy=ddp, fsdp or zero3, or eval.every_n_steps=null"
        )
