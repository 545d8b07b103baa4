"""The rules between settings, on configurations made by hand; the command line is in unit/launch."""

import sys
from dataclasses import replace

import pytest

from medtune.config.checks import Machine, check
from medtune.config.schema import (
    AdapterConfig,
    CheckpointConfig,
    Config,
    DataConfig,
    EvalConfig,
    EvaluateConfig,
    GenerateConfig,
    ModelConfig,
    OptimConfig,
    QuantizationConfig,
    ScheduleConfig,
    TemplateConfig,
    TrainerConfig,
)

CPU = Machine(gpus=0, cores=2)
RANDOM = ModelConfig(name="toy", init="random", model_type="llama", tokenizer="toy/tokenizer")


@pytest.fixture
def folder(tmp_path):
    for name in ("train.json", "dev.json", "prompts.txt"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def sound(folder):
    """A configuration without problems."""
    data = DataConfig(
        name="toy",
        dir=str(folder),
        splits={"train": "train.json", "validation": "dev.json"},
        eval_splits=["validation"],
        sequence_length=64,
    )
    return Config(model=RANDOM, data=data, trainer=TrainerConfig(accelerator="cpu", devices=1))


def test_a_sound_configuration_has_no_problems(sound):
    assert check(sound, CPU) == []


def with_section(config, section, **values):
    return replace(config, **{section: replace(getattr(config, section), **values)})


@pytest.mark.parametrize(
    ("section", "values", "problem"),
    [
        pytest.param(
            "model",
            {"rope_scaling": {"rope_type": "yarm", "factor": 2}},
            "model.rope_scaling.rope_type=yarm is none of linear, dynamic, yarn, longrope, llama3; did you "
            "mean yarn?",
            id="rope_type",
        ),
        pytest.param(
            "model",
            {"rope_scaling": {"rope_type": "linear"}},
            "model.rope_scaling.factor=null must be at least 1: the new context by the old one",
            id="rope_factor",
        ),
        pytest.param(
            "model",
            {"rope_scaling": {"rope_type": "linear", "factor": 2, "factr": 3}},
            "model.rope_scaling.factr: rope_type=linear knows rope_type, factor, rope_theta, "
            "partial_rotary_factor; did you mean factor?",
            id="rope_key",
        ),
        pytest.param(
            "model",
            {"rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 1}},
            "model.rope_scaling.high_freq_factor is missing, which rope_type=llama3 needs",
            id="rope_key_missing",
        ),
        pytest.param("optim", {"lr": float("inf")}, "optim.lr=inf must be at least 0 and finite", id="rate"),
        pytest.param(
            "loss",
            {"label_smoothing": 1.0},
            "loss.label_smoothing=1.0 must be at least 0 and below 1",
            id="all_of_the_label_smoothed_away",
        ),
        pytest.param(
            "data",
            {"global_batch_size": 10, "micro_batch_size": 4},
            "data.global_batch_size=10 is not a multiple of data.micro_batch_size * trainer.devices "
            "(4 * 1 = 4); the nearest is data.global_batch_size=8",
            id="batch",
        ),
        pytest.param(
            "data",
            {"global_batch_size": 1, "micro_batch_size": 4},
            "data.global_batch_size=1 is not a multiple of data.micro_batch_size * trainer.devices "
            "(4 * 1 = 4); the nearest is data.global_batch_size=4",
            id="batch_smaller_than_a_pass",
        ),
        pytest.param(
            "trainer",
            {"devices": 3},
            "data.global_batch_size=8 is not a multiple of data.micro_batch_size * trainer.devices "
            "(1 * 3 = 3); the nearest is data.global_batch_size=9",
            id="batch_over_devices",
        ),
        pytest.param(
            "trainer",
            {"num_nodes": 2},
            "trainer.num_nodes=2: launcher=local starts processes on this machine only; "
            "set trainer.num_nodes=1",
            id="several_machines",
        ),
        pytest.param(
            "trainer",
            {"accelerator": "cuda"},
            "trainer.accelerator=cuda, but no GPU is visible here; set trainer.accelerator=cpu",
            id="no_gpu",
        ),
        *(
            pytest.param(
                "checkpoint", {key: 0}, f"checkpoint.{key}=0 must be {words}", id=f"checkpoint_{key}"
            )
            for key, words in {
                "every_n_steps": "at least 1",
                "every_n_tokens": "at least 1",
                "every_n_minutes": "above 0",
                "keep_every_n_steps": "at least 1",
                "keep_last": "at least 1",
            }.items()
        ),
        pytest.param("trainer", {"max_steps": 0}, "trainer.max_steps=0 must be at least 1", id="no_steps"),
        pytest.param(
            "trainer", {"max_epochs": 0.0}, "trainer.max_epochs=0.0 must be above 0", id="no_epochs"
        ),
        *(
            pytest.param("model", {key: 0}, f"model.{key}=0 must be at least 1", id=key)
            for key in (
                *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"),
                *("num_attention_heads", "num_key_value_heads", "max_position_embeddings"),
            )
        ),
        pytest.param(
            "adapter",
            {"name": "lora", "target_modules": []},
            "adapter.target_modules=[] leaves nothing to train; name modules, or set "
            "adapter.target_modules=null (model.lora_targets, else every linear layer but the head)",
            id="no_module_to_adapt",
        ),
        pytest.param(
            "adapter",
            {"name": "lora", "target_modules": "q_proj"},
            "adapter.target_modules=q_proj must be a list of module names, such as [q_proj,v_proj], or "
            "all-linear",
            id="targets_that_are_no_list",
        ),
        pytest.param(
            "adapter",
            {"name": "freeze"},
            "adapter=freeze names nothing to train; set adapter.last_layers=N, adapter.first_layers=N or "
            "adapter.trainable=[PATTERN]",
            id="all_frozen",
        ),
        pytest.param(
            "adapter",
            {"name": "freeze", "last_layers": 0, "trainable": ["*norm*"]},
            "adapter.last_layers=0 must be at least 1",
            id="no_layers",
        ),
        pytest.param(
            "quantization",
            {"name": "nf4"},
            "quantization=nf4 freezes the weights, so there is nothing to train; add adapter=lora",
            id="quantised_without_adapter",
        ),
        pytest.param(
            "data",
            {"format": "text", "eval_splits": []},
            "objective=sft learns responses, but data=toy (data.format=text) has none; "
            "set objective=pretrain",
            id="texts_have_no_responses",
        ),
        pytest.param(
            "data",
            {"overlong": "split"},
            "data.overlong=split cuts a text into several, which would part a response from its prompt; "
            "set objective=pretrain, or data.overlong=truncate",
            id="split_of_a_pair",
        ),
        pytest.param(
            "data",
            {"packing": "concat"},
            "data.packing=concat cuts rows anywhere, which would part a response from its prompt; "
            "set objective=pretrain, or data.packing=bfd",
            id="cut_of_a_pair",
        ),
        pytest.param(
            "data",
            {"eval_splits": ["validaton"]},
            "data.eval_splits=[validaton]: data=toy has train, validation; did you mean validation?",
            id="no_such_split",
        ),
        pytest.param(
            "data", {"sequence_length": 1}, "data.sequence_length=1 must be at least 2", id="one_token"
        ),
        pytest.param(
            "template",
            {"prompt": ["Input:"]},
            "template.prompt=['Input:'] has no {prompt}: the prompt would be lost; "
            "add it to one of the pieces",
            id="template_without_prompt",
        ),
        pytest.param(
            "optim",
            {"betas": [0.9]},
            "optim.betas=[0.9] must be two numbers from 0 to below 1",
            id="one_beta",
        ),
        pytest.param(
            "optim",
            {"betas": [0.9, 1.0]},
            "optim.betas=[0.9,1.0] must be two numbers from 0 to below 1",
            id="beta_of_one",
        ),
        pytest.param("optim", {"lr": float("nan")}, "optim.lr=nan must be at least 0 and finite", id="nan"),
        pytest.param(
            "optim", {"lr": -1.0}, "optim.lr=-1.0 must be at least 0 and finite", id="lr_below_zero"
        ),
        pytest.param(
            "schedule",
            {"warmup_ratio": 1.5},
            "schedule.warmup_ratio=1.5 must be at least 0 and at most 1",
            id="warmup_longer_than_the_run",
        ),
        pytest.param(
            "adapter",
            {"dropout": 1.0},
            "adapter.dropout=1.0 must be at least 0 and below 1",
            id="dropout_of_everything",
        ),
        pytest.param(
            "checkpoint", {"keep_last": 0}, "checkpoint.keep_last=0 must be at least 1", id="keep_none"
        ),
        pytest.param(
            "generate", {"top_p": 0.0}, "generate.top_p=0.0 must be above 0 and at most 1", id="top_p_of_none"
        ),
        pytest.param(
            "model",
            {"init": "pretrained"},
            "model.path is not set, and model=toy needs it; set model.path=FOLDER, or model.init=random",
            id="weights_from_nowhere",
        ),
        pytest.param(
            "model",
            {"model_type": None},
            "model.init=random without model.path needs model.model_type (llama, baichuan, ...)",
            id="architecture_unknown",
        ),
        pytest.param(
            "model",
            {"tokenizer": "/nowhere/tokenizer"},
            "model.tokenizer=/nowhere/tokenizer is not there; "
            "set it to a folder with a transformers model, or to a hub id",
            id="tokenizer_not_there",
        ),
    ],
)
def test_a_broken_rule_is_told_in_one_sentence(sound, section, values, problem):
    assert check(with_section(sound, section, **values), CPU) == [problem]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        pytest.param("data", {"overlong": "split", "packing": "concat"}, id="cut_texts"),
        pytest.param("data", {"format": "text", "eval_splits": []}, id="plain_texts"),
    ],
)
def test_pretraining_may_cut_its_rows(sound, section, values):
    assert check(replace(with_section(sound, section, **values), objective="pretrain"), CPU) == []


