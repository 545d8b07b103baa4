"""The rules about perplexity and exams, and the files that a measurement opens."""

from dataclasses import replace

import pytest

from medtune.config.checks import submission_problems
from medtune.config.data_checks import data_problems
from medtune.config.measure_checks import measure_problems
from medtune.config.paths import files_measured, path_problems, splits_answered, splits_measured, splits_read
from medtune.config.schema import Config, DataConfig, EvalConfig, EvaluateConfig, GenerateConfig

ALONE = DataConfig(name="toy", dir="toy", splits={"train": "t.json", "test": "s.json"}, format="text")
MIX = DataConfig(
    name="mix",
    mix=["a", "b", "c"],
    sources={
        "a": {"splits": {"train": "a", "validation": "v"}},
        "b": {"splits": {"train": "b"}, "validation_size": 0.1},
        "c": {"splits": {"train": "c"}},
    },
)


def perplexity_of(data, split=None, **values):
    evaluate = EvaluateConfig(perplexity=True, **values)
    return Config(task="evaluate", data=data, evaluate=evaluate, generate=GenerateConfig(split=split))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        pytest.param(
            perplexity_of(ALONE),
            "evaluate.perplexity=true has nothing to measure; set generate.split=SPLIT",
            id="no_split",
        ),
        pytest.param(
            perplexity_of(ALONE, "tset"),
            "generate.split=tset is no split of data=toy; its splits are train, test",
            id="other_split",
        ),
        pytest.param(
            perplexity_of(MIX, "c/validation"),
            "generate.split=c/validation is no split of data=mix; its sources are a, b, c",
            id="split_of_no_source",
        ),
        pytest.param(
            perplexity_of(ALONE, "test", predictions="p.jsonl"),
            "evaluate.predictions is scored without a model; leave one of them out",
            id="predictions",
        ),
        pytest.param(
            Config(task="evaluate", evaluate=EvaluateConfig(shots_split="dev")),
            "evaluate.shots_split=dev says where shots come from, but there are none",
            id="split_of_no_shots",
        ),
        pytest.param(
            Config(eval=EvalConfig(every_n_steps=5), evaluate=EvaluateConfig(exam="likelihood")),
            "evaluate.exam=likelihood cannot be measured with eval.every_n_steps",
            id="likelihoods_during_training",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(config, problem):
    [found] = measure_problems(config)
    assert problem in found


@pytest.mark.parametrize(
    ("config", "splits", "files"),
    [
        pytest.param(perplexity_of(ALONE, "test"), ["test"], ["test"], id="named"),
        pytest.param(
            perplexity_of(replace(ALONE, validation_size=0.5)), ["validation"], ["train"], id="held_out"
        ),
        pytest.param(perplexity_of(replace(ALONE, eval_splits=["test"])), ["test"], ["test"], id="eval"),
        pytest.param(perplexity_of(MIX), ["validation"], ["a/validation", "b/train"], id="mix"),
        pytest.param(perplexity_of(MIX, "b/validation"), ["b/validation"], ["b/train"], id="source"),
        pytest.param(perplexity_of(MIX, "train"), ["train"], ["a/train", "b/train", "c/train"], id="train"),
    ],
)
def test_what_is_measured_and_the_files_it_needs(config, splits, files):
    assert list(measure_problems(config)) == list(data_problems(config)) == []
    assert splits_measured(config) == splits
    assert files_measured(config) == splits_read(config) == files
    assert splits_answered(config) == []


def test_a_file_that_is_not_there_is_told_before_anything_loads(tmp_path):
    config = perplexity_of(replace(ALONE, dir=str(tmp_path)), "test")
    config.model.init = "random"
    assert any("data.splits.test=s.json is not in data.dir" in problem for problem in path_problems(config))


THREE = DataConfig(
    name="toy",
    dir="toy",
    splits={"train": "t.json", "dev": "d.json", "test": "s.json"},
    eval_splits=["test"],
    format="promptcblue",
)


def test_the_split_that_is_evaluated_is_the_one_that_is_opened():
    config = Config(task="evaluate", data=THREE, eval=EvalConfig(split="dev", trivial=False))
    assert splits_answered(config) == splits_read(config) == ["dev"]
    assert splits_answered(replace(config, generate=GenerateConfig(split="train"))) == ["train"]
    assert list(data_problems(replace(config, eval=EvalConfig(split="dve")))) == []  # its own rule names it
    fit = Config(data=THREE, eval=EvalConfig(split="dev", every_n_steps=5, after_fit=False))
    assert splits_read(fit) == ["train", "validation", "dev"]


@pytest.mark.parametrize(
    ("part", "named"),
    [
        pytest.param({"limit": 5}, "eval.limit=5", id="first_rows"),
        pytest.param({"limit_per_task": 5}, "eval.limit_per_task=5", id="some_of_each_task"),
        pytest.param({"tasks": ["MedDG"]}, "eval.tasks=['MedDG']", id="some_tasks"),
    ],
)
def test_a_submission_is_of_every_row(part, named):
    config = Config(task="evaluate", data=THREE, evaluate=EvaluateConfig(submission=True))
    assert list(submission_problems(config)) == []
    [problem] = submission_problems(replace(config, eval=EvalConfig(**part)))
    assert problem.startswith(f"evaluate.submission=true needs every row, but {named}")


def test_references_without_predictions_are_no_split_to_answer():
    config = Config(task="evaluate", data=ALONE, evaluate=EvaluateConfig(references="gold.json"))
    [problem] = [text for text in data_problems(config) if "references" in text]
    assert problem == (
        "evaluate.references=gold.json is what evaluate.predictions is scored against, and there is none; "
        "set evaluate.predictions=FILE, or generate.split=SPLIT to answer one"
    )
