"""Scores for data without PromptCBLUE tasks: exact match, ROUGE, BLEU, and F1 over lines or entities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medtune.evaluation.entities import ENTITY_F1, lists_entities, score_entities
from medtune.evaluation.overlap import bleu_4, rouge_l, rouge_n
from medtune.evaluation.scores import Scores, TaskScore
from medtune.evaluation.words import WITHOUT, cut_words, has_words
from medtune.runtime.progress import progress

EXACT_MATCH, ROUGE_L, BLEU_4, LINE_F1 = "exact_match", "rouge_l", "bleu_4", "line_f1"
MAX_ITEM_CHARS = 32  # a longer line is a sentence, not an entity or a label
# ROUGE and BLEU look no further, in the gold text too: a model that never stops must not cost minutes.
MAX_CHARS = 1 << 16

Measure = Callable[[Sequence[str], Sequence[str]], TaskScore]


def score_texts(references: Sequence[str], predictions: Sequence[str]) -> Scores:
    """Scores one generated text per reference.

    Returns:
        Four pseudo-tasks over the same rows: ``exact_match`` (stripped texts, per cent), ``rouge_l`` and
        ``bleu_4`` (means over the rows on characters; their details also on words, where jieba is there)
        and ``line_f1`` (micro F1 over the sets of non-empty stripped lines), or in its place ``entity_f1``
        where the references list entities. ``score`` repeats the one that ``headline`` names, chosen from
        the references alone (see ``choose_headline``). There is no official score.

    Raises:
        ValueError: The two differ in length, are empty, or hold something that is no text.
    """
    _check_texts(references, predictions)
    headline = choose_headline(references)
    listed = ENTITY_F1 if headline == ENTITY_F1 else LINE_F1
    tasks = {
        EXACT_MATCH: _score_exact_match(references, predictions),
        **_score_overlap(references, predictions),
        listed: MEASURES[listed](references, predictions),
    }
    return Scores(
        protocol="text",
        score=tasks[headline].score,
        official_score=None,
        official_error="no official score: the records are not PromptCBLUE's",
        robust_score=tasks[headline].score,
        tasks=tasks,
        headline=headline,
        notes=tuple(_notes(references, predictions)),
    )


def score_headline(references: Sequence[str], predictions: Sequence[str]) -> float:
    """``score_texts(...).score``, without the cost of the other measures."""
    _check_texts(references, predictions)
    return MEASURES[choose_headline(references)](references, predictions).score


def choose_headline(references: Sequence[str]) -> str:
    """Returns the measure that suits the references.

    Lists of entities with their types are scored by ``entity_f1``, other lists (every line short, some
    reference with several lines) by ``line_f1``, labels (every reference one short line, and most of them
    occurring again) by ``exact_match``, prose by ``rouge_l``.
    """
    lines = [_find_lines(reference) for reference in references]
    if any(len(line) > MAX_ITEM_CHARS for group in lines for line in group):
        return ROUGE_L
    if lists_entities(references):
        return ENTITY_F1
    if any(len(group) > 1 for group in lines):
        return LINE_F1
    return EXACT_MATCH if 2 * len(set(references)) <= len(references) else ROUGE_L


def _notes(references: Sequence[str], predictions: Sequence[str]) -> list[str]:
    long = sum(len(text) > MAX_CHARS for text in (*references, *predictions))
    cut = f"rouge and bleu are of the first {MAX_CHARS} characters; longer were {long} texts"
    return [note for note, holds in ((WITHOUT, not has_words()), (cut, long > 0)) if holds]


def _empty_rows(predictions: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(index) for index, text in enumerate(predictions) if not text.strip())


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


def _score_exact_match(references: Sequence[str], predictions: Sequence[str]) -> TaskScore:
    hits = sum(gold.strip() == text.strip() for gold, text in zip(references, predictions, strict=True))
    empty = _empty_rows(predictions)
    return TaskScore(EXACT_MATCH, 100 * hits / len(references), len(references), parse_failures=empty)


def compare_characters(gold: str, predicted: str) -> float:
    """Returns ROUGE-L (0 to 1) on characters, white space left out; two empty texts agree."""
    return rouge_l(_without_space(gold[:MAX_CHARS]), _without_space(predicted[:MAX_CHARS]))


def _without_space(text: str) -> str:
    return "".join(text.split())


def _score_rouge_l(references: Sequence[str], predictions: Sequence[str]) -> TaskScore:
    total = sum(compare_characters(gold, text) for gold, text in zip(references, predictions, strict=True))
    rows = len(references)
    return TaskScore(ROUGE_L, 100 * total / rows, rows, parse_failures=_empty_rows(predictions))


def _score_overlap(references: Sequence[str], predictions: Sequence[str]) -> dict[str, TaskScore]:
    """``rouge_l`` and ``bleu_4`` with every figure of their kind as details."""
    rows, sums, words = len(references), dict[str, float](), has_words()
    if words:
        cut_words("")  # reads the dictionary, for seconds that would belie the progress
    with progress("comparing texts", unit="rows", total=rows) as advance:
        for gold, text in zip(references, predictions, strict=True):
            for name, value in _compare(gold[:MAX_CHARS], text[:MAX_CHARS], words).items():
                sums[name] = sums.get(name, 0.0) + value
            advance(1)
    means = {name: 100 * value / rows for name, value in sums.items()}
    empty = _empty_rows(predictions)
    return {
        name: TaskScore(name, means[name], rows, {k: v for k, v in means.items() if family in k}, empty)
        for name, family in ((ROUGE_L, "rouge"), (BLEU_4, "bleu"))
    }


def _compare(gold: str, predicted: str, words: bool) -> dict[str, float]:
    """Every figure of one row, 0 to 1.

    ROUGE leaves white space out, as between Chinese characters it means nothing; BLEU takes each text as it
    is, as LLaMA-Factory does.
    """
    golds, characters = _without_space(gold), _without_space(predicted)
    found = {
        "rouge_1": rouge_n(golds, characters, 1),
        "rouge_2": rouge_n(golds, characters, 2),
        ROUGE_L: rouge_l(golds, characters),
        BLEU_4: bleu_4(gold, predicted),
    }
    if words:
        gold_words, predicted_words = cut_words(gold), cut_words(predicted)
        found |= {
            "word_rouge_1": rouge_n(gold_words, predicted_words, 1),
            "word_rouge_2": rouge_n(gold_words, predicted_words, 2),
            "word_rouge_l": rouge_l(gold_words, predicted_words),
            "word_bleu_4": bleu_4(gold_words, predicted_words),
        }
    return found


def _score_lines(references: Sequence[str], predictions: Sequence[str]) -> TaskScore:
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
    return TaskScore(LINE_F1, f1, len(references), details, _empty_rows(predictions))


MEASURES: dict[str, Measure] = {
    EXACT_MATCH: _score_exact_match,
    ROUGE_L: _score_rouge_l,
    LINE_F1: _score_lines,
    ENTITY_F1: score_entities,
}
