"""What ``weights=`` makes of a checkpoint."""

import pytest
from safetensors.torch import load_file

from medtune.config.schema import ModelConfig
from medtune.runtime.hardware import PROJECT
from medtune.runtime.record import RunFolder
from medtune.tasks.weights import write_checkpoint_model
from medtune.training.checkpoints import whole_checkpoints
from medtune.training.fit import fit
from tests.numerics.toy import ToyData, make_documents, toy_config

ROWS = [[document] for document in make_documents(4)]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_adapter_from_a_checkpoint_is_that_of_its_run_whatever_types_the_command_names(
    tmp_path, quantization
):
    """PiSSA's components are computed again, from a base that must be rounded as it was in the fit."""
    config = toy_config(
        tmp_path / "run",
        data__global_batch_size=4,
        trainer__precision="bf16-mixed",
        adapter__name="pissa",
        quantization__name=quantization,
    )
    config.model = ModelConfig(
        init="random",
        model_type="llama",
        tokenizer=str(PROJECT / "tests/fixtures/baichuan/tok_tiny/v1"),
        dtype="bfloat16",
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    run = RunFolder(tmp_path / "run")
    fit(config, ToyData(ROWS, 4, 4), run)
    config.model.dtype, config.trainer.precision = "float32", "32-true"
    write_checkpoint_model(config, whole_checkpoints(run.checkpoints)[-1], tmp_path / "written")
    found, expected = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "written", run.model)
    )
    assert found.keys() == expected.keys()
    assert all(value.equal(found[name]) for name, value in expected.items())
