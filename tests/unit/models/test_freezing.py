import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from medtune.config.schema import AdapterConfig
from medtune.models.freezing import freeze
from medtune.models.parameter_counts import count_parameters
from medtune.runtime.errors import ConfigError


@pytest.fixture
def make(tiny_llama_config):
    def made(**changes):
        return LlamaForCausalLM(
            LlamaConfig(**tiny_llama_config.to_dict() | {"num_hidden_layers": 3} | changes)
        )

    return made


@pytest.fixture
def model(make):
    return make()


def learned(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        pytest.param({"last_layers": 1}, ["layers.2."], id="last"),
        pytest.param({"first_layers": 2}, ["layers.0.", "layers.1."], id="first"),
        pytest.param({"first_layers": 1, "last_layers": 1}, ["layers.0.", "layers.2."], id="both_ends"),
        pytest.param({"trainable": ["*layernorm*", "lm_head.*"]}, ["layernorm", "lm_head"], id="by_name"),
        pytest.param(
            {"last_layers": 1, "trainable": ["model.norm.*"]}, ["layers.2.", "model.norm"], id="mixed"
        ),
    ],
)
def test_what_is_named_learns_and_nothing_else(model, settings, parts):
    freeze(model, AdapterConfig("freeze", **settings))
    expected = {name for name, _ in model.named_parameters() if any(part in name for part in parts)}
    assert expected
    assert learned(model) == expected


def test_a_tied_head_goes_by_either_name(make):
    model = make(tie_word_embeddings=True)
    freeze(model, AdapterConfig("freeze", trainable=["lm_head.weight"]))
    assert model.get_input_embeddings().weight.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"last_layers": 4}, "adapter.last_layers=4, but the network has 3 decoder layers"),
        (
            {"trainable": ["wte"]},
            "adapter.trainable names wte, which no parameter's name fits; names are",
        ),
    ],
)
def test_what_is_not_there_is_refused(model, settings, message):
    with pytest.raises(ConfigError, match=message):
        freeze(model, AdapterConfig("freeze", **settings))


def test_the_share_is_told(model, caplog):
    with caplog.at_level("INFO", logger="medtune"):
        freeze(model, AdapterConfig("freeze", last_layers=1))
    trained, total = count_parameters(model)
    assert trained == sum(parameter.numel() for parameter in model.model.layers[2].parameters())
    assert total == sum(parameter.numel() for parameter in model.parameters())
    assert f"freeze: {trained:,} of {total:,} parameters learn" in caplog.text
