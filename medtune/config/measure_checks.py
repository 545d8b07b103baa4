"""The rules between settings about what is measured: perplexity, exams."""

from collections.abc import Iterator

from medtune.config.idle import answers_early
from medtune.config.paths import splits_measured
from medtune.config.schema import Config
from medtune.config.sources import sources_with_split
from medtune.runtime.errors import ConfigError


def measure_problems(config: Config) -> Iterator[str]:
    """Measures that exclude each other, or that lack what they need."""
    evaluate = config.evaluate
    if evaluate.shots_split is not None and not evaluate.shots:
        yield (
            f"evaluate.shots_split={evaluate.shots_split} says where shots come from, but there are none; "
            "set evaluate.shots=N"
        )
    if config.task == "train" and answers_early(config) and evaluate.exam == "likelihood":
        yield (
            "evaluate.exam=likelihood cannot be measured with eval.every_n_steps, whose answers are "
            "generated; leave one of them out, or take the exam of the finished run with task=evaluate"
        )
    if not evaluate.perplexity or config.task != "evaluate":
        return
    if evaluate.predictions:
        yield (
            "evaluate.perplexity=true is measured on the data's own text, and evaluate.predictions is scored "
            "without a model; leave one of them out"
        )
        return
    splits = splits_measured(config)
    if not splits:
        yield "evaluate.perplexity=true has nothing to measure; set generate.split=SPLIT"
    for split in splits:
        try:
            found = sources_with_split(config.data, split)
        except ConfigError:
            return  # data_checks says so
        if not found:
            known = ", ".join(config.data.mix or config.data.splits) or "none"
            what = "sources" if config.data.mix else "splits"
            yield f"generate.split={split} is no split of data={config.data.name}; its {what} are {known}"
