"""Letters read from answers, and exams scored by hand."""

import pytest

from medtune.evaluation.exam import is_exam, read_letters, score_exam

OPTIONS = {"A": "心绞痛", "B": "维生素B缺乏", "C": "C反应蛋白升高", "D": "以上都是", "E": "心肌梗死"}


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        pytest.param("B", "B", id="a_letter"),
        pytest.param(" (b) ", "B", id="small_in_brackets"),
        pytest.param("ＡＣ", "AC", id="full_width"),
        pytest.param("C、A", "AC", id="any_order"),
        pytest.param("ABD。", "ABD", id="with_a_full_stop"),
        pytest.param("选项A和E", "AE", id="with_and"),
        pytest.param("答案：E", "E", id="named"),
        pytest.param("正确答案是 A、B。因为C反应蛋白不高。", "AB", id="named_then_explained"),
        pytest.param("先看A选项，不对。故选E。", "E", id="the_last_named"),
        pytest.param("答案可能是A。再想一想，答案是E。", "E", id="the_last_of_two_named"),
        pytest.param("B（维生素缺乏）", "B", id="leading"),
        pytest.param("E. 心肌梗死\n解析：A 不对。", "E", id="leading_then_explained"),
        pytest.param("A. 心绞痛\nC. C反应蛋白升高", "AC", id="a_line_each"),
        pytest.param("心肌梗死。", "E", id="the_text_of_an_option"),
        pytest.param("<think>也许是A，答案是B</think>E", "E", id="after_reasoning"),
        pytest.param("维生素B缺乏", "B", id="not_the_letter_but_the_option_in_it"),
        pytest.param("考虑C反应蛋白", "", id="a_letter_within_a_word"),
        pytest.param("F", "", id="no_such_option"),
        pytest.param("AF", "A", id="of_those_there_are"),
        pytest.param("Because of the fever", "", id="english"),
        pytest.param("无法判断", "", id="no_letter"),
        pytest.param("", "", id="empty"),
    ],
)
def test_letters_are_read_by_the_rules_in_their_order(text, letters):
    assert read_letters(text, OPTIONS) == letters


def record(answer, number, kind="single", exam="医师考试"):
    subjects = {"exam_type": exam, "exam_class": f"{exam}一"}
    question = {"options": OPTIONS, "answer": answer, "kind": kind, "subjects": subjects}
    return {"id": number, "exam": question}


RECORDS = [
    record("A", 1),
    record("E", 2),
    record("ACE", 3, "multiple"),
    record("BD", 4, "multiple", "护理考试"),
    record("", 5),
]


def test_an_exam_by_hand():
    """One of four right; of the wrong ones two letters for E, two of three, unreadable.

    Letters chosen 1+2+2+0, wanted 1+1+3+2, in common 4.
    """
    scores = score_exam(RECORDS, ["A", "AE", "AC", "不知道", "B"])
    assert scores.score == 25
    assert scores.headline == "accuracy"
    accuracy = scores.tasks["accuracy"]
    assert accuracy.details == pytest.approx(
        {"accuracy": 25, "option_f1": 200 * 4 / 12, "option_precision": 80, "option_recall": 400 / 7}
    )
    assert accuracy.parse_failures == ("4",)
    assert accuracy.by == {
        "question_type": {
            "single": {"accuracy": 50, "rows": 2},
            "multiple": {"accuracy": 0, "rows": 2},
        },
        "exam_type": {
            "医师考试": {"accuracy": pytest.approx(100 / 3), "rows": 3},
            "护理考试": {"accuracy": 0, "rows": 1},
        },
        "exam_class": {
            "医师考试一": {"accuracy": pytest.approx(100 / 3), "rows": 3},
            "护理考试一": {"accuracy": 0, "rows": 1},
        },
    }
    assert list(scores.tasks) == ["accuracy", "single", "multiple", "physician", "nurse"]
    assert scores.notes == ("1 questions without a gold answer are not scored",)


def test_many_subjects_are_no_columns():
    records = [record("A", number, exam=f"科目{number}") for number in range(20)]
    scores = score_exam(records, ["A"] * 20)
    assert list(scores.tasks) == ["accuracy"]
    assert len(scores.tasks["accuracy"].by["exam_type"]) == 20


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(ValueError, match="5 questions but 1 answers"):
        score_exam(RECORDS, ["A"])
    with pytest.raises(ValueError, match="no question has an answer"):
        score_exam(RECORDS[-1:], ["A"])


def test_exams_are_told_by_their_parsed_questions():
    assert is_exam(RECORDS)
    assert not is_exam([])
    assert not is_exam([*RECORDS, {"input": "x"}])


def test_a_hostile_answer_takes_no_time():
    text = "答案" + "A," * 500_000 + "\n" * 100_000 + "选" * 100_000 + " " * 500_000
    assert read_letters(text, OPTIONS) in ("", "A")
