"""Beam search by transformers' own ``generate``, on batches of ours."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from medtune.generation.choices import Node
from medtune.generation.decoding import Request, up_to_stop
from medtune.generation.settings import SamplingSettings

if TYPE_CHECKING:  # peft costs seconds to import
    from peft import PeftModel


def beam_batches(
    lengths: Sequence[int], limits: Sequence[int], settings: SamplingSettings
) -> Iterator[list[int]]:
    """Row numbers in batches of like length, the longest first, that hold the beams of every row.

    A search has one limit for all of its rows. With a repetition penalty a batch has prompts of one length:
    transformers' would count padding as a word that occurred.
    """
    by_limit: dict[tuple[int, int], list[int]] = defaultdict(list)
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        by_limit[limits[row], lengths[row] if settings.repetition_penalty != 1 else 0].append(row)
    for (limit, _), rows in by_limit.items():
        while rows:
            widest = settings.num_beams * (lengths[rows[0]] + limit)
            count = max(1, settings.batch_tokens // widest)
            yield rows[:count]
            rows = rows[count:]


def search(
    model: "PreTrainedModel | PeftModel",
    requests: Sequence[Request],
    limit: int,
    settings: SamplingSettings,
    *,
    stop_ids: frozenset[int],
    pad_id: int,
) -> list[list[int]]:
    """The best beam of each request, without its stop token.

    Args:
        model: In eval mode.
        requests: Of one batch.
        limit: Most tokens of each answer.
        settings: With more than one beam.
        stop_ids: Tokens that end an answer.
        pad_id: Fills rows on the left; the model never attends to it.
    """
    unwrap = getattr(model, "get_base_model", None)
    network: Any = unwrap() if unwrap else model
    width = max(len(request.prompt) for request in requests)
    missing = [width - len(request.prompt) for request in requests]
    padded = [[pad_id] * less + list(each.prompt) for less, each in zip(missing, requests, strict=True)]
    mask = [[0] * less + [1] * (width - less) for less in missing]
    more: dict[str, Any] = {}
    if any(request.choices is not None for request in requests):
        more["prefix_allowed_tokens_fn"] = allowed_tokens(requests, width, network, stop_ids)
    with torch.inference_mode(), own_settings(network, settings, limit, stop_ids, pad_id):
        found = network.generate(
            torch.tensor(padded, device=model.device),
            attention_mask=torch.tensor(mask, device=model.device),
            **more,
        )
    return [up_to_stop(answer, stop_ids) for answer in found[:, width:].tolist()]


@contextmanager
def own_settings(
    network: Any, settings: SamplingSettings, limit: int, stop_ids: frozenset[int], pad_id: int
) -> Iterator[None]:
    """Puts these settings in the place of the model's own, which would fill in what they leave open."""
    former = network.generation_config
    network.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=settings.num_beams,
        length_penalty=settings.length_penalty,
        repetition_penalty=settings.repetition_penalty,
        max_new_tokens=limit,
        eos_token_id=sorted(stop_ids) or None,
        pad_token_id=pad_id,
    )
    try:
        yield
    finally:
        network.generation_config = former


def allowed_tokens(requests: Sequence[Request], width: int, network: Any, stop_ids: frozenset[int]) -> Any:
    """The function by which transformers asks what may follow a beam; ``width`` columns are its prompt's."""
    anything = list(range(network.config.get_text_config(decoder=True).vocab_size))

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        node: Node | None = requests[row].choices
        for token in ids[width:].tolist():
            node = node.following.get(token) if node is not None else None
        if node is None:  # without choices; or a beam that has ended, or never could be
            return anything
        return list(node.following) or sorted(stop_ids) or anything

    return allowed
