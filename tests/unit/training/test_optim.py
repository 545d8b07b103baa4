import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from medtune.config.schema import OptimConfig, ScheduleConfig
from medtune.training.optim import build_optimizer, build_schedule, learning_rate_factor, parameter_groups


def factors(config: ScheduleConfig, total: int) -> list[float]:
    return [learning_rate_factor(step, config, total) for step in range(total)]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        pytest.param("cosine", get_cosine_schedule_with_warmup, id="cosine"),
        pytest.param("linear", get_linear_schedule_with_warmup, id="linear"),
    ],
)
def test_decay_is_that_of_transformers(name, reference):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = reference(optimizer, num_warmup_steps=3, num_training_steps=12)
    expected = []
    for _ in range(12):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    found = factors(ScheduleConfig(name=name, warmup_steps=3), 12)
    assert found[3:] == pytest.approx(expected[3:])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        pytest.param(ScheduleConfig("constant", warmup_steps=3), [0.25, 0.5, 0.75, 1, 1], id="warm_up"),
        pytest.param(ScheduleConfig("constant", warmup_ratio=0.0), [1, 1, 1, 1, 1], id="none"),
        pytest.param(ScheduleConfig("linear", warmup_ratio=0.2), [0.5, 1, 0.75, 0.5, 0.25], id="ratio"),
        pytest.param(
            ScheduleConfig("linear", warmup_ratio=0.2, min_lr_ratio=0.2), [0.5, 1, 0.8, 0.6, 0.4], id="floor"
        ),
        pytest.param(
            ScheduleConfig("cosine", warmup_steps=9),
            [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6],
            id="too_long",
        ),
    ],
)
def test_factors_by_hand(config, expected):
    assert factors(config, 5) == pytest.approx(expected)


def test_the_scheduler_gives_update_n_the_factor_of_n():
    config = ScheduleConfig("linear", warmup_steps=2)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = build_schedule(optimizer, config, 6)
    used = []
    for _ in range(6):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert used == pytest.approx([0.1 * factor for factor in factors(config, 6)])


def test_vectors_never_decay():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2, bias=False))
    decayed, kept = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert [tuple(p.shape) for p in decayed["params"]] == [(4, 4), (2, 4)]
    assert all(p.ndim == 1 for p in kept["params"])


def test_factors_that_are_held_as_one_row_or_column_do_not_decay():
    """(IA)^3's, which would come to switch channels off."""
    model = nn.ParameterList([torch.ones(1, 4), torch.ones(4, 1), torch.ones(2, 4)])
    decayed, kept = parameter_groups(model, 0.1)
    assert [tuple(parameter.shape) for parameter in decayed["params"]] == [(2, 4)]
    assert kept["weight_decay"] == 0.0


def test_a_matrix_that_zero3_has_emptied_still_decays():
    matrix = nn.Parameter(torch.empty(0))
    matrix.ds_shape = torch.Size([4, 4])
    model = nn.Module()
    model.register_parameter("weight", matrix)
    assert [group["weight_decay"] for group in parameter_groups(model, 0.1)] == [0.1]


def test_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    optimizer = build_optimizer(model, OptimConfig(name="adamw"))
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model[1].parameters()}


def test_a_model_without_trained_parameters_is_refused():
    with pytest.raises(ValueError, match=r"no parameter of the model is trained; set adapter=lora"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimConfig())
