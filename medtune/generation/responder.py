"""From examples to answers: one path for evaluation during a run, afterwards, and for files of prompts."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from medtune.config.schema import Config, ModelConfig
from medtune.data.examples import Example, Turn
from medtune.data.reading.splits import split_examples
from medtune.data.tokens.templates import Template, named_ids
from medtune.generation.choices import Choices, ChoiceTries
from medtune.generation.continuous import ContinuousEngine, refusal
from medtune.generation.engine import Engine, TransformersEngine, answer_limits, with_eos
from medtune.generation.prompts import Prompt, answer_room, fit_prompts
from medtune.generation.sampling import prompt_seeds
from medtune.generation.settings import SamplingSettings, sampling_settings
from medtune.generation.summary import Spent, log_summary, summary
from medtune.generation.text import decode
from medtune.generation.vllm import VllmEngine, model_folder
from medtune.models.folders import find_weights, has_tokenizer
from medtune.models.load import embedding_rows, is_quantized, load_model
from medtune.models.placing import place_whole, prepare_for
from medtune.models.rope import context_length
from medtune.models.tokenizers import load_tokenizer
from medtune.runtime.errors import ConfigError
from medtune.runtime.hardware import visible_gpus
from medtune.runtime.progress import progress
from medtune.runtime.ranks import gather, global_rank, interleave, local_rank, world_size
from medtune.runtime.record import write_jsonl

log = logging.getLogger(__name__)

SHARE_OF_FIRST_ESTIMATE = 0.05


@dataclass(frozen=True)
class Question:
    """A prompt that is ready to be answered.

    Attributes:
        prompt: Its ids.
        seed: Of its random numbers, the same whichever process answers it.
        choices: All that it may be answered; None: anything.
    """

    prompt: Prompt
    seed: int
    choices: Choices | None = None


@dataclass(frozen=True)
class Answer:
    """A model's answer.

    Attributes:
        text: Without white space around it.
        tokens: Their number.
        is_cut: Whether the most tokens, and no stop token, ended it.
        prompt_cut: Tokens that the prompt lost to fit the context.
    """

    text: str
    tokens: int
    is_cut: bool
    prompt_cut: int


OnAnswer = Callable[[int, Answer], None]


@dataclass
class Responder:
    """A model that is ready to answer, with the template it was trained with.

    Attributes:
        overlong: What happens to prompts that leave no room for an answer; see :func:`fit_prompts`.
        use_choices: Whether rows of closed tasks are answered with one of their choices.
    """

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    template: Template
    settings: SamplingSettings
    overlong: str = "middle"
    use_choices: bool = False

    def answer(self, examples: Sequence[Example], what: str) -> list[str]:
        """Answers every example's last prompt, in order; ranks share the work and all get the whole.

        Args:
            examples: Their responses, if any, are not shown to the model.
            what: What is answered, for the progress bar.
        """
        questions = self.prepare(examples)
        started = time.monotonic()
        rows = range(global_rank(), len(questions), world_size())
        answers = self.respond([questions[row] for row in rows], what)
        whole = interleave(gather(answers))
        if global_rank() == 0:
            spent = Spent(time.monotonic() - started, len(whole), sum(answer.tokens for answer in whole))
            log_summary(summary(dict(enumerate(whole)), spent), what)
        return [answer.text for answer in whole]

    def prepare(self, examples: Sequence[Example]) -> list[Question]:
        """The questions of examples, in order; all that depends on the others among them is decided here."""
        tries = ChoiceTries(self.template, self.engine.stop_ids) if self.use_choices else None
        choices = [tries.of(example) if tries else None for example in examples]
        conversations = [open_turns(example) for example in examples]
        prompts = fit_prompts(self.template, conversations, [*map(self._room, choices)], self.overlong)
        seeds = prompt_seeds([prompt.ids for prompt in prompts], self.settings.seed)
        return [*map(Question, prompts, seeds, choices)]

    def prompt(self, turns: Sequence[Turn]) -> Prompt:
        """The prompt of one conversation, cut like any other where it is too long.

        Raises:
            ValueError: As :func:`fit_prompts`.
        """
        [prompt] = fit_prompts(self.template, [turns], [self._room(None)], self.overlong)
        return prompt

    def respond(
        self, questions: Sequence[Question], what: str, on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Answers questions on this rank, in order.

        Args:
            questions: Of :meth:`prepare`, all or some.
            what: What is answered, for the progress bar.
            on_answer: Called with a question's place and its answer, as soon as it is complete.
        """
        prompts = [question.prompt.ids for question in questions]
        choices = [question.choices for question in questions]
        limits = answer_limits(prompts, self.settings, self.engine.context, choices)
        amounts = [len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True)]
        whole, settled = sum(amounts), 0
        answers: dict[int, Answer] = {}

        def done(place: int, ids: Sequence[int]) -> None:
            nonlocal settled
            answers[place] = self._answer(questions[place], ids, limits[place])
            settled += amounts[place]
            advance(1, tokens=len(ids), share=settled_share(settled, whole))
            if on_answer is not None:
                on_answer(place, answers[place])

        with progress(f"answering {what}", unit="prompts", total=len(questions)) as advance:
            self.engine.generate(
                prompts,
                self.settings,
                done,
                seeds=[question.seed for question in questions],
                choices=choices if any(choices) else None,
            )
        return [answers[place] for place in range(len(questions))]

    def _room(self, choices: Choices | None) -> int | None:
        """Most tokens of a prompt; None: any number."""
        context = self.engine.context
        if context is None:
            return None
        wanted = self.settings.max_new_tokens if choices is None else choices.longest + 1
        return context - answer_room(wanted, context)

    def _answer(self, question: Question, ids: Sequence[int], limit: int) -> Answer:
        closed = question.choices
        text = decode(self.tokenizer, ids) if closed is None else closed.texts[tuple(ids)]
        return Answer(text.strip(), len(ids), len(ids) >= limit, question.prompt.cut)


