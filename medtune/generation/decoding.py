"""The rows of one batch that still run: prefilled together, decoded token by token, left and joined at will.

B rows, T columns of the attention mask (padding, prompt and answer so far), V vocabulary.
"""

import inspect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from medtune.generation.cache import can_put, holds_all_columns, keep_rows, roomy_cache
from medtune.generation.choices import Node
from medtune.generation.sampling import draw_uniforms, penalise_repetition, sample
from medtune.generation.settings import SamplingSettings

if TYPE_CHECKING:  # peft costs seconds to import
    from peft import PeftModel


@dataclass(frozen=True)
class Request:
    """One prompt and how its answer is drawn."""

    prompt: Sequence[int]
    settings: SamplingSettings
    seed: int
    """Of this prompt alone; a greedy answer needs none."""
    choices: Node | None = None
    """Where the trie of all that may be answered begins; None: anything may."""


class _Row:
    """A request in the batch, with its random numbers and its place among the choices."""

    def __init__(self, request: Request) -> None:
        self.settings = request.settings
        self.length = len(request.prompt)  # tokens that are in the mask
        self.steps = 0
        self.choices = request.choices  # the place in the trie, after the tokens so far
        self.uniforms: list[float] = []
        if not request.settings.is_greedy:
            [drawn] = draw_uniforms([request.seed], request.settings.max_new_tokens).tolist()
            self.uniforms = drawn

    @property
    def uniform(self) -> float:
        """The random number of the next token; of a row that has ended, any."""
        return self.uniforms[min(self.steps, len(self.uniforms) - 1)]

    def take(self, token: int) -> None:
        """Goes on behind ``token``."""
        self.steps += 1
        self.length += 1
        if self.choices is not None:
            self.choices = self.choices.following.get(token)


