"""Every file of conf/ composes, and says in a comment why one would choose it."""

import re

import pytest

from medtune.config.compose import compose_settings, plain_settings
from medtune.config.help import leading_comment
from medtune.config.load import config_from_dict
from medtune.config.nodes import node_problems
from medtune.config.resolvers import CONF
from medtune.config.schema import Config

FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent.name not in ("hydra", CONF.name))


def composed(*overrides: str) -> Config:
    values, missing = plain_settings(compose_settings(overrides))
    assert missing == []
    return config_from_dict(values)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_option_composes_and_its_open_nodes_bind(file):
    config = composed(f"{file.parent.name}={file.stem}")
    assert list(node_problems(config)) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}={file.stem}")
def test_every_option_says_why(file):
    assert leading_comment(file).endswith((".", "?"))


@pytest.mark.parametrize(
    "group", ["adapter", "optim", "schedule", "quantization", "launcher", "model", "data", "template"]
)
def test_an_option_carries_its_own_name(group):
    for file in sorted((CONF / group).glob("*.yaml")):
        config = composed(f"{group}={file.stem}")
        assert getattr(config, group).name == file.stem


@pytest.mark.parametrize("file", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_an_experiment_begins_with_its_command(file):
    first, second = file.read_text(encoding="utf-8").splitlines()[:2]
    assert first == "# @package _global_"
    assert re.match(rf"# python -m medtune .*experiment={file.stem}", second)


def test_the_users_line_composes():
    config = composed("model=baichuan13b", "data=promptcblue", "strategy=zero3")
    assert config.model.name == "baichuan13b"
    assert config.data.name == "promptcblue"
    assert config.strategy == {"_target_": "medtune.training.strategies.zero", "stage": 3}
    assert config.trainer.precision == "bf16-mixed"


@pytest.mark.parametrize("model", ["tiny", "tiny_llama"])
def test_the_tiny_models_are_of_one_size_and_learn_by_one_recipe(model):
    tiny, other = composed(), composed(f"model={model}")
    for section in (other.model, tiny.model):
        section.name = section.model_type = section.lora_targets = section.max_position_embeddings = None
    assert other == tiny
    assert other.trainer.precision == "32-true"


def test_the_default_is_masked_tuning_of_the_tiny_model_on_the_sample():
    config = composed()
    assert (config.task, config.objective, config.model.name, config.data.name) == (
        *("train", "sft"),
        *("tiny", "sample"),
    )
    assert config.data.eval_splits == ["test", "new_words"]
    assert config.eval.after_fit is None  # settled: true


def test_several_loggers_at_once():
    assert set(composed("logger=[wandb,tensorboard]").logger) == {"wandb", "tensorboard"}


def test_a_data_set_brings_its_own_rows():
    """The sample's short rows must not reach a real data set by way of the defaults list."""
    sample, real = composed("data=sample").data, composed("data=promptcblue").data
    assert sample.sequence_length < real.sequence_length
    assert sample.global_batch_size < real.global_batch_size


def test_a_pretrained_model_is_not_trained_at_a_toys_learning_rate():
    assert composed("model=baichuan7b", "data=promptcblue").optim.lr == 2e-5


@pytest.mark.parametrize(
    "order", [("experiment=bgi_promptcblue", "optim.lr=1"), ("optim.lr=1", "debug=fast")]
)
def test_the_command_line_wins_over_every_file(order):
    assert composed(*order).optim.lr == 1


def test_templates_are_what_the_reference_systems_wrote():
    assert composed("template=promptcblue_en").template.prompt == [
        "Write a response that appropriately completes the Input.\n\nInput:\n{prompt}\n\nResponse:\n"
    ]
    assert composed("template=human_assistant").template.prompt == ["Human: \n{prompt}\n\nAssistant: \n"]
    assert composed("template=baichuan").template.prompt == [
        {"id": 195, "label": "eos"},
        "{prompt}",
        {"id": 196},
    ]


def test_the_ccks_recipe():
    """The second-placed CCKS-2023 system's launch script, as far as it is settings."""
    config = composed("experiment=bgi_promptcblue")
    assert (config.objective, config.data.packing, config.data.overlong) == ("pretrain", "none", "drop")
    assert (config.optim.lr, config.optim.betas, config.schedule.warmup_ratio) == (2e-5, [0.9, 0.999], 0.0)
    assert (config.trainer.max_epochs, config.data.global_batch_size, config.seed) == (2, 8, 42)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        pytest.param("bgi", (2048, 0.0, 1.0, 0, 1.0, 1), id="bgi"),
        pytest.param("llamafactory", (512, 0.95, 0.7, 50, 1.0, 1), id="llamafactory"),
        pytest.param("msra", (400, 0.2, 0.9, 40, 1.3, 1), id="msra"),
        pytest.param("bloom", (2048, 1.0, 1.0, 3, 1.1, 1), id="bloom"),
    ],
)
def test_the_reference_systems_answers_are_drawn_as_they_drew_them(option, values):
    """Also over the model's own number of tokens, and in place of an experiment's."""
    for more in ([], ["model=tiny"], ["experiment=msra_qlora"]):
        found = composed(f"generate={option}", *more).generate
        assert (
            *(found.max_new_tokens, found.temperature, found.top_p, found.top_k),
            *(found.repetition_penalty, found.num_beams),
        ) == values


@pytest.mark.parametrize(("experiment", "tokens"), [("bgi_promptcblue", 2048), ("msra_qlora", 400)])
def test_an_experiment_answers_as_its_system(experiment, tokens):
    assert composed(f"experiment={experiment}").generate.max_new_tokens == tokens
    assert composed(f"experiment={experiment}", "generate.max_new_tokens=7").generate.max_new_tokens == 7
