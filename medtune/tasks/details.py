"""What goes with the scores of a split: its worst rows, confusion tables, an archive, a comparison."""

import logging
from collections.abc import Mapping, Sequence

from rich.console import Console

from medtune.config.schema import Config
from medtune.data.examples import Example
from medtune.evaluation.promptcblue import find_protocol
from medtune.evaluation.promptcblue.confusion import count_confusions, plot_confusion, write_table
from medtune.evaluation.promptcblue.matching import list_few
from medtune.evaluation.promptcblue.protocols import Protocol
from medtune.evaluation.promptcblue.records import Reference, Row, find_task, read_references, read_rows
from medtune.evaluation.promptcblue.submission_zip import ZIP_NAME, find_fatal_rows, pack_submission
from medtune.evaluation.promptcblue.worst import find_worst
from medtune.evaluation.systems import gold, is_promptcblue
from medtune.evaluation.worst_texts import find_worst_texts
from medtune.runtime.record import RunFolder, merge_json, write_bytes, write_jsonl
from medtune.tasks.comparing import compare, file_name, read_other

log = logging.getLogger(__name__)


def has_responses(examples: Sequence[Example]) -> bool:
    """Whether some example has a response to score against."""
    turns = (turn for example in examples for turn in example.turns)
    return any(turn.text.strip() for turn in turns if turn.role == "response")


def read_gold_answers(examples: Sequence[Example], rules: Protocol) -> list[Reference]:
    """The gold records of examples; what is wrong with one is told by its file and line."""
    places = [example.where for example in examples]
    return read_references([example.record for example in examples], rules, places)


def refuse_promptcblue_settings(config: Config, source: str) -> None:
    """Raises ValueError for what only PromptCBLUE's records allow."""
    for key, value in (("submission", config.evaluate.submission), ("against", config.evaluate.against)):
        if value:
            raise ValueError(
                f"evaluate.{key} is for PromptCBLUE, and the records of {source} have no task_dataset; "
                f"leave evaluate.{key} out"
            )


def check_asked(config: Config, split: str, examples: Sequence[Example]) -> None:
    """Finds out before a split is answered, not after, that it cannot be compared or handed in.

    Raises:
        ValueError: It is not PromptCBLUE's, or ``evaluate.against`` does not answer the same records.
    """
    if not is_promptcblue(examples):
        refuse_promptcblue_settings(config, f"split {split}")
    elif config.evaluate.against is not None and has_responses(examples):
        read_other(config, split, read_gold_answers(examples, find_protocol(config.evaluate.protocol)))


def explain_answers(
    config: Config, folder: RunFolder, split: str, examples: Sequence[Example], texts: Sequence[str]
) -> None:
    """Writes what goes with the scores of a split that was answered."""
    asked = config.task == "evaluate"  # task=train reads neither evaluate.submission nor evaluate.against
    if not is_promptcblue(examples):
        golds = [gold(example) for example in examples]
        worst = find_worst_texts(examples, golds, texts, config.evaluate.worst_rows)
        write_worst(folder, split, worst)
        return
    rules = find_protocol(config.evaluate.protocol)
    if asked and config.evaluate.submission:
        write_submission(examples, texts, [], rules, folder)
    if not has_responses(examples):
        return
    references = read_gold_answers(examples, rules)
    rows = read_rows(references, texts, rules)
    if asked and config.evaluate.against is not None:
        compare(config, folder, split, references, rows, rules)
    explain_rows(config, folder, split, rows, texts, rules)


def explain_rows(
    config: Config,
    folder: RunFolder,
    split: str,
    rows: Sequence[Row],
    texts: Sequence[str],
    rules: Protocol,
) -> None:
    """Writes the worst rows, and a confusion table with its picture for each classification task."""
    write_worst(folder, split, find_worst(rows, texts, config.evaluate.worst_rows, rules))
    for table in count_confusions(rows, rules):
        path = folder.details / file_name(split) / f"confusion_{table.task}.csv"
        write_bytes(path, write_table(table).encode("utf-8-sig"))  # the mark tells Excel that it is UTF-8
        plot_confusion(table, folder.plots / f"confusion_{file_name(split)}_{table.task}.png")


def write_worst(folder: RunFolder, split: str, worst: Sequence[Mapping[str, object]]) -> None:
    """Writes rows one a line."""
    write_jsonl(folder.details / file_name(split) / "worst_rows.jsonl", worst)


def write_submission(
    examples: Sequence[Example],
    texts: Sequence[str],
    holes: Sequence[str],
    rules: Protocol,
    folder: RunFolder,
) -> None:
    """Packs the answers for the organisers.

    Raises:
        ValueError: Some record has no answer, or names no task of the protocol.
    """
    if holes:
        raise ValueError(
            f"a submission needs an answer to every record, and {len(holes)} have none: "
            f"{list_few(holes, 10)}; leave evaluate.submission out, or complete the predictions"
        )
    records, places = [example.record for example in examples], [example.where for example in examples]
    for record, place in zip(records, places, strict=True):
        find_task(record, place, rules)
    if fatal := find_fatal_rows(records, texts, places, rules):
        log.warning(
            "warning: the official parser would die on %d answers, and lose the file; the parser in the "
            "archive answers them with nothing: %s",
            len(fatal),
            list_few(fatal, 10),
        )
    path = folder.submission / ZIP_NAME
    write_bytes(path, pack_submission(records, texts, rules))
    merge_json(folder.result_file, {"submission": str(path)})
    Console().print(f"submission: {path}", soft_wrap=True, highlight=False, markup=False)
