"""Measures for data without tasks, by hand."""

import pytest

from medtune.evaluation.text import choose_headline, compare_characters, score_texts


def test_lines_are_compared_as_sets_over_all_rows():
    """4 gold lines, 3 predicted (one doubled), 2 right: P 2/3, R 1/2, F1 4/7."""
    scores = score_texts(["日_地名\n京_地名", "李_人名\n王_人名"], [" 京_地名 \n\n日_地名\n日_地名", "没有"])
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
        (["a_b\nc_d", "没有"], "line_f1"),
        (["是", "否", "是", "是"], "exact_match"),
        (["建议您多喝水", "注意休息"], "rouge_l"),
        (["短\n" + "长" * 40], "rouge_l"),
    ],
    ids=["lists", "labels", "answers", "prose"],
)
def test_the_headline_suits_the_references(references, headline):
    assert choose_headline(references) == headline


def test_gold_scores_highest_and_empty_answers_are_reported():
    references = ["一二三", "四\n五"]
    assert {task.score for task in score_texts(references, references).tasks.values()} == {100}
    scores = score_texts(references, ["", "四"])
    assert scores.tasks["rouge_l"].parse_failures == ("0",)
    assert scores.to_dict()["headline"] == "line_f1"


def test_malformed_input_is_refused_by_its_row():
    with pytest.raises(ValueError, match=r"predictions\[1\] is NoneType, not text; pass"):
        score_texts(["a", "b"], ["a", None])
    with pytest.raises(ValueError, match="2 references and 1 predictions"):
        score_texts(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="0 references"):
        score_texts([], [])
