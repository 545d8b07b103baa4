"""Predictions files with something wrong: what the organisers would answer, and what is left."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtune.evaluation.promptcblue import PROTOCOLS, score_predictions, score_submission
from medtune.evaluation.promptcblue.file_scores import score_lines
from medtune.evaluation.promptcblue.predictions_file import read_line
from medtune.evaluation.promptcblue.records import read_references
from tests.unit.evaluation.promptcblue_files import GOLD, score_file, write_rows

ROWS = GOLD["ccks2023"]
PERFECT = score_predictions(ROWS, [row["target"] for row in ROWS]).score


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


DEAD = "the official parser dies: "
BROKEN_FILES = {
    "broken_json": ([*ROWS[:3], "{", *ROWS[4:]], DEAD + "JSONDecodeError", 1),
    "not_an_object": ([*ROWS[:3], "[]", *ROWS[4:]], DEAD + "AttributeError: list is no", 1),
    "blank_line": ([*ROWS, ""], DEAD + r"JSONDecodeError: a blank line \(line 33\)", 0),
    "null_target": ([{**ROWS[0], "target": None}, *ROWS[1:]], DEAD + "AttributeError: row 1", 1),
    "number_target": ([{**ROWS[0], "target": 3}, *ROWS[1:]], DEAD + "AttributeError: row 1", 1),
    "nan_target": ([{**ROWS[0], "target": float("nan")}, *ROWS[1:]], DEAD + "AttributeError: row 1", 1),
    "no_input": ([without(ROWS[0], "input"), *ROWS[1:]], DEAD + "KeyError: row 1 has no input", 0),
    "answers_alone_out_of_order": (
        [{"sample_id": row["sample_id"], "target": row["target"]} for row in ROWS[::-1]],
        "sample ordering is wrong", 0,
    ),
    "unknown_task": ([{**ROWS[0], "task_dataset": "x"}, *ROWS[1:]], DEAD + "ValueError: row 1", 0),
    "choices_lost": (
        [{**ROWS[0], "answer_choices": None}, *ROWS[1:]], DEAD + "AssertionError: row 1: answer_choices", 0,
    ),
    "half_a_surrogate_as_id": (
        [*ROWS, json.dumps({**ROWS[-1], "sample_id": "\ud800"})], DEAD + "UnicodeEncodeError: row 33", 0,
    ),
    "missing_row": (ROWS[1:], "There are missing predictions.* CMeEE-V2: 1 rows, not 2", 1),
    "doubled_row": ([*ROWS, ROWS[0]], "There are missing predictions.* CMeEE-V2: 3 rows, not 2", 0),
    "order": ([ROWS[1], ROWS[0], *ROWS[2:]], "sample ordering is wrong", 0),
    "no_sample_id": ([without(row, "sample_id") for row in ROWS], "sample ordering is wrong", 0),
    "empty": ([], "There are missing predictions", 32),
}  # fmt: skip


@pytest.mark.parametrize(("rows", "reason", "lost"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_file_that_the_organisers_refuse_has_both_scores(tmp_path, rows, reason, lost):
    assert len(ROWS) == 32
    found = score_file(write_rows(tmp_path / "p.jsonl", rows))
    assert found.scores.official_score == 0.0
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.scores.official_error)
    texts = found.matched.texts
    assert sum(text == "" for text in texts) == lost
    assert found.scores.robust_score == score_predictions(ROWS, texts).robust_score
    assert found.scores.robust_score == pytest.approx(PERFECT) or lost


def test_targets_alone_are_taken_beside_their_records(tmp_path):
    found = score_file(write_rows(tmp_path / "p.jsonl", [{"target": row["target"]} for row in ROWS]))
    assert found.scores.official_score == found.scores.robust_score == PERFECT
    assert found.scores.official_error is None
    assert found.scores.source["rows"] == 32
    short = score_file(write_rows(tmp_path / "p.jsonl", [{"target": row["target"]} for row in ROWS[:-1]]))
    assert short.scores.official_score == 0
    assert short.scores.source["missing"] == {"count": 1, "first": [ROWS[-1]["sample_id"]]}


def test_rows_of_one_task_may_stand_anywhere_as_long_as_their_own_order_holds(tmp_path):
    """The official script groups by task before it compares."""
    rows = sorted(ROWS, key=lambda row: row["task_dataset"])
    assert rows != ROWS
    found = score_file(write_rows(tmp_path / "p.jsonl", rows))
    assert found.scores.official_score == pytest.approx(PERFECT)


def test_choices_that_a_row_brings_along_decide_its_official_reading_only(tmp_path):
    """The first record asks for two types; its row names one, so officially the other's mentions are lost."""
    rows = [{**ROWS[0], "answer_choices": ROWS[0]["answer_choices"][:1]}, *ROWS[1:]]
    choices = [{**ROWS[0], "answer_choices": ["药物"]}, *ROWS[1:]]
    for submitted in (rows, choices):
        found = score_file(write_rows(tmp_path / "p.jsonl", submitted))
        assert found.scores.official_score == score_submission(ROWS, submitted).score
        assert found.scores.robust_score == pytest.approx(PERFECT)
    assert found.scores.official_score < PERFECT


