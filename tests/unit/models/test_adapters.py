import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from medtune.config.schema import AdapterConfig, Config, ModelConfig
from medtune.models.adapter_methods import target_modules
from medtune.models.adapters import add_adapter
from medtune.runtime.errors import ConfigError


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
