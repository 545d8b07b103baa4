"""ROUGE as PromptCBLUE counts it: BERT's basic tokens, and the sums of the rouge_chinese package."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from medtune.evaluation.promptcblue.errors import MetricError
from medtune.evaluation.subsequence import measure_common_subsequence

NO_TEXT = ["无", "。"]  # what the organisers put in place of an empty side

# The blocks that BERT's tokenizer takes for Chinese characters.
CHINESE_BLOCKS = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


def _clean_char(code: int) -> str:
    """Drops what is no text, writes every space alike, and sets Chinese characters apart."""
    char = chr(code)
    if char in "\t\n\r" or unicodedata.category(char) == "Zs":
        return " "
    if code == 0xFFFD or unicodedata.category(char).startswith("C"):
        return ""
    return f" {char} " if any(low <= code <= high for low, high in CHINESE_BLOCKS) else char


def _split_char(code: int) -> str:
    """Drops accents and sets punctuation apart; every ASCII sign counts as punctuation."""
    char = chr(code)
    category = unicodedata.category(char)
    if category == "Mn":
        return ""
    is_sign = code < 128 and char.isprintable() and not char.isalnum() and char != " "
    return f" {char} " if is_sign or category.startswith("P") else char


class _CharTable(dict[int, str]):
    """A table for ``str.translate`` that works each character out once."""

    def __init__(self, rule: Callable[[int], str]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, code: int) -> str:
        self[code] = text = self._rule(code)
        return text


_CLEAN, _SPLIT = _CharTable(_clean_char), _CharTable(_split_char)


def tokenize(text: str) -> list[str]:
    """Splits text into single Chinese characters, punctuation marks and lower-case words without accents.

    The same tokens as transformers' ``BasicTokenizer``. Its steps run over the whole text at once here, which
    changes nothing: none of them looks past a space.
    """
    text = unicodedata.normalize("NFC", text.translate(_CLEAN))
    text = unicodedata.normalize("NFD", " ".join(text.split()).lower())
    return text.translate(_SPLIT).split() or NO_TEXT


def _balance(common: int, predicted: int, gold: int) -> float:
    """F1 with the package's own guard against zero, which makes a perfect answer 0.999999995."""
    precision = common / predicted if predicted else 0.0
    recall = common / gold if gold else 0.0
    return 2.0 * (precision * recall / (precision + recall + 1e-8))


def compare_texts(gold: str, predicted: str) -> tuple[float, float, float]:
    """Returns ROUGE-1, ROUGE-2 (both over sets of n-grams) and ROUGE-L, each the F1 between 0 and 1."""
    golds, predictions = tokenize(gold), tokenize(predicted)
    gold_pairs, pairs = set(pairwise(golds)), set(pairwise(predictions))
    gold_set, prediction_set = set(golds), set(predictions)
    return (
        _balance(len(gold_set & prediction_set), len(prediction_set), len(gold_set)),
        _balance(len(gold_pairs & pairs), len(pairs), len(gold_pairs)),
        _balance(measure_common_subsequence(golds, predictions), len(predictions), len(golds)),
    )


def score_texts(golds: Sequence[str], predictions: Sequence[str]) -> tuple[float, float, float]:
    """Returns the means of ROUGE-1, ROUGE-2 and ROUGE-L over the rows, 0 to 1."""
    rows = [compare_texts(gold, predicted) for gold, predicted in zip(golds, predictions, strict=True)]
    first, second, longest = (sum(column) / len(rows) for column in zip(*rows, strict=True))
    return first, second, longest


def score_reports(
    golds: Sequence[Mapping[str, str]], predictions: Sequence[Mapping[str, str]]
) -> tuple[float, float, float]:
    """Returns the means over every section of every gold report; a section the answer lacks counts as empty.

    Raises:
        MetricError: No gold report has a section, over which the official code divides.
    """
    pairs = [
        (text.strip(), predicted.get(section, "").strip())
        for gold, predicted in zip(golds, predictions, strict=True)
        for section, text in gold.items()
    ]
    if not pairs:
        raise MetricError("no gold report has a section")
    return score_texts([gold for gold, _ in pairs], [predicted for _, predicted in pairs])
