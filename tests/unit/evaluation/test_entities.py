"""Lists of entities, by hand."""

import pytest

from medtune.evaluation.entities import lists_entities, read_entity, score_entities

FULL = {"f1": 100, "precision": 100, "recall": 100}


def test_pairs_are_compared_over_all_rows_and_by_type():
    """Wanted 4, found 4 (one twice, one of the wrong type, one of no gold type), right 2."""
    references = ["沪_地名\n李四_人名", "没有", "王五_人名\n县医院_机构名"]
    predictions = ["李四_人名\n 沪_地名 \n李四_人名", "没有", "王五_地名\n血糖_指标"]
    score = score_entities(references, predictions)
    assert score.details == pytest.approx({"f1": 50, "precision": 50, "recall": 50})
    assert score.by == {
        "type": {
            "地名": pytest.approx({"f1": 200 / 3, "precision": 50, "recall": 100, "entities": 1}),
            "人名": pytest.approx({"f1": 200 / 3, "precision": 100, "recall": 50, "entities": 2}),
            "机构名": {"f1": 0, "precision": 0, "recall": 0, "entities": 1},
        }
    }
    assert score.parse_failures == ()


def test_a_type_found_before_it_is_first_wanted_counts():
    score = score_entities(["没有", "沪_地名"], ["京_地名", "沪_地名"])
    assert score.by["type"]["地名"] == pytest.approx(
        {"f1": 200 / 3, "precision": 50, "recall": 100, "entities": 1}
    )


def test_an_answer_that_is_no_list_is_a_failure_and_an_empty_one():
    score = score_entities(["沪_地名", "没有", "没有"], ["上海是地名", "没有", ""])
    assert score.parse_failures == ("0", "2")
    assert score.details == {"f1": 0, "precision": 0, "recall": 0}


def test_saying_rightly_that_there_is_nothing_is_right():
    assert score_entities(["没有"], ["没有"]).details == FULL


@pytest.mark.parametrize(
    ("line", "entity"),
    [
        (" 北大_附中_机构名 ", ("北大_附中", "机构名")),
        ("没有", None),
        ("_地名", None),
        ("沪_", None),
        ("", None),
    ],
)
def test_the_last_underscore_parts_the_type(line, entity):
    assert read_entity(line) == entity


@pytest.mark.parametrize(
    ("references", "are"),
    [
        pytest.param(["沪_地名\n李四_人名", "没有", "没有"], True, id="entities"),
        pytest.param(["没有", "没有"], False, id="none_at_all"),
        pytest.param(["沪_地名", "没有", "注意休息"], False, id="other_answers_too"),
        pytest.param(["沪_地名\n注意休息"], False, id="other_lines_too"),
        pytest.param([f"x_{number}" for number in range(100)], False, id="too_many_types"),
    ],
)
def test_lists_are_told_from_the_references(references, are):
    assert lists_entities(references) is are