class Decoding:
    """Decodes several requests at once with a model's own cache; each row as if it were alone.

    The caller holds the model in eval mode, decides when a row has ended and takes it out.

    Args:
        model: A causal language model.
        requests: At least one, each with at least one token, trained virtual tokens included.
        pad_id: Fills rows on the left; the model never attends to it.
    """

    def __init__(
        self, model: "PreTrainedModel | PeftModel", requests: Sequence[Request], pad_id: int = 0
    ) -> None:
        self.model = model
        self.rows = [_Row(request) for request in requests]
        self.accepted = _forward_arguments(model)
        prompts = [request.prompt for request in requests]
        width = max(map(len, prompts))
        # On the left, so that the last column is the last token of every row.
        padded = [[pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        self.input_ids = torch.tensor(padded, device=model.device)
        self.mask = torch.tensor(mask, device=model.device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp_(min=0)
        self.cache: Any = roomy_cache(model.config)
        self.seen: Tensor | None = None  # [B, V], where a row has a repetition penalty
        self._rule = _Rule(self.rows, model.device)

    def __len__(self) -> int:
        """Rows that run."""
        return len(self.rows)

    def step(self) -> list[int]:
        """The next token of every row."""
        with torch.inference_mode():
            tokens = self._choose(self._forward())
            if self.seen is not None:
                self.seen.scatter_(1, tokens[:, None], True)
            self.input_ids = tokens[:, None]
            self.positions = self.positions[:, -1:] + 1
            self.mask = pad(self.mask, (0, 1), value=1)
            chosen: list[int] = tokens.tolist()
            for row, token in zip(self.rows, chosen, strict=True):
                row.take(token)
            return chosen

    def is_settled(self, place: int) -> bool:
        """Whether a row has come to the end of a choice that no other goes on from."""
        node = self.rows[place].choices
        return node is not None and node.is_last

    def keep(self, places: Sequence[int]) -> None:
        """Lets all rows but these leave the batch."""
        self.rows = [self.rows[place] for place in places]
        if not places:
            self.cache = self.seen = None
            return
        with torch.inference_mode():
            chosen = torch.tensor(places, device=self.input_ids.device)
            # Columns that are padding in all of them go too.
            less = self.mask.shape[1] - max(row.length for row in self.rows) if self.can_join else 0
            keep_rows(self.cache, chosen, less)
            self.input_ids, self.mask = self.input_ids[chosen], self.mask[chosen, less:]
            self.positions = self.positions[chosen]
            self.seen = None if self.seen is None else self.seen[chosen]
            self._rule = _Rule(self.rows, self.input_ids.device)

    @property
    def can_join(self) -> bool:
        """Whether the cache is one that other rows can enter: every layer holds all columns."""
        return bool(self.rows) and self.rows[0].steps > 0 and holds_all_columns(self.cache)

    def join(self, other: "Decoding") -> None:
        """Takes in the rows of ``other``, behind the own ones; ``other`` is used up.

        Both have made at least one step, with the same model.

        Raises:
            ValueError: One has not, or the model's cache does not hold all columns (sliding windows).
        """
        if not (self.can_join and other.can_join):
            raise ValueError("rows join only between steps, and only where a cache holds all their columns")
        with torch.inference_mode():
            width = max(self.mask.shape[1], other.mask.shape[1])
            for decoding in (self, other):
                decoding._widen(width)
            for own, new in zip(self.cache.layers, other.cache.layers, strict=True):
                own.keys = torch.cat([own.keys, new.keys])
                own.values = torch.cat([own.values, new.values])
            if self.seen is not None or other.seen is not None:
                self.seen = torch.cat([self._marks_beside(other), other._marks_beside(self)])
            self.mask = torch.cat([self.mask, other.mask])
            self.input_ids = torch.cat([self.input_ids, other.input_ids])
            self.positions = torch.cat([self.positions, other.positions])
            self.rows = self.rows + other.rows
            self._rule = _Rule(self.rows, self.input_ids.device)
        other.keep([])

    @property
    def can_replace(self) -> bool:
        """Whether other rows can take the places of rows that have ended."""
        return self.can_join and can_put(self.cache)

    def replace(self, places: Sequence[int], other: "Decoding") -> None:
        """Puts the rows of ``other``, which is used up, in the places of rows that have ended.

        Nothing of the other rows is copied, so this is what a batch that always has rows to wait for does;
        :meth:`keep` and :meth:`join` cost a copy of the whole cache each.

        Args:
            places: As many as ``other`` has rows.
            other: Of the same model; it has made at least one step.

        Raises:
            ValueError: One has made no step, or a cache is of another kind.
        """
        if not (self.can_replace and other.can_replace):
            raise ValueError("rows are replaced only between steps, and only in a cache with room of its own")
        with torch.inference_mode():
            chosen = torch.tensor(places, device=self.input_ids.device)
            width = other.mask.shape[1]
            self._widen(max(width, self.mask.shape[1]))
            for own, new in zip(self.cache.layers, other.cache.layers, strict=True):
                own.put(chosen, new)
            if self.seen is not None or other.seen is not None:
                marks = other._marks_beside(self)
                self.seen = self._marks_beside(other)
                self.seen[chosen] = marks
            self.mask[chosen] = pad(other.mask, (self.mask.shape[1] - width, 0))
            self.input_ids[chosen] = other.input_ids
            self.positions[chosen] = other.positions
            for place, row in zip(places, other.rows, strict=True):
                self.rows[place] = row
            self._rule = _Rule(self.rows, self.input_ids.device)
        other.keep([])

    def _marks_beside(self, other: "Decoding") -> Tensor:
        """``seen`` of the own rows; no mark where only those of ``other`` need any."""
        if self.seen is not None:
            return self.seen
        assert other.seen is not None
        return other.seen.new_zeros(len(self), other.seen.shape[1])

    def _widen(self, width: int) -> None:
        """Adds columns of padding on the left, up to ``width``."""
        if more := width - self.mask.shape[1]:
            self.mask = pad(self.mask, (more, 0))
            for layer in self.cache.layers:
                layer.keys, layer.values = (pad(part, (0, 0, more, 0)) for part in (layer.keys, layer.values))

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
        penalties = self._rule.penalties
        if penalties is not None:
            if self.seen is None:
                self.seen = self._count_seen(logits)
            logits = penalise_repetition(logits, self.seen, penalties)
        return self._rule.choose(logits)

    def _count_seen(self, logits: Tensor) -> Tensor:
        """Which words [B, V] the prompts hold."""
        # Counts, because padding repeats the id of a token that a prompt may also hold. Virtual tokens are
        # none that could come again.
        real = self.mask * (self.input_ids < logits.shape[1])
        counts = torch.zeros_like(logits, dtype=torch.int64)
        return counts.scatter_add_(1, self.input_ids.clamp(max=logits.shape[1] - 1), real) > 0


class _Rule:
    """How the rows of a batch draw their tokens, worked out once for as long as the batch is the same."""

    def __init__(self, rows: Sequence[_Row], device: torch.device) -> None:
        self.penalties: Tensor | None = None  # [B, 1]
        factors = [row.settings.repetition_penalty for row in rows]
        if any(factor != 1 for factor in factors):
            self.penalties = torch.tensor(factors, device=device)[:, None]
        groups: dict[SamplingSettings, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            groups[row.settings].append(place)
        self.sampled = [
            (torch.tensor(places, device=device), [rows[place] for place in places], settings)
            for settings, places in groups.items()
            if not settings.is_greedy
        ]
        self.closed = [(place, row) for place, row in enumerate(rows) if row.choices is not None]

    def choose(self, logits: Tensor) -> Tensor:
        """A token [B] of each row's logits [B, V]."""
        if self.closed:
            logits = self._only_allowed(logits)
        tokens = logits.argmax(-1)
        for places, rows, settings in self.sampled:
            uniforms = torch.tensor([row.uniform for row in rows], dtype=torch.float64)
            tokens[places] = sample(logits[places], uniforms.to(logits.device), settings)
        return tokens

    def _only_allowed(self, logits: Tensor) -> Tensor:
        """The logits without what no choice goes on with; rows without choices keep theirs."""
        logits = logits.clone()
        for place, row in self.closed:
            if row.choices is None or not row.choices.following:  # the row has ended, and stays for a while
                continue
            allowed = torch.tensor(list(row.choices.following), device=logits.device)
            kept = logits[place, allowed]
            logits[place] = -torch.inf
            logits[place, allowed] = kept
        return logits


def up_to_stop(answer: Sequence[int], stop_ids: frozenset[int]) -> list[int]:
    """What others decoded, without its stop token and what may stand behind it."""
    end = next((place for place, token in enumerate(answer) if token in stop_ids), len(answer))
    return list(answer[:end])


def _forward_arguments(model: "PreTrainedModel | PeftModel") -> frozenset[str]:
    """Names of the arguments that the model itself takes, below an adapter's wrapper."""
    unwrap = getattr(model, "get_base_model", None)
    return frozenset(inspect.signature((unwrap() if unwrap else model).forward).parameters)
