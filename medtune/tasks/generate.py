"""``task=generate``: a split or a file of prompts in, predictions in the same order out."""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

from medtune.config.schema import Config
from medtune.data.examples import Example, Turn
from medtune.data.reading.records import read_lines
from medtune.data.reading.splits import read_examples
from medtune.generation.responder import build_responder, read_split, write_predictions
from medtune.runtime.errors import ConfigError
from medtune.runtime.ranks import global_rank
from medtune.runtime.record import RunFolder, write_json
from medtune.tasks.weights import settle_weights

log = logging.getLogger(__name__)


def run(config: Config, folder: RunFolder) -> None:
    """Writes the predictions file."""
    name, examples = read_prompts(config)
    output = Path(config.generate.output or folder.predictions / f"{name}.jsonl")
    refuse_output(output, config.generate.input)
    warn_of_untrained(config)
    with settle_weights(config) as weights:
        texts = build_responder(config, weights).answer(examples, name)
    if global_rank() == 0:
        write_predictions(output, examples, texts)
        write_json(folder.result_file, {"status": "finished", "predictions": str(output), "rows": len(texts)})


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
