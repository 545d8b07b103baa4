"""Which optimizer states can be taken up."""

import copy

import pytest
import torch

from medtune.runtime.errors import ConfigError
from medtune.training.restoring import check_optimizer_fits


def adamw(*sizes: int) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": [torch.zeros(1) for _ in range(size)]} for size in sizes])


def test_a_state_of_the_same_optimizer_fits_also_from_another_version_of_torch():
    saved = copy.deepcopy(adamw(2, 1).state_dict())
    check_optimizer_fits([saved], [adamw(2, 1)])
    del saved["param_groups"][0]["maximize"]
    check_optimizer_fits([saved], [adamw(2, 1)])


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        pytest.param(adamw(2), r"AdamW: 1 groups there, 2 here", id="groups"),
        pytest.param(adamw(2, 2), r"AdamW: group 1 has 2 parameters there, 1 here", id="parameters"),
        pytest.param(
            torch.optim.SGD([{"params": [torch.zeros(1)] * 1}, {"params": [torch.zeros(1)]}], lr=1.0),
            r"AdamW: group 0 has 1 parameters there, 2 here; settings \[.*'betas'.*\] are of one of them",
            id="another_optimizer",
        ),
    ],
)
def test_what_does_not_fit_is_named(saved, message):
    with pytest.raises(ConfigError, match=message):
        check_optimizer_fits([saved.state_dict()], [adamw(2, 1)])
