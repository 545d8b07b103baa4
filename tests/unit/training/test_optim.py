import copy

import pytest
import torch
from torch import nn

from medtune.config.schema import OptimConfig
from medtune.training.optim import BUILDERS, build_optimizer
from tests.numerics.toy import VOCABULARY, tiny_model

NAMES = ["adamw", *BUILDERS]
# Bits and bytes quantises states of 4096 numbers and more: the tiny model's embedding and feed-forward.
IDS = torch.arange(4, 52).view(2, 24) % VOCABULARY
PAGED_ON_CPU = "ignore:Paged optimizers are not supported on CPU"


def make(name: str, model: nn.Module, lr: float = 2e-3) -> torch.optim.Optimizer:
    config = OptimConfig(name=name, lr=lr, weight_decay=0.1, rank=4, update_interval=3, scale=1.0)
    return build_optimizer(model, config)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


@pytest.mark.filterwarnings(PAGED_ON_CPU)
@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_learns(name):
    model = tiny_model()
    optimizer = make(name, model, lr={"sgd": 1.0, "adafactor": 0.05}.get(name, 2e-3))
    losses = [step(model, optimizer) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.filterwarnings(PAGED_ON_CPU)
@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_was_saved_in_plain_types_goes_on_bit_by_bit(name, tmp_path):
    model = tiny_model()
    optimizer = make(name, model)
    for _ in range(4):  # the projections of galore and apollo are chosen anew in the third
        step(model, optimizer)
    torch.save(optimizer.state_dict(), tmp_path / "state")
    other = copy.deepcopy(model)
    resumed = make(name, other)
    resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for _ in range(4):
        assert step(model, optimizer) == step(other, resumed)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("name", ["galore", "apollo"])
def test_the_state_of_a_projected_matrix_is_of_its_rank(name):
    model = tiny_model()
    optimizer = make(name, model)
    step(model, optimizer)
    matrix = model.get_parameter("model.layers.0.mlp.up_proj.weight")
    embedding = model.get_input_embeddings().weight
    assert sorted(optimizer.state[matrix]["exp_avg"].shape) == [4, 128]
    assert optimizer.state[embedding]["exp_avg"].shape == embedding.shape


def test_state_in_eight_bits_takes_a_quarter():
    model = tiny_model()
    optimizer = make("adamw_8bit", model)
    step(model, optimizer)
    matrix = model.get_parameter("model.layers.0.mlp.up_proj.weight")
    assert optimizer.state[matrix]["state1"].dtype == torch.uint8


def test_frozen_parameters_are_left_out():
    model = tiny_model()
    model.model.embed_tokens.requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig())
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_a_model_without_trained_parameters_is_refused():
    with pytest.raises(ValueError, match=r"no parameter of the model is trained; set adapter=lora"):
        build_optimizer(tiny_model().requires_grad_(False), OptimConfig())
