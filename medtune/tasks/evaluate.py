"""``task=evaluate``: scores a predictions file, or what a model answers, with the rows to compare it to."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from medtune.config.schema import Config
from medtune.config.sources import has_split, source_of_split
from medtune.data.examples import Example
from medtune.data.reading.splits import split_examples
from medtune.evaluation.report import plot_scores, scores_table, scores_text
from medtune.evaluation.scores import Scores
from medtune.evaluation.subset import choose_examples
from medtune.evaluation.systems import score_answers, trivial_scores
from medtune.runtime.ranks import global_rank
from medtune.runtime.record import RunFolder, merge_json, write_json
from medtune.tasks.comparing import FILE
from medtune.tasks.details import check_asked, explain_answers, has_responses
from medtune.tasks.scoring import refuse_withheld, score_file

MODEL, UNTRAINED, TRIVIAL = "model", "untrained", "trivial"
Systems = dict[str, Scores]

rank_log = logging.getLogger("scores")  # not of medtune.*: to the rank's log file, beside the console's table


def run(config: Config, folder: RunFolder) -> None:
    """Writes scores.json, prints the table, draws the plots."""
    if config.evaluate.predictions:
        found = score_file(config, folder)
        record_scores(config, folder, {FILE: {MODEL: found}} if found else {})
        return
    # Here, because these draw torch and transformers in, which a predictions file does not need.
    from medtune.tasks import perplexity
    from medtune.tasks.generate import default_split, warn_of_untrained
    from medtune.tasks.weights import settle_weights

    if config.evaluate.perplexity:
        perplexity.run(config, folder)
        return
    warn_of_untrained(config)
    named = config.generate.split or config.eval.split
    splits = [named] if named else config.data.eval_splits or [default_split(config)]
    with settle_weights(config) as weights:
        record_scores(config, folder, evaluate_splits(config, folder, splits, weights))


def evaluate_splits(
    config: Config, folder: RunFolder, splits: Sequence[str], weights: str | None
) -> dict[str, Systems]:
    """Generates and scores splits, by the model and by what it is compared to; all ranks take part."""
    from medtune.generation.responder import build_responder, write_predictions
    from medtune.tasks import exams

    examples = {split: answered(config, split) for split in splits}
    if config.task == "evaluate":  # task=train reads neither evaluate.submission nor evaluate.against
        for split in splits:
            check_asked(config, split, examples[split])
    asked = {split: exams.with_shots(config, examples[split], split) for split in splits}
    untrained = config.eval.untrained
    if untrained is None:
        untrained = config.model.init == "random" and weights is not None
    if not any(map(has_responses, examples.values())):
        untrained = False
    sources = {MODEL: weights} | ({UNTRAINED: None} if untrained else {})
    scores: dict[str, Systems] = {split: {} for split in splits}
    for system, source in sources.items():
        # Where it is given no weights, a loader takes the setting's, which the untrained model is without.
        responder = build_responder(replace(config, weights=source), source)
        for split in splits:
            texts = exams.answer(config, responder, asked[split], f"{split} ({system})")
            if has_responses(examples[split]):
                scores[split][system] = score_answers(examples[split], texts, config.evaluate.protocol)
            if global_rank() == 0:
                name = split if system == MODEL else f"{split}_{system}"
                write_predictions(folder.predictions / f"{name}.jsonl", examples[split], texts)
                if system == MODEL:
                    explain_answers(config, folder, split, examples[split], texts)
        del responder  # the next model is loaded when this one is gone
    scores = {split: systems for split, systems in scores.items() if systems}
    if config.eval.trivial and global_rank() == 0:
        for split in scores:
            trained = f"{split.rpartition('/')[0]}/train" if config.data.mix else "train"
            if not has_split(source_of_split(config.data, trained)[0], "train"):
                continue  # the rules count training answers, and an exam such as C-Eval has none
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
    """The examples of a split, which must have gold responses, unless they are answered for a submission.

    Raises:
        ValueError: They are withheld.
    """
    from medtune.generation.responder import read_split
    from medtune.tasks import exams

    examples = read_split(config, split, config.eval.limit)
    refuse_withheld(config, examples, f"split {split}")
    exams.refuse_other_data(config, examples, split)
    return examples


def record_scores(config: Config, folder: RunFolder, scores: Mapping[str, Systems]) -> float | None:
    """Writes and shows the scores on rank zero; returns the first split's, the headline, if there is one."""
    if global_rank() != 0:
        return None
    if not scores:
        merge_json(folder.result_file, {"status": "finished"})
        Console().print("nothing was scored: the responses are withheld")
        return None
    splits = {
        split: {name: system.to_dict() for name, system in systems.items()}
        for split, systems in scores.items()
    }
    headline, systems = next(iter(scores.items()))
    write_json(folder.scores_file, {"split": headline, **systems[MODEL].to_dict(), "splits": splits})
    console = Console()
    for split, systems in scores.items():
        title = (
            f"{config.data.name}: {split}" if split != FILE else Path(str(config.evaluate.predictions)).name
        )
        console.print(scores_table(systems, title))
        console.print(official_text(systems[MODEL]), soft_wrap=True, highlight=False, markup=False)
        rank_log.info("%s", scores_text(systems, title))
        for note in dict.fromkeys(note for system in systems.values() for note in system.notes):
            console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
        plot_scores(systems, folder.plots / f"scores_{split.replace('/', '_')}.png")
    score = scores[headline][MODEL].score
    merge_json(folder.result_file, {"status": "finished", "score": score})
    console.print(f"scores: {folder.scores_file}\nplots:  {folder.plots}", soft_wrap=True, highlight=False)
    return score


def official_text(scores: Scores) -> str:
    """What the organisers would answer, and what is left when malformed rows cost nothing but themselves."""
    if scores.official_score is None:
        return f"{scores.official_error}"
    reason = f" ({scores.official_error})" if scores.official_error else ""
    return f"official score: {scores.official_score:.4f}{reason}\nrobust score:   {scores.robust_score:.4f}"
