"""The loss is its definition: one step's gradient is that of plain torch on one padded batch.

Plain SGD at rate 1: the update is the gradient, and a wrong scale cannot hide as it does under Adam.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from medtune.runtime.record import RunFolder
from medtune.training import modules
from medtune.training.fit import fit
from medtune.training.metrics import read_metrics
from tests.numerics.toy import (
    Row,
    ToyData,
    batch_loss,
    make_documents,
    reference_losses,
    relative_error,
    tiny_model,
    toy_config,
)

# Unequal numbers of learned tokens, one document without any: means of means differ from the mean.
DOCUMENTS = make_documents(8, learned=[1, 5, 3, 0, 2, 6, 4, 6])
PADDED: list[Row] = [[document] for document in DOCUMENTS]
PACKED: list[Row] = [DOCUMENTS[:3], DOCUMENTS[3:4], DOCUMENTS[4:6], DOCUMENTS[6:]]
LAYOUTS = [
    pytest.param(PADDED, 8, id="one_padded_batch"),
    pytest.param(PADDED, 4, id="padded_accumulated_over_2"),
    pytest.param(PADDED, 2, id="padded_accumulated_over_4"),
    pytest.param(PADDED, 1, id="padded_accumulated_over_8_one_without_labels"),
    pytest.param(PACKED, 4, id="one_packed_batch"),
    pytest.param(PACKED, 2, id="packed_accumulated_over_2"),
    pytest.param(PACKED, 1, id="packed_accumulated_over_4"),
]


def error_of_update(rows: list[Row], micro: int, tmp_path: Path, **changes: Any) -> float:
    """Relative distance of three fitted steps from three reference steps."""
    model = tiny_model()
    start = copy.deepcopy(model.state_dict())
    config = toy_config(tmp_path, data__global_batch_size=len(rows), data__micro_batch_size=micro, **changes)
    fit(config, ToyData(rows, len(rows), micro), RunFolder(tmp_path), build_model=lambda: model, export=False)
    reference = tiny_model()
    reference_losses(reference, [DOCUMENTS] * 3, clip=config.trainer.gradient_clip_norm)
    return relative_error(model.state_dict(), reference.state_dict(), start)


@pytest.mark.parametrize(("rows", "micro"), LAYOUTS)
def test_every_layout_of_a_step_has_the_gradient_of_the_definition(rows, micro, tmp_path):
    assert error_of_update(rows, micro, tmp_path) < 1e-5


@pytest.mark.parametrize("objective", ["sft", "pretrain"])
def test_clipping_acts_on_the_norm_of_the_whole_step(objective, tmp_path):
    # 0.3 is a ninth of the norm, so a norm that is wrong by the accumulation is clipped elsewhere.
    changes = {"trainer__gradient_clip_norm": 0.3, "objective": objective}
    assert error_of_update(PADDED, 2, tmp_path, **changes) < 1e-5


def test_eager_attention_has_the_same_gradient(tmp_path):
    model = tiny_model(attn_implementation="eager")
    start = copy.deepcopy(model.state_dict())
    config = toy_config(tmp_path, data__global_batch_size=4, model__attention="eager")
    fit(config, ToyData(PACKED, 4), RunFolder(tmp_path), build_model=lambda: model, export=False)
    reference = tiny_model()
    reference_losses(reference, [DOCUMENTS] * 3)
    assert relative_error(model.state_dict(), reference.state_dict(), start) < 1e-5


def test_a_mean_of_means_is_told_apart(tmp_path, monkeypatch):
    """The mutant: each micro batch divided by its own tokens, as most trainers do it."""

    class MeanOfMeans(modules.SFTModule):
        def training_step(self, batch, batch_idx):
            own_tokens = int((batch["labels"][:, 1:] != -100).sum())
            scale = self.trainer.accumulate_grad_batches
            return super().training_step({**batch, "step_tokens": own_tokens * scale}, batch_idx)

    monkeypatch.setitem(modules.MODULES, "sft", MeanOfMeans)
    assert error_of_update(PADDED, 2, tmp_path) > 0.05


def test_logged_losses_are_those_of_the_definition(tmp_path):
    config = toy_config(tmp_path, data__global_batch_size=4)
    data = ToyData(PACKED, 4, val_rows=PACKED)
    fit(config, data, RunFolder(tmp_path), build_model=tiny_model, export=False)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    reference = tiny_model()
    expected = reference_losses(reference, [DOCUMENTS] * 3)
    assert [line["train/loss"] for line in lines if "train/loss" in line] == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():
        after = float(batch_loss(reference, DOCUMENTS))
    assert lines[-1]["val/loss"] == pytest.approx(after, rel=1e-6)


def test_a_line_about_several_steps_weighs_them_by_their_tokens(tmp_path):
    config = toy_config(
        tmp_path, data__global_batch_size=4, trainer__log_every_n_steps=2, trainer__max_steps=2, optim__lr=0.0
    )
    fit(config, ToyData(PADDED, 4), RunFolder(tmp_path), build_model=tiny_model, export=False)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    with torch.no_grad():
        expected = float(batch_loss(tiny_model(), DOCUMENTS))
    assert [line["train/loss"] for line in lines] == pytest.approx([expected], rel=1e-6)
    assert lines[0]["train/learned_tokens"] == 27
    assert lines[0]["train/tokens"] == sum(len(document.ids) for document in DOCUMENTS)
