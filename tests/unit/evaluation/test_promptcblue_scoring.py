"""Figures worked by hand, what counts as official, and that no text can break the scorer."""

import json
import random
from pathlib import Path

import pytest

from medtune.evaluation.promptcblue import PROTOCOLS, score_predictions, score_submission
from medtune.evaluation.promptcblue.errors import MetricError
from medtune.evaluation.promptcblue.metrics import score_extraction, score_labels
from medtune.evaluation.promptcblue.rouge import compare_texts, tokenize
from medtune.evaluation.promptcblue.trees import compare_trees, score_trees
from medtune.evaluation.subsequence import measure_common_subsequence

FIXTURES = Path(__file__).parents[2] / "fixtures" / "promptcblue"
RECORDS = [json.loads(line) for line in (FIXTURES / "records.jsonl").read_text(encoding="utf-8").splitlines()]
GOLD = {
    name: [record for record in RECORDS if protocol.find_task(record["task_dataset"])]
    for name, protocol in PROTOCOLS.items()
}
TEXTS = {protocol: [record["target"] for record in records] for protocol, records in GOLD.items()}


def make_record(task, target, choices=None, sample_id="dev-1"):
    return {"task_dataset": task, "target": target, "answer_choices": choices, "sample_id": sample_id}


def test_extraction_counts_tuples_over_all_rows():
    """3 gold, 4 predicted with one doubled (3 distinct), 2 right: P 2/3, R 2/3."""
    gold = [[{"entity": "a", "type": "t"}, {"entity": "b", "type": "t"}], [{"entity": "c", "type": "t"}]]
    predicted = [
        [{"type": "t", "entity": "a"}] * 2 + [{"entity": "x", "type": "t"}],
        [{"entity": "c", "type": "t"}],
    ]
    assert score_extraction(gold, predicted) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert score_extraction([[]], [[]]) == (0, 0, 0)


def test_labels_average_as_the_classification_report():
    """A: 1 of 2 found, never wrong: F1 2/3. B: 1 of 1 found, 1 of 2 right: F1 2/3. C: only predicted: 0."""
    gold, predicted = ["A", "A", "B", "B"], ["A", "B", "B", "C"]
    assert score_labels(gold, predicted, "A", macro=True) == pytest.approx(
        (1.5 / 3, 1 / 3, (2 / 3 + 0.5) / 3)
    )
    assert score_labels(gold, predicted, "A", macro=False) == pytest.approx((0.75, 0.5, (2 / 3 + 0.5) / 2))
    assert score_labels(["A"], [""], "A", macro=True) == (1, 1, 1)


def test_rouge_of_a_permutation_by_hand():
    """甲乙丙丁 and 甲丙乙丁 share every character, one of three pairs at most, and three in order."""
    rouge_1, rouge_2, rouge_l = compare_texts("甲乙丙丁", "甲丙乙丁")
    assert (rouge_1, rouge_2, rouge_l) == pytest.approx((1, 0, 0.75), abs=1e-8)
    assert compare_texts("甲乙", "甲乙")[2] == pytest.approx(0.999999995, abs=1e-12)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("HbA1c≤7.0%。", ["hba1c≤7", ".", "0", "%", "。"]),
        ("Café\u3000Σ你好", ["cafe", "σ", "你", "好"]),
        ("\ufeff\x07\ufffd", ["无", "。"]),
        ("a\u2028b", ["a", "b"]),
    ],
)
def test_tokens_are_those_of_berts_basic_tokenizer(text, tokens):
    assert tokenize(text) == tokens


@pytest.mark.parametrize("seed", range(20))
def test_common_subsequence_equals_the_textbook_table(seed):
    chance = random.Random(seed)
    first, second = (chance.choices("abcd", k=chance.randrange(90)) for _ in range(2))
    row = [0] * (len(second) + 1)
    for one in first:
        before = row[:]
        for place, other in enumerate(second, start=1):
            row[place] = before[place - 1] + 1 if one == other else max(before[place], row[place - 1])
    assert measure_common_subsequence(first, second) == row[-1]


def make_node(role, *triples, rel="null"):
    return {"role": role, "logical_rel": rel, "triples": [list(triple) for triple in triples]}