def test_quantised_weights_need_no_adapter_to_generate(sound):
    config = replace(sound, task="generate", quantization=QuantizationConfig(name="nf4"))
    assert check(config, CPU) == []


def test_an_adapter_trains_over_quantised_weights(sound):
    config = replace(sound, quantization=QuantizationConfig(name="nf4"), adapter=AdapterConfig(name="lora"))
    assert check(config, CPU) == []


def test_more_devices_than_gpus(sound):
    config = replace(sound, trainer=TrainerConfig(accelerator="cuda", devices=4))
    assert check(config, Machine(gpus=2, cores=8)) == [
        "trainer.devices=4, but 2 GPUs are visible here; set trainer.devices=2"
    ]
    assert check(config, Machine(gpus=4, cores=8)) == []


def test_several_cpu_processes_need_no_gpu(sound):
    assert check(replace(sound, trainer=TrainerConfig(accelerator="cpu", devices=4)), CPU) == []


def test_all_problems_are_told_at_once(sound):
    config = replace(
        sound,
        seed=-1,
        optim=OptimConfig(lr=-1.0),
        schedule=ScheduleConfig(min_lr_ratio=2.0),
        checkpoint=CheckpointConfig(every_n_steps=0),
        eval=EvalConfig(limit=0),
        resume="auto",
        template=TemplateConfig(prompt=["{prompt}{prompt}"]),
    )
    assert check(config, CPU) == [
        "seed=-1 must be at least 0 and at most 4.29497e+09",
        "optim.lr=-1.0 must be at least 0 and finite",
        "schedule.min_lr_ratio=2.0 must be at least 0 and at most 1",
        "checkpoint.every_n_steps=0 must be at least 1",
        "eval.limit=0 must be at least 1",
        "template.prompt holds {prompt} 2 times; it must hold it once",
        "resume=auto needs run_dir=DIR, the run to continue",
    ]


