"""Prompt ids in, answer ids out: batches by length, and a decoding loop that finished rows leave."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from medtune.generation.beams import beam_batches, search
from medtune.generation.choices import Choices
from medtune.generation.decoding import Decoding, Request
from medtune.generation.sampling import prompt_seeds
from medtune.generation.settings import SamplingSettings
from medtune.models.rope import context_length
from medtune.models.soft_prompt import virtual_ids

if TYPE_CHECKING:  # peft costs seconds to import
    from peft import PeftModel

logger = logging.getLogger(__name__)

SHARE_OF_ENDED = 1 / 8  # of a batch, from which they leave it

OnDone = Callable[[int, list[int]], None]


class Engine(Protocol):
    """Whatever turns prompts into answers."""

    context: int | None
    """Most tokens of a prompt and its answer; None: the model does not say."""
    stop_ids: frozenset[int]
    """Tokens that end an answer."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        on_done: OnDone | None = None,
        *,
        seeds: Sequence[int] | None = None,
        choices: Sequence[Choices | None] | None = None,
    ) -> list[list[int]]:
        """The answer to each prompt, in the order of the prompts, without the stop token.

        Args:
            prompts: Token ids, special tokens included.
            settings: The decoding rule.
            on_done: Called with the prompt's number and its answer, as soon as the answer is complete.
            seeds: One for each prompt where they are a part of more; see :func:`prompt_seeds`.
            choices: All that may be answered, for each prompt; None: anything.

        Raises:
            ValueError: A prompt is empty, or leaves no room for an answer in the model's context.
        """
        ...

    def stream(self, prompt: Sequence[int], settings: SamplingSettings) -> Iterator[int]:
        """The tokens of one answer as they come, without the stop token; raises as ``generate`` does."""
        ...


class TransformersEngine:
    """Decodes with a transformers model and its own cache, on the device where the model is.

    Args:
        model: A causal language model; switched to eval mode while it generates.
        stop_ids: Tokens that end an answer.
        pad_id: Fills rows on the left; the model never attends to it.
    """

    def __init__(
        self, model: "PreTrainedModel | PeftModel", stop_ids: Sequence[int], pad_id: int = 0
    ) -> None:
        self.model = model
        self.stop_ids = frozenset(stop_ids)
        self.pad_id = pad_id
        self.virtual = list(virtual_ids(model))  # in front of each prompt; most models have none
        context = context_length(model.config.get_text_config(decoder=True))
        self.context = context if context is None else context - len(self.virtual)

    @classmethod
    def from_tokenizer(
        cls,
        model: "PreTrainedModel | PeftModel",
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int] = (),
    ) -> "TransformersEngine":
        """Stops at the tokenizer's EOS too, whatever the template ends a response with."""
        return cls(model, with_eos(tokenizer, stop_ids), pad_id=tokenizer.pad_token_id or 0)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: SamplingSettings,
        on_done: OnDone | None = None,
        *,
        seeds: Sequence[int] | None = None,
        choices: Sequence[Choices | None] | None = None,
    ) -> list[list[int]]:
        """See :meth:`Engine.generate`."""
        choices = choices or [None] * len(prompts)
        limits = answer_limits(prompts, settings, self.context, choices)
        warn_of_short_room(limits, settings, self.context, choices)
        seeds = seeds or prompt_seeds(prompts, settings.seed)
        requests = [
            Request(self._with_virtual(prompt), rule, seed, closed.root if closed else None)
            for prompt, rule, seed, closed in zip(
                prompts, rules(settings, limits, choices), seeds, choices, strict=True
            )
        ]
        answers: list[list[int]] = [[] for _ in prompts]
        with eval_mode(self.model):
            if settings.num_beams > 1:
                self._search(requests, limits, settings, answers, on_done)
            else:
                self._decode(requests, limits, settings, answers, on_done)
        return answers

    def stream(self, prompt: Sequence[int], settings: SamplingSettings) -> Iterator[int]:
        """See :meth:`Engine.stream`."""
        [seed], [limit] = (
            prompt_seeds([prompt], settings.seed),
            answer_limits([prompt], settings, self.context),
        )
        warn_of_short_room([limit], settings, self.context)
        decoding = Decoding(self.model, [Request(self._with_virtual(prompt), settings, seed)], self.pad_id)
        for _ in range(limit):
            # Entered anew for each token: the caller's code runs in between.
            with eval_mode(self.model):
                [token] = decoding.step()
            if token in self.stop_ids:
                return
            yield token

    def _with_virtual(self, prompt: Sequence[int]) -> Sequence[int]:
        """The prompt behind the trained one."""
        return [*self.virtual, *prompt] if self.virtual else prompt

    def _decode(
        self,
        requests: Sequence[Request],
        limits: Sequence[int],
        settings: SamplingSettings,
        answers: list[list[int]],
        on_done: OnDone | None,
    ) -> None:
        """Decodes all requests, batch by batch."""
        lengths = [len(request.prompt) for request in requests]
        for rows in length_sorted_batches(lengths, limits, settings.batch_tokens):
            decoding = Decoding(self.model, [requests[row] for row in rows], self.pad_id)
            self._finish(decoding, rows, limits, answers, on_done)

    def _finish(
        self,
        decoding: Decoding,
        rows: Sequence[int],
        limits: Sequence[int],
        answers: list[list[int]],
        on_done: OnDone | None,
    ) -> None:
        """Decodes one batch to its end; ``rows`` are the prompts' numbers, longest prompt first.

        Rows that have ended stay until they are some, since what leaves is copied around.
        """
        ended: set[int] = set()  # places
        while rows:
            for place, (row, token) in enumerate(zip(rows, decoding.step(), strict=True)):
                if place in ended:
                    continue
                if token not in self.stop_ids:
                    answers[row].append(token)
                    if len(answers[row]) < limits[row] and not decoding.is_settled(place):
                        continue
                ended.add(place)
                if on_done is not None:
                    on_done(row, answers[row])
            # At its limit a row may be at the last position that the model knows.
            is_due = any(decoding.rows[place].steps >= limits[rows[place]] for place in ended)
            if is_due or len(ended) >= len(rows) * SHARE_OF_ENDED:
                kept = [place for place in range(len(rows)) if place not in ended]
                rows = [rows[place] for place in kept]
                decoding.keep(kept)
                ended.clear()

    def _search(
        self,
        requests: Sequence[Request],
        limits: Sequence[int],
        settings: SamplingSettings,
        answers: list[list[int]],
        on_done: OnDone | None,
    ) -> None:
        """Beam search over all requests, batch by batch."""
        for rows in beam_batches([len(request.prompt) for request in requests], limits, settings):
            found = search(
                self.model,
                [requests[row] for row in rows],
                limits[rows[0]],
                settings,
                stop_ids=self.stop_ids,
                pad_id=self.pad_id,
            )
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
                if on_done is not None:
                    on_done(row, answer)


