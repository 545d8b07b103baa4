"""Exams in the forms in which they are released, with questions of our own."""

import json

import pytest

from medtune.config.schema import ColumnsConfig, SourceConfig
from medtune.data.reading.formats import Reader, detect_format
from medtune.data.reading.formats.exam import option_lines, question_of
from medtune.data.reading.splits import read_examples

CMB = {
    "exam_type": "医师考试",
    "exam_class": "执业医师",
    "exam_subject": "口腔执业医师",
    "question": "下列属于生命体征的有",
    "answer": "ABD",
    "question_type": "多项选择题",
    "option": {"A": "体温", "B": "脉搏", "C": "身高", "D": "血压", "E": ""},
}
CMEXAM = {
    "Question": "测量体温最常用的部位是",
    "Options": "A 腋下\nB 足底\nC 手背\nD 膝部",
    "Answer": "A",
    "Explanation": "腋下方便。",
}
CEVAL = {
    "id": "0",
    "question": "成人心脏有几个腔____",
    "A": "2",
    "B": "3",
    "C": "4",
    "D": "5",
    "answer": "C",
    "explanation": "",
}


def question(record, file="exam.json", needs_response=True):
    return question_of(record, file, needs_response)


@pytest.mark.parametrize("record", [CMB, CMEXAM, CEVAL], ids=["cmb", "cmexam", "ceval"])
def test_each_release_is_told_from_its_first_record(record):
    assert detect_format(record, ColumnsConfig(), "f:1") == "exam"


def test_cmb_asks_for_several_and_names_its_exam():
    found = question(CMB)
    assert found.options == {"A": "体温", "B": "脉搏", "C": "身高", "D": "血压"}
    assert (found.answer, found.kind) == ("ABD", "multiple")
    assert found.subjects == {
        "exam_type": "医师考试",
        "exam_class": "执业医师",
        "exam_subject": "口腔执业医师",
    }
    assert found.prompt == (
        "下面是医师考试·执业医师的一道多项选择题，有一个或多个选项正确。请直接写出全部正确选项的字母，不要解释。\n"
        "下列属于生命体征的有\nA. 体温\nB. 脉搏\nC. 身高\nD. 血压\n答案："
    )


def test_cmexam_does_not_tell_how_many_are_right_and_neither_does_the_prompt():
    found, several = question(CMEXAM), question({**CMEXAM, "Answer": "AC"})
    assert found.options == {"A": "腋下", "B": "足底", "C": "手背", "D": "膝部"}
    assert (found.answer, found.kind, found.subjects) == ("A", "unknown", {})
    assert found.prompt == several.prompt


def test_a_subject_of_c_eval_is_its_file():
    found = question(CEVAL, "val/basic_medicine_val.csv")
    assert (found.answer, found.kind) == ("C", "single")
    assert found.subjects == {"subject": "basic_medicine"}


def test_the_example_keeps_the_parsed_question_beside_the_record():
    reader = Reader(SourceConfig(), needs_response=True, format="exam")
    example = reader.read("f.json", 3, dict(CMB))
    assert [turn.role for turn in example.turns] == ["prompt", "response"]
    assert example.turns[1].text == "ABD"
    assert example.record["option"] == CMB["option"]
    assert example.record["exam"]["options"]["D"] == "血压"
    json.dumps(example.record)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        pytest.param({"B": "二", "A": "一"}, {"A": "一", "B": "二"}, id="mapping_in_any_order"),
        pytest.param('{"A": "一", "B": "二"}', {"A": "一", "B": "二"}, id="mapping_as_text"),
        pytest.param(["一", "二"], {"A": "一", "B": "二"}, id="list"),
        pytest.param("A. 一\nB、二", {"A": "一", "B": "二"}, id="lines_with_marks"),
        pytest.param("(A) 一\r\n(B) 二", {"A": "一", "B": "二"}, id="lines_in_brackets"),
        pytest.param({"A": "一", "B": "二", "C": None}, {"A": "一", "B": "二"}, id="unused_letter"),
    ],
)
def test_options_come_in_many_forms(options, found):
    assert question({"question": "问", "option": options, "answer": "A"}).options == found


def test_only_the_next_letter_begins_an_option():
    lines = "A 白细胞\nC反应蛋白升高\nB 红细胞"
    assert dict(option_lines(lines, "x")) == {"A": "白细胞 C反应蛋白升高", "B": "红细胞"}


@pytest.mark.parametrize(
    ("answer", "letters"), [("B", "B"), ("DBA", "ABD"), ("A,B", "AB"), ("Ａ、Ｃ", "AC"), ("b。", "B")]
)
def test_letters_of_an_answer(answer, letters):
    assert question({**CMB, "answer": answer}).answer == letters


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer": "F"}, "the answer is 'F', but there is no option F"),
        ({"answer": "体温"}, "field 'answer' must be letters of options, from A to H"),
        ({"answer": ""}, "field 'answer' is empty"),
        ({"question": " "}, "field 'question' is empty"),
        ({"option": {"A": "一"}, "answer": "A"}, "needs two options at least, found A"),
        ({"option": {"甲": "一", "乙": "二"}}, "an option goes by a letter from A to H, found str: 甲"),
        ({"option": "{"}, "field 'option' is no JSON object"),
        ({"option": "一\n二"}, "must begin with option A"),
        ({"option": 3}, "must be a string, found int: 3"),
        ({"option": ["x"] * 9}, "an option goes by a letter from A to H"),
    ],
)
def test_what_is_no_question_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        question({**CMB, **changed})


def test_an_answer_may_be_withheld_where_nothing_is_learned():
    record = {key: value for key, value in CMB.items() if key != "answer"}
    assert question(record, needs_response=False).answer == ""
    with pytest.raises(ValueError, match="the record has no field 'answer'"):
        question(record)


def test_options_of_several_lines_come_out_of_a_table(tmp_path):
    file = tmp_path / "val.csv"
    file.write_text(
        "Question,Options,Answer,Explanation\n"
        '测体温的部位是,"A 腋下\nB 足底",A,\n测脉搏的部位是,"A 腕\nB 肘",A,无\n',
        encoding="utf-8",
    )
    found = list(read_examples(file, SourceConfig(), needs_response=True))
    assert [example.record["exam"]["options"]["B"] for example in found] == ["足底", "肘"]
    assert [example.line for example in found] == [2, 4]
