"""ROUGE and BLEU by hand, and against figures of NLTK and rouge-chinese."""

import pytest

from medtune.evaluation.overlap import bleu_4, rouge_l, rouge_n


def test_repeated_ngrams_count_as_often_as_both_have_them():
    """Gold 甲甲甲乙, prediction 甲甲丙丙: 2 of 4 characters; of 3 pairs each, 甲甲 once."""
    assert rouge_n("甲甲甲乙", "甲甲丙丙", 1) == pytest.approx(2 * 2 / 8)
    assert rouge_n("甲甲甲乙", "甲甲丙丙", 2) == pytest.approx(2 * 1 / 6)
    assert rouge_n(("多", "喝", "水"), ("喝", "水", "多"), 2) == pytest.approx(2 * 1 / 4)


@pytest.mark.parametrize("measure", [lambda a, b: rouge_n(a, b, 1), lambda a, b: rouge_n(a, b, 2), rouge_l])
def test_nothing_agrees_with_nothing_alone(measure):
    assert measure("", "") == measure((), ()) == 1
    assert measure("甲", "") == measure("", "甲") == 0


def test_a_text_too_short_for_a_pair_agrees_with_itself_alone():
    assert rouge_n(("没有",), ("没有",), 2) == 1
    assert rouge_n(("没有",), ("没",), 2) == rouge_n(("没有",), ("没", "有"), 2) == 0


def test_the_longest_common_subsequence_need_not_be_connected():
    assert rouge_l("发热咳嗽三天", "发热三天") == pytest.approx(2 * 4 / 10)
    assert rouge_l(("发热", "三天"), ("三天", "发热", "咳嗽")) == pytest.approx(2 * 1 / 5)


@pytest.mark.parametrize(
    ("gold", "predicted", "figures"),
    [
        # Words by jieba; the package calls the figures rouge-1, rouge-2, rouge-l of exclusive=False.
        (("发热", "三天"), ("三天", "发热", "咳嗽"), (0.8, 0.0, 0.4)),
        (
            ("心肌梗死", "的", "诊断"),
            ("心肌梗死", "的", "诊断", "标准"),
            (0.8571428522448981, 0.7999999952, 0.8571428522448981),
        ),
    ],
)
def test_words_score_as_in_rouge_chinese_with_repeats(gold, predicted, figures):
    """Version 1.0.3; it adds 1e-8 to a denominator."""
    found = rouge_n(gold, predicted, 1), rouge_n(gold, predicted, 2), rouge_l(gold, predicted)
    assert found == pytest.approx(figures, abs=1e-8)


@pytest.mark.parametrize(
    ("gold", "predicted", "figure"),
    [
        pytest.param("多喝水", "多喝热水，注意休息", 0.105526703, id="longer"),
        pytest.param("头痛", "头", 0.130065024, id="one_character"),
        pytest.param("发热三天", "三天发热咳嗽", 0.229574885, id="no_trigram"),
        pytest.param("心肌梗死 的 诊断", "心肌梗死的诊断标准", 0.368893973, id="spaces_count"),
        pytest.param("甲乙丙", "甲乙丙", 0.840896415, id="equal_but_shorter_than_four"),
        pytest.param("abcdefg", "xyz", 0.0, id="nothing_common"),
        pytest.param("甲", "", 0.0, id="empty"),
        pytest.param("", "甲", 0.0, id="empty_gold"),
    ],
)
def test_bleu_is_that_of_nltk_with_method3(gold, predicted, figure):
    """NLTK's sentence_bleu on characters, weights a quarter each; figures of its version 3.9."""
    assert bleu_4(gold, predicted) == pytest.approx(figure, abs=1e-9)


def test_bleu_by_hand():
    """3 of 4 characters, 2 of 3 pairs, 1 of 2 triples, no fours: 1/2 of one; brevity exp(1 - 5/4)."""
    due = 2.718281828459045 ** (-0.25) * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25
    assert bleu_4("甲乙丙丁戊", "甲乙丙己") == pytest.approx(due)


def test_long_texts_are_compared_whole():
    """Of every four characters two are common, in order; a table of pairs would have 268 million cells."""
    gold, predicted = "发热咳嗽" * 4096, "咳嗽三天" * 4096
    assert rouge_l(gold, predicted) == pytest.approx(1 / 2)