@pytest.mark.parametrize(
    ("generate", "problems"),
    [
        pytest.param(GenerateConfig(split="validation"), [], id="a_split"),
        pytest.param(GenerateConfig(), [], id="first_of_eval_splits"),
        pytest.param(
            GenerateConfig(split="test"),
            ["generate.split=test is not a split; data=toy has train, validation"],
            id="no_such_split",
        ),
        pytest.param(
            GenerateConfig(input="/nowhere/prompts.txt"),
            ["generate.input=/nowhere/prompts.txt is not there; it must name a file of prompts"],
            id="no_such_file",
        ),
    ],
)
def test_what_generate_answers(sound, generate, problems):
    assert check(replace(sound, task="generate", generate=generate), CPU) == problems


def test_generate_with_nothing_to_answer(sound):
    config = replace(with_section(sound, "data", eval_splits=[]), task="generate")
    assert check(config, CPU) == [
        "task=generate has nothing to answer; set generate.split=SPLIT or generate.input=FILE"
    ]


def test_scoring_a_file_needs_neither_model_nor_data_folder(sound, folder):
    config = replace(
        sound,
        task="evaluate",
        model=ModelConfig(path="/nowhere"),
        data=DataConfig(),
        evaluate=EvaluateConfig(
            predictions=str(folder / "prompts.txt"), references=str(folder / "train.json")
        ),
    )
    assert check(config, CPU) == []


