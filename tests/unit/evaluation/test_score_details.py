"""The worst rows, confusion tables and row scores, worked by hand."""

import csv
import io
import json

import pytest

from medtune.evaluation.promptcblue.confusion import (
    count_confusion,
    count_confusions,
    plot_confusion,
    write_table,
)
from medtune.evaluation.promptcblue.counts import LabelPair, RougeSums, score_row
from medtune.evaluation.promptcblue.protocols import CCKS2023, CHIP2023
from medtune.evaluation.promptcblue.records import read_references, read_rows
from medtune.evaluation.promptcblue.trees import TreeCounts
from medtune.evaluation.promptcblue.tuples import TupleCounts
from medtune.evaluation.promptcblue.worst import MAX_CHARS, MAX_ITEMS, find_worst
from tests.unit.evaluation.promptcblue_files import GOLD


def pairs(*labels):
    return [LabelPair(*pair.split()) for pair in labels]


@pytest.mark.parametrize(
    ("counts", "score"),
    [
        (TupleCounts(hits=1, predicted=3, wanted=1), 0.5),
        (TupleCounts(0, 2, 0), 0),
        (TupleCounts(0, 0, 0), 1),
        (LabelPair("a", "a"), 1),
        (LabelPair("a", "b"), 0),
        (RougeSums(2, 0.1, 0.1, 1.5), 0.75),
        (TreeCounts(1, 0, 0, 1, 2, 0, 1, 2, 5, 0, 1, 3), 1 - 5 / 11),
        (TreeCounts(1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0), 1),
    ],
)
def test_a_row_by_itself(counts, score):
    assert score_row(counts) == pytest.approx(score)


def test_the_worst_rows_of_each_task_come_first_with_what_they_were_read_as():
    gold = GOLD["chip2023"]
    texts = [row["target"] for row in gold]
    entities = [place for place, row in enumerate(gold) if row["task_dataset"] == "CMeEE-V2"]
    causal = next(place for place, row in enumerate(gold) if row["task_dataset"] == "CMedCausal")
    texts[entities[0]] = texts[entities[0]].replace("，哮喘", "")  # one of two mentions
    texts[entities[1]] = "不知道\ud800"
    texts[causal] = "以上。"
    rows = read_rows(read_references(gold, CHIP2023), texts, CHIP2023)
    worst = find_worst(rows, texts, 5, CHIP2023)
    assert [(row["sample_id"], row["score"], row["readable"]) for row in worst] == [
        (gold[entities[1]]["sample_id"], 0, False),
        (gold[entities[0]]["sample_id"], pytest.approx(100 * 2 / 3), True),
        (gold[causal]["sample_id"], 0, False),
    ]
    assert worst[1]["parsed_gold"] == [{"entity": name, "type": "疾病"} for name in ("肺炎", "哮喘")]
    assert worst[1]["parsed_prediction"] == [{"entity": "肺炎", "type": "疾病"}]
    assert worst[0]["prediction"] == "不知道\\ud800"
    assert worst[2]["error"].startswith("IndexError")
    assert len(find_worst(rows, texts, 1, CHIP2023)) == 2
    assert find_worst(rows, texts, 0, CHIP2023) == []


def test_long_answers_are_shown_in_part():
    record = next(row for row in GOLD["ccks2023"] if row["task_dataset"] == "CMeEE-V2")
    text = "疾病实体：" + "，".join(map(str, range(100_000)))
    rows = read_rows(read_references([record], CCKS2023), [text], CCKS2023)
    (row,) = find_worst(rows, [text], 9, CCKS2023)
    assert row["prediction"].endswith(f"({len(text) - MAX_CHARS} more characters)")
    assert row["parsed_prediction"][MAX_ITEMS:] == [f"… ({100_000 - MAX_ITEMS} more)"]
    assert len(json.dumps(row)) < 60_000


def test_a_confusion_table_counts_gold_down_and_predictions_across():
    table = count_confusion("T", pairs("a a", "a b", "a x", "b b", "a a"))
    assert (table.golds, table.columns) == (["a", "b"], ["a", "b", "x"])
    assert table.cells == [[2, 1, 1], [0, 1, 0]]
    assert list(csv.reader(io.StringIO(write_table(table)))) == [
        ["number", "gold \\ predicted", "1 a", "2 b", "3 x", "rows"],
        ["1", "a", "2", "1", "1", "4"],
        ["2", "b", "0", "1", "0", "1"],
    ]


def test_wild_labels_neither_widen_the_table_nor_run_in_a_spreadsheet():
    wild = [LabelPair("=1+1", f"\x1b{n}" + "长" * 10**5) for n in range(100)]
    table = count_confusion("T", wild)
    assert len(table.columns) == 22
    assert table.columns[-1] == "(80 other labels)"
    assert table.cells == [[0, *[1] * 20, 80]]
    written = write_table(table)
    assert len(written) < 2000
    assert "\n1,'=1+1,0,1" in written
    assert "\x1b" not in written


def test_every_classification_task_has_a_table_and_empty_is_its_default(tmp_path):
    gold = GOLD["ccks2023"]
    rows = read_rows(read_references(gold, CCKS2023), [""] * len(gold), CCKS2023)
    tables = {table.task: table for table in count_confusions(rows, CCKS2023)}
    assert list(tables) == [
        "IMCS-V2-DAC", "CHIP-CTC", "CHIP-STS", "KUAKE-IR", "KUAKE-QIC", "KUAKE-QQR", "KUAKE-QTR",
    ]  # fmt: skip
    place = tables["KUAKE-IR"].columns.index("相关")
    assert all(cells[place] == sum(cells) for cells in tables["KUAKE-IR"].cells)
    plot_confusion(tables["KUAKE-IR"], tmp_path / "plots" / "p.png")
    assert (tmp_path / "plots" / "p.png").read_bytes().startswith(b"\x89PNG")
