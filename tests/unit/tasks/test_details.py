"""What is found out before a split is answered."""

import json

import pytest

from medtune.config.schema import Config, EvaluateConfig
from medtune.data.examples import Example, Turn
from medtune.data.reading.splits import read_examples
from medtune.tasks.details import check_asked
from medtune.tasks.scoring import refuse_withheld

ROW = {
    "input": "腹胀怎么办？",
    "target": "少吃豆类。",
    "answer_choices": None,
    "task_type": "response_generation",
}


def examples(tmp_path, names: str) -> list[Example]:
    rows = [{**ROW, "task_dataset": "MedDG", "sample_id": name} for name in names]
    file = tmp_path / f"{names}.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return list(read_examples(file, Config().data, needs_response=False))


def comparing_with(path) -> Config:
    return Config(task="evaluate", evaluate=EvaluateConfig(against=str(path)))


def test_a_comparison_with_other_records_is_refused_before_any_is_answered(tmp_path):
    config = comparing_with(tmp_path / "ab.jsonl")
    asked = examples(tmp_path, "ab")
    check_asked(config, "test", asked)
    with pytest.raises(ValueError, match=r"ab\.jsonl cannot be compared: 2 rows; 1 missing \(c\)"):
        check_asked(config, "test", examples(tmp_path, "abc"))
    with pytest.raises(ValueError, match=r"no test\.jsonl in its predictions, but nothing"):
        check_asked(comparing_with(tmp_path), "test", asked)


def test_what_is_not_the_benchmark_is_refused_a_comparison(tmp_path):
    with pytest.raises(ValueError, match="against is for PromptCBLUE"):
        check_asked(comparing_with(tmp_path), "test", [Example((Turn("prompt", "q", False),), "a.txt", 1)])


@pytest.mark.parametrize(
    ("config", "advice"),
    [
        pytest.param(Config(), r"eval\.split=NAME \(during training\), ", id="train"),
        pytest.param(Config(task="evaluate"), r"generate\.split=NAME or", id="split"),
        pytest.param(
            Config(task="evaluate", evaluate=EvaluateConfig(predictions="p", references="r")),
            r"name a file with them, evaluate\.references=FILE; evaluate\.submission=true packs",
            id="files",
        ),
    ],
)
def test_withheld_responses_are_told_with_a_key_that_the_task_reads(config, advice):
    withheld = [Example((Turn("prompt", "q", False),), "a.txt", 1)]
    with pytest.raises(ValueError, match=f"^split x holds no responses to score against; .*{advice}"):
        refuse_withheld(config, withheld, "split x")
