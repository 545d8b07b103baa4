"""Measures for data without tasks, by hand."""

import pytest

from medtune.evaluation.text import choose_headline, compare_characters, score_headline, score_texts


def test_lines_are_compared_as_sets_over_all_rows():
    """4 gold lines, 3 predicted (one doubled), 2 right: P 2/3, R 1/2, F1 4/7."""
    scores = score_texts(["发热\n咳嗽", "头痛\n头晕"], [" 咳嗽 \n\n发热\n发热", "没有"])
    lines = scores.tasks["line_f1"]
    assert lines.details == pytest.approx({"f1": 400 / 7, "precision": 200 / 3, "recall": 50})
    assert scores.headline == "line_f1"
    assert scores.score == scores.robust_score == lines.score
    assert scores.tasks["exact_match"].score == 0
    assert scores.official_score is None


def test_character_rouge_by_hand():
    assert compare_characters("甲乙丙丁", "甲 丙\n乙丁") == pytest.approx(0.75)
    assert compare_characters("", " ") == 1
    assert compare_characters("a", "") == 0


@pytest.mark.parametrize(
    ("references", "headline"),
    [
        (["沪_地名\n李四_人名", "没有"], "entity_f1"),
        (["发热\n咳嗽", "没有"], "line_f1"),
        (["是", "否", "是", "是"], "exact_match"),
        (["建议您多喝水", "注意休息"], "rouge_l"),
        (["短\n" + "长" * 40], "rouge_l"),
    ],
    ids=["entities", "lists", "labels", "answers", "prose"],
)
def test_the_headline_suits_the_references(references, headline):
    assert choose_headline(references) == headline


def test_gold_scores_highest_and_empty_answers_are_reported():
    references = ["一二三四", "五六\n七"]
    assert {task.score for task in score_texts(references, references).tasks.values()} == {100}
    scores = score_texts(references, ["", "五六"])
    assert scores.tasks["rouge_l"].parse_failures == ("0",)
    assert scores.to_dict()["headline"] == "line_f1"


def test_malformed_input_is_refused_by_its_row():
    with pytest.raises(ValueError, match=r"predictions\[1\] is NoneType, not text; pass"):
        score_texts(["a", "b"], ["a", None])
    with pytest.raises(ValueError, match="2 references and 1 predictions"):
        score_texts(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 references"):
        score_texts([], [])


@pytest.mark.parametrize(
    "references",
    [["沪_地名", "没有"], ["发热\n咳嗽"], ["是", "是"], ["建议您多喝水"]],
    ids=["entities", "lists", "labels", "prose"],
)
def test_the_headline_alone_is_that_among_all(references):
    predictions = ["沪_地名", "是"][: len(references)]
    assert score_headline(references, predictions) == score_texts(references, predictions).score


def test_entities_stand_in_the_place_of_lines():
    scores = score_texts(["沪_地名\n李四_人名", "没有"], ["李四_人名", "没有"])
    assert list(scores.tasks) == ["exact_match", "rouge_l", "bleu_4", "entity_f1"]
    assert scores.score == pytest.approx(200 / 3)
    assert scores.to_dict()["tasks"]["entity_f1"]["by"]["type"]["人名"]["f1"] == 100


def test_a_text_without_an_end_is_compared_up_to_a_bound_and_the_scores_say_so():
    """A megabyte, twice; without a bound the subsequence alone takes minutes."""
    gold, endless = "发热三天，咳嗽两周。" * 100_000, "咳嗽三天" * 250_000
    scores = score_texts([gold], [endless])
    assert scores.score == score_texts([gold[:65536]], [endless[:65536]]).score
    assert any("first 65536 characters; longer were 2 texts" in note for note in scores.notes)