def test_a_tree_that_is_cut_to_its_root_by_hand():
    """A wrong role (1) and two absent leaves, a role and a triple each (4): 5 of 1 + 2 + 3 + 6 = 12 edits."""
    gold = [make_node("C", "abc"), make_node("D", "def"), make_node("D", "ghi")]
    assert compare_trees([make_node("D", "ABC")], gold).edits == 5
    assert score_trees([gold], [[make_node("D", "ABC")]])[0] == pytest.approx(1 - 5 / 12)
    assert score_trees([gold], [gold])[0] == 1
    assert score_trees([gold], [gold + gold])[0] == pytest.approx(1)  # what no walk reaches costs nothing


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        ([make_node("D", (1, 2, 3))], "no triple of strings"),
        ([], "without nodes"),
        ([make_node("D")], "division"),
    ],
    ids=["numbers", "no_node", "no_triple_anywhere"],
)
def test_trees_that_kill_the_official_metric(tree, reason):
    with pytest.raises(MetricError, match=reason):
        score_trees([tree], [tree])


def test_a_subset_of_tasks_has_a_mean_but_no_official_score():
    records = [make_record("KUAKE-IR", "相关", ["相关", "不相关"]), make_record("MedDG", "你好")]
    scores = score_predictions(records, ["相关", "再见"])
    assert scores.score == scores.robust_score == pytest.approx(50)
    assert scores.official_score is None
    assert "ccks2023 also needs CMeEE-V2, CMeIE" in scores.official_error
    assert json.loads(json.dumps(scores.to_dict()))["tasks"]["KUAKE-IR"] == {
        "metric": "weighted_f1", "score": 100, "f1": 100, "precision": 100, "recall": 100,
        "rows": 1, "parse_failures": [],
    }  # fmt: skip


def test_a_fatal_row_costs_the_file_the_task_or_itself():
    texts = list(TEXTS["chip2023"])
    place = next(i for i, record in enumerate(GOLD["chip2023"]) if record["task_dataset"] == "CMedCausal")
    texts[place] = "以上。"
    scores = score_predictions(GOLD["chip2023"], texts, "chip2023")
    assert scores.official_score == 0
    assert f"IndexError: no '头实体：' in '以上。' in row {place}" in scores.official_error
    task = scores.tasks["CMedCausal"]
    assert task.score == 0
    assert task.robust == pytest.approx(40)  # the other row holds one triple of four: P 1, R 1/4
    assert task.parse_failures == (GOLD["chip2023"][place]["sample_id"],)
    assert 0 < scores.score < scores.robust_score < 100
    assert scores.to_dict()["tasks"]["CMedCausal"]["robust_score"] == task.robust


def test_a_triple_of_numbers_breaks_the_metric_and_not_the_parser():
    texts = [
        "1：role=D；triples=[[1, 2, 3]]" if record["task_dataset"] == "Text2DT" else record["target"]
        for record in GOLD["chip2023"]
    ]
    scores = score_predictions(GOLD["chip2023"], texts, "chip2023")
    assert scores.official_score == 0
    assert "Error in calculating metrics! Text2DT" in scores.official_error
    submitted = [{**record, "target": text} for record, text in zip(GOLD["chip2023"], texts, strict=True)]
    assert score_submission(GOLD["chip2023"], submitted, "chip2023").score == 0


def test_labels_outside_the_choices_are_reported_by_sample():
    records = [make_record("KUAKE-IR", "相关", ["相关", "不相关"], f"dev-{i}") for i in range(3)]
    scores = score_predictions(records, ["相关", "相关。", ""])
    assert scores.tasks["KUAKE-IR"].parse_failures == ("dev-1", "dev-2")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            {"task_dataset": "CMeEE"},
            r"references\[1\] \(dev-1\).*did you mean CMeEE-V2\? ccks2023 knows",
            id="typo",
        ),
        pytest.param({"task_dataset": "CMeIE-V2"}, "evaluate.protocol=chip2023 has it", id="other_protocol"),
        pytest.param({"target": None}, "target is NoneType, not text", id="no_target"),
        pytest.param({"target": " "}, "target is empty; the public test files", id="test_file"),
        pytest.param(
            {"answer_choices": None}, "answer_choices of a CMeEE-V2 record is NoneType", id="no_choices"
        ),
        pytest.param({"answer_choices": [1]}, "make it a list of strings", id="choices_of_numbers"),
    ],
)
def test_a_wrong_record_is_refused_by_its_row(change, reason):
    good = make_record("CMeEE-V2", "疾病实体：肺炎", ["疾病"])
    with pytest.raises(ValueError, match=reason):
        score_predictions([good, {**good, **change}], ["", ""])


