"""The rows of other data that went worst: those whose characters agree least with the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medtune.data.examples import Example
from medtune.evaluation.promptcblue.worst import cut
from medtune.evaluation.text import compare_characters


def find_worst_texts(
    examples: Sequence[Example], golds: Sequence[str], texts: Sequence[str], most: int
) -> list[dict[str, Any]]:
    """Returns at most ``most`` rows, the worst by character ROUGE-L first; none that is all right."""
    scores = [100 * compare_characters(gold, text) for gold, text in zip(golds, texts, strict=True)]
    wrong = sorted((score, place) for place, score in enumerate(scores) if score < 100)
    return [
        {
            "sample_id": examples[place].record.get("sample_id", examples[place].where),
            "score": score,
            "input": cut(examples[place].prompt),
            "gold": cut(golds[place]),
            "prediction": cut(texts[place]),
        }
        for score, place in wrong[:most]
    ]