@pytest.mark.parametrize(
    ("evaluate", "problem"),
    [
        pytest.param(
            {"predictions": "prompts.txt"},
            "task=evaluate has no gold; set generate.split=SPLIT or evaluate.references=FILE",
            id="no_gold",
        ),
        pytest.param({}, "task=evaluate has nothing to answer; set generate.split=SPLIT", id="no_prompts"),
    ],
)
def test_nothing_to_score(sound, folder, evaluate, problem):
    evaluate = {key: str(folder / name) for key, name in evaluate.items()}
    config = replace(with_section(sound, "data", eval_splits=[]), task="evaluate")
    assert check(replace(config, evaluate=EvaluateConfig(**evaluate)), CPU) == [problem]


def test_scoring_a_model_opens_every_split_and_the_training_data_of_the_trivial_rules(sound, folder):
    splits = {"train": "no_train.json", "validation": "dev.json", "test": "no_test.json"}
    data = replace(sound.data, splits=splits, eval_splits=["validation", "test"])
    config = replace(sound, task="evaluate", data=data)
    assert [problem.split(" is ")[0] for problem in check(config, CPU)] == [
        "data.splits.train=no_train.json",
        "data.splits.test=no_test.json",
    ]
    assert len(check(replace(config, eval=EvalConfig(trivial=False)), CPU)) == 1


def test_missing_data_says_what_it_is_and_which_key_to_set(sound, folder):
    data = replace(
        sound.data, origin="ask the organisers", splits={"train": "a.json", "validation": "dev.json"}
    )
    assert check(replace(sound, data=data), CPU) == [
        f"data.splits.train=a.json is not in data.dir={folder}; "
        "set data.dir=FOLDER or data.splits.train=FILE (origin: ask the organisers)"
    ]
    assert check(replace(sound, data=replace(data, dir="/nowhere")), CPU) == [
        "data.dir=/nowhere is not there; set data.dir=FOLDER (origin: ask the organisers)"
    ]
    assert check(replace(sound, data=replace(data, dir=None)), CPU) == [
        "data.dir is not set, and data=toy needs it; set data.dir=FOLDER (origin: ask the organisers)"
    ]


def test_a_split_that_is_not_evaluated_need_not_be_there(sound):
    data = replace(sound.data, splits={**sound.data.splits, "test": "nowhere.json"})
    assert check(replace(sound, data=data), CPU) == []


def test_a_folder_that_is_no_model(sound, folder):
    config = replace(sound, model=ModelConfig(path=str(folder)))
    assert check(config, CPU) == [f"model.path={folder} holds no config.json, so it is no transformers model"]


def test_a_hub_id_is_not_looked_for(sound):
    assert check(replace(sound, model=ModelConfig(path="baichuan-inc/Baichuan-13B-Base")), CPU) == []


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        pytest.param(
            {"task": "chat", "weights": "/nowhere"},
            "weights=/nowhere is not there; "
            "it must name a run folder, a checkpoint in one, or an exported model",
            id="weights",
        ),
        pytest.param(
            {"resume": "/nowhere"},
            "resume=/nowhere is not there; it must be never, auto or the path of a checkpoint",
            id="resume",
        ),
        pytest.param(
            {"task": "export"},
            "task=export has nothing to export; set weights=RUN_DIR",
            id="nothing_to_export",
        ),
    ],
)
def test_runs_that_are_not_there(sound, values, problem):
    assert check(replace(sound, **values), CPU) == [problem]


