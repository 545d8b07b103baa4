"""Promise 1 in full: from text to gradient, every objective, packing, accumulation and number of ranks.

The reference tokenises the text itself and is plain torch: one padded batch, transformers' own mask, the sum
of the cross-entropy divided by the number of labels. Plain SGD at rate 1, so that the update is the gradient.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medtune.training import modules
from tests.numerics.loss_matrix import (
    CELLS,
    PACKINGS,
    build_model,
    concatenated,
    documents_of,
    name_of,
    read_records,
    run_cell,
    write_records,
)
from tests.numerics.toy import reference_losses, relative_error

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    write_records(folder)
    return folder


@pytest.fixture(scope="module")
def references(data_dir):
    """``references(objective, packing)``: the weights after the step."""
    known: dict[tuple[str, str], dict[str, torch.Tensor]] = {}

    def find(objective: str, packing: str) -> dict[str, torch.Tensor]:
        # Packing without cutting has no influence at all; the cuts of concat make documents of their own.
        key = (objective, packing if packing == "concat" else "whole")
        if key not in known:
            documents = documents_of(read_records(data_dir), objective)
            if packing == "concat":
                documents = [piece for row in concatenated(documents) for piece in row]
            model = build_model()
            reference_losses(model, [documents])
            known[key] = model.state_dict()
        return known[key]

    return find


@pytest.mark.parametrize("cell", CELLS, ids=name_of)
def test_one_rank_has_the_gradient_of_the_definition(cell, data_dir, references, tmp_path):
    found = run_cell(data_dir, tmp_path, cell)
    assert relative_error(found, references(*cell[:2]), build_model().state_dict()) < 1e-5


@pytest.fixture(scope="module")
def on_two_ranks(data_dir, tmp_path_factory) -> dict[str, dict[str, torch.Tensor]]:
    """The cells on two ranks; a start costs more than all of them."""
    out = tmp_path_factory.mktemp("two") / "weights.pt"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(ROOT / "tests/numerics/loss_matrix.py"), str(data_dir), str(out),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-8000:]
    weights: dict[str, dict[str, torch.Tensor]] = torch.load(out, weights_only=True)
    return weights


@pytest.mark.parametrize("cell", CELLS, ids=name_of)
def test_two_ranks_have_the_gradient_of_the_definition(cell, on_two_ranks, references):
    found = on_two_ranks[name_of(cell)]
    assert relative_error(found, references(*cell[:2]), build_model().state_dict()) < 1e-5


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("accumulation", [2, 8])
def test_a_mean_of_means_fails_the_matrix(packing, accumulation, data_dir, references, tmp_path, monkeypatch):
    """The mutant: each micro batch divided by its own tokens, as most trainers do it."""

    class MeanOfMeans(modules.SFTModule):
        def training_step(self, batch, batch_idx):
            own_tokens = int((batch["labels"][:, 1:] != -100).sum())
            scale = self.trainer.accumulate_grad_batches
            return super().training_step({**batch, "step_tokens": own_tokens * scale}, batch_idx)

    monkeypatch.setitem(modules.MODULES, "sft", MeanOfMeans)
    found = run_cell(data_dir, tmp_path, ("sft", packing, accumulation))
    assert relative_error(found, references("sft", packing), build_model().state_dict()) > 1e-3


def test_another_mask_fails_the_matrix(data_dir, references, tmp_path, monkeypatch):
    """The mutant: packed documents that see each other."""
    plain = modules.attention_inputs
    monkeypatch.setattr(modules, "attention_inputs", lambda **inputs: plain(**{**inputs, "packed": False}))
    found = run_cell(data_dir, tmp_path, ("sft", "bfd", 1))
    assert relative_error(found, references("sft", "bfd"), build_model().state_dict()) > 1e-3
