"""The loss is its definition: one step's gradient is that of plain torch on one padded batch.

Plain SGD at rate 1: the update is the gradient, and a wrong scale cannot hide as it does under Adam.
"""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from medtune.runtime.record import RunFolder
from medtune.training import modules, source_losses
from medtune.training.fit import fit
from medtune.training.metrics import read_metrics
from tests.numerics.toy import (
    MIX_NAMES,
    Row,
    ToyData,
    batch_loss,
    make_documents,
    make_mix,
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


# Documents learned whole and documents with a masked prompt, in one run; one row holds both.
MIX = make_mix(8)
MIX_PADDED: list[Row] = [[document] for document in MIX]
MIX_PACKED: list[Row] = [MIX[:2], MIX[2:3], MIX[3:6], MIX[6:]]
MIX_LAYOUTS = [
    pytest.param(MIX_PADDED, 8, id="one_padded_batch"),
    pytest.param(MIX_PADDED, 4, id="padded_accumulated_over_2"),
    pytest.param(MIX_PADDED, 1, id="padded_accumulated_over_8"),
    pytest.param(MIX_PACKED, 4, id="one_packed_batch"),
    pytest.param(MIX_PACKED, 2, id="packed_accumulated_over_2"),
]


def fit_mix(rows: list[Row], micro: int, folder: Path, names: list[str], **changes: Any) -> Any:
    """Three steps on the mix; returns the model and the lines of its metrics."""
    model = tiny_model()
    config = toy_config(folder, data__global_batch_size=len(rows), data__micro_batch_size=micro, **changes)
    data = ToyData(rows, len(rows), micro, val_rows=rows, source_names=names)
    fit(config, data, RunFolder(folder), build_model=lambda: model, export=False)
    return model, read_metrics(folder / "metrics.jsonl")


def reference_sources(steps: int = 3) -> dict[str, list[float]]:
    """The loss of each source before every step and after the last, from one padded batch of it alone."""
    model, losses = tiny_model(), {name: [] for name in MIX_NAMES}
    for at in range(steps + 1):
        for source, name in enumerate(MIX_NAMES):
            with torch.no_grad():
                loss = batch_loss(model, [document for document in MIX if document.source == source])
            losses[name].append(float(loss))
        if at < steps:
            reference_losses(model, [MIX])
    return losses


def sources_found(lines: list[dict[str, Any]]) -> dict[str, list[float]]:
    """As :func:`reference_sources`, from the metrics."""
    train = [line for line in lines if "train/loss" in line]
    return {
        name: [line[f"train/loss/{name}"] for line in train] + [lines[-1][f"val/loss/{name}"]]
        for name in MIX_NAMES
    }


@pytest.mark.parametrize(("rows", "micro"), MIX_LAYOUTS)
def test_a_mix_of_objectives_has_the_gradient_and_the_losses_of_the_definition(rows, micro, tmp_path):
    model, lines = fit_mix(rows, micro, tmp_path, MIX_NAMES)
    reference = tiny_model()
    expected = reference_losses(reference, [MIX] * 3)
    found = [line["train/loss"] for line in lines if "train/loss" in line]
    assert found == pytest.approx(expected, rel=1e-6)
    assert relative_error(model.state_dict(), reference.state_dict(), tiny_model().state_dict()) < 1e-5
    by_source = sources_found(lines)
    for name, losses in reference_sources().items():
        assert by_source[name] == pytest.approx(losses, rel=1e-5), name


def test_the_sums_of_the_sources_are_the_total(tmp_path):
    _, lines = fit_mix(MIX_PACKED, 1, tmp_path, MIX_NAMES)
    tokens = [sum(document.learned for document in MIX if document.source == at) for at in range(2)]
    for line in lines:
        key = "train/loss" if "train/loss" in line else "val/loss"
        parts = [line[f"{key}/{name}"] * count for name, count in zip(MIX_NAMES, tokens, strict=True)]
        assert sum(parts) == pytest.approx(line[key] * sum(tokens), rel=1e-6)


def test_counting_by_source_changes_no_bit_of_the_weights(tmp_path):
    one, lines_of_one = fit_mix(MIX_PACKED, 2, tmp_path / "one", ["everything"])
    two, _ = fit_mix(MIX_PACKED, 2, tmp_path / "two", MIX_NAMES)
    assert all(torch.equal(two.state_dict()[name], tensor) for name, tensor in one.state_dict().items())
    assert not [key for line in lines_of_one for key in line if key.startswith(("train/loss/", "val/loss/"))]


def test_a_source_without_a_learned_token_is_left_out_of_the_line(tmp_path):
    # Two rows a step, one source after the other.
    rows = MIX_PADDED[2:6]
    config = toy_config(tmp_path, data__global_batch_size=2, trainer__max_steps=2)
    data = ToyData(rows, 2, source_names=MIX_NAMES)
    fit(config, data, RunFolder(tmp_path), build_model=tiny_model, export=False)
    keys = [
        [key for key in line if key.startswith("train/loss/")]
        for line in read_metrics(tmp_path / "metrics.jsonl")
    ]
    assert keys == [["train/loss/leaflets"], ["train/loss/questions"]]


def test_validation_rows_may_come_from_fewer_sources(tmp_path):
    documents = [document for document in MIX if document.source == 1]
    config = toy_config(tmp_path, data__global_batch_size=8, trainer__max_steps=1, optim__lr=0.0)
    data = ToyData(MIX_PADDED, 8, val_rows=[[document] for document in documents], source_names=MIX_NAMES)
    fit(config, data, RunFolder(tmp_path), build_model=tiny_model, export=False)
    train, validation = read_metrics(tmp_path / "metrics.jsonl")
    expected = reference_sources(0)["questions"]
    assert [train["train/loss/questions"]] == pytest.approx(expected, rel=1e-6)
    assert [validation["val/loss/questions"]] == pytest.approx(expected, rel=1e-6)
    assert "val/loss/leaflets" not in validation


def test_sums_divided_by_the_tokens_of_all_sources_are_told_apart(tmp_path, monkeypatch):
    """The mutant: one count for all sources."""

    class WrongCount(source_losses.SourceSums):
        def means(self, key, sums):
            half = len(sums) // 2
            return super().means(key, [*sums[:half], *[sum(sums[half:])] * half])

    monkeypatch.setattr(modules, "SourceSums", WrongCount)
    _, lines = fit_mix(MIX_PADDED, 4, tmp_path, MIX_NAMES)
    by_source = sources_found(lines)
    for name, losses in reference_sources().items():
        assert by_source[name] != pytest.approx(losses, rel=0.1), name