def test_part_of_the_tasks_has_no_official_score(tmp_path):
    found = score_file(write_rows(tmp_path / "p.jsonl", ROWS[:2]), gold=ROWS[:2])
    assert found.scores.official_score is None
    assert "ccks2023 also needs CMeIE" in found.scores.official_error


PIECES = [
    *(
        "\n",
        "，",
        "：",
        "；",
        "。",
        "头实体：",
        "；尾实体：",
        "；尾三元组：",
        "；关系：",
        "疾病实体：",
        "症状实体",
        "主诉：",
    ),
    *(
        "因果关系三元组如下",
        "条件关系三元组",
        "节点1：role=C",
        "；logical_rel=",
        "；triples=",
        "患有该症状",
        "相同",
    ),
    *("[['a', 'b', 'c']]", "[[1, 2, 3]]", "[{1}]", "[b'abc']", "__import__('os')", "'''", "[" * 99, "-" * 99),
    *("\ud800", "\x00"),
]
ODD_TEXT = st.text(max_size=30) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CHANGES = st.dictionaries(
    st.sampled_from(["sample_id", "target", "task_dataset", "answer_choices", "input", "task_type"]),
    JSON_VALUES,
    max_size=2,
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["ccks2023", "chip2023"]),
    st.lists(st.tuples(st.integers(0, 31), st.one_of(ODD_TEXT, CHANGES)), max_size=6),
    st.lists(st.integers(0, 31), max_size=2),
)
def test_no_row_breaks_the_scorer_and_the_official_score_is_the_submissions(protocol, changes, dropped):
    gold = GOLD[protocol]
    rows = [dict(row) for row in gold]
    for place, change in changes:
        rows[place] |= change if isinstance(change, dict) else {"target": change}
    rows = [row for place, row in enumerate(rows) if place not in dropped]
    lines = [read_line(number, json.dumps(row).encode()) for number, row in enumerate(rows, 1)]
    found = score_lines(read_references(gold, PROTOCOLS[protocol]), lines, PROTOCOLS[protocol])
    expected = score_submission(gold, [line.record for line in lines], protocol)
    assert found.scores.official_score == pytest.approx(expected.score, abs=1e-9)
    assert (found.scores.official_error is None) == (expected.error is None)
    assert 0 <= found.scores.robust_score <= 101
    json.dumps(found.scores.to_dict()).encode()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=40))
def test_no_bytes_break_the_scorer(contents):
    lines = [read_line(number, content) for number, content in enumerate(contents, 1)]
    found = score_lines(read_references(ROWS, PROTOCOLS["ccks2023"]), lines, PROTOCOLS["ccks2023"])
    assert found.scores.official_score == 0
    assert 0 <= found.scores.robust_score < 50
