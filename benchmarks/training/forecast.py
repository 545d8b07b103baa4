"""A plain forecast of the memory that a step takes at its peak, to hold against what it took.

It adds up weights, gradients, the optimizer's two moments, what the layers keep for the backward pass, and
the logits of one chunk of the loss. Kernels' work space, buffers of bitsandbytes and fragments are not in it.
"""

from dataclasses import asdict, dataclass

from benchmarks.training.flops import Sizes

# A 4-bit number, an 8-bit constant for 64 of them, a float32 for 256 constants (arXiv:2305.14314, section 3).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        trains_all: Every weight, else the adapters alone.
        quantized: The weights of the layers are in nf4.
        trained_bytes: Of a trained number, its gradient, and each of its moments.
        frozen_bytes: Of a frozen number that is not quantised.
        product_bytes: Of a number in the products: 2 under autocast, whatever the weights are.
        checkpointing: Layers are computed anew in the backward pass.
    """

    trains_all: bool
    quantized: bool
    trained_bytes: int
    frozen_bytes: int
    product_bytes: int
    checkpointing: bool


@dataclass(frozen=True)
class Forecast:
    """Bytes at the peak of a step, by what holds them."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All of it."""
        return sum(asdict(self).values())


def forecast(sizes: Sizes, recipe: Recipe, tokens: int, learned: int, logits_at_once: int) -> Forecast:
    """What a step takes.

    Args:
        sizes: Of the network.
        recipe: How it is trained.
        tokens: Of one pass, padding included.
        learned: Of them, those with a label.
        logits_at_once: Most logits of a chunk of the loss.
    """
    trained = sizes.parameters if recipe.trains_all else sizes.adapters
    logits = min(learned * sizes.vocabulary, logits_at_once)
    return Forecast(
        weights=weight_bytes(sizes, recipe),
        gradients=trained * recipe.trained_bytes,
        optimizer=2 * trained * recipe.trained_bytes,
        activations=activation_bytes(sizes, recipe, tokens),
        # As the head gives them, in float32 with their softmax and its gradient, and the head's gradient.
        logits=logits * (2 * recipe.product_bytes + 12),
    )


def weight_bytes(sizes: Sizes, recipe: Recipe) -> float:
    """The weights, and the copies of trained ones that autocast keeps for the products."""
    if recipe.trains_all:
        copies = recipe.product_bytes if recipe.product_bytes < recipe.trained_bytes else 0
        return sizes.parameters * (recipe.trained_bytes + copies)
    body = sizes.body * (NF4_BYTES if recipe.quantized else recipe.frozen_bytes)
    rest = (sizes.parameters - sizes.body) * recipe.frozen_bytes
    return body + rest + sizes.adapters * recipe.trained_bytes


def activation_bytes(sizes: Sizes, recipe: Recipe, tokens: int) -> float:
    """What the layers keep until the backward pass has come back to them.

    A layer keeps of each of its two norms the input in float32, the input normalised, and the output (8
    hidden); queries, keys, values, what attention gives, and that side by side (3 attention + 2 keys; the
    kernels keep no weights of pairs); the gate, its activation, the other half and their product (4
    intermediate). Fused kernels keep less. An adapter keeps its input after dropout, and where it dropped.
    Recomputed, a layer keeps its input; one at a time is whole, with as many gradients.
    """
    numbers = 8 * sizes.hidden + 3 * sizes.attention + 2 * sizes.keys + 4 * sizes.intermediate
    layer = numbers * recipe.product_bytes
    adapters = sizes.adapted_inputs / max(1, sizes.layers) * (recipe.product_bytes + 1)
    if recipe.checkpointing:
        inputs = sizes.layers * sizes.hidden * recipe.product_bytes
        return tokens * (inputs + 2 * layer + adapters)
    return tokens * (sizes.layers * (layer + adapters) + layer)
