"""What a rule without learning answers."""

import random

import pytest

from medtune.evaluation.baselines import best_of, find_constant, trivial_predictions
from medtune.evaluation.promptcblue import score_predictions
from medtune.evaluation.scores import Scores, TaskScore
from medtune.evaluation.text import score_texts

LABELS = ["有", "无"]


def make_record(task, task_type, target, choices=None, text=""):
    record = {"input": text, "target": target, "answer_choices": choices}
    return record | {"task_dataset": task, "task_type": task_type}


TRAIN = [
    make_record("KUAKE-IR", "matching", "相关", ["相关", "不相关"]),
    make_record("KUAKE-IR", "matching", "相关", ["相关", "不相关"]),
    make_record("KUAKE-IR", "matching", "不相关", ["相关", "不相关"]),
    make_record("CHIP-MDCFNPC", "attr_cls", "判别如下：\n咳：无\n痛：有\n热：有", LABELS),
    make_record("CHIP-CDN", "normalization", "a，b", ["a", "b"]),
    make_record("MedDG", "response_generation", "多喝水，多休息"),
    make_record("MedDG", "response_generation", "多喝热水"),
    make_record("MedDG", "response_generation", "多休息"),
]


def test_each_system_follows_its_rule():
    test = [
        make_record("KUAKE-IR", "matching", "?", ["相关", "不相关"]),
        make_record(
            "CHIP-MDCFNPC", "attr_cls", "?", LABELS, "对话\n临床发现实体：腹泻，吐\n阴阳性选项：有，无"
        ),
        make_record("CHIP-CDN", "normalization", "?", ["c", "d", "e"]),
        make_record("MedDG", "response_generation", "?"),
        make_record("CHIP-CDEE", "event_extraction", "?"),
    ]
    answers = trivial_predictions(iter(TRAIN), test, seed=1)
    assert list(answers) == ["majority", "constant", "random_candidate"]
    assert answers["majority"] == ["相关", "判别如下：\n咳：无\n痛：有\n热：有", "a，b", "多喝水，多休息", ""]
    assert answers["constant"][3] == "多喝水，多休息"  # shares most with the others
    label, findings, terms, reply, unseen = answers["random_candidate"]
    assert label in ("相关", "不相关")
    assert findings == "判别如下：\n腹泻：有\n吐：有"
    assert (terms, reply, unseen) == ("c，d，e", "多喝水，多休息", "")


def test_the_constant_is_the_best_answer_and_not_the_most_frequent():
    records = [make_record("CMeEE-V2", "ner", "上述句子没有指定类型实体", ["药物"])] * 3
    records += [make_record("CMeEE-V2", "ner", "药物实体：水", ["药物"])] * 2
    assert find_constant(records, random.Random(0)) == "药物实体：水"


def test_answers_depend_on_the_seed_only_and_never_on_test_targets():
    test = [make_record("KUAKE-IR", "matching", str(i), ["相关", "不相关"]) for i in range(40)]
    blank = [{**record, "target": ""} for record in test]
    once = trivial_predictions(TRAIN, test, seed=5)
    assert once == trivial_predictions(TRAIN, blank, seed=5)
    assert once["random_candidate"] != trivial_predictions(TRAIN, test, seed=6)["random_candidate"]


def test_other_data_is_one_task_without_a_name():
    train = [{"target": "没有"}, {"target": "没有"}, {"target": "京_地名\n日_地名"}]
    answers = trivial_predictions(train, [{"input": "x"}], seed=0)
    assert answers["majority"] == answers["random_candidate"] == ["没有"]
    best = best_of({name: score_texts(["没有"], texts) for name, texts in answers.items()})
    assert best.score == 100
    assert best.headline == "rouge_l"


def test_a_training_record_without_an_answer_is_refused():
    with pytest.raises(ValueError, match=r"train\[0\]: target is NoneType, not text"):
        trivial_predictions([{"input": "x"}], [], seed=0)


def make_scores(**tasks):
    return Scores(
        "ccks2023", 0, None, None, 0, {name: TaskScore("m", score, 1) for name, score in tasks.items()}
    )


def test_the_best_of_several_is_taken_task_by_task():
    best = best_of({"a": make_scores(x=10, y=40), "b": make_scores(x=30, y=0)})
    assert {name: task.score for name, task in best.tasks.items()} == {"x": 30, "y": 40}
    assert best.score == best.robust_score == 35
    assert best.official_score is None
    assert "best of a, b" in best.official_error


def test_systems_with_different_tasks_are_not_compared():
    with pytest.raises(ValueError, match="not 2 sets of tasks"):
        best_of({"a": make_scores(x=1), "b": make_scores(y=1)})
    with pytest.raises(ValueError, match="not 0 sets of tasks"):
        best_of({})


def test_a_trivial_row_is_a_real_score():
    records = [make_record("KUAKE-IR", "matching", "相关", ["相关", "不相关"])] * 4
    answers = trivial_predictions(TRAIN, records, seed=0)
    best = best_of({name: score_predictions(records, texts) for name, texts in answers.items()})
    assert best.tasks["KUAKE-IR"].score == 100
