"""Which row answers which record, worked by hand."""

import pytest

from medtune.evaluation.promptcblue.matching import match
from medtune.evaluation.promptcblue.predictions_file import Line, read_predictions

RECORDS = [{"sample_id": name, "target": "gold"} for name in "abc"]


def rows(*records):
    return [Line(n, record, None if record else "JSONDecodeError: x") for n, record in enumerate(records, 1)]


def row(name, target="t"):
    return {"sample_id": name, "target": target}


@pytest.mark.parametrize(
    ("lines", "texts", "problems"),
    [
        pytest.param([row("c", "3"), row("a", "1"), row("b", "2")], ["1", "2", "3"], {}, id="any_order"),
        pytest.param(
            [row("a", "1"), row("a", "2"), row("b"), row("c")],
            ["1", "t", "t"],
            {"doubled": ["a"]},
            id="doubled",
        ),
        pytest.param([row("a"), row("c")], ["t", "", "t"], {"missing": ["b"]}, id="missing"),
        pytest.param(
            [row("a"), row("z"), row("b"), row("c")], ["t", "t", "t"], {"unknown": ["z"]}, id="unknown"
        ),
        pytest.param([{"target": "1"}, {"target": "2"}, {"target": "3"}], ["1", "2", "3"], {}, id="no_ids"),
        pytest.param(
            [{"target": "1"}, row("a", "x"), {"target": "3"}],
            ["x", "", "3"],
            {"unknown": ["line 1"], "missing": ["b"]},
            id="an_id_goes_before_a_place",
        ),
        pytest.param(
            [row("a"), None, row("c")],
            ["t", "", "t"],
            {"malformed": [{"line": 2, "reason": "JSONDecodeError: x", "sample_id": "b"}]},
            id="broken_in_its_place",
        ),
        pytest.param(
            [row("a", 3), row("b", None), {"sample_id": "c"}],
            ["", "", ""],
            {
                "malformed": [
                    {"line": 1, "reason": "target is int, not text", "sample_id": "a"},
                    {"line": 2, "reason": "target is NoneType, not text", "sample_id": "b"},
                    {"line": 3, "reason": "no target", "sample_id": "c"},
                ]
            },
            id="targets_that_are_no_text",
        ),
        pytest.param(
            [row("a", None), row("a", "late"), row("b"), row("c")],
            ["", "t", "t"],
            {
                "malformed": [{"line": 1, "reason": "target is NoneType, not text", "sample_id": "a"}],
                "doubled": ["a"],
            },
            id="the_first_counts_even_malformed",
        ),
        pytest.param(
            [row([]), row({"x": 1}), row(1.5), row("a"), row("b"), row("c")],
            ["t", "t", "t"],
            {"unknown": ["[]", "{'x': 1}", "1.5"]},
            id="ids_that_are_none",
        ),
        pytest.param([], ["", "", ""], {"missing": ["a", "b", "c"]}, id="empty"),
    ],
)
def test_rows_find_their_records(lines, texts, problems):
    found = match(RECORDS, rows(*lines))
    assert found.texts == texts
    expected = {"malformed": [], "missing": [], "unknown": [], "doubled": []} | problems
    assert {kind: getattr(found, kind) for kind in expected} == expected
    assert found.is_whole == (not problems)
    assert (found.to_text() is None) == (not problems)


def test_a_file_that_answers_nothing_says_so_and_one_of_another_encoding_how_to_convert_it(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"target": "没有"}\n' * 3, encoding="gb18030")
    told = match(RECORDS, read_predictions(file)).to_text()
    assert told.endswith(
        "; a record without a text counts as empty; NO record has a text, so every figure is that of empty "
        "answers; convert a file of another encoding, for example: iconv -f GB18030 -t UTF-8 IN > OUT"
    )
    some = match(RECORDS, rows(row("a"))).to_text()
    assert some == "1 rows; 2 missing (b, c); a record without a text counts as empty"
    assert match(RECORDS, rows(*map(row, "abca"))).to_text() == "4 rows; 1 doubled (a)"


def test_records_without_ids_are_answered_by_position_whatever_the_rows_are_called():
    assert match([{"target": "gold"}] * 2, rows(row("x", "1"), row("y", "2"))).texts == ["1", "2"]


def test_records_that_share_an_id_are_answered_in_turn():
    assert match([RECORDS[0]] * 2, rows(row("a", "1"), row("a", "2"))).texts == ["1", "2"]


def test_a_file_of_answers_alone_is_filled_up_from_the_records():
    first, second = ({"sample_id": name, "target": "gold", "task_dataset": "MedDG"} for name in "ab")
    more = {"input": "", "answer_choices": None, "task_type": ""}
    found = match([first, second], rows({"target": "1"}, {"target": "2"}))
    assert found.records == [{**first, **more, "target": "1"}, {**second, **more, "target": "2"}]
    found = match([first, second], rows({"sample_id": "b", "target": "1"}, {"sample_id": "a", "target": "2"}))
    assert found.records == [{**second, **more, "target": "1"}, {**first, **more, "target": "2"}]


def test_a_file_with_further_fields_is_taken_as_it_is():
    given = [{"target": "1"}, {"target": "2", "input": "q"}]
    assert match(RECORDS[:2], rows(*given)).records == given


def test_names_are_short_and_lists_are_cut():
    found = match(RECORDS, rows(*(row(f"\x1b{'z' * 1000}{n}") for n in range(150))))
    entry = found.to_dict()["unknown"]
    assert entry["count"] == 150
    assert len(entry["first"]) == 100
    assert all(len(name) <= 81 and name.startswith("'\\x1bz") for name in entry["first"])
    assert "147 more" in found.to_text()
