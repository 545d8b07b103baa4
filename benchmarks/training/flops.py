"""Floating-point operations that a step of training needs, and what a GPU can do: model FLOPs utilisation.

MFU (PaLM, arXiv:2204.02311, appendix B) is the operations that the model needs for the tokens it learns from,
over what the device could do in the time. Recomputing activations, padding and masked pairs are no needs.
"""

from dataclasses import dataclass

# Dense bfloat16 operations per second, of NVIDIA's data sheets (those with sparsity halved), by what the
# device's name contains. The longest name decides; sockets have other limits than PCIe cards.
BF16_PEAKS = {
    "A10": 125e12,
    "A100": 312e12,
    "A30": 165e12,
    "A40": 149.7e12,
    "A800": 312e12,
    "B200": 2250e12,
    "H100": 989.4e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H20": 148e12,
    "H200": 989.4e12,
    "H200 NVL": 835e12,
    "H800": 989.4e12,
    "L4": 121e12,
    "L40": 181e12,
    "L40S": 362e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165.2e12,
}


@dataclass(frozen=True)
class Sizes:
    """What a network costs by.

    Attributes:
        parameters: All of them, without adapters; a shared embedding once.
        layers: Decoder layers.
        hidden: Width of the residual stream.
        attention: Heads times head size.
        keys: Heads of keys times head size.
        intermediate: Width of the feed-forward layer.
        vocabulary: Rows of the head.
        body: Parameters of the decoder layers, all of which are multiplied by each token.
        adapters: Parameters of the adapters.
        adapted_inputs: Widths of the inputs of all adapted layers together.
    """

    parameters: int
    layers: int
    hidden: int
    attention: int
    keys: int
    intermediate: int
    vocabulary: int
    body: int
    adapters: int = 0
    adapted_inputs: int = 0


@dataclass(frozen=True)
class Work:
    """What some steps learned from.

    Attributes:
        useful: Tokens of documents.
        computed: The same with padding.
        learned: Tokens with a label, the only ones whose logits are made.
        pairs: Token and token that it sees in its document: n (n + 1) / 2 for a document of n tokens.
    """

    useful: int
    computed: int
    learned: int
    pairs: int


def needed_flops(sizes: Sizes, work: Work, trains_all: bool) -> float:
    """The operations of forward and backward passes, and not one that could be left out.

    A product of a weight with a token is one multiplication and one addition; the backward pass makes two
    more products, or one for a frozen weight: 6 and 4 per parameter. Attention makes two products of its
    width for each pair, twice as many in the backward pass. The embedding is looked up.
    """
    per_weight = 6 if trains_all else 4
    body = (per_weight * sizes.body + 6 * sizes.adapters) * work.useful
    head = per_weight * sizes.vocabulary * sizes.hidden * work.learned
    attention = 12 * sizes.layers * sizes.attention * work.pairs
    return float(body + head + attention)


def published_flops(sizes: Sizes, work: Work, sequence_length: int) -> float:
    """The operations as PaLM's formula counts them for full training: 6 N + 12 L H Q T for each token.

    It counts the embedding, logits of every position, and attention over whole rows; published figures are
    mostly by it, so it is what they compare with.
    """
    per_token = 6 * sizes.parameters + 12 * sizes.layers * sizes.attention * sequence_length
    return float(per_token) * work.useful


def bf16_peak(device_name: str) -> float | None:
    """Operations per second of a GPU by name; None for one that is not listed, or a slice of one (MIG)."""
    if "MIG" in device_name:
        return None
    words = f" {device_name.replace('-', ' ')} "
    known = [name for name in BF16_PEAKS if f" {name} " in words]
    return BF16_PEAKS[max(known, key=len)] if known else None
