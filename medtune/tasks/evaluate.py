"""``task=evaluate``: scores a predictions file, or what a model answers, with the rows to compare it to."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from medtune.config.schema import Config
from medtune.data.examples import Example
from medtune.data.reading.records import read_records
from medtune.data.reading.splits import read_examples, split_examples
from medtune.evaluation.report import plot_scores, scores_table, scores_text
from medtune.evaluation.scores import Scores
from medtune.evaluation.subset import choose_examples
from medtune.evaluation.systems import score_answers, trivial_scores
from medtune.generation.responder import build_responder, read_split, write_predictions
from medtune.runtime.ranks import global_rank
from medtune.runtime.record import RunFolder, merge_json, write_json
from medtune.tasks.generate import default_split
from medtune.tasks.weights import settle_weights

MODEL, UNTRAINED, TRIVIAL = "model", "untrained", "trivial"
Systems = dict[str, Scores]

rank_log = logging.getLogger("scores")  # not of medtune.*: to the rank's log file, beside the console's table


def run(config: Config, folder: RunFolder) -> None:
    """Writes scores.json, prints the table, draws the plots."""
    if config.evaluate.predictions:
        scores = {"predictions": score_file(config)}
        record_scores(config, folder, scores)
        return
    named = config.generate.split or config.eval.split
    splits = [named] if named else config.data.eval_splits or [default_split(config)]
    with settle_weights(config) as weights:
        record_scores(config, folder, evaluate_splits(config, folder, splits, weights))


def score_file(config: Config) -> Systems:
    """Scores ``evaluate.predictions`` against ``evaluate.references``."""
    split = config.generate.split or (None if config.evaluate.references else default_split(config))
    references = f"split {split}" if split else str(config.evaluate.references)
    examples = (
        read_split(config, split)
        if split
        else list(read_examples(Path(references), config.data, needs_response=False))
    )
    predictions = Path(str(config.evaluate.predictions))
    refuse_withheld(examples, references)
    records = list(read_records(predictions))
    if len(records) != len(examples):
        raise ValueError(
            f"{predictions} has {len(records)} rows, but {references} has {len(examples)}; "
            "evaluate.predictions needs a row for each record of the gold file, in its order"
        )
    texts = []
    for example, (line, record) in zip(examples, records, strict=True):
        where = f"{predictions}:{line}"
        refuse_other_sample(record, example, where)
        texts.append(prediction_of(record, where))
    return {MODEL: score_answers(examples, texts, config.evaluate.protocol)}


def prediction_of(record: Mapping[str, object], where: str) -> str:
    """The answer in a row of a predictions file."""
    if not isinstance(record.get("target"), str):
        raise ValueError(
            f"{where}: a row of predictions needs a string 'target', found {record.get('target')!r}"
        )
    return str(record["target"])


def refuse_other_sample(record: Mapping[str, object], example: Example, where: str) -> None:
    """Raises ValueError where a prediction names another sample than the gold record in its place."""
    found, due = record.get("sample_id"), example.record.get("sample_id")
    if found is not None and due is not None and found != due:
        raise ValueError(
            f"{where}: sample_id {found!r}, but {example.where} has {due!r}; bring the predictions into "
            "the order of the gold file"
        )


def evaluate_splits(
    config: Config, folder: RunFolder, splits: Sequence[str], weights: str | None
) -> dict[str, Systems]:
    """Generates and scores splits, by the model and by what it is compared to; all ranks take part."""
    examples = {split: answered(config, split) for split in splits}
    untrained = config.eval.untrained
    if untrained is None:
        untrained = config.model.init == "random" and weights is not None
    sources = {MODEL: weights} | ({UNTRAINED: None} if untrained else {})
    scores: dict[str, Systems] = {split: {} for split in splits}
    for system, source in sources.items():
        responder = build_responder(config, source)
        for split in splits:
            texts = responder.answer(examples[split], f"{split} ({system})")
            scores[split][system] = score_answers(examples[split], texts, config.evaluate.protocol)
            if global_rank() == 0:
                name = split if system == MODEL else f"{split}_{system}"
                write_predictions(folder.predictions / f"{name}.jsonl", examples[split], texts)
    if config.eval.trivial and global_rank() == 0:
        for split in splits:
            trained = f"{split.rpartition('/')[0]}/train" if config.data.mix else "train"
            train = list(split_examples(config.data, trained, needs_response=True))
            scores[split][TRIVIAL] = trivial_scores(
                train, examples[split], config.evaluate.protocol, config.seed
            )
    return scores


def answered(config: Config, split: str) -> list[Example]:
    """The examples of a split that are scored: after a fit all, else those that the settings choose.

    Raises:
        ValueError: Their responses are withheld, or ``eval.tasks`` names what is not there.
    """
    if config.task == "train":
        return read_answered(config, split)
    return chosen_examples(config, split, config.eval.limit_per_task)


def chosen_examples(config: Config, split: str, limit: int | None) -> list[Example]:
    """The examples of a split that are of ``eval.tasks``, at most ``limit`` of each.

    Raises:
        ValueError: As :func:`answered`.
    """
    return choose_examples(read_answered(config, split), config.eval.tasks, limit, config.seed)


def read_answered(config: Config, split: str) -> list[Example]:
    """The examples of a split, which must have gold responses.

    Raises:
        ValueError: They are withheld.
    """
    examples = read_split(config, split, config.eval.limit)
    refuse_withheld(examples, f"split {split}")
    return examples


def refuse_withheld(examples: Sequence[Example], references: str) -> None:
    """Raises ValueError when no example has a response to score against."""
    turns = (turn for example in examples for turn in example.turns)
    if not any(turn.text.strip() for turn in turns if turn.role == "response"):
        raise ValueError(
            f"{references} holds no responses to score against; choose another split with "
            "generate.split=NAME or data.eval_splits=[NAME], or task=generate to write predictions only"
        )


def record_scores(config: Config, folder: RunFolder, scores: Mapping[str, Systems]) -> float | None:
    """Writes and shows the scores on rank zero; returns the first split's, the headline."""
    if global_rank() != 0:
        return None
    splits = {
        split: {name: system.to_dict() for name, system in systems.items()}
        for split, systems in scores.items()
    }
    headline, systems = next(iter(scores.items()))
    write_json(folder.scores_file, {"split": headline, **systems[MODEL].to_dict(), "splits": splits})
    console = Console()
    for split, systems in scores.items():
        title = f"{config.data.name}: {split}"
        console.print(scores_table(systems, title))
        rank_log.info("%s", scores_text(systems, title))
        plot_scores(systems, folder.plots / f"scores_{split.replace('/', '_')}.png")
    score = scores[headline][MODEL].score
    merge_json(folder.result_file, {"status": "finished", "score": score})
    console.print(f"scores: {folder.scores_file}\nplots:  {folder.plots}", soft_wrap=True, highlight=False)
    return score
