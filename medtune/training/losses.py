"""The loss as it is defined: cross-entropy summed over learned tokens.

Shapes: B rows, T tokens in a row, K columns with a learned label, N learned labels, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medtune.data.rows.split import IGNORE_INDEX


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


def learned_tokens(following: Tensor) -> tuple[Tensor, Tensor]:
    """Which of :func:`next_labels` are learned.

    Args:
        following: [B, K].

    Returns:
        Their places in the flattened [B * K], and the labels themselves; int64 [N].
    """
    flat = following.flatten()
    learned = (flat != IGNORE_INDEX).nonzero().squeeze(1)
    return learned, flat[learned]


def token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Gives the cross-entropy of each learned label, in float32 whatever the logits' type.

    Args:
        logits: [N, V].
        labels: [N], already those that the logits predict.

    Returns:
        float32 [N]. The gradient of their sum is bit for bit that of a sum taken inside the operator.
    """
    return F.cross_entropy(logits.float(), labels, reduction="none")


@dataclass(frozen=True)
class Objective:
    """What is minimised for each learned label.

    Attributes:
        label_smoothing: Share of the label's weight that goes to all words alike (arXiv:1512.00567, §7).
        z_loss: Weight of the squared log of the softmax's denominator (arXiv:2204.02311, §5).
    """

    label_smoothing: float = 0.0
    z_loss: float = 0.0

    @property
    def is_plain(self) -> bool:
        """Whether it is the cross-entropy and nothing else."""
        return not self.label_smoothing and not self.z_loss

    def terms(self, logits: Tensor, labels: Tensor, cross_entropy: Tensor) -> Tensor:
        """The terms, float32 [N], of ``logits`` [N, V] and ``labels`` [N] with ``cross_entropy`` [N]."""
        del labels  # in the cross-entropy
        logits = logits.float()
        log_normalizer = logits.logsumexp(dim=-1)
        # The mean over all words of -log p.
        uniform = log_normalizer - logits.mean(dim=-1)
        smoothed = torch.lerp(cross_entropy, uniform, self.label_smoothing)
        return smoothed + self.z_loss * log_normalizer.square()


def sum_by_source(values: Tensor, sources: Tensor, num_sources: int) -> Tensor:
    """Adds up ``values`` [N] by ``sources`` [N] into float64 [num_sources]; waits for no device."""
    return values.new_zeros(num_sources, dtype=torch.float64).index_add_(0, sources, values.double())


def step_loss(loss_sum: Tensor, step_tokens: int, world_size: int, accumulate: int) -> Tensor:
    """Turns one micro batch's sum into the loss whose gradients add up to the step's.

    The wanted gradient is that of (sum over all ranks and micro batches) / step_tokens. Lightning
    divides each loss by the number of micro batches and every strategy averages over ranks, so both
    are multiplied back here, and nowhere else.

    Args:
        loss_sum: Cross-entropy (or the objective) summed over the learned tokens of this micro batch.
        step_tokens: Learned tokens of the whole step, over all ranks and micro batches.
        world_size: Ranks that average their gradients.
        accumulate: Micro batches per step on one rank.
    """
    # A step without any learned token has the sum 0 and must not become nan.
    return loss_sum * (world_size * accumulate / max(1, step_tokens))


def exp_loss(loss: float) -> float:
    """Perplexity of a mean loss in nats; infinite where a float ends."""
    return float(torch.tensor(loss, dtype=torch.float64).exp())
