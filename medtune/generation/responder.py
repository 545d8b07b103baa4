"""From examples to answers: one path for evaluation during a run, afterwards, and for files of prompts."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from medtune.config.schema import Config, ModelConfig
from medtune.data.examples import Example, Turn
from medtune.data.reading.splits import split_examples
from medtune.data.tokens.templates import Template
from medtune.generation.engine import Engine, TransformersEngine
from medtune.generation.settings import SamplingSettings, sampling_settings
from medtune.models.folders import find_weights, has_tokenizer
from medtune.models.load import embedding_rows, is_quantized, load_model
from medtune.models.placing import place_whole, prepare_for
from medtune.models.tokenizers import load_tokenizer
from medtune.runtime.errors import ConfigError
from medtune.runtime.hardware import visible_gpus
from medtune.runtime.progress import progress
from medtune.runtime.ranks import gather, global_rank, interleave, local_rank, world_size
from medtune.runtime.record import write_jsonl

log = logging.getLogger(__name__)

SHARE_OF_FIRST_ESTIMATE = 0.05


@dataclass
class Responder:
    """A model that is ready to answer, with the template it was trained with."""

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    template: Template
    settings: SamplingSettings

    def answer(self, examples: Sequence[Example], what: str) -> list[str]:
        """Answers every example's last prompt, in order; ranks share the work and all get the whole.

        Args:
            examples: Their responses, if any, are not shown to the model.
            what: What is answered, for the progress bar.
        """
        prompts = self.template.prompts_ids([open_turns(example) for example in examples])
        share = prompts[global_rank() :: world_size()]
        with progress(f"answering {what}", unit="prompts", total=len(share)) as advance:
            room = self.settings.max_new_tokens
            amounts = [len(prompt) + room for prompt in share]
            done = 0

            def tell(row: int, _ids: list[int]) -> None:
                nonlocal done
                done += amounts[row]
                advance(1, share=settled_share(done, sum(amounts)))

            answers = self.engine.generate(share, self.settings, tell)
        texts = [
            str(
                self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            ).strip()
            for ids in answers
        ]
        return interleave(gather(texts))


def settled_share(done: int, amount: int) -> float:
    """The share of the work that is done, in tokens; 0 while it tells nothing of how long the rest takes.

    Longer prompts come first, and fewer of them fit into a batch: by their number alone the end would seem
    far off. And of the first batch, all was begun when its first answer is complete.
    """
    share = done / amount
    return share if share >= SHARE_OF_FIRST_ESTIMATE else 0.0


def build_responder(config: Config, weights: str | None = None) -> Responder:
    """Loads the configured model, or ``weights`` in its place, onto this rank's device."""
    model: Any = load_model(config, for_training=False, weights=weights, place=False)
    if not is_quantized(model):
        on_gpu = config.trainer.accelerator != "cpu" and visible_gpus() > 0
        device = f"cuda:{local_rank()}" if on_gpu else "cpu"
        place_whole(model, prepare_for(model, config, for_training=False), device)
    tokenizer = load_tokenizer(config.model)
    rows = embedding_rows(model)
    if len(tokenizer) > rows:
        raise ConfigError(
            f"the tokenizer ({config.model.tokenizer or config.model.path}) has {len(tokenizer)} tokens, but "
            f"the model's embedding has {rows} rows; it belongs to another one: leave model.tokenizer out"
        )
    if weights is not None:
        warn_of_other_tokenizer(config, tokenizer, find_weights(weights))
    template = Template.from_tokenizer(config.template, tokenizer)
    engine = TransformersEngine.from_tokenizer(model, tokenizer, template.stop_ids)
    return Responder(engine, tokenizer, template, sampling_settings(config))


def warn_of_other_tokenizer(config: Config, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Says when the weights were saved beside another vocabulary than the one that answers are read by."""
    if not has_tokenizer(folder):
        return
    saved = load_tokenizer(ModelConfig(path=str(folder)))
    if saved.get_vocab() != tokenizer.get_vocab():
        log.warning(
            "warning: the tokenizer (%s) has other tokens than the one saved in %s, so answers may be "
            "nonsense; leave model.tokenizer out",
            *(config.model.tokenizer or config.model.path, folder),
        )


def open_turns(example: Example) -> tuple[Turn, ...]:
    """The turns up to and with the last prompt."""
    turns = list(example.turns)
    while turns and turns[-1].role == "response":
        turns.pop()
    return tuple(turns)


def read_split(config: Config, split: str, limit: int | None = None) -> list[Example]:
    """The examples of a split that are to be answered."""
    return list(islice(split_examples(config.data, split, needs_response=False), limit))


def write_predictions(path: Path, examples: Sequence[Example], texts: Sequence[str]) -> None:
    """Writes JSON lines in the order of ``examples``: each record with ``target`` replaced by the answer.

    This is the layout of a PromptCBLUE submission; other formats keep their own columns beside it.
    """
    rows = [
        {**(example.record or {"input": example.prompt}), "target": text}
        for example, text in zip(examples, texts, strict=True)
    ]
    write_jsonl(path, rows)
    log.info("predictions: %s", path)
