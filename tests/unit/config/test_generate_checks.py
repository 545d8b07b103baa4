from dataclasses import replace

import pytest

from medtune.config.checks import range_problems
from medtune.config.generate_checks import GENERATION_RULES
from medtune.config.schema import (
    AdapterConfig,
    Config,
    DataConfig,
    EvalConfig,
    EvaluateConfig,
    GenerateConfig,
    ModelConfig,
    QuantizationConfig,
    TrainerConfig,
)
from medtune.generation.responder import engine_of

GPU = TrainerConfig(accelerator="cuda", devices=1)
LLAMA = ModelConfig(path="folder", model_type="llama")
BASE = Config(task="generate", trainer=GPU, model=LLAMA)


def problems(config):
    return [problem for rule in GENERATION_RULES for problem in rule(config)]


def settings(generate, **sections):
    return replace(BASE, generate=GenerateConfig(**generate), **sections)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        pytest.param(
            settings({"shard": "0/8", "output": "f"}), "generate.shard=0/8 must be a share", id="zero"
        ),
        pytest.param(
            settings({"shard": "9/8", "output": "f"}), "generate.shard=9/8 must be a share", id="ninth"
        ),
        pytest.param(settings({"shard": "x", "output": "f"}), "generate.shard=x must be a share", id="word"),
        pytest.param(
            settings({"shard": "1/8"}), "generate.shard=1/8 needs generate.output=FILE", id="nowhere"
        ),
        pytest.param(
            settings({"merge_shards": 8}), "generate.merge_shards=8 needs generate.output", id="merge"
        ),
        pytest.param(
            settings({"merge_shards": 8, "shard": "1/8", "output": "f"}), "set one of them", id="both"
        ),
        pytest.param(
            settings({"num_beams": 4, "temperature": 0.5}),
            "generate.num_beams=4 with generate.temperature=0.5: a beam search draws nothing at random",
            id="beams_and_samples",
        ),
        pytest.param(
            settings({"num_beams": 4, "repetition_penalty": 2.0}, adapter=AdapterConfig("prompt_tuning")),
            "transformers' penalty knows no virtual tokens",
            id="beams_and_a_trained_prompt",
        ),
        pytest.param(settings({"stop": [True]}), "True is no control token's name or id", id="stop"),
        pytest.param(settings({"stop": [-1]}), "there is no id -1", id="negative_stop"),
        pytest.param(
            settings({"engine": "vllm", "choices": True}), "vllm knows no generate.choices=true", id="choices"
        ),
        pytest.param(
            settings({"engine": "continuous", "num_beams": 2}), "knows no generate.num_beams=2", id="beams"
        ),
        pytest.param(
            settings({"engine": "vllm"}, task="evaluate", evaluate=EvaluateConfig(exam="likelihood")),
            "gives no likelihoods for evaluate.exam=likelihood",
            id="likelihoods",
        ),
        pytest.param(
            settings({"engine": "continuous"}, trainer=TrainerConfig(accelerator="cpu")),
            "generate.engine=continuous needs a GPU",
            id="cpu",
        ),
        pytest.param(
            settings({"engine": "continuous"}, model=replace(LLAMA, model_type="bloom")),
            "reads no cache of pages",
            id="own_attention",
        ),
        pytest.param(
            settings({"engine": "continuous", "repetition_penalty": 1.1}),
            "would drop generate.repetition_penalty=1.1",
            id="penalty",
        ),
        pytest.param(
            settings({"engine": "continuous"}, adapter=AdapterConfig("prompt_tuning")),
            "counts virtual tokens as words",
            id="trained_prompt",
        ),
        pytest.param(
            settings({"engine": "vllm"}, model=ModelConfig(init="random", model_type="llama")),
            "model.init=random has none",
            id="random",
        ),
        pytest.param(
            settings({"engine": "vllm"}, model=replace(LLAMA, model_type="baichuan")),
            "vLLM has not had this family since 0.23",
            id="baichuan",
        ),
        pytest.param(
            settings({"engine": "vllm"}, quantization=QuantizationConfig("nf4")),
            "set quantization=none",
            id="quantised",
        ),
        pytest.param(
            settings({"engine": "vllm"}, trainer=replace(GPU, devices=2)),
            "generate.vllm.tensor_parallel_size=N",
            id="ranks",
        ),
        pytest.param(
            settings({"engine": "vllm", "vllm": {"trust_remote_code": True}}),
            "generate.vllm.trust_remote_code is not yours to set",
            id="remote_code",
        ),
        pytest.param(
            settings({"engine": "vllm"}, task="train", data=DataConfig(eval_splits=["test"])),
            "generate.engine=vllm cannot answer in a training run",
            id="train",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(config, message):
    [found] = problems(config)
    assert message in found


def test_an_adapter_is_refused_with_the_command_that_merges_it(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    [found] = problems(settings({"engine": "vllm"}, weights=str(tmp_path)))
    assert f"'python -m medtune task=export weights={tmp_path} export.output=FOLDER'" in found


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(settings({}), id="default"),
        pytest.param(settings({"shard": "8/8", "output": "f"}), id="share"),
        pytest.param(settings({"num_beams": 4, "repetition_penalty": 2.0}), id="beams"),
        pytest.param(settings({"engine": "vllm", "vllm": {"tensor_parallel_size": 2}}), id="vllm"),
        pytest.param(settings({"engine": "vllm"}, model=replace(LLAMA, model_type="bloom")), id="vllm_bloom"),
        pytest.param(settings({"engine": "continuous", "temperature": 0.5}), id="continuous"),
        pytest.param(settings({"stop": ["<|im_end|>", 195]}), id="stop"),
        pytest.param(
            settings({"engine": "vllm"}, task="train", data=DataConfig(eval_splits=["test"]),
                     eval=EvalConfig(after_fit=False)),
            id="no_answers_after_the_fit",
        ),
        pytest.param(
            settings({"engine": "vllm"}, task="evaluate", evaluate=EvaluateConfig(predictions="f"),
                     trainer=TrainerConfig(accelerator="cpu")),
            id="scores_only",
        ),
    ],
)  # fmt: skip
def test_what_can_be_is_not_refused(config):
    assert problems(config) == []


def test_numbers_have_ranges():
    config = settings({"num_beams": 0, "merge_shards": 0, "length_penalty": float("inf")})
    assert [problem.partition("=")[0] for problem in range_problems(config)] == [
        *("generate.num_beams", "generate.length_penalty", "generate.merge_shards"),
    ]


def test_an_engine_is_none_of_a_training_run_that_answers_early_alone():
    early = replace(BASE, task="train", eval=EvalConfig(after_fit=False, every_n_steps=5))
    config = replace(early, generate=GenerateConfig(engine="vllm"))
    assert any("cannot answer in a training run" in problem for problem in problems(config))
    assert problems(replace(config, eval=EvalConfig(after_fit=False))) == []


def test_perplexity_asks_for_no_engine():
    config = settings({"engine": "continuous"}, evaluate=EvaluateConfig(perplexity=True))
    config = replace(config, task="evaluate", trainer=TrainerConfig(accelerator="cpu"))
    assert problems(config) == []
    assert engine_of(config) == "transformers"
    assert engine_of(replace(config, evaluate=EvaluateConfig())) == "continuous"
