"""float16 with a scaled loss learns what float32 learns, clips at the same norm, and survives an overflow."""

from pathlib import Path

import pytest
import torch

from medtune.runtime.record import RunFolder
from medtune.training.checkpoints import whole_checkpoints
from medtune.training.fit import fit
from medtune.training.metrics import read_metrics
from medtune.training.state import read_state
from medtune.training.weights import weights_of
from tests.numerics.toy import ToyData, make_documents, tiny_model, toy_config

ROWS = [[document] for document in make_documents(8)]
RATES = {"sgd": 1.0, "adamw": 1e-3}


def run(folder: Path, precision: str, name: str = "sgd", model=None, **changes):
    """A fit with accumulation and clipping; returns the lines of its metrics."""
    settings = {
        "trainer__precision": precision,
        "trainer__gradient_clip_norm": 0.3,
        "trainer__max_steps": 4,
        "optim__name": name,
        "optim__lr": RATES[name],
        **changes,
    }
    config = toy_config(folder, data__global_batch_size=8, data__micro_batch_size=4, **settings)
    build = lambda: tiny_model() if model is None else model  # noqa: E731
    fit(config, ToyData(ROWS, 8, 4), RunFolder(folder), build_model=build, export=False)
    return read_metrics(folder / "metrics.jsonl")


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_losses_and_norms_are_those_of_float32(precision, name, tmp_path):
    """The scale of the loss must be gone before the gradient is clipped, which fused AdamW would leave in."""
    tolerance = {"16-mixed": 1e-3, "bf16-mixed": 5e-3}[precision]
    whole, half = run(tmp_path / "32", "32-true", name), run(tmp_path / "16", precision, name)
    for key in ("train/loss", "train/grad_norm"):
        assert [line[key] for line in half] == pytest.approx([line[key] for line in whole], rel=tolerance)
    assert [line["train/loss"] for line in half] != [line["train/loss"] for line in whole]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("16-mixed", torch.float16), ("bf16-mixed", torch.bfloat16)]
)
def test_products_are_of_the_precision_that_was_asked_for(precision, dtype, tmp_path):
    """On a CPU Lightning would take bfloat16 for float16 with a warning only."""
    model, seen = tiny_model(), set()
    model.model.layers[0].mlp.up_proj.register_forward_hook(lambda _, __, output: seen.add(output.dtype))
    run(tmp_path, precision, model=model)
    assert seen == {dtype}


def test_a_step_whose_gradient_overflows_is_skipped_and_the_scale_halved(tmp_path):
    model = tiny_model()
    start = model.lm_head.weight.detach().clone()
    # The backward pass of the first step gets infinite gradients, as under too large a scale.
    passes = []

    def overflow(gradient):
        passes.append(None)
        return torch.full_like(gradient, torch.inf) if len(passes) <= 2 else gradient

    model.lm_head.weight.register_hook(overflow)
    run(tmp_path, "16-mixed", model=model, trainer__max_steps=1)
    assert torch.equal(model.lm_head.weight, start)
    state = read_state(whole_checkpoints(tmp_path / "checkpoints")[-1].path, "state")
    assert state["MixedPrecision"]["scale"] == 2**15


def test_a_resumed_fit_is_bit_equal_its_scale_included(tmp_path):
    run(tmp_path / "whole", "16-mixed", "adamw")
    run(tmp_path / "first", "16-mixed", "adamw", trainer__max_steps=2)
    source = str(tmp_path / "first" / "checkpoints" / "step-2")
    run(tmp_path / "second", "16-mixed", "adamw", resume=source)
    ends = [whole_checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("whole", "second")]
    whole, resumed = map(weights_of, ends)
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    trackers = [read_state(end.path, "state")["MixedPrecision"]["_growth_tracker"] for end in ends]
    assert trackers == [4, 4]
