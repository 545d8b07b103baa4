import pytest
import torch
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM

from medtune.config.schema import AdapterConfig, Config, ModelConfig
from medtune.models.adapter_methods import method_settings, target_modules
from medtune.models.adapters import add_adapter, principal_factors
from medtune.models.network import network_class
from medtune.runtime.errors import ConfigError
from tests.numerics.networks import SIZES


@pytest.fixture
def model(make_tiny_llama):
    return make_tiny_llama()


def settings(adapter=None, family=None) -> Config:
    return Config(
        model=ModelConfig(lora_targets=family),
        adapter=AdapterConfig(name="lora", rank=4, target_modules=adapter),
    )


@pytest.mark.parametrize(
    ("adapter", "family", "expected"),
    [
        pytest.param(None, None, "all-linear", id="neither"),
        pytest.param(None, ["q_proj"], ["q_proj"], id="of_the_family"),
        pytest.param(["v_proj"], ["q_proj"], ["v_proj"], id="of_the_adapter"),
    ],
)
def test_targets(model, adapter, family, expected):
    assert target_modules(model, settings(adapter, family)) == expected


@pytest.mark.parametrize(
    ("adapter", "family", "message"),
    [
        (["q_proj", "W_pack"], None, "adapter.target_modules names W_pack, which llama does not have"),
        (
            None,
            ["W_pack"],
            "model.lora_targets names W_pack, .* linear layers are down_proj, gate_proj, k_proj",
        ),
    ],
)
def test_a_target_that_the_family_does_not_have_is_refused(model, adapter, family, message):
    with pytest.raises(ConfigError, match=message):
        add_adapter(model, settings(adapter, family))


def test_every_linear_layer_but_the_head_is_adapted_and_the_share_is_told(model, caplog):
    with caplog.at_level("INFO", logger="medtune"):
        adapted = add_adapter(model, settings())
    learned = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(learned) == 2 * 7 * 2  # layers, projections, A and B
    assert all("lora_" in name and "lm_head" not in name for name in learned)
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert f"adapter: {trainable:,} of" in caplog.text


def test_the_seed_alone_decides_a_fresh_adapter(tiny_llama_config):
    def fresh():
        return add_adapter(LlamaForCausalLM(LlamaConfig(**tiny_llama_config.to_dict())), settings())

    first, second = ({n: p for n, p in fresh().named_parameters() if "lora_A" in n} for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)


def network(model_type, **changes):
    settings = AutoConfig.for_model(model_type, **SIZES | {"num_key_value_heads": 4} | changes)
    with torch.device("meta"):
        return network_class(settings)._from_config(settings)


@pytest.mark.parametrize(
    ("model_type", "scaled", "at_their_input"),
    [
        ("llama", {"k_proj", "v_proj", "down_proj"}, {"down_proj"}),
        ("qwen3", {"k_proj", "v_proj", "down_proj"}, {"down_proj"}),
        ("baichuan", {"W_pack", "down_proj"}, {"down_proj"}),
        ("bloom", {"query_key_value", "dense_4h_to_h"}, {"dense_4h_to_h"}),
    ],
)
def test_ia3_scales_keys_values_and_the_second_layer(model_type, scaled, at_their_input):
    settings = method_settings(network(model_type), Config(adapter=AdapterConfig("ia3")))
    assert set(settings.target_modules) == scaled
    assert set(settings.feedforward_modules) == at_their_input


@pytest.mark.parametrize(
    ("adapter", "changes", "message"),
    [
        ({"name": "ia3", "target_modules": "all-linear"}, {}, "would scale whole layers in and out"),
        ({"name": "ia3", "target_modules": ["W_pack"]}, {}, "names W_pack, which llama does not have"),
        (
            {"modules_to_save": ["wte"]},
            {},
            "adapter.modules_to_save names wte, which llama does not have; its modules are .*embed_tokens",
        ),
        (
            {"modules_to_save": ["embed_tokens"]},
            {"tie_word_embeddings": True},
            "names embed_tokens, but this model's embedding and head are one matrix",
        ),
    ],
)
def test_modules_that_could_not_be_trained_right_are_refused(adapter, changes, message):
    config = Config(adapter=AdapterConfig(**{"name": "lora"} | adapter))
    with pytest.raises(ConfigError, match=message):
        method_settings(network("llama", **changes), config)


def test_rows_that_were_added_at_both_ends_must_both_be_trained():
    config = Config(adapter=AdapterConfig("lora", modules_to_save=["embed_tokens"]))
    config.model.resize_embeddings = True
    with pytest.raises(ConfigError, match="but adapter.modules_to_save leaves out the head; name both"):
        method_settings(network("llama"), config)


def test_a_matrix_has_no_more_components_than_its_shorter_side(model):
    config = Config(adapter=AdapterConfig("pissa", rank=1000))
    with pytest.raises(ConfigError, match=r"adapter.rank=1000 with adapter=pissa: a matrix of \(.*has only"):
        add_adapter(model, config)


@pytest.mark.parametrize("rounds", [None, 16])
def test_the_first_components_are_the_best_approximation(rounds):
    """Eckart and Young: the rest is the root of the sum of the squares of the values that were left."""
    weight = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    down, up = principal_factors(weight, 4, rounds)
    left = torch.linalg.svdvals(weight)[4:].square().sum().sqrt()
    assert torch.linalg.matrix_norm(weight - up @ down) == pytest.approx(float(left), rel=1e-3)
    torch.testing.assert_close(down.norm(dim=1), up.norm(dim=0))  # the values are shared evenly
