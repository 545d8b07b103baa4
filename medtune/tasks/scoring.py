"""Scoring a predictions file against gold records."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medtune.config.schema import Config
from medtune.data.examples import Example, Turn
from medtune.data.reading.records import read_records
from medtune.data.reading.splits import read_examples, split_examples
from medtune.evaluation.promptcblue import find_protocol
from medtune.evaluation.promptcblue.file_scores import score_lines
from medtune.evaluation.promptcblue.matching import match
from medtune.evaluation.promptcblue.predictions_file import read_predictions
from medtune.evaluation.scores import Scores
from medtune.evaluation.systems import is_promptcblue, score_answers
from medtune.runtime.record import RunFolder, write_jsonl
from medtune.tasks.comparing import FILE, compare
from medtune.tasks.details import (
    explain_answers,
    explain_rows,
    has_responses,
    read_gold_answers,
    refuse_promptcblue_settings,
    write_submission,
)

log = logging.getLogger(__name__)


def score_file(config: Config, folder: RunFolder) -> Scores | None:
    """Scores ``evaluate.predictions`` against the gold records; None where these hold no answers."""
    examples, source = read_gold(config)
    predictions = Path(str(config.evaluate.predictions))
    refuse_withheld(config, examples, source)
    refuse_partly_promptcblue(examples)
    if not is_promptcblue(examples):
        return score_other_file(config, folder, examples, predictions, source)
    rules, records = find_protocol(config.evaluate.protocol), [example.record for example in examples]
    if not has_responses(examples):
        matched = match(records, read_predictions(predictions))
        write_submission(examples, matched.texts, matched.holes, rules, folder)
        return None
    references = read_gold_answers(examples, rules)
    scored = score_lines(references, read_predictions(predictions), rules)
    if (problems := scored.matched.to_text()) is not None:
        log.warning("warning: %s: %s", predictions, problems)
    texts = scored.matched.texts
    if config.evaluate.submission:
        write_submission(examples, texts, scored.matched.holes, rules, folder)
    answered = ({**record, "target": text} for record, text in zip(records, texts, strict=True))
    write_jsonl(folder.predictions / f"{FILE}.jsonl", answered)
    if config.evaluate.against is not None:
        compare(config, folder, FILE, references, scored.rows, rules)
    explain_rows(config, folder, FILE, scored.rows, texts, rules)
    return scored.scores


def read_gold(config: Config) -> tuple[list[Example], str]:
    """The records that a predictions file answers, and what they are called in messages."""
    if config.generate.split or not config.evaluate.references:
        from medtune.tasks.generate import default_split  # draws transformers in

        split = config.generate.split or default_split(config)
        return list(split_examples(config.data, split, needs_response=False)), f"split {split}"
    path = Path(config.evaluate.references)
    if (records := read_named_records(path)) is not None:
        return [make_example(record, path, line) for line, record in records], str(path)
    return list(read_examples(path, config.data, needs_response=False)), str(path)


def read_named_records(path: Path) -> list[tuple[int, dict[str, Any]]] | None:
    """The records of a file that names PromptCBLUE's tasks; None of any other."""
    if path.is_dir():
        return None
    records = read_records(path)
    try:
        first = next(records)
    except ValueError:
        return None  # the reader of its format says what is wrong, and perhaps skips it
    return [first, *records] if "task_dataset" in first[1] else None


def make_example(record: dict[str, Any], path: Path, line: int) -> Example:
    """An example to be scored with; unlike one to learn from, it may do without an input."""
    prompt, target = record.get("input"), record.get("target")
    turns = (
        Turn("prompt", prompt if isinstance(prompt, str) else "", learned=False),
        Turn("response", target if isinstance(target, str) else "", learned=True),
    )
    return Example(turns, str(path), line, record)


def refuse_withheld(config: Config, examples: Sequence[Example], source: str) -> None:
    """Raises ValueError when no example has a response, unless the answers are wanted as a submission."""
    if has_responses(examples) or (config.task == "evaluate" and config.evaluate.submission):
        return
    packed = "evaluate.submission=true packs the answers for PromptCBLUE's organisers"
    if config.task == "train":
        choice = "choose another split: eval.split=NAME (during training), data.eval_splits=[NAME] (after)"
    elif config.evaluate.predictions and config.evaluate.references:
        choice = f"name a file with them, evaluate.references=FILE; {packed}"
    else:
        choice = (
            "choose another split with generate.split=NAME or data.eval_splits=[NAME], or task=generate to "
            f"write predictions only; {packed}"
        )
    raise ValueError(f"{source} holds no responses to score against; {choice}")


def refuse_partly_promptcblue(examples: Sequence[Example]) -> None:
    """Raises ValueError where some records name their PromptCBLUE task and others do not."""
    unnamed = [example for example in examples if "task_dataset" not in example.record]
    if unnamed and len(unnamed) < len(examples):
        raise ValueError(
            f"{unnamed[0].where}: no task_dataset, which {len(examples) - len(unnamed)} other records have; "
            "name the task of each record, or leave task_dataset out of all"
        )


def score_other_file(
    config: Config, folder: RunFolder, examples: Sequence[Example], predictions: Path, source: str
) -> Scores:
    """Scores a predictions file for records of other data, row by row in their order."""
    refuse_promptcblue_settings(config, source)
    records = list(read_records(predictions))
    if len(records) != len(examples):
        raise ValueError(
            f"{predictions} has {len(records)} rows, but {source} has {len(examples)}; "
            "evaluate.predictions needs a row for each record of the gold file, in its order"
        )
    texts = []
    for example, (line, record) in zip(examples, records, strict=True):
        where = f"{predictions}:{line}"
        refuse_other_sample(record, example, where)
        texts.append(prediction_of(record, where))
    explain_answers(config, folder, FILE, examples, texts)
    return score_answers(examples, texts, config.evaluate.protocol)


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
