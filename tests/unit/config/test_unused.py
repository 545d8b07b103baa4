from dataclasses import replace

import pytest

from medtune.config.idle import IDLE, READ_BY_TASK
from medtune.config.keys import schema_keys, section_names
from medtune.config.schema import (
    TASKS,
    AdapterConfig,
    Config,
    DataConfig,
    EvalConfig,
    EvaluateConfig,
    GenerateConfig,
    ModelConfig,
    OptimConfig,
    QuantizationConfig,
    ScheduleConfig,
    TrainerConfig,
)
from medtune.config.unused import unused_warning

BASE = Config(data=DataConfig(eval_splits=["test"]), trainer=TrainerConfig(devices=1))


@pytest.mark.parametrize(
    ("config", "key", "warning"),
    [
        pytest.param(
            replace(BASE, task="generate"),
            "optim.lr",
            "optim.lr has no effect: task=generate does not use it",
            id="optimizer_of_generate",
        ),
        pytest.param(
            replace(BASE, task="generate", model=ModelConfig(attention="flex_attention")),
            "model.attention",
            "model.attention has no effect with task=generate (answers are decoded with sdpa)",
            id="attention_of_answers",
        ),
        pytest.param(
            replace(BASE, task="generate"),
            "model.fused_kernels",
            "model.fused_kernels has no effect with task=generate",
            id="kernels_of_training",
        ),
        pytest.param(
            replace(BASE, model=ModelConfig(init="pretrained")),
            "model.architecture.hidden_size",
            "model.architecture.hidden_size has no effect with model.init=pretrained (the files decide)",
            id="architecture_of_files",
        ),
        pytest.param(
            replace(BASE, trainer=TrainerConfig(precision="bf16-mixed"), eval=EvalConfig(after_fit=False)),
            "model.dtype",
            "model.dtype has no effect with adapter=none trainer.precision=bf16-mixed",
            id="type_of_trained_weights",
        ),
        pytest.param(
            replace(BASE, task="export"),
            "model.dtype",
            "model.dtype has no effect with task=export (export.dtype decides)",
            id="type_of_an_export",
        ),
        pytest.param(
            replace(BASE, task="generate"),
            "optim",
            "optim has no effect: task=generate does not use it",
            id="whole_group",
        ),
        *(
            pytest.param(
                replace(BASE, task="evaluate", evaluate=EvaluateConfig(perplexity=True)),
                key,
                warning,
                id=f"{key}_of_perplexity",
            )
            for key, warning in (
                *(("data.packing", None), ("data.sequence_length", None), ("objective", None)),
                *(("data.micro_batch_size", None), ("generate.split", None), ("data.eval_splits", None)),
                ("generate.temperature", "generate.temperature has no effect with evaluate.perplexity=true"),
                ("eval.limit", "eval.limit has no effect with evaluate.perplexity=true"),
                ("evaluate.shots", "evaluate.shots has no effect with evaluate.perplexity=true"),
                ("data.dedup", "data.dedup has no effect with evaluate.perplexity=true"),
            )
        ),
        *(
            pytest.param(
                replace(
                    BASE,
                    task="evaluate",
                    data=DataConfig(format=format, eval_splits=["test"]),
                    evaluate=EvaluateConfig(exam=exam),
                ),
                key,
                warning,
                id=f"{key}_of_{exam}_{format}",
            )
            for format, exam, key, warning in (
                ("exam", "likelihood", "evaluate.shots", None),
                ("exam", "generate", "generate.max_new_tokens", None),
                (
                    *("exam", "likelihood", "generate.max_new_tokens"),
                    "generate.max_new_tokens has no effect with evaluate.exam=likelihood",
                ),
                ("exam", "likelihood", "generate.batch_tokens", None),
                (
                    *("exam", "likelihood", "generate.overlong"),
                    "generate.overlong has no effect with evaluate.exam=likelihood",
                ),
                (
                    *("exam", "generate", "evaluate.protocol"),
                    "evaluate.protocol has no effect with data.format=exam",
                ),
                ("pair", "likelihood", "evaluate.exam", "evaluate.exam has no effect with data.format=pair"),
                ("auto", "likelihood", "evaluate.exam", None),
                ("auto", "generate", "objective", "objective has no effect with evaluate.perplexity=false"),
            )
        ),
        pytest.param(
            replace(
                BASE,
                data=DataConfig(format="exam", eval_splits=["test"]),
                evaluate=EvaluateConfig(exam="likelihood"),
                eval=EvalConfig(every_n_steps=5),
            ),
            "generate.max_new_tokens",
            None,
            id="exams_during_training_are_generated",
        ),
        pytest.param(
            replace(BASE, task="chat"),
            "objective",
            "objective has no effect: task=chat does not use it",
            id="objective_of_chat",
        ),
        pytest.param(
            BASE,
            "weights",
            "weights has no effect: task=train does not use it "
            "(to start from trained weights, set model.path and model.init=pretrained)",
            id="weights_of_train",
        ),
        pytest.param(BASE, "adapter.rank", "adapter.rank has no effect with adapter=none", id="no_adapter"),
        *(
            pytest.param(
                replace(BASE, adapter=AdapterConfig(name)),
                f"adapter.{key}",
                f"adapter.{key} has no effect with adapter={name}",
                id=f"{key}_of_{name}",
            )
            for name, key in (
                *(("ia3", "rank"), ("vera", "alpha"), ("ia3", "dropout"), ("lora", "init")),
                *(("freeze", "target_modules"), ("freeze", "modules_to_save"), ("lora", "last_layers")),
                *(("dora", "first_layers"), ("none", "trainable")),
            )
        ),
        pytest.param(
            replace(BASE, adapter=AdapterConfig("lora", start="earlier")),
            "adapter.rank",
            "adapter.rank has no effect with adapter.start (its own hold)",
            id="rank_of_an_earlier_adapter",
        ),
        pytest.param(
            replace(BASE, quantization=QuantizationConfig(name="int8")),
            "quantization.double_quant",
            "quantization.double_quant has no effect with quantization=int8",
            id="nf4_key_of_int8",
        ),
        pytest.param(
            replace(BASE, optim=OptimConfig(name="sgd")),
            "optim.betas",
            "optim.betas has no effect with optim=sgd",
            id="adam_key_of_sgd",
        ),
        pytest.param(
            replace(BASE, schedule=ScheduleConfig(name="constant")),
            "schedule.min_lr_ratio",
            "schedule.min_lr_ratio has no effect with schedule=constant",
            id="end_of_a_constant",
        ),
        pytest.param(
            replace(BASE, trainer=TrainerConfig(max_steps=5)),
            "trainer.max_epochs",
            "trainer.max_epochs has no effect with trainer.max_steps=5",
            id="steps_win_over_epochs",
        ),
        pytest.param(
            BASE, "generate.top_p", "generate.top_p has no effect with generate.temperature=0", id="greedy"
        ),
        pytest.param(
            replace(BASE, data=DataConfig(format="promptcblue", eval_splits=["test"])),
            "data.columns.query",
            "data.columns.query has no effect with data.format=promptcblue",
            id="columns_of_another_format",
        ),
        pytest.param(
            replace(BASE, data=DataConfig()),
            "generate.max_new_tokens",
            "generate.max_new_tokens has no effect with data.eval_splits=[]",
            id="nothing_is_answered",
        ),
        pytest.param(
            replace(BASE, task="evaluate", evaluate=EvaluateConfig(predictions="x.jsonl")),
            "model",
            "model has no effect with evaluate.predictions",
            id="predictions_are_there",
        ),
        pytest.param(
            replace(BASE, task="generate"),
            "trainer.progress",
            "trainer.progress has no effect: task=generate does not use it",
            id="the_fits_own_bar",
        ),
        pytest.param(
            replace(BASE, task="generate"),
            "serve.port",
            "serve.port has no effect: task=generate does not use it",
            id="port_of_generate",
        ),
        pytest.param(
            replace(BASE, task="chat"),
            "generate.batch_tokens",
            "generate.batch_tokens has no effect: task=chat does not use it",
            id="one_prompt_at_a_time",
        ),
        pytest.param(
            replace(BASE, task="prepare"),
            "data.global_batch_size",
            "data.global_batch_size has no effect with task=prepare",
            id="rows_but_no_batches",
        ),
        pytest.param(
            replace(BASE, task="generate", generate=GenerateConfig(input="x.txt")),
            "data.max_examples",
            "data.max_examples has no effect with generate.input",
            id="a_file_is_read_whole",
        ),
        pytest.param(
            replace(BASE, task="evaluate", generate=GenerateConfig(split="test")),
            "evaluate.references",
            "evaluate.references has no effect with generate.split=test",
            id="a_split_has_its_own_gold",
        ),
        pytest.param(
            replace(BASE, eval=EvalConfig(after_fit=False)),
            "generate.temperature",
            "generate.temperature has no effect with eval.after_fit=false",
            id="nothing_is_generated",
        ),
        pytest.param(
            BASE,
            "trainer.val_max_rows",
            "trainer.val_max_rows has no effect with nothing held out for validation",
            id="nothing_to_validate_on",
        ),
        pytest.param(
            BASE,
            "launcher.master_port",
            "launcher.master_port has no effect with one process",
            id="one_process",
        ),
    ],
)
def test_a_key_that_is_not_read_is_named(config, key, warning):
    assert unused_warning(config, [key]) == warning


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        pytest.param(BASE, ["optim.lr", "data", "strategy.stage", "trainer.extra.profiler"], id="train"),
        pytest.param(
            replace(BASE, adapter=AdapterConfig(name="lora")), ["adapter", "adapter.rank"], id="with_adapter"
        ),
        pytest.param(
            replace(BASE, generate=GenerateConfig(temperature=0.7)), ["generate.top_p"], id="sampling"
        ),
        pytest.param(BASE, ["experiment", "debug", "sweep", "name", "seed", "task"], id="always_read"),
        pytest.param(
            replace(BASE, task="chat"),
            ["weights", "template", "generate.temperature", "chat.multi_turn"],
            id="chat",
        ),
        pytest.param(
            replace(BASE, task="serve"),
            ["weights", "template", "serve.port", "generate.top_p"],
            id="defaults_of_requests",
        ),
        pytest.param(
            replace(BASE, adapter=AdapterConfig("lora"), trainer=TrainerConfig(precision="bf16-mixed")),
            ["model.dtype", "model.attention", "model.fused_kernels"],
            id="type_of_a_frozen_base",
        ),
    ],
)
def test_a_key_that_is_read_is_not(config, keys):
    assert unused_warning(config, keys) is None


