"""Answers while a model learns: they stop when asked to, and an error waits for the other ranks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medtune.config.schema import AdapterConfig, Config, DataConfig, EvalConfig, GenerateConfig, ModelConfig
from medtune.models.load import load_model
from medtune.runtime.hardware import PROJECT
from medtune.runtime.record import RunFolder
from medtune.tasks.during import SubsetEvaluator


def sample_config(**settings) -> Config:
    sample = PROJECT / "data" / "sample"
    data = DataConfig(
        name="sample",
        dir=str(sample),
        format="promptcblue",
        splits={"validation": "dev.json", "test": "test.json"},
    )
    model = ModelConfig(
        tokenizer=str(sample / "tokenizer"), hidden_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    return Config(
        data=data,
        model=replace(model, model_type="llama", intermediate_size=64, init="random"),
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


@pytest.fixture(scope="module")
def model():
    return load_model(sample_config(), for_training=False)


@pytest.fixture
def evaluator(tmp_path):
    return SubsetEvaluator(sample_config(limit_per_task=1), RunFolder(tmp_path))


def written(evaluator, step):
    file = evaluator.folder.predictions / f"step-{step}" / "validation.jsonl"
    return [json.loads(line)["target"] for line in file.read_text(encoding="utf-8").splitlines()]


def test_every_prompt_is_answered_and_scored(evaluator, model):
    found = evaluator(model, 7, lambda: False)
    assert [row[3] for row in found.table] == written(evaluator, 7)
    assert len(found.table) == 6
    assert found.tokens == 6 * 3
    assert found.seconds > 0
    assert not model._forward_pre_hooks


def test_an_evaluation_stops_in_the_middle_of_an_answer(evaluator, model):
    asked = iter([False, False, True])
    assert evaluator(model, 7, lambda: next(asked)) is None
    assert next(asked, None) is None
    assert not evaluator.folder.predictions.exists()
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("beams", [1, 2])
def test_it_stops_below_an_adapter_too(tmp_path, beams):
    config = sample_config(limit_per_task=1)
    config = replace(config, adapter=AdapterConfig(name="lora", target_modules="all-linear"))
    evaluator = SubsetEvaluator(
        replace(config, generate=GenerateConfig(max_new_tokens=3, num_beams=beams)), RunFolder(tmp_path)
    )
    asked = iter([False, True])
    assert evaluator(load_model(config, for_training=False), 7, lambda: next(asked)) is None
    assert next(asked, None) is None


def test_an_error_while_answering_is_the_evaluation_s(evaluator, model):
    def fail(module, inputs):
        raise RuntimeError("the device is out of memory")

    hook = model.lm_head.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="RuntimeError: the device is out of memory"):
        evaluator(model, 7, lambda: False)
    hook.remove()
    assert not model._forward_pre_hooks


def test_answers_that_cannot_be_written_are_an_error_of_all_ranks(evaluator, model):
    evaluator.folder.path.joinpath("predictions").write_text("a file")
    with pytest.raises(RuntimeError, match="cannot write"):
        evaluator(model, 7, lambda: False)


def test_answers_come_by_the_same_settings_as_those_after_the_fit(tmp_path, model):
    """But for the temperature: stop tokens, choices and what becomes of long prompts."""
    config = sample_config(limit_per_task=1, tasks=["KUAKE-QQR"])
    closed = replace(config, generate=replace(config.generate, choices=True))
    evaluator = SubsetEvaluator(closed, RunFolder(tmp_path))
    evaluator(model, 1, lambda: False)
    assert written(evaluator, 1)[0] in evaluator.examples[0].record["answer_choices"]

    strict = replace(config, generate=replace(config.generate, overlong="error", max_new_tokens=9999))
    model.config.max_position_embeddings, former = 20, model.config.max_position_embeddings
    with pytest.raises(ValueError, match=r"Set generate\.overlong=middle"):
        SubsetEvaluator(strict, RunFolder(tmp_path))(model, 1, lambda: False)
    model.config.max_position_embeddings = former
    stops = replace(config, generate=replace(config.generate, stop=[5]))
    assert 5 in SubsetEvaluator(stops, RunFolder(tmp_path)).stop_ids
