"""Stretched rotary positions: our own network's against transformers' LlamaRotaryEmbedding."""

import json

import pytest
import torch
from transformers import AutoConfig, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from medtune.config.schema import Config, ModelConfig, TrainerConfig
from medtune.models.attention import attention_inputs
from medtune.models.baichuan import BaichuanForCausalLM, rotary_angles
from medtune.models.load import load_model
from medtune.models.network import network_class
from medtune.models.rope import context_length, stretch_positions
from medtune.runtime.errors import ConfigError

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
CONTEXT = 32
PAIRS = 8  # of a head's 16 numbers
FACTORS = {
    "short_factor": [1.0 + at / 8 for at in range(PAIRS)],
    "long_factor": [2.0 + at for at in range(PAIRS)],
}
SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "llama3": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": {"rope_type": "longrope", "factor": 4.0, **FACTORS},
}


def network(model_type: str, scaling: dict | None = None, **more):
    settings = {"vocab_size": 61, **SIZES, "max_position_embeddings": CONTEXT, "pad_token_id": 0, **more}
    made = AutoConfig.for_model(model_type, **settings)
    if scaling:
        stretch_positions(made, scaling)
    return made


@pytest.mark.parametrize("length", [CONTEXT - 2, 3 * CONTEXT], ids=["within_context", "beyond_it"])
@pytest.mark.parametrize("kind", SCALINGS)
def test_our_network_turns_as_transformers_does(kind, length):
    positions = torch.arange(length)[None]
    ours = rotary_angles(positions, network("baichuan", SCALINGS[kind]))
    theirs = LlamaRotaryEmbedding(network("llama", SCALINGS[kind]))(torch.zeros(1), positions)
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own[:, 0], other)
    plain = rotary_angles(positions, network("baichuan"))
    unchanged = kind == "dynamic" and length < CONTEXT
    assert torch.allclose(ours[0], plain[0]) is unchanged


@pytest.mark.parametrize(
    ("kind", "context"), [("linear", 64), ("dynamic", 64), ("yarn", 128), ("llama3", 128), ("longrope", 128)]
)
def test_the_context_grows_by_the_factor(kind, context):
    assert context_length(network("llama", SCALINGS[kind])) == context


@torch.no_grad()
@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("model_type", ["baichuan", "llama"])
def test_a_stretched_model_is_itself_after_saving_and_loading(model_type, kind, tmp_path):
    torch.manual_seed(0)
    made = network(model_type, SCALINGS[kind])
    model = network_class(made)(made).eval()
    ids = torch.randint(1, 61, (1, 3 * CONTEXT))
    model.save_pretrained(tmp_path)
    loaded = network_class(made).from_pretrained(tmp_path).eval()
    assert context_length(loaded.config) == context_length(made)
    assert torch.equal(loaded(ids, use_cache=False).logits, model(ids, use_cache=False).logits)


def test_a_model_that_was_not_stretched_has_no_word_of_it_in_its_files(tmp_path):
    BaichuanForCausalLM(network("baichuan")).save_pretrained(tmp_path)
    assert not [key for key in json.loads((tmp_path / "config.json").read_text()) if "rope" in key]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3"])
@pytest.mark.parametrize("model_type", ["baichuan", "llama"])
def test_packed_documents_keep_apart(model_type, kind):
    torch.manual_seed(0)
    made = network(model_type, SCALINGS[kind])
    model = network_class(made)(made).eval()
    documents = [torch.randint(1, 61, (1, length)) for length in (5, 48)]
    ids = torch.cat(documents, dim=1)
    numbers = torch.cat([torch.full_like(d, at) for at, d in enumerate(documents, start=1)], dim=1)
    positions = torch.cat([torch.arange(d.shape[1])[None] for d in documents], dim=1)
    inputs = attention_inputs(made.model_type, "sdpa", numbers, positions, True, torch.float32)
    packed = model(input_ids=ids, **inputs).logits
    alone = torch.cat([model(input_ids=d, use_cache=False).logits for d in documents], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


@pytest.fixture
def configured(tmp_path, tiny_tokenizer):
    """Settings of a random model with a stretching, rows of twice its context."""
    tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")

    def settings(kind: str, **data) -> Config:
        model = ModelConfig(
            init="random",
            model_type="llama",
            tokenizer=str(tmp_path / "tokenizer"),
            max_position_embeddings=CONTEXT,
            rope_scaling=SCALINGS[kind],
            **SIZES,
        )
        config = Config(model=model, trainer=TrainerConfig(accelerator="cpu"))
        config.data.sequence_length = 2 * CONTEXT
        for key, value in data.items():
            setattr(config.data, key, value)
        return config

    return settings


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_rotation_by_the_longest_row_is_not_trained_in_company(kind, configured):
    for company in ({"packing": "bfd", "micro_batch_size": 1}, {"packing": "none", "micro_batch_size": 2}):
        with pytest.raises(ConfigError, match=rf"rope_type={kind} chooses .* longer than 32 tokens"):
            load_model(configured(kind, **company), for_training=True)
    load_model(configured(kind, packing="none", micro_batch_size=1), for_training=True)
    load_model(configured(kind, sequence_length=CONTEXT), for_training=True)


def test_the_tokens_of_a_trained_prompt_count_too(configured, caplog):
    config = configured("dynamic", sequence_length=CONTEXT)
    config.adapter.name, config.adapter.num_virtual_tokens = "prompt_tuning", 4
    with pytest.raises(ConfigError, match=r"longer than 32 tokens.* or data.sequence_length=28"):
        load_model(config, for_training=True)
    config.model.rope_scaling = {}
    load_model(config, for_training=True)
    told = "data.sequence_length=32 and adapter.num_virtual_tokens=4 is longer than the model's context of 32"
    assert told in caplog.text


def test_the_settings_reach_the_network(configured):
    assert load_model(configured("yarn"), for_training=True).config.rope_parameters["factor"] == 4.0


def test_a_network_without_rotary_positions_is_refused():
    with pytest.raises(ConfigError, match=r"bloom as configured has no rotary positions to stretch"):
        stretch_positions(AutoConfig.for_model("bloom"), SCALINGS["linear"])
    with pytest.raises(ConfigError, match=r"baichuan as configured has no rotary positions"):
        stretch_positions(network("baichuan", max_position_embeddings=None), SCALINGS["linear"])


def test_factors_of_the_wrong_number_are_refused():
    scaling = {**SCALINGS["longrope"], "long_factor": [1.0, 2.0]}
    with pytest.raises(ConfigError, match=r"model.rope_scaling.long_factor must be a list of 8 numbers"):
        stretch_positions(LlamaConfig(**SIZES, max_position_embeddings=CONTEXT), scaling)


def test_missing_keys_are_named():
    with pytest.raises(ConfigError, match=r"model.rope_scaling \(llama3\): .*low_freq_factor"):
        stretch_positions(LlamaConfig(**SIZES), {"rope_type": "llama3", "factor": 2.0})