def test_a_key_typed_twice_is_named_once():
    assert unused_warning(BASE, ["adapter.rank", "adapter.rank"]) == (
        "adapter.rank has no effect with adapter=none"
    )


@pytest.mark.parametrize(
    ("config", "keys", "line"),
    [
        pytest.param(
            replace(BASE, task="evaluate", evaluate=EvaluateConfig(predictions="x.jsonl")),
            ["generate.max_new_tokens", "data.cache_dir", "seed", "model", "data.max_examples"],
            "generate.max_new_tokens, model have no effect with evaluate.predictions; "
            "data.cache_dir has no effect with task=evaluate",
            id="predictions_are_there",
        ),
        pytest.param(
            replace(BASE, task="chat"),
            ["data.max_examples", "data.cache_dir", "generate.max_new_tokens", "generate.top_p"],
            "data.max_examples, data.cache_dir have no effect: task=chat does not use them; "
            "generate.top_p has no effect with generate.temperature=0",
            id="chat",
        ),
        pytest.param(
            BASE,
            ["eval.tasks", "eval.limit_per_task", "eval.limit"],
            "eval.tasks, eval.limit_per_task have no effect with eval.every_n_steps=null (they choose what "
            "is answered during training)",
            id="choice_of_what_is_not_answered",
        ),
        pytest.param(
            replace(BASE, eval=EvalConfig(after_fit=False, every_n_steps=5)),
            ["eval.tasks", "eval.limit", "eval.trivial", "generate.temperature", "generate.max_new_tokens"],
            "eval.trivial has no effect with eval.after_fit=false; generate.temperature has no effect with "
            "eval.after_fit=false (answers during training are greedy)",
            id="answers_during_training_alone",
        ),
        pytest.param(
            replace(BASE, task="evaluate", eval=EvalConfig(split="dev")),
            ["eval.every_n_steps", "eval.tasks", "eval.split", "data.eval_splits"],
            "eval.every_n_steps has no effect with task=evaluate; "
            "data.eval_splits has no effect with eval.split=dev",
            id="choice_of_an_evaluation",
        ),
        pytest.param(
            replace(BASE, task="evaluate", generate=GenerateConfig(split="dev")),
            ["eval.split"],
            "eval.split has no effect with generate.split=dev",
            id="two_names_of_a_split",
        ),
        pytest.param(
            BASE,
            ["weights", "export", "evaluate.predictions"],
            "weights has no effect: task=train does not use it "
            "(to start from trained weights, set model.path and model.init=pretrained); "
            "export, evaluate.predictions have no effect: task=train does not use them",
            id="a_hint_stays_with_its_key",
        ),
    ],
)
def test_several_keys_share_one_line_by_reason(config, keys, line):
    assert unused_warning(config, keys) == line


def test_the_table_names_every_task_and_only_keys_that_exist():
    known = {*schema_keys(), *section_names()}
    assert set(READ_BY_TASK) == set(TASKS)
    assert {key for keys in READ_BY_TASK.values() for key in keys} <= known
    assert {key for idle in IDLE for key in idle.keys} <= known


@pytest.mark.parametrize(
    ("file", "idle"),
    [
        ("adapter_config.json", ["adapter.merge"]),
        ("config.json", ["adapter.merge", "model.rope_scaling", "model.hidden_size"]),
        ("checkpoint.json", []),  # the settings build what its tensors belong to
    ],
)
def test_what_the_files_of_weights_decide_is_not_set_by_a_command(tmp_path, file, idle):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / file).write_text("{}")
    typed = ["adapter.merge", "model.rope_scaling", "model.hidden_size", "model.attention"]
    warning = unused_warning(replace(BASE, task="generate", weights=str(tmp_path)), typed)
    verb = "have" if len(idle) > 1 else "has"
    expected = f"{', '.join(idle)} {verb} no effect with weights (their files decide)" if idle else None
    assert warning == expected
