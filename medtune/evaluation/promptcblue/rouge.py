"""ROUGE as PromptCBLUE counts it: BERT's basic tokens, and the sums of the rouge_chinese package."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise

from medtune.evaluation.subsequence import measure_common_subsequence

NO_TEXT = ["无", "。"]  # what the organisers put in place of an empty side
# Of a shorter text the marks may be as they are: sorting them by insertion takes milliseconds.
MANY_CHARS = 4096

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


def sort_marks(text: str) -> str:
    """Puts long runs of combining marks into canonical order, which changes no normal form.

    ``unicodedata.normalize`` sorts them by insertion: a text of marks in turns costs it hours.
    """
    if len(text) < MANY_CHARS:
        return text
    marks = {char: parts for char in set(text) if (parts := decompose_mark(char))}
    if not marks:
        return text
    runs = re.compile(f"[{''.join(map(re.escape, marks))}]{{64,}}")
    return runs.sub(
        lambda run: "".join(sorted("".join(marks[char] for char in run[0]), key=unicodedata.combining)),
        text,
    )


def decompose_mark(char: str) -> str:
    """Returns what a character that is nothing but combining marks consists of, and ``""`` for any other."""
    parts = unicodedata.normalize("NFD", char)
    return parts if all(map(unicodedata.combining, parts)) else ""


def tokenize(text: str) -> list[str]:
    """Splits text into single Chinese characters, punctuation marks and lower-case words without accents.

    The same tokens as transformers' ``BasicTokenizer``. Its steps run over the whole text at once here, which
    changes nothing: none of them looks past a space.
    """
    text = unicodedata.normalize("NFC", sort_marks(text.translate(_CLEAN)))
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
