"""How much of a text's pieces (characters or words) another holds: ROUGE and BLEU, from 0 to 1."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

from medtune.evaluation.subsequence import measure_common_subsequence

BLEU_ORDER = 4


def count_ngrams(pieces: Sequence[str], order: int) -> Counter[Any]:
    """The n-grams of ``order``, each with how often it occurs. A string is a sequence of characters."""
    if isinstance(pieces, str):
        return Counter([pieces[start : start + order] for start in range(len(pieces) - order + 1)])
    return Counter(zip(*(islice(pieces, start, None) for start in range(order)), strict=False))


def count_common(first: Counter[Any], second: Counter[Any]) -> int:
    """How many n-grams two texts share, each as often as the one that has it less often."""
    few, many = sorted((first, second), key=len)
    return sum(min(count, many[ngram]) for ngram, count in few.items() if ngram in many)


def f1(common: int, predicted: int, gold: int) -> float:
    """The harmonic mean of common / predicted and common / gold; 0 where nothing is common."""
    return 2 * common / (predicted + gold) if common else 0.0


def rouge_n(gold: Sequence[str], predicted: Sequence[str], order: int) -> float:
    """ROUGE-N (Lin 2004, section 2) as F1: n-grams in common, clipped counts.

    Two texts that are too short to have any agree where they are equal, so that the gold text always gets 1.
    The package rouge-chinese, and so LLaMA-Factory's ``predict``, counts each distinct n-gram once instead.
    """
    if max(len(gold), len(predicted)) < order:
        return float(gold == predicted)
    wanted, found = count_ngrams(gold, order), count_ngrams(predicted, order)
    return f1(count_common(wanted, found), found.total(), wanted.total())


def rouge_l(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """ROUGE-L (Lin 2004, section 3.1) as F1 over the whole text as one sentence; two empty texts agree."""
    if not gold or not predicted:
        return float(not gold and not predicted)
    return f1(measure_common_subsequence(gold, predicted), len(predicted), len(gold))


def bleu_4(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """BLEU-4 of one text (Papineni et al. 2002) with NIST's geometric smoothing (Chen and Cherry 2014, 3).

    The k-th order without a match counts as 1 / 2^k of an n-gram. So it is NLTK's ``sentence_bleu`` with
    ``SmoothingFunction().method3``, and on characters what LLaMA-Factory's ``predict`` reports.
    """
    logarithms, unmatched = 0.0, 0
    for order in range(1, BLEU_ORDER + 1):
        found = count_ngrams(predicted, order)
        common: float = count_common(found, count_ngrams(gold, order))
        if not common:
            if order == 1:
                return 0.0
            unmatched += 1
            common = 0.5**unmatched
        logarithms += math.log(common / max(1, found.total()))
    brevity = min(0.0, 1 - len(gold) / len(predicted))
    return math.exp(brevity + logarithms / BLEU_ORDER)
