"""How likely a model finds given continuations of prompts: exact sums of log-probabilities.

B prompts of a batch, N continuations of all of them, K columns of the longest, V vocabulary.
"""

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from medtune.generation.engine import TransformersEngine, eval_mode, length_sorted_batches

LOGITS_AT_ONCE = 2**26  # numbers; 256 MB in float32

Continuations = Sequence[Sequence[int]]


def log_likelihoods(
    engine: TransformersEngine,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Continuations],
    batch_tokens: int,
    on_done: Callable[[int], None] | None = None,
) -> list[list[float]]:
    """The log-probability of each continuation after its prompt, in nats, summed over its tokens.

    A prompt is read once: the first tokens of all its continuations come from its last logits, the others
    from one more pass over its cache.

    Args:
        engine: Model and padding.
        prompts: Token ids, at least one each.
        continuations: For each prompt those to score, at least one token each.
        batch_tokens: Tokens in one pass, padding included; but always one continuation.
        on_done: Called with a prompt's number when its continuations are scored.

    Raises:
        ValueError: A prompt or continuation is empty, or both together are longer than the model's context.
    """
    check_lengths(
        engine, prompts, continuations
    )  # of words: the context is what trained tokens leave to them
    prompts = [[*engine.virtual, *prompt] for prompt in prompts]
    longest = [max(map(len, options), default=0) for options in continuations]
    found: list[list[float]] = [[] for _ in prompts]
    with eval_mode(engine.model), torch.inference_mode():
        for rows in length_sorted_batches([len(prompt) for prompt in prompts], longest, batch_tokens):
            needs_cache = any(longest[row] > 1 for row in rows)
            batch = _Batch(engine, [prompts[row] for row in rows], needs_cache=needs_cache)
            pairs = [(place, option) for place, row in enumerate(rows) for option in continuations[row]]
            for (place, _), value in zip(pairs, batch.score(pairs, batch_tokens), strict=True):
                found[rows[place]].append(value)
            for row in rows:
                if on_done is not None:
                    on_done(row)
    return found


def check_lengths(
    engine: TransformersEngine, prompts: Sequence[Sequence[int]], continuations: Sequence[Continuations]
) -> None:
    """Raises ValueError where a prompt cannot be continued so."""
    for row, (prompt, options) in enumerate(zip(prompts, continuations, strict=True)):
        if not len(prompt) or not all(map(len, options)):
            raise ValueError(f"prompt {row} or a continuation of it has no tokens; each needs at least one")
        whole = len(prompt) + max(map(len, options), default=0)
        if engine.context is not None and whole > engine.context:
            raise ValueError(
                f"prompt {row} and its longest continuation have {whole} tokens, but the model's context is "
                f"{engine.context}; shorten the prompt (fewer evaluate.shots) or use a longer context"
            )


class _Batch:
    """Prompts that were read together: the log-probabilities after each, and the cache."""

    def __init__(
        self, engine: TransformersEngine, prompts: Sequence[Sequence[int]], *, needs_cache: bool
    ) -> None:
        self.model = engine.model
        self.pad_id = engine.pad_id
        unwrap = getattr(engine.model, "get_base_model", None)
        base = unwrap() if unwrap else engine.model
        self.accepted = frozenset(inspect.signature(base.forward).parameters)
        width = max(map(len, prompts))
        # On the left, as in decoding: the last column is the last token of every row.
        padded = [[self.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        device = engine.model.device
        self.mask = torch.tensor(mask, device=device)
        self.lengths = self.mask.sum(-1)
        positions = (self.mask.cumsum(-1) - 1).clamp_(min=0)
        last = torch.tensor([width - 1], device=device)
        outputs = self._run(
            torch.tensor(padded, device=device), self.mask, positions, use_cache=needs_cache, columns=last
        )
        self.cache: Any = outputs.past_key_values if needs_cache else None
        self.first: Tensor = outputs.logits[:, -1].float().log_softmax(-1)  # [B, V]

    def score(self, pairs: Sequence[tuple[int, Sequence[int]]], batch_tokens: int) -> list[float]:
        """The log-probability of each (place in the batch, continuation)."""
        device = self.first.device
        places = torch.tensor([place for place, _ in pairs], device=device)
        opening = torch.tensor([option[0] for _, option in pairs], device=device)
        values = self.first[places, opening].double()
        longer = [number for number, (_, option) in enumerate(pairs) if len(option) > 1]
        for chunk in self._chunks(longer, pairs, batch_tokens):
            values[chunk] += self._rest([pairs[number] for number in chunk])
        return [float(value) for value in values.tolist()]

    def _chunks(
        self, numbers: Sequence[int], pairs: Sequence[tuple[int, Sequence[int]]], batch_tokens: int
    ) -> Iterator[list[int]]:
        """Continuations whose copies of the cache, and whose logits, fit into memory together."""
        if not numbers:
            return
        columns = max(len(pairs[number][1]) for number in numbers)
        by_cache = batch_tokens // (self.mask.shape[1] + columns)
        by_logits = LOGITS_AT_ONCE // (columns * self.first.shape[1])
        size = max(1, min(by_cache, by_logits))
        for start in range(0, len(numbers), size):
            yield list(numbers[start : start + size])

    def _rest(self, pairs: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
        """What the tokens after the first add, float64 [N]."""
        device = self.first.device
        width = max(len(option) for _, option in pairs) - 1
        padding = [[0] * (width + 1 - len(option)) for _, option in pairs]
        given = torch.tensor([[*o[:-1], *p] for (_, o), p in zip(pairs, padding, strict=True)], device=device)
        wanted = torch.tensor([[*o[1:], *p] for (_, o), p in zip(pairs, padding, strict=True)], device=device)
        real = torch.tensor(
            [[1] * (len(o) - 1) + p for (_, o), p in zip(pairs, padding, strict=True)], device=device
        )
        places = torch.tensor([place for place, _ in pairs], device=device)
        positions = self.lengths[places, None] + torch.arange(width, device=device)
        outputs = self._run(
            given.where(real > 0, self.pad_id),
            torch.cat([self.mask[places], real], dim=1),
            positions,
            use_cache=True,
            columns=torch.arange(width, device=device),
            cache=rows_of(self.cache, places),
        )
        logits = outputs.logits[:, -width:].float()
        chosen = logits.gather(-1, wanted[..., None])[..., 0] - logits.logsumexp(-1)
        total: Tensor = (chosen.double() * real).sum(-1)
        return total

    def _run(
        self,
        input_ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        *,
        use_cache: bool,
        columns: Tensor,
        cache: Any = None,
    ) -> Any:
        more: dict[str, Any] = {"position_ids": positions, "logits_to_keep": columns}
        return self.model(
            input_ids=input_ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=use_cache,
            **{name: value for name, value in more.items() if name in self.accepted},
        )


def rows_of(cache: Any, places: Tensor) -> Any:
    """A cache of the rows at ``places``; the given one stays as it is, for others to go on from."""
    part = copy.copy(cache)
    part.layers = [copy.copy(layer) for layer in cache.layers]
    part.batch_select_indices(places)
    return part
