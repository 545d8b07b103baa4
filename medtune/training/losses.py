"""The loss as it is defined: cross-entropy summed over learned tokens.

Shapes: B rows, T tokens in a row, K columns with a learned label, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from medtune.data.rows.split import IGNORE_INDEX, NO_SOURCE


def learned_columns(labels: Tensor) -> Tensor:
    """Finds the columns whose logits the loss needs.

    Args:
        labels: [B, T], unshifted.

    Returns:
        The columns t, int64 [K], where label t+1 is learned in some row. Never empty: without any
        learned label it is column 0, so that every parameter still takes part in the backward pass,
        which DDP and ZeRO wait for.
    """
    columns = (labels[:, 1:] != IGNORE_INDEX).any(dim=0).nonzero().squeeze(1)
    return columns if len(columns) else columns.new_zeros(1)


def next_labels(labels: Tensor, columns: Tensor) -> Tensor:
    """The label that each of ``columns`` predicts, [B, K]; a last column predicts nothing."""
    following = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    return following[:, columns]


def next_sources(source_ids: Tensor, labels: Tensor, columns: Tensor) -> Tensor:
    """The source of the label that each of ``columns`` predicts.

    Args:
        source_ids: [B, T], int64.
        labels: [B, T], unshifted.
        columns: [K].

    Returns:
        int64 [B, K]; ``NO_SOURCE`` where no label is learned.
    """
    sources = source_ids.masked_fill(labels == IGNORE_INDEX, NO_SOURCE)
    return F.pad(sources[:, 1:], (0, 1), value=NO_SOURCE)[:, columns]


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums the cross-entropy over learned labels, in float32 whatever the logits' type.

    Args:
        logits: [B, K, V].
        labels: [B, K], already those that the logits predict.

    Returns:
        A float32 scalar; 0 (and zero gradients) when nothing is learned.
    """
    return F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
    )


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The terms of :func:`summed_cross_entropy`, float32 [B * K]; 0 where no label is learned.

    The gradient of their sum is bit for bit that of the sum.
    """
    return F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )


def sum_by_source(values: Tensor, sources: Tensor, num_sources: int) -> Tensor:
    """Adds up ``values`` [N] by ``sources`` [N], in float64; waits for no device.

    Returns:
        float64 [num_sources]; values of ``NO_SOURCE`` are left out.
    """
    sums = values.new_zeros(num_sources + 1, dtype=torch.float64)
    return sums.index_add_(0, sources - NO_SOURCE, values.double())[1:]


def count_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Counts learned labels that are the likeliest token; shapes as in :func:`summed_cross_entropy`."""
    return ((logits.argmax(dim=-1) == labels) & (labels != IGNORE_INDEX)).sum()


def count_learned(labels: Tensor) -> Tensor:
    """Counts learned labels."""
    return (labels != IGNORE_INDEX).sum()


def step_loss(ce_sum: Tensor, step_tokens: int, world_size: int, accumulate: int) -> Tensor:
    """Turns one micro batch's sum into the loss whose gradients add up to the step's.

    The wanted gradient is that of (sum over all ranks and micro batches) / step_tokens. Lightning
    divides each loss by the number of micro batches and every strategy averages over ranks, so both
    are multiplied back here, and nowhere else.

    Args:
        ce_sum: Cross-entropy summed over the learned tokens of this micro batch.
        step_tokens: Learned tokens of the whole step, over all ranks and micro batches.
        world_size: Ranks that average their gradients.
        accumulate: Micro batches per step on one rank.
    """
    # A step without any learned token has the sum 0 and must not become nan.
    return ce_sum * (world_size * accumulate / max(1, step_tokens))


def exp_loss(loss: float) -> float:
    """Perplexity of a mean loss in nats; infinite where a float ends."""
    return float(torch.tensor(loss, dtype=torch.float64).exp())