def settled_share(done: int, amount: int) -> float:
    """The share of the work that is done, in tokens; 0 while it tells nothing of how long the rest takes.

    Longer prompts come first, and fewer of them fit into a batch: by their number alone the end would seem
    far off. And of the first batch, all was begun when its first answer is complete.
    """
    share = done / amount
    return share if share >= SHARE_OF_FIRST_ESTIMATE else 0.0


def build_responder(config: Config, weights: str | None = None) -> Responder:
    """Loads the configured model, or ``weights`` in its place, into the configured engine."""
    tokenizer = load_tokenizer(config.model)
    template = Template.from_tokenizer(config.template, tokenizer)
    stop_ids = stop_tokens(config, template)
    build = build_vllm if engine_of(config) == "vllm" else build_engine
    engine = build(config, weights, tokenizer, stop_ids)
    if weights is not None:
        warn_of_other_tokenizer(config, tokenizer, find_weights(weights))
    return Responder(
        engine,
        tokenizer,
        template,
        sampling_settings(config),
        overlong=config.generate.overlong,
        use_choices=config.generate.choices,
    )


def stop_tokens(config: Config, template: Template) -> list[int]:
    """The tokens that end an answer: the template's, and those of ``generate.stop``."""
    return [*template.stop_ids, *named_ids(config.generate.stop, template.vocabulary, "generate.stop")]


def engine_of(config: Config) -> str:
    """``generate.engine`` where it is read; else ours, which alone gives logits and single tokens."""
    is_read = config.task == "generate" or (config.task == "evaluate" and not config.evaluate.perplexity)
    return config.generate.engine if is_read else "transformers"


def build_engine(
    config: Config, weights: str | None, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]
) -> Engine:
    """The model on this rank's device, in batches of ours or in transformers' continuous ones.

    Raises:
        ConfigError: The tokenizer has tokens that the model does not know; or the engine cannot have it.
    """
    model: Any = load_model(config, for_training=False, weights=weights, place=False)
    if not is_quantized(model):
        on_gpu = config.trainer.accelerator != "cpu" and visible_gpus() > 0
        device = f"cuda:{local_rank()}" if on_gpu else "cpu"
        place_whole(model, prepare_for(model, config, for_training=False), device)
    rows = embedding_rows(model)
    if len(tokenizer) > rows:
        raise ConfigError(
            f"the tokenizer ({config.model.tokenizer or config.model.path}) has {len(tokenizer)} tokens, but "
            f"the model's embedding has {rows} rows; it belongs to another one: leave model.tokenizer out"
        )
    if engine_of(config) != "continuous":
        return TransformersEngine.from_tokenizer(model, tokenizer, stop_ids)
    if problem := refusal(model.config.model_type, model.device.type):
        raise ConfigError(problem)
    return ContinuousEngine(model, with_eos(tokenizer, stop_ids), pad_id=tokenizer.pad_token_id or 0)


def build_vllm(
    config: Config, weights: str | None, tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]
) -> Engine:
    """The model in vLLM."""
    from transformers import AutoConfig

    folder = model_folder(weights, config.model.path, config.model.revision)
    network = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return VllmEngine(
        folder,
        config.model.dtype,
        with_eos(tokenizer, stop_ids),
        context_length(network.get_text_config(decoder=True)),
        config.generate.vllm,
    )


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
    write_jsonl(path, map(prediction, examples, texts))
    log.info("predictions: %s", path)


def prediction(example: Example, text: str) -> dict[str, Any]:
    """A row of the predictions file."""
    return {**(example.record or {"input": example.prompt}), "target": text}
