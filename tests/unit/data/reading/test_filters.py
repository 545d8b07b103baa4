"""Which examples are left out, and by which key; shares worked by hand."""

import pytest

from medtune.config.schema import FilterConfig
from medtune.data.examples import Turn
from medtune.data.reading.filters import language_share, rejection, repeated_share

TURNS = (
    Turn("prompt", "头痛 abc", learned=False),
    Turn("response", "多休息。", learned=True),
)  # 6 + 4 characters


@pytest.mark.parametrize(
    ("limits", "cause"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"min_chars": 10, "max_chars": 10}, None, id="at_both_bounds"),
        pytest.param({"min_chars": 11}, "min_chars", id="short"),
        pytest.param({"max_chars": 9}, "max_chars", id="long"),
        pytest.param({"min_language_share": 5 / 8}, None, id="chinese_enough"),
        pytest.param({"min_language_share": 0.63}, "min_language_share", id="not_chinese_enough"),
        pytest.param({"min_language_share": 0.5, "language": "en"}, "min_language_share", id="not_english"),
        pytest.param({"max_repeated_share": 0.0}, None, id="no_repetition"),
        pytest.param({"match": r"休息"}, None, id="match"),
        pytest.param({"match": r"^多"}, "match", id="no_match"),
        pytest.param({"exclude": r"[a-c]{3}$"}, "exclude", id="excluded_only_at_the_end_of_a_turn"),
        pytest.param({"min_chars": 99, "exclude": "头"}, "min_chars", id="the_first_cause"),
    ],
)
def test_an_example_is_left_out_for_a_named_cause(limits, cause):
    if cause == "exclude" and limits["exclude"].endswith("$"):
        assert rejection(TURNS, FilterConfig(**limits)) is None  # the content goes on
        limits = {"exclude": r"(?m)[a-c]{3}$"}
    assert rejection(TURNS, FilterConfig(**limits)) == cause


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        pytest.param("头痛ab，12", "zh", 0.5, id="half"),
        pytest.param("头痛ab，12", "en", 0.5, id="other_half"),
        pytest.param("𠀀あ", "zh", 0.5, id="rare_and_kana"),
        pytest.param("éèñ", "en", 1.0, id="accents"),
        pytest.param("12，。", "zh", 0.0, id="no_letters"),
        pytest.param("", "zh", 0.0, id="empty"),
    ],
)
def test_the_share_of_a_language_is_of_letters_only(text, language, share):
    assert language_share(text, language) == share


@pytest.mark.parametrize(
    ("text", "share"),
    [
        pytest.param("", 0.0, id="empty"),
        pytest.param("慢慢地，高高兴兴，哈哈哈，10000000……", 0.0, id="natural"),
        pytest.param("今天很好。" * 5, 0.8, id="sentence_five_times"),
        pytest.param("今天很好。" * 2, 0.0, id="twice_is_not_enough"),
        pytest.param("a" * 7, 0.0, id="seven_letters"),
        pytest.param("a" * 8, 7 / 8, id="eight_letters"),
        pytest.param("ab" * 3, 0.0, id="six_characters"),
        pytest.param("ab" * 4, 0.75, id="eight_characters"),
        pytest.param("哈哈哈，" * 3, 8 / 12, id="repetition_in_the_unit"),
        pytest.param("甲乙丙丁" + "好" * 12 + "戊己庚辛", 11 / 20, id="in_the_middle"),
        pytest.param("".join(map(chr, range(0x4E00, 0x4E40))) * 3, 2 / 3, id="longest_unit"),
        pytest.param("".join(map(chr, range(0x4E00, 0x4E41))) * 3, 0.0, id="longer_unit"),
        pytest.param("😀" * 10, 0.9, id="beyond_sixteen_bits"),
    ],
)
def test_repetition_is_three_in_a_row_and_eight_characters(text, share):
    assert repeated_share(text) == pytest.approx(share)
