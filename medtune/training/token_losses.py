"""The loss of each learned token, without the logits of a whole row.

A vocabulary is up to thirty times as wide as the hidden states: the float32 logits of 4096 tokens and 125,696
words take 2 GB, their gradient as much again. So the head sees learned positions only, and a few of them at
once; in the backward pass each chunk is computed anew. All of it happens inside the network's own forward,
in the head's place: there FSDP2 and ZeRO-3 hold the head's weights together, and adapters on it act.

Shapes: B rows, K columns with a learned label, N learned labels of the batch, C hidden, V vocabulary.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medtune.models.fused import fused_cross_entropy
from medtune.runtime.families import PLAIN_HEADS
from medtune.training import losses
from medtune.training.losses import Objective

LOGITS_AT_ONCE = 2**26  # numbers; 256 MB in float32
PLAIN = Objective()

SecondRow = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of logits [N, V], labels [N] and their losses [N], something for each: float32 [N]."""


class TokenLosses:
    """Computes the losses of a network's learned tokens.

    Args:
        model: transformers' or peft's. Where its family is known to end with its head (``PLAIN_HEADS``), the
            head works in chunks; another's logits are made whole, of the columns that the network lets one
            choose.
        fused: Use Liger's kernel for the loss where it can serve.
        objective: What training minimises.
    """

    def __init__(self, model: Any, fused: bool = False, objective: Objective = PLAIN) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.model = model
        self.fused = fused
        self.objective = objective
        self.takes_columns = "logits_to_keep" in inspect.signature(base.forward).parameters
        self.head: nn.Module | None = None
        if base.config.model_type in PLAIN_HEADS and self.takes_columns:
            self.head = model.get_output_embeddings()
        self.vocab_size: int = base.config.vocab_size

    def __call__(
        self,
        inputs: Mapping[str, Any],
        batch: Mapping[str, Any],
        *,
        apart: bool = False,
        correct: bool = False,
        training: bool = False,
    ) -> Tensor:
        """Runs the network on one micro batch.

        Args:
            inputs: Its keyword arguments.
            batch: With ``columns``, ``learned`` and ``next_labels`` (see :func:`losses.learned_tokens`).
            apart: The terms are wanted one by one. Else they may come added up, which is all that fused
                kernels can do.
            correct: Also tell which labels are the likeliest token.
            training: Also give the terms of the objective, where it is not the cross-entropy itself; only
                they have a gradient then.

        Returns:
            float32 [N], or [1] when added up; with ``correct`` [2, N], the second row 1 where it is; the
            objective too is a second row.
        """
        second: SecondRow | None = likeliest if correct else None
        if training and not self.objective.is_plain:
            second = self.objective.terms
        if self.takes_columns:
            inputs = {**inputs, "logits_to_keep": batch["columns"]}
        labels = batch["next_labels"]
        if self.head is None:
            logits: Tensor = self.model(**inputs).logits
            if not self.takes_columns:
                logits = logits[:, batch["columns"]]
            return scores(chosen(logits, batch["learned"]), labels, second)

        def compute(project: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
            assert self.head is not None
            hidden = chosen(hidden, batch["learned"])
            if self.fused and not apart and second is None:
                fused = fused_cross_entropy(self.head, hidden, labels)
                if fused is not None:
                    return fused
            return self._in_chunks(project, hidden, labels, second)

        with forward_replaced(self.head, compute):
            found: Tensor = self.model(**inputs).logits
        return found

    def _in_chunks(
        self,
        project: Callable[[Tensor], Tensor],
        hidden: Tensor,
        labels: Tensor,
        second: SecondRow | None,
    ) -> Tensor:
        """:func:`scores` of ``hidden`` [N, C], at most ``LOGITS_AT_ONCE`` logits at a time."""
        assert self.head is not None
        chunks = 1 if self._is_gathered_by_call() else -(-len(labels) * self.vocab_size // LOGITS_AT_ONCE)

        def score(part: Tensor, wanted: Tensor) -> Tensor:
            return scores(project(part), wanted, second)

        if chunks <= 1:
            return score(hidden, labels)
        if torch.is_grad_enabled():
            dropout = any(isinstance(module, nn.Dropout) and module.p for module in self.head.modules())
            score = partial(checkpoint, score, use_reentrant=False, preserve_rng_state=dropout)
        size = -(-len(labels) // chunks)
        parts = zip(hidden.split(size), labels.split(size), strict=True)
        return torch.cat([score(part, wanted) for part, wanted in parts], dim=-1)

    def _is_gathered_by_call(self) -> bool:
        """Whether each call of the head gathers weights from all ranks, whose numbers of chunks may differ.

        ZeRO-3 does so for every module that is called inside the head, such as an adapter's.
        """
        assert self.head is not None
        divided = any(hasattr(parameter, "ds_id") for parameter in self.head.parameters())
        return divided and next(self.head.children(), None) is not None


def chosen(values: Tensor, learned: Tensor) -> Tensor:
    """The places ``learned`` [N] of ``values`` [B, K, ...], laid end to end."""
    values = values.flatten(0, 1)
    return values if len(values) == len(learned) else values[learned]


def scores(logits: Tensor, labels: Tensor, second: SecondRow | None = None) -> Tensor:
    """The losses of ``logits`` [N, V], and under them the row that ``second`` makes of logits and labels.

    A second row is what the gradient is of, if there is one.
    """
    token_losses = losses.token_cross_entropy(logits, labels)
    if second is None:
        return token_losses
    return torch.stack([token_losses.detach(), second(logits, labels, token_losses)])


def likeliest(logits: Tensor, labels: Tensor, token_losses: Tensor) -> Tensor:
    """1 where the label is the likeliest word, else 0."""
    return (logits.argmax(dim=-1) == labels).float()


@contextmanager
def forward_replaced(
    module: nn.Module, compute: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
) -> Iterator[None]:
    """Lets ``module`` answer with ``compute(its own forward, input)``; hooks run around it as ever."""
    own = module.forward
    before = vars(module).get("forward")
    module.forward = partial(compute, own)
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before
