"""``task=generate``: a split or a file of prompts in, predictions in the same order out."""

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtune.config.schema import Config
from medtune.data.examples import Example, Turn
from medtune.data.reading.records import read_lines
from medtune.data.reading.splits import read_examples
from medtune.generation.fingerprint import fingerprint
from medtune.generation.parts import (
    Answered,
    PartWriter,
    Share,
    answers_of,
    header_of,
    merge_parts,
    part_path,
    part_paths,
)
from medtune.generation.responder import Answer, Question, Responder, build_responder, prediction, read_split
from medtune.generation.summary import Spent, Told, log_summary, summary
from medtune.runtime.errors import ConfigError
from medtune.runtime.ranks import gather, global_rank, interleave, world_size
from medtune.runtime.record import RunFolder, write_json
from medtune.tasks.weights import settle_weights

log = logging.getLogger(__name__)


def run(config: Config, folder: RunFolder) -> None:
    """Writes the predictions file, or a part of it."""
    if config.generate.merge_shards is not None:
        merge_only(config, folder)
        return
    name, examples = read_prompts(config)
    output = Path(config.generate.output or folder.predictions / f"{name}.jsonl")
    refuse_output(output, config.generate.input)
    if output.exists() and global_rank() == 0:
        log.warning("warning: %s is there already; complete answers replace it, as the last step", output)
    warn_of_untrained(config)
    share = Share.parse(config.generate.shard)
    what = name if share.of == 1 else f"{name}, share {share}"
    with settle_weights(config) as weights:
        responder = build_responder(config, weights)
        questions = responder.prepare(examples)
        found = fingerprint(config, responder, examples, questions, weights)
        header = header_of(found, len(examples), share)
        answers, spent = answer_share(responder, examples, questions, output, share, header, what)
    if global_rank() == 0:
        finish(output, share, answers, spent, what, folder)


def answer_share(
    responder: Responder,
    examples: Sequence[Example],
    questions: Sequence[Question],
    output: Path,
    share: Share,
    header: Mapping[str, Any],
    what: str,
) -> tuple[dict[int, Told], Spent]:
    """Answers the rows of a share that no part holds yet; all ranks take part and know all of its answers."""
    before = answers_of(output, share, header)
    rows = [row for row in share.rows(len(examples)) if row not in before]
    if before and global_rank() == 0:
        log.info("%s: %d of %d answers were there", what, len(before), len(before) + len(rows))
    gather(None)  # nobody writes before all have read what was there
    mine = rows[global_rank() :: world_size()]
    started = time.monotonic()
    with PartWriter(part_path(output, share, global_rank()), header) as part:

        def keep(place: int, answer: Answer) -> None:
            row = prediction(examples[mine[place]], answer.text)
            part.add(mine[place], Answered(row, answer.tokens, answer.is_cut, answer.prompt_cut))

        answers = responder.respond([questions[row] for row in mine], what, keep)
    given = dict(zip(rows, interleave(gather(answers)), strict=True))
    tokens = sum(answer.tokens for answer in given.values())
    return {**before, **given}, Spent(time.monotonic() - started, len(rows), tokens)


def finish(
    output: Path, share: Share, answers: Mapping[int, Told], spent: Spent, what: str, folder: RunFolder
) -> None:
    """Puts the parts together where they are complete, and tells of the answers.

    The own part is not read for that: whoever completed the last one may have merged and removed it.
    """
    merged = merge_complete(output, share)
    found = summary(answers if merged is None else merged, spent)
    log_summary(found, what if merged is None or share.of == 1 else output.name)
    shown = {} if share.of == 1 else {"shard": str(share)}
    if merged is not None:
        log.info("predictions: %s", output)
        shown |= {"predictions": str(output)}
    write_json(folder.result_file, {"status": "finished", **shown, **found})


def merge_complete(output: Path, share: Share) -> dict[int, Answered] | None:
    """Merges the parts of all shares; None where other processes still answer theirs, or have merged."""
    if share.of == 1:
        return merge_parts(output, share.of)
    try:
        return merge_parts(output, share.of)
    except FileNotFoundError:  # another process, at the same time
        return None
    except ValueError as holes:
        if part_paths(output, share):
            log.info("the parts are put together when all are complete: %s", holes)
        return None


def merge_only(config: Config, folder: RunFolder) -> None:
    """Puts the parts of all shares together, or says which rows are missing; answers nothing."""
    if global_rank() != 0:
        return
    output = Path(str(config.generate.output))
    refuse_output(output, None)
    found = summary(merge_parts(output, config.generate.merge_shards or 1), Spent())
    log.info("predictions: %s (%d rows)", output, found["rows"])
    write_json(folder.result_file, {"status": "finished", "predictions": str(output), **found})


def refuse_output(output: Path, prompts: str | None) -> None:
    """Finds out before hours of answering, not after, that the answers cannot be kept.

    Raises:
        ConfigError: ``output`` is a folder, would replace the prompts, or cannot be written.
    """
    if output.is_dir():
        raise ConfigError(f"generate.output={output} is a folder; name a file in it")
    if prompts is not None and output.resolve() == Path(prompts).resolve():
        raise ConfigError(f"generate.output={output} is generate.input too, which it would replace")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise ConfigError(f"generate.output={output} cannot be written: {error.strerror}") from error


def warn_of_untrained(config: Config) -> None:
    """Says when nothing that was trained answers, which is hardly ever meant."""
    if config.weights is None and config.model.init == "random":
        log.warning(
            "warning: weights is not set, so model=%s answers with random weights; set weights=RUN_DIR",
            config.model.name,
        )


def read_prompts(config: Config) -> tuple[str, list[Example]]:
    """What is to be answered, and a short name for it."""
    generate = config.generate
    if generate.input is None:
        split = generate.split or default_split(config)
        return split, read_split(config, split)
    path = Path(generate.input)
    if path.suffix == ".txt" and config.data.format != "pair":
        lines = read_lines(path)
        return path.stem, [
            Example((Turn("prompt", line, learned=False),), str(path), number) for number, line in lines
        ]
    data = replace(config.data, max_examples=None)
    return path.stem, list(read_examples(path, data, needs_response=False))


def default_split(config: Config) -> str:
    """The split that is answered when none is named.

    Raises:
        ValueError: ``data`` names none that could be.
    """
    if not config.data.eval_splits:
        raise ValueError(
            f"data={config.data.name} has no data.eval_splits; say which with generate.split=NAME"
        )
    return config.data.eval_splits[0]
