"""Every model option: what it says of the published model, and that the network can be built from it."""

import re

import pytest
import torch
from torch import nn

from medtune.config.compose import compose_settings, plain_settings
from medtune.config.load import config_from_dict
from medtune.config.resolvers import CONF
from medtune.config.settle import SAMPLE_TOKENIZER
from medtune.models.load import load_model
from medtune.models.network import build_network_config, network_class
from medtune.runtime.families import SAFE_FAMILIES

# Counted by hand or told by the model cards; tied weights once.
PARAMETERS = {
    "baichuan7b": 7_000_559_616,
    "baichuan13b": 13_264_901_120,
    "baichuan13b_chat": 13_264_901_120,
    "baichuan2_7b": 7_505_973_248,
    "baichuan2_7b_chat": 7_505_973_248,
    "baichuan2_13b": 13_896_668_160,
    "baichuan2_13b_chat": 13_896_668_160,
    "bloom_6b4_zh": 6_230_421_504,
    "bloomz_7b1": 7_069_016_064,
    "llama2_7b": 6_738_415_616,
    "llama2_7b_chat": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama3_8b": 8_030_261_248,
    "llama3_8b_instruct": 8_030_261_248,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_7b_instruct": 7_615_616_512,
    "qwen3_0_6b": 596_049_920,
    "qwen3_8b": 8_190_735_360,
    "qwen3_8b_chat": 8_190_735_360,
    "chinese_alpaca_2_7b": 6_929_256_448,
}
TEMPLATES = {
    "baichuan13b_chat": "baichuan",
    "baichuan2_7b_chat": "baichuan2",
    "baichuan2_13b_chat": "baichuan2",
    "bloomz_7b1": "plain",
    "llama2_7b_chat": "llama2",
    "llama3_8b_instruct": "chat",
    "qwen2_5_7b_instruct": "qwen",
    "qwen3_8b_chat": "chat",
    "chinese_alpaca_2_7b": "llama2_zh",
}


def composed(*overrides):
    values, _ = plain_settings(compose_settings(overrides))
    return config_from_dict(values)


@pytest.fixture(params=PARAMETERS)
def option(request):
    """The settings that one option makes, without files."""
    config = composed(f"model={request.param}", "model.init=random")
    config.model.tokenizer = str(SAMPLE_TOKENIZER)
    assert config.model.name == request.param
    return config


def test_every_published_model_is_here():
    options = {file.stem for file in (CONF / "model").glob("*.yaml")}
    assert options - {"tiny", "tiny_llama", "local"} == PARAMETERS.keys()


def test_the_architecture_has_the_published_number_of_parameters(option):
    network = build_network_config(option.model)
    with torch.device("meta"):
        model = network_class(network)(network)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[option.model.name]
    assert network.model_type in SAFE_FAMILIES


def test_adapters_find_all_linear_layers_of_a_decoder_layer(option):
    family = network_class(build_network_config(option.model))
    option.model.num_hidden_layers = 1
    model = load_model(option, for_training=False, place=False)
    assert type(model) is family
    linear = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not model.get_output_embeddings()
    }
    assert set(option.model.lora_targets) == linear


def test_revisions_are_commits_and_types_are_bfloat16(option):
    unknown = ("bloom_6b4_zh", "chinese_alpaca_2_7b")  # no commit of theirs is known to us
    expected = "main" if option.model.name in unknown else r"[0-9a-f]{40}"
    assert re.fullmatch(expected, option.model.revision)
    assert option.model.dtype == "bfloat16"
    assert re.fullmatch(r"[\w-]+/[\w.-]+", option.model.path)


def test_a_chat_model_brings_its_template_and_the_command_line_wins(option):
    name = option.model.name
    assert option.template.name == TEMPLATES.get(name, "promptcblue_en")
    assert composed(f"model={name}", "template=chatml").template.name == "chatml"
    assert composed("experiment=msra_qlora", f"model={name}").template.name == "human_assistant"


def test_the_baichuan_family_is_told_by_its_keys(option):
    network = build_network_config(option.model)
    if network.model_type == "baichuan":
        assert network.uses_rotary_positions is ("7b" in option.model.name)
        assert network.norm_head is option.model.name.startswith("baichuan2")
