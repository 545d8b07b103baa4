"""From logits to the next token: greedy, or sampled so that the batch does not matter.

B rows, V vocabulary.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from medtune.generation.settings import SamplingSettings


def prompt_seeds(prompts: Sequence[Sequence[int]], seed: int) -> list[int]:
    """A seed per prompt that depends on ``seed`` and the prompt alone.

    So a prompt is answered alike in whatever order, batch or share of the prompts it comes. Equal prompts
    of one call get different seeds.
    """
    earlier: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for prompt in map(tuple, prompts):
        key = repr((seed, earlier[prompt], prompt)).encode()
        earlier[prompt] += 1
        # 63 bits: torch's generators take no larger seed that is positive.
        seeds.append(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)
    return seeds


def draw_uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """Random numbers [B, steps] in [0, 1), each row from its own seed."""
    rows = [
        torch.rand(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(rows)


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Makes the tokens marked in ``seen`` [B, V] less likely (arXiv:1909.05858, as in transformers).

    ``penalty`` is one number, or one per row [B, 1]; a row at 1 stays as it is.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def sample(logits: Tensor, uniforms: Tensor, settings: SamplingSettings) -> Tensor:
    """One token per row from the softmax at ``settings.temperature``, cut to top-k, then to top-p.

    Args:
        logits: [B, V], any float type.
        uniforms: [B] in [0, 1); the same number and logits give the same token.
        settings: With a temperature above 0.

    Returns:
        Token ids [B].
    """
    scores, tokens = _likeliest(logits.float() / settings.temperature, settings)
    probabilities = scores.softmax(-1).double()
    if settings.top_p < 1:
        # A token stays while the mass before it is short of top_p; so the likeliest always stays.
        before = probabilities.cumsum(-1) - probabilities
        probabilities = probabilities.masked_fill(before >= settings.top_p, 0.0)
    mass = probabilities.cumsum(-1)
    threshold = uniforms.to(mass)[:, None] * mass[:, -1:]
    # right=True: never a token without mass.
    chosen = torch.searchsorted(mass, threshold, right=True).clamp_(max=mass.shape[-1] - 1)
    return chosen[:, 0] if tokens is None else tokens.gather(1, chosen)[:, 0]


def _likeliest(scores: Tensor, settings: SamplingSettings) -> tuple[Tensor, Tensor | None]:
    """The scores that may be drawn, in falling order, and their token ids; None: all, in order of id."""
    if 0 < settings.top_k < scores.shape[-1]:
        return scores.topk(settings.top_k, dim=-1)
    if settings.top_p < 1:
        return scores.sort(dim=-1, descending=True)
    return scores, None