@pytest.mark.parametrize(
    ("model", "trainer", "problem"),
    [
        pytest.param(
            {"attention": "flex_attention"},
            {},
            "model.attention=flex_attention: torch has no backward pass for it on CPUs; "
            "set model.attention=sdpa",
            id="flex_on_a_cpu",
        ),
        pytest.param(
            {"attention": "flash_attention_2"},
            {},
            "model.attention=flash_attention_2: its kernels are for GPUs; set model.attention=sdpa",
            id="flash_on_a_cpu",
        ),
        pytest.param(
            {"attention": "flash_attention_2"},
            {"accelerator": "cuda", "precision": "32-true"},
            "model.attention=flash_attention_2 computes in half precision only, but trainer.precision="
            "32-true; set trainer.precision=bf16-mixed, or model.attention=flex_attention",
            id="flash_in_float32",
        ),
        pytest.param(
            {"attention": "flash_attention_2"},
            {"accelerator": "cuda", "precision": "bf16-mixed"},
            "model.attention=flash_attention_2 needs the package flash_attn, which is not installed: pip "
            "install flash-attn --no-build-isolation, or set model.attention=flex_attention",
            id="flash_not_installed",
        ),
        pytest.param(
            {"fused_kernels": True},
            {},
            "model.fused_kernels=true: Liger's kernels are for GPUs; set model.fused_kernels=null",
            id="liger_on_a_cpu",
        ),
        pytest.param(
            {"fused_kernels": True},
            {"accelerator": "cuda"},
            "model.fused_kernels=true needs the package liger_kernel, which is not installed: "
            "pip install 'medtune[gpu]', or set model.fused_kernels=null",
            id="liger_not_installed",
        ),
    ],
)
def test_a_kernel_that_is_not_there_is_refused_before_anything_loads(
    sound, monkeypatch, model, trainer, problem
):
    for package in ("flash_attn", "liger_kernel"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed, wherever this runs
    config = with_section(with_section(sound, "model", **model), "trainer", **trainer)
    assert problem in check(config, Machine(gpus=1, cores=2))
    answering = replace(config, task="generate")
    assert not [problem for problem in check(answering, Machine(gpus=1, cores=2)) if "model." in problem]


def test_the_best_need_something_to_be_measured_on(sound):
    config = with_section(sound, "checkpoint", keep_best=2)
    assert check(config, CPU) == []
    [problem] = check(with_section(config, "data", splits={"train": "train.json"}, eval_splits=[]), CPU)
    assert problem == (
        "checkpoint.keep_best=2 chooses by val/loss, but nothing is held out for validation; "
        "set data.validation_size, or checkpoint.keep_best=0"
    )


def test_a_trained_prompt_is_exported_as_it_is(sound):
    config = replace(with_section(sound, "adapter", name="prompt_tuning"), task="export", weights="run")
    assert any("no weights could be merged into the model" in problem for problem in check(config, CPU))
    config = with_section(config, "export", merge=False)
    assert not any("merged" in problem for problem in check(config, CPU))


def test_the_best_are_chosen_by_what_a_validation_reports(sound):
    config = with_section(sound, "checkpoint", keep_best=2, monitor="val/acuracy")
    assert check(config, CPU) == [
        "checkpoint.monitor=val/acuracy is none of val/loss, val/accuracy; did you mean val/accuracy?"
    ]
    assert check(with_section(sound, "checkpoint", monitor="val/acuracy"), CPU) == []
    assert check(with_section(sound, "checkpoint", keep_best=2, monitor="val/accuracy"), CPU) == []
    perplexity = with_section(sound, "checkpoint", keep_best=2, monitor="val/perplexity")
    assert len(check(perplexity, CPU)) == 1
    assert check(replace(perplexity, objective="pretrain"), CPU) == []


@pytest.mark.parametrize(
    ("section", "values", "problem"),
    [
        pytest.param("model", {"fused_kernels": True}, "with model.fused_kernels=true: Liger's", id="fused"),
        pytest.param(
            "model", {"attention": "flex_attention"}, "with model.attention=flex_attention", id="flex"
        ),
        pytest.param(
            "quantization", {"name": "nf4"}, "with quantization=nf4 on a GPU: bitsandbytes'", id="quantised"
        ),
    ],
)
def test_kernels_without_a_fixed_order_are_not_deterministic(sound, section, values, problem):
    config = with_section(with_section(sound, "trainer", accelerator="cuda"), section, **values)
    config = with_section(config, "adapter", name="lora")
    assert [p for p in check(config, Machine(gpus=1, cores=2)) if p.startswith("deterministic")] == []
    found = check(replace(config, deterministic=True), Machine(gpus=1, cores=2))
    assert [p.startswith(f"deterministic=true {problem}") for p in found if p.startswith("det")] == [True]
    assert check(replace(sound, deterministic=True), CPU) == []


def test_new_rows_of_the_embedding_must_be_trained(sound):
    config = with_section(with_section(sound, "model", resize_embeddings=True), "adapter", name="lora")
    assert check(config, CPU) == [
        "model.resize_embeddings=true adds rows to the embedding, which adapter=lora would leave as they are "
        "drawn; train with adapter=none, or name the embedding and the head in adapter.modules_to_save"
    ]


def test_an_architecture_names_the_type(sound):
    config = with_section(sound, "model", model_type=None, architecture={"model_type": "bloom"})
    assert check(config, CPU) == []


def test_autocast_cannot_mix_float16(sound):
    config = with_section(with_section(sound, "model", dtype="float16"), "adapter", name="lora")
    config.trainer.precision = "bf16-mixed"
    assert check(config, CPU) == [
        "model.dtype=float16 does not go with trainer.precision=bf16-mixed; set model.dtype=bfloat16"
    ]


def test_a_file_in_the_place_of_a_folder_is_told(sound, folder):
    config = with_section(sound, "model", path=str(folder / "train.json"))
    assert check(config, CPU) == [
        f"model.path={folder / 'train.json'} is a file; give the folder that holds it, model.path={folder}"
    ]


EARLIER = "/"  # a folder that is there
ADAPTERS_THAT_CANNOT_BE = [
    pytest.param(
        {"name": "none", "start": EARLIER},
        "none",
        "adapter.start=/ needs an adapter to train; adapter=none trains the model itself: fold the earlier "
        "one in with adapter.merge, or set adapter=lora",
        id="start_of_nothing",
    ),
    pytest.param(
        {"name": "freeze", "last_layers": 1, "stack": [EARLIER]},
        "none",
        "adapter.stack=[/] needs an adapter to train; adapter=freeze trains the model itself: fold the "
        "earlier one in with adapter.merge, or set adapter=lora",
        id="stack_below_a_model",
    ),
    pytest.param(
        {"name": "pissa", "start": EARLIER},
        "none",
        "adapter.start=/: pissa is a way to begin, and what it writes is a LoRA adapter; go on with "
        "adapter=lora",
        id="pissa_begins",
    ),
    *(
        pytest.param(
            {"name": name, "stack": [EARLIER]},
            "none",
            f"adapter.stack=[/] with adapter={name}: only low-rank updates add up (lora, rslora, pissa); "
            "fold the earlier ones in with adapter.merge",
            id=f"{name}_does_not_add_up",
        )
        for name in ("dora", "vera", "ia3")
    ),
    pytest.param(
        {"name": "lora", "merge": ["/nowhere"]},
        "none",
        "adapter.merge=/nowhere is not there; it must name an adapter folder, or its run",
        id="merge_of_nothing",
    ),
    pytest.param(
        {"name": "dora"},
        "int8",
        "quantization=int8 with adapter=dora: DoRA needs the norms of the weights in every pass, and peft "
        "loses the scales of 8-bit weights when it asks for them; use quantization=nf4, or adapter=lora",
        id="dora_on_8_bits",
    ),
    pytest.param(
        {"name": "freeze", "last_layers": 1},
        "fp4",
        "quantization=fp4 freezes the weights, so there is nothing to train with adapter=freeze; add "
        "adapter=lora",
        id="quantised_and_thawed",
    ),
]


@pytest.mark.parametrize(("adapter", "quantization", "problem"), ADAPTERS_THAT_CANNOT_BE)
def test_adapters_that_cannot_be(sound, adapter, quantization, problem):
    config = with_section(with_section(sound, "adapter", **adapter), "quantization", name=quantization)
    assert check(config, CPU) == [problem]
    assert check(replace(config, task="generate"), CPU) == []


@pytest.mark.parametrize(
    "adapter",
    [
        {"name": "lora", "modules_to_save": ["embed_tokens", "lm_head"]},
        {"name": "freeze", "trainable": ["*embed*", "*lm_head*"]},
        {"name": "none"},
    ],
)
def test_new_rows_that_are_trained_may_be(sound, adapter):
    config = with_section(with_section(sound, "model", resize_embeddings=True), "adapter", **adapter)
    assert check(config, CPU) == []


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], None])
def test_targets_that_may_be(sound, targets):
    assert check(with_section(sound, "adapter", name="lora", target_modules=targets), CPU) == []
