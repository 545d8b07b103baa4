"""Scores for data without PromptCBLUE tasks: exact match, character ROUGE-L, and F1 over answer lines."""

from __future__ import annotations

from collections.abc import Sequence

from medtune.evaluation.scores import Scores, TaskScore
from medtune.evaluation.subsequence import measure_common_subsequence

EXACT_MATCH, ROUGE_L, LINE_F1 = "exact_match", "rouge_l", "line_f1"
MAX_ITEM_CHARS = 32  # a longer line is a sentence, not an entity or a label


def score_texts(references: Sequence[str], predictions: Sequence[str]) -> Scores:
    """Scores one generated text per reference.

    Returns:
        Three pseudo-tasks over the same rows: ``exact_match`` (stripped texts, per cent), ``rouge_l`` (mean
        F1 of the longest common subsequence of characters, spaces left out) and ``line_f1`` (micro F1 over
        the sets of non-empty stripped lines). ``score`` repeats the one that ``headline`` names, chosen
        from the references alone (see ``choose_headline``). There is no official score.

    Raises:
        ValueError: The two differ in length, are empty, or hold something that is no text.
    """
    _check_texts(references, predictions)
    empty = tuple(str(index) for index, text in enumerate(predictions) if not text.strip())
    tasks = {
        EXACT_MATCH: _score_exact_match(references, predictions, empty),
        ROUGE_L: _score_rouge_l(references, predictions, empty),
        LINE_F1: _score_lines(references, predictions, empty),
    }
    headline = choose_headline(references)
    return Scores(
        protocol="text",
        score=tasks[headline].score,
        official_score=None,
        official_error="no official score: the records are not PromptCBLUE's",
        robust_score=tasks[headline].score,
        tasks=tasks,
        headline=headline,
    )


def choose_headline(references: Sequence[str]) -> str:
    """Returns the measure that suits the references.

    Lists (every line short, some reference with several lines) are scored by ``line_f1``, labels (every
    reference one short line, and most of them occurring again) by ``exact_match``, prose by ``rouge_l``.
    """
    lines = [_find_lines(reference) for reference in references]
    if any(len(line) > MAX_ITEM_CHARS for group in lines for line in group):
        return ROUGE_L
    if any(len(group) > 1 for group in lines):
        return LINE_F1
    return EXACT_MATCH if 2 * len(set(references)) <= len(references) else ROUGE_L


def _check_texts(references: Sequence[object], predictions: Sequence[object]) -> None:
    if len(references) != len(predictions) or not references:
        raise ValueError(
            f"{len(references)} references and {len(predictions)} predictions; pass one text of each per row"
        )
    for name, texts in (("references", references), ("predictions", predictions)):
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                kind = type(text).__name__
                raise ValueError(f'{name}[{index}] is {kind}, not text; pass "" for a row without an answer')


def _find_lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]


def _score_exact_match(
    references: Sequence[str], predictions: Sequence[str], empty: tuple[str, ...]
) -> TaskScore:
    hits = sum(gold.strip() == text.strip() for gold, text in zip(references, predictions, strict=True))
    return TaskScore(EXACT_MATCH, 100 * hits / len(references), len(references), parse_failures=empty)


def compare_characters(gold: str, predicted: str) -> float:
    """Returns the F1 (0 to 1) of the longest common subsequence of characters; two empty texts agree."""
    golds, characters = "".join(gold.split()), "".join(predicted.split())
    if not golds or not characters:
        return float(golds == characters)
    return 2 * measure_common_subsequence(golds, characters) / (len(golds) + len(characters))


def _score_rouge_l(
    references: Sequence[str], predictions: Sequence[str], empty: tuple[str, ...]
) -> TaskScore:
    total = sum(compare_characters(gold, text) for gold, text in zip(references, predictions, strict=True))
    return TaskScore(ROUGE_L, 100 * total / len(references), len(references), parse_failures=empty)


def _score_lines(references: Sequence[str], predictions: Sequence[str], empty: tuple[str, ...]) -> TaskScore:
    hits = wanted = predicted = 0
    for reference, prediction in zip(references, predictions, strict=True):
        golds, lines = set(_find_lines(reference)), set(_find_lines(prediction))
        hits += len(golds & lines)
        wanted += len(golds)
        predicted += len(lines)
    f1 = 200 * hits / (wanted + predicted) if wanted + predicted else 100.0
    precision = 100 * hits / predicted if predicted else 0.0
    recall = 100 * hits / wanted if wanted else 0.0
    details = {"f1": f1, "precision": precision, "recall": recall}
    return TaskScore(LINE_F1, f1, len(references), details, parse_failures=empty)
