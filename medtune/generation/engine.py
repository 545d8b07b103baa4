"""Prompt ids in, answer ids out: batches by length, and a decoding loop that finished rows leave."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from medtune.generation.decoding import Decoding, Request
from medtune.generation.sampling import prompt_seeds
from medtune.generation.settings import SamplingSettings
from medtune.models.rope import context_length
from medtune.models.soft_prompt import virtual_ids

if TYPE_CHECKING:  # peft costs seconds to import
    from peft import PeftModel

logger = logging.getLogger(__name__)

OnDone = Callable[[int, list[int]], None]


class Engine(Protocol):
    """Whatever turns prompts into answers."""

    context: int | None
    """Most tokens of a prompt and its answer; None: the model does not say."""

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: SamplingSettings, on_done: OnDone | None = None
    ) -> list[list[int]]:
        """The answer to each prompt, in the order of the prompts, without the stop token.

        Args:
            prompts: Token ids, special tokens included.
            settings: The decoding rule.
            on_done: Called with the prompt's number and its answer, as soon as the answer is complete.

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
        self.context = context_length(model.config.get_text_config(decoder=True))

    @classmethod
    def from_tokenizer(
        cls,
        model: "PreTrainedModel | PeftModel",
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int] = (),
    ) -> "TransformersEngine":
        """Stops at the tokenizer's EOS too, whatever the template ends a response with."""
        eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        return cls(model, [*eos, *stop_ids], pad_id=tokenizer.pad_token_id or 0)

    def generate(
        self, prompts: Sequence[Sequence[int]], settings: SamplingSettings, on_done: OnDone | None = None
    ) -> list[list[int]]:
        """See :meth:`Engine.generate`."""
        seeds = prompt_seeds(prompts, settings.seed)
        prompts = self._with_virtual(prompts)
        limits = self._answer_limits(prompts, settings)
        answers: list[list[int]] = [[] for _ in prompts]
        with eval_mode(self.model):
            for rows in length_sorted_batches([len(p) for p in prompts], limits, settings.batch_tokens):
                requests = [Request(prompts[row], settings, seeds[row]) for row in rows]
                decoding = Decoding(self.model, requests, self.pad_id)
                self._finish(decoding, rows, limits, answers, on_done)
        return answers

    def stream(self, prompt: Sequence[int], settings: SamplingSettings) -> Iterator[int]:
        """See :meth:`Engine.stream`."""
        [seed], [whole] = prompt_seeds([prompt], settings.seed), self._with_virtual([prompt])
        [limit] = self._answer_limits([whole], settings)
        decoding = Decoding(self.model, [Request(whole, settings, seed)], self.pad_id)
        for _ in range(limit):
            # Entered anew for each token: the caller's code runs in between.
            with eval_mode(self.model):
                [token] = decoding.step()
            if token in self.stop_ids:
                return
            yield token

    def _with_virtual(self, prompts: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        """The prompts behind the trained one; an empty one stays empty, and is refused."""
        return [[*self.virtual, *prompt] if self.virtual and len(prompt) else prompt for prompt in prompts]

    def _finish(
        self,
        decoding: Decoding,
        rows: Sequence[int],
        limits: Sequence[int],
        answers: list[list[int]],
        on_done: OnDone | None,
    ) -> None:
        """Decodes one batch to its end; ``rows`` are the prompts' numbers, longest prompt first."""
        while rows:
            kept = []
            for place, (row, token) in enumerate(zip(rows, decoding.step(), strict=True)):
                if token not in self.stop_ids:
                    answers[row].append(token)
                    if len(answers[row]) < limits[row]:
                        kept.append(place)
                        continue
                if on_done is not None:
                    on_done(row, answers[row])
            if len(kept) < len(rows):
                rows = [rows[place] for place in kept]
                decoding.keep(kept)

    def _answer_limits(self, prompts: Sequence[Sequence[int]], settings: SamplingSettings) -> list[int]:
        """Most tokens of each answer: max_new_tokens, or what the context leaves.

        Raises:
            ValueError: A prompt is empty or leaves no room.
        """
        limits = []
        for row, prompt in enumerate(prompts):
            if not len(prompt):
                raise ValueError(f"prompt {row} has no tokens; a model needs at least one, such as its BOS")
            if self.context is not None and len(prompt) >= self.context:
                raise ValueError(
                    f"prompt {row} has {len(prompt)} tokens, but the model's context is {self.context} and "
                    "must hold an answer too; shorten the prompt or use a model with a longer context"
                )
            room = settings.max_new_tokens if self.context is None else self.context - len(prompt)
            limits.append(min(settings.max_new_tokens, room))
        if short := sum(limit < settings.max_new_tokens for limit in limits):
            logger.warning(
                "%d of %d prompts leave less than generate.max_new_tokens=%d in the model's context of %d "
                "tokens; their answers end there",
                *(short, len(prompts), settings.max_new_tokens, self.context),
            )
        return limits


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