def with_eos(tokenizer: PreTrainedTokenizerBase, stop_ids: Sequence[int]) -> list[int]:
    """The tokens that end an answer, the tokenizer's EOS among them."""
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return [*eos, *stop_ids]


def rules(
    settings: SamplingSettings, limits: Sequence[int], choices: Sequence[Choices | None]
) -> Iterator[SamplingSettings]:
    """The settings of each prompt: a row with choices may need more tokens than the others have."""
    for limit, closed in zip(limits, choices, strict=True):
        is_longer = closed is not None and limit > settings.max_new_tokens
        yield replace(settings, max_new_tokens=limit) if is_longer else settings


def answer_limits(
    prompts: Sequence[Sequence[int]],
    settings: SamplingSettings,
    context: int | None,
    choices: Sequence[Choices | None] | None = None,
) -> list[int]:
    """Most tokens of each answer: max_new_tokens, or what the context leaves; an answer as long was cut.

    A row with choices has room for the longest and a stop token.

    Raises:
        ValueError: A prompt is empty or leaves no room.
    """
    limits = []
    for row, (prompt, closed) in enumerate(zip(prompts, choices or [None] * len(prompts), strict=True)):
        if not len(prompt):
            raise ValueError(f"prompt {row} has no tokens; a model needs at least one, such as its BOS")
        wanted = settings.max_new_tokens if closed is None else closed.longest + 1
        room = wanted if context is None else context - len(prompt)
        if room < (1 if closed is None else closed.longest):
            need = "an answer" if closed is None else f"a choice of {closed.longest} tokens"
            raise ValueError(
                f"prompt {row} has {len(prompt)} tokens, but the model's context is {context} and "
                f"must hold {need} too; shorten the prompt or use a model with a longer context"
            )
        limits.append(wanted if closed is not None else min(wanted, room))
    return limits


def warn_of_short_room(
    limits: Sequence[int],
    settings: SamplingSettings,
    context: int | None,
    choices: Sequence[Choices | None] | None = None,
) -> None:
    """Says how many answers the context will end before they have all tokens that they may have."""
    free = [limit for row, limit in enumerate(limits) if choices is None or choices[row] is None]
    if short := sum(limit < settings.max_new_tokens for limit in free):
        logger.warning(
            "%d of %d prompts leave less than generate.max_new_tokens=%d in the model's context of %d "
            "tokens; their answers end there",
            *(short, len(limits), settings.max_new_tokens, context),
        )


def length_sorted_batches(
    lengths: Sequence[int], limits: Sequence[int], batch_tokens: int
) -> Iterator[list[int]]:
    """Row numbers in batches of like length, the longest first: what does not fit fails at the start.

    A batch holds at most ``batch_tokens`` tokens, padding and room for the answers included, but always
    one row.
    """
    rows = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batch: list[int] = []
    width = room = 0
    for row in rows:
        width, room = max(width, lengths[row]), max(room, limits[row])
        if batch and (len(batch) + 1) * (width + room) > batch_tokens:
            yield batch
            batch, width, room = [], lengths[row], limits[row]
        batch.append(row)
    if batch:
        yield batch


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Switches dropout and gradient checkpointing off, and each module back to the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
