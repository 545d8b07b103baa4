"""Adapters in bfloat16 without autocast: whole fits, and answers over a base that is held so."""

import math

import pytest
import torch

from medtune.models.load import load_model
from medtune.runtime.record import RunFolder
from medtune.tasks.weights import write_checkpoint_model
from medtune.training.checkpoints import whole_checkpoints
from medtune.training.fit import fit
from tests.numerics.strategy_cases import drawn_model
from tests.numerics.toy import ToyData, make_documents, toy_config

ROWS = [[document] for document in make_documents(4)]


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("name", ["vera", "ia3"])
def test_a_fit_in_bfloat16_and_its_answers(name, quantization, tmp_path):
    """VeRA's matrices are no parameters, and peft's (IA)^3 on packed weights leaves float32 behind."""
    config = toy_config(
        tmp_path / "run",
        data__global_batch_size=4,
        trainer__precision="bf16-true",
        adapter__name=name,
        quantization__name=quantization,
    )
    config.model = drawn_model("drawn_nf4")
    config.model.dtype = "bfloat16"
    run = RunFolder(tmp_path / "run")
    assert math.isfinite(fit(config, ToyData(ROWS, 4, 4), run).train_loss)
    write_checkpoint_model(config, whole_checkpoints(run.checkpoints)[-1], tmp_path / "written")
    ids = torch.arange(4, 20)[None]
    with torch.no_grad():
        answers = [
            load_model(config, for_training=False, weights=str(folder))(input_ids=ids).logits
            for folder in (run.model, tmp_path / "written")
        ]
    assert answers[0].isfinite().all()
    assert torch.equal(*answers)
