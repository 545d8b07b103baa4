import pytest
import torch
from torch import nn

from medtune.config.schema import AdapterConfig, Config, OptimConfig
from medtune.models.adapters import add_adapter
from medtune.training.groups import is_matrix, parameter_groups
from tests.numerics.toy import tiny_model


def settings(model: nn.Module, **changes: float) -> dict[str, dict[str, float]]:
    """Learning rate and decay of every trained parameter by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, OptimConfig(lr=1.0, weight_decay=0.1, **changes))
    members = [(group, parameter) for group in groups for parameter in group["params"]]
    assert len(members) == len({id(parameter) for _, parameter in members})
    return {
        names[id(p)]: {key: group[key] for key in ("lr", "weight_decay", "low_rank")} for group, p in members
    }


def test_only_matrices_outside_the_embedding_decay():
    model = tiny_model(attention_bias=True)
    found = settings(model)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    kept = {name for name, values in found.items() if not values["weight_decay"]}
    assert kept == {name for name in found if name.endswith(("norm.weight", ".bias", "embed_tokens.weight"))}
    assert "lm_head.weight" not in kept


def test_a_tied_head_is_the_embedding():
    assert settings(tiny_model(tie_word_embeddings=True))["model.embed_tokens.weight"]["weight_decay"] == 0.0


def test_only_matrices_of_decoder_layers_are_projected():
    found = settings(tiny_model())
    projected = {name for name, values in found.items() if values["low_rank"]}
    assert projected == {name for name in found if ".layers." in name and name.endswith("proj.weight")}


def test_rates_fall_layer_by_layer():
    found = {name: values["lr"] for name, values in settings(tiny_model(), layer_lr_decay=0.5).items()}
    assert found["lm_head.weight"] == found["model.norm.weight"] == 1.0
    assert found["model.layers.1.mlp.up_proj.weight"] == 0.5
    assert found["model.layers.0.input_layernorm.weight"] == 0.25
    assert found["model.embed_tokens.weight"] == 0.125


def test_embedding_and_head_have_a_rate_of_their_own():
    found = {name: values["lr"] for name, values in settings(tiny_model(), embedding_lr=0.3).items()}
    own = {name for name, lr in found.items() if lr == 0.3}
    assert own == {"model.embed_tokens.weight", "lm_head.weight"}


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_lora_plus_raises_the_rate_of_b_alone(decay):
    model = add_adapter(tiny_model(), Config(adapter=AdapterConfig(name="lora", rank=2)))
    found = {
        name: values["lr"]
        for name, values in settings(model, lora_plus_ratio=16.0, layer_lr_decay=decay).items()
    }
    assert {name.split(".")[-3] for name in found} == {"lora_A", "lora_B"}
    for name, lr in found.items():
        layer = decay ** (2 - int(name.split(".layers.")[1][0]))
        assert lr == layer * (16.0 if "lora_B" in name else 1.0), name


def test_a_matrix_that_zero3_has_emptied_is_still_one():
    matrix = nn.Parameter(torch.empty(0))
    matrix.ds_shape = torch.Size([4, 4])
    assert is_matrix(matrix)
    assert not is_matrix(nn.Parameter(torch.empty(4)))


@pytest.mark.parametrize("shape", [(1, 4), (4, 1)])
def test_factors_that_are_held_as_one_row_or_column_are_none(shape):
    """(IA)^3's; a decay would come to switch channels off."""
    assert not is_matrix(nn.Parameter(torch.ones(shape)))
