"""Prompt ids in, answer ids out: batches by length, and a decoding loop that finished rows leave.

B rows, T columns of the attention mask (padding, prompt and answer so far), V vocabulary.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from medtune.generation.sampling import draw_uniforms, penalise_repetition, prompt_seeds, sample
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
                decoding = _Decoding(
                    self, [prompts[row] for row in rows], [seeds[row] for row in rows], settings
                )
                self._finish(decoding, rows, limits, answers, on_done)
        return answers

    def stream(self, prompt: Sequence[int], settings: SamplingSettings) -> Iterator[int]:
        """See :meth:`Engine.stream`."""
        [seed], [whole] = prompt_seeds([prompt], settings.seed), self._with_virtual([prompt])
        [limit] = self._answer_limits([whole], settings)
        decoding = _Decoding(self, [whole], [seed], settings)
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
        decoding: "_Decoding",
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


class _Decoding:
    """The rows of one batch that still run: their last tokens, mask, positions and cache."""

    def __init__(
        self,
        engine: TransformersEngine,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        settings: SamplingSettings,
    ) -> None:
        self.model = engine.model
        self.settings = settings
        self.accepted = _forward_arguments(engine.model)
        width = max(map(len, prompts))
        # On the left, so that the last column is the last token of every row.
        padded = [[engine.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        device = engine.model.device
        self.input_ids = torch.tensor(padded, device=device)
        self.mask = torch.tensor(mask, device=device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp_(min=0)
        self.cache: Any = None
        self.uniforms: Tensor | None = None
        if not settings.is_greedy:
            self.uniforms = draw_uniforms(seeds, settings.max_new_tokens).to(device)
        self.seen: Tensor | None = None  # [B, V], for the repetition penalty
        self.steps = 0

    def step(self) -> list[int]:
        """The next token of every row."""
        with torch.inference_mode():
            tokens = self._choose(self._forward())
            if self.seen is not None:
                self.seen.scatter_(1, tokens[:, None], True)
            self.input_ids = tokens[:, None]
            self.positions = self.positions[:, -1:] + 1
            self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
            self.steps += 1
            return tokens.tolist()

    def keep(self, places: list[int]) -> None:
        """Lets all rows but these leave the batch."""
        if not places:
            self.cache = None
            return
        with torch.inference_mode():
            chosen = torch.tensor(places, device=self.input_ids.device)
            self.cache.batch_select_indices(chosen)
            self.input_ids, self.mask = self.input_ids[chosen], self.mask[chosen]
            self.positions = self.positions[chosen]
            self.uniforms = None if self.uniforms is None else self.uniforms[chosen]
            self.seen = None if self.seen is None else self.seen[chosen]

    def _forward(self) -> Tensor:
        """Logits [B, V] after the last token of every row."""
        # The last column by its number, not as a slice: torch multiplies a view of several rows by a copy of
        # the weight for each row (33 GB for 51 prompts of Baichuan-13B, in bfloat16 on a CPU).
        last = torch.tensor([self.input_ids.shape[1] - 1], device=self.input_ids.device)
        more: dict[str, Any] = {"position_ids": self.positions, "logits_to_keep": last}
        outputs = self.model(
            input_ids=self.input_ids,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            **{name: value for name, value in more.items() if name in self.accepted},
        )
        self.cache = outputs.past_key_values
        logits: Tensor = outputs.logits[:, -1]
        return logits

    def _choose(self, logits: Tensor) -> Tensor:
        """A token [B] of each row's logits [B, V]."""
        if self.settings.repetition_penalty != 1:
            if self.seen is None:
                self.seen = torch.zeros_like(logits, dtype=torch.int64)
                # Counts, because padding repeats the id of a token that a prompt may also hold.
                # Virtual tokens are none that could come again.
                real = self.mask * (self.input_ids < logits.shape[1])
                self.seen = self.seen.scatter_add_(1, self.input_ids.clamp(max=logits.shape[1] - 1), real) > 0
            logits = penalise_repetition(logits, self.seen, self.settings.repetition_penalty)
        if self.uniforms is None:
            return logits.argmax(-1)
        return sample(logits, self.uniforms[:, self.steps], self.settings)


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


def _forward_arguments(model: "PreTrainedModel | PeftModel") -> frozenset[str]:
    """Names of the arguments that the model itself takes, below an adapter's wrapper."""
    unwrap = getattr(model, "get_base_model", None)
    return frozenset(inspect.signature((unwrap() if unwrap else model).forward).parameters)
