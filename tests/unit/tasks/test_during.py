"""Decoding that is watched: it stops when asked to, and an error waits for the other ranks."""

from pathlib import Path

import pytest

from medtune.config.schema import Config, DataConfig, EvalConfig, GenerateConfig, ModelConfig
from medtune.generation.engine import TransformersEngine
from medtune.generation.settings import SamplingSettings
from medtune.runtime.hardware import PROJECT
from medtune.runtime.record import RunFolder
from medtune.tasks.during import SubsetEvaluator, WatchedEngine
from tests.numerics.toy import tiny_model

PROMPTS = [[5, 6, 7], [9, 9], [11]]
SETTINGS = SamplingSettings(max_new_tokens=5)


@pytest.fixture
def engine():
    return WatchedEngine(tiny_model(), stop_ids=())


def test_watching_changes_no_answer(engine):
    expected = TransformersEngine(engine.model, stop_ids=()).generate(PROMPTS, SETTINGS)
    assert engine.generate(PROMPTS, SETTINGS) == expected
    assert (engine.tokens, engine.stopped, engine.problem) == (15, False, None)
    assert engine.seconds > 0
    assert not engine.model._forward_pre_hooks


def test_decoding_stops_in_the_middle_of_an_answer(engine):
    asked = iter([False, False, True])
    engine.is_asked_to_stop = lambda: next(asked)
    assert engine.generate(PROMPTS, SETTINGS) == [[], [], []]
    assert (engine.stopped, engine.tokens) == (True, 0)
    assert not engine.model._forward_pre_hooks
    assert next(asked, None) is None


def test_an_error_is_kept(engine):
    assert engine.generate([[5] * 200], SETTINGS) == [[]]
    assert engine.problem.startswith("ValueError: prompt 0 has 200 tokens, but the model's context is 128")


def sample_config(**settings) -> Config:
    sample = PROJECT / "data" / "sample"
    data = DataConfig(
        name="sample",
        dir=str(sample),
        format="promptcblue",
        splits={"validation": "dev.json", "test": "test.json"},
    )
    return Config(
        data=data,
        model=ModelConfig(tokenizer=str(sample / "tokenizer")),
        eval=EvalConfig(every_n_steps=1, **settings),
        generate=GenerateConfig(temperature=0.7, max_new_tokens=3),
    )


def test_what_is_answered_is_settled_at_the_start():
    evaluator = SubsetEvaluator(
        sample_config(limit_per_task=2, tasks=["MedDG", "KUAKE-QQR"]), RunFolder(Path("x"))
    )
    assert evaluator.split == "validation"
    assert sorted(evaluator.tasks) == ["KUAKE-QQR", "MedDG"]
    assert len(evaluator.examples) == 4
    assert evaluator.settings.is_greedy
    assert len(SubsetEvaluator(sample_config(), RunFolder(Path("x"))).examples) == 6 * 20


def test_tasks_that_the_split_does_not_hold_are_refused():
    with pytest.raises(ValueError, match=r"eval\.tasks: no example of the split is of CHIP-STS; there are"):
        SubsetEvaluator(sample_config(tasks=["CHIP-STS"]), RunFolder(Path("x")))
