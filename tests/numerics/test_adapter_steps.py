"""A step of every adapter has the gradient of the definition: packed or padded, accumulated, on 4 bits."""

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from medtune.models.load import load_model
from medtune.runtime.record import RunFolder
from medtune.training.checkpoints import whole_checkpoints
from medtune.training.fit import fit
from medtune.training.weights import weights_of
from tests.numerics.strategy_cases import drawn_model
from tests.numerics.test_exact_loss import PACKED, PADDED
from tests.numerics.toy import Row, ToyData, relative_error, toy_config

ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {"optim__lr": 1.0},
    "rslora": {"optim__lr": 0.3},
    "dora": {"optim__lr": 1.0},
    "pissa": {"adapter__alpha": 8.0, "optim__lr": 0.1},
    "vera": {"optim__lr": 10.0},
    "ia3": {"optim__lr": 10.0},
    "freeze": {"adapter__last_layers": 1, "optim__lr": 0.1},
}
CASES = [pytest.param(name, "none", id=name) for name in ADAPTERS]
CASES += [pytest.param(name, "nf4", id=f"{name}_nf4") for name in ("lora", "dora", "ia3")]


def trained(folder: Path, name: str, quantization: str, rows: list[Row], micro: int) -> Any:
    """The trained tensors after three steps, and those before them."""
    changes = {"adapter__name": name, "quantization__name": quantization, **ADAPTERS[name]}
    config = toy_config(folder, data__global_batch_size=len(rows), data__micro_batch_size=micro, **changes)
    config.model = drawn_model("drawn_nf4")
    start: dict[str, Tensor] = load_model(config, for_training=True).state_dict()
    run = RunFolder(folder)
    fit(config, ToyData(rows, len(rows), micro), run, export=False)
    return weights_of(whole_checkpoints(run.checkpoints)[-1]), start


@pytest.mark.parametrize(("name", "quantization"), CASES)
def test_packed_and_accumulated_steps_are_those_of_one_padded_batch(name, quantization, tmp_path):
    expected, start = trained(tmp_path / "padded", name, quantization, PADDED, 8)
    for at, (rows, micro) in enumerate(((PADDED, 1), (PACKED, 4), (PACKED, 1))):
        found, _ = trained(tmp_path / str(at), name, quantization, rows, micro)
        assert found.keys() == expected.keys()
        assert relative_error(found, expected, start) < 2e-5, (rows, micro)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_checkpoint_holds_what_is_trained_and_nothing_else(name, tmp_path):
    weights, start = trained(tmp_path, name, "none", PADDED, 8)
    marks = {"vera": ".vera_lambda_", "ia3": ".ia3_l.", "freeze": ".layers.1."}
    assert weights
    assert all(marks.get(name, ".lora_") in tensor for tensor in weights)
    assert not any(".origin." in tensor for tensor in weights)
    assert any(not weights[tensor].equal(start[tensor]) for tensor in weights)
