"""``task=generate``: a split or a file of prompts in, predictions in the same order out."""

from dataclasses import replace
from pathlib import Path

from medtune.config.schema import Config
from medtune.data.examples import Example, Turn
from medtune.data.formats import read_examples
from medtune.data.sources import read_lines
from medtune.generation.responder import build_responder, read_split, write_predictions
from medtune.runtime.ranks import global_rank
from medtune.runtime.record import RunFolder, write_json
from medtune.tasks.weights import settle_weights


def run(config: Config, folder: RunFolder) -> None:
    """Writes the predictions file."""
    name, examples = read_prompts(config)
    with settle_weights(config) as weights:
        texts = build_responder(config, weights).answer(examples, name)
    if global_rank() == 0:
        output = Path(config.generate.output or folder.predictions / f"{name}.jsonl")
        write_predictions(output, examples, texts)
        write_json(folder.result_file, {"status": "finished", "predictions": str(output), "rows": len(texts)})


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
