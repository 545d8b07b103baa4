import pytest
import torch
from torch import nn
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from medtune.config.schema import ScheduleConfig
from medtune.training.schedule import build_schedule, learning_rate_factor


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
            ScheduleConfig("wsd", warmup_steps=1, decay_steps=2, decay_shape="linear", min_lr_ratio=0.2),
            [0.5, 1, 1, 1, 0.6],
            id="wsd_linear",
        ),
        pytest.param(
            ScheduleConfig("wsd", warmup_steps=0, decay_ratio=0.8),
            [1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5],
            id="wsd_sqrt_by_share",
        ),
        pytest.param(
            ScheduleConfig("wsd", warmup_steps=2, decay_ratio=1.0, decay_shape="linear"),
            [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3],
            id="wsd_decay_begins_after_the_warm_up",
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


def test_groups_keep_their_share_of_the_rate():
    parameters = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.4)]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    build_schedule(optimizer, ScheduleConfig("linear", warmup_steps=1), 4)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.2])