def test_records_that_cannot_be_scored_are_refused():
    good = make_record("MedDG", "你好")
    with pytest.raises(
        ValueError, match=r"references\[0\] \(dev-1\): no task_dataset; score other data with"
    ):
        score_predictions([{"target": "x", "sample_id": "dev-1"}], [""])
    with pytest.raises(ValueError, match=r"references\[0\]: a str; pass one mapping"):
        score_predictions(["x"], [""])
    with pytest.raises(ValueError, match=r'predictions\[0\]: NoneType, not text; pass ""'):
        score_predictions([good], [None])
    with pytest.raises(ValueError, match="1 references but 2 predictions"):
        score_predictions([good], ["", ""])
    with pytest.raises(ValueError, match="its target is no CMedCausal answer"):
        score_predictions([make_record("CMedCausal", "以上。")], [""], "chip2023")


@pytest.mark.parametrize(
    ("change", "exception"),
    [
        ({"target": None}, "AttributeError"),
        ({"task_dataset": "?"}, "ValueError"),
        ({"task_dataset": "CMeEE-V2", "answer_choices": None}, "AssertionError"),
    ],
)
def test_a_submitted_row_that_kills_the_parser(change, exception):
    gold = GOLD["ccks2023"]
    result = score_submission(gold, [{**gold[0], **change}, *gold[1:]])
    assert result.score == 0
    assert f"the official parser dies: {exception}: row 1" in result.error


def test_a_submitted_row_without_a_field_kills_the_parser_and_gold_is_refused():
    gold = GOLD["ccks2023"]
    incomplete = {key: value for key, value in gold[0].items() if key != "input"}
    assert "KeyError: row 1 has no input" in score_submission(gold, [incomplete, *gold[1:]]).error
    with pytest.raises(ValueError, match="the gold records are not ccks2023's: KeyError: row 1 has no input"):
        score_submission([incomplete], gold)


def mutate(text, chance):
    """Cuts, repeats, swaps and pollutes a text."""
    pollution = chance.choice(
        ["，", "：", "；", "\n", "。", "[", "'", "</s>", "\ud800", "\x00", "头实体：", "😀", ":", " "]
    )
    place, other = sorted(chance.choices(range(len(text) + 1), k=2))
    changes = (
        text[:place],
        text[place:],
        text[::-1],
        text + text[place:other],
        text[:place] + pollution + text[place:],
        text[:place] + pollution * 3 + text[other:],
        pollution * chance.randrange(50),
    )
    return chance.choice(changes)


@pytest.mark.parametrize("protocol", ["ccks2023", "chip2023"])
def test_no_text_breaks_the_scorer_or_beats_the_gold(protocol):
    chance = random.Random(7)
    records, perfect = GOLD[protocol], score_predictions(GOLD[protocol], TEXTS[protocol], protocol)
    for _ in range(12):
        texts = [
            mutate(chance.choice(TEXTS[protocol]) if chance.random() < 0.3 else text, chance)
            for text in TEXTS[protocol]
        ]
        scores = score_predictions(records, texts, protocol)
        assert all(
            -100 <= task.score <= perfect.tasks[name].score + 1e-9 for name, task in scores.tasks.items()
        )
        assert 0 <= scores.score <= scores.robust_score + 10 <= 110
        json.dumps(scores.to_dict())
        submitted = [{**record, "target": text} for record, text in zip(records, texts, strict=True)]
        assert score_submission(records, submitted, protocol).score == pytest.approx(
            scores.official_score, abs=1e-9
        )


def test_random_unicode_breaks_nothing():
    chance = random.Random(3)
    texts = [
        "".join(chr(chance.randrange(0x110000)) for _ in range(chance.randrange(60)))
        for _ in GOLD["chip2023"]
    ]
    assert score_predictions(GOLD["chip2023"], texts, "chip2023").robust_score < 30
