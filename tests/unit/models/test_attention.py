import pytest
import torch

from medtune.models.attention import attention_inputs, document_mask
from medtune.runtime.errors import ConfigError
from medtune.runtime.families import NATIVE_FAMILIES

DOCUMENTS = torch.tensor([[1, 1, 2, 0, 0]])
POSITIONS = torch.tensor([[0, 1, 0, 0, 1]])


def test_a_token_sees_itself_and_its_document_before_it():
    assert document_mask(DOCUMENTS)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


@pytest.mark.parametrize(
    ("model_type", "attention", "dtype"),
    [
        pytest.param("llama", "sdpa", torch.bool, id="sdpa_takes_bool"),
        pytest.param("llama", "eager", torch.bfloat16, id="eager_adds_a_number"),
    ],
)
def test_a_packed_row_gets_a_4d_mask(model_type, attention, dtype):
    inputs = attention_inputs(model_type, attention, DOCUMENTS, POSITIONS, True, torch.bfloat16)
    mask = inputs["attention_mask"]
    assert mask.shape == (1, 1, 5, 5)
    assert mask.dtype == dtype
    assert inputs["position_ids"] is POSITIONS
    assert inputs["use_cache"] is False
    if dtype != torch.bool:
        assert set(mask.unique().tolist()) == {0.0, torch.finfo(dtype).min}
        assert torch.equal(mask == 0, document_mask(DOCUMENTS))


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention", "flash_attention_2"])
@pytest.mark.parametrize("model_type", NATIVE_FAMILIES)
def test_our_own_networks_get_the_document_ids(model_type, attention):
    inputs = attention_inputs(model_type, attention, DOCUMENTS, POSITIONS, True, torch.float32)
    assert inputs == {"document_ids": DOCUMENTS, "position_ids": POSITIONS, "use_cache": False}


def test_flash_attention_gets_the_bounds_of_the_documents():
    documents = torch.tensor([[1, 1, 2, 0], [1, 2, 2, 2]])
    inputs = attention_inputs("llama", "flash_attention_2", documents, documents, True, torch.bfloat16)
    assert inputs["cu_seq_lens_q"].tolist() == inputs["cu_seq_lens_k"].tolist() == [0, 2, 3, 4, 5, 8]
    assert inputs["cu_seq_lens_q"].dtype == torch.int32
    assert (inputs["max_length_q"], inputs["max_length_k"]) == (3, 3)
    assert "attention_mask" not in inputs


def test_flex_attention_gets_the_blocks_of_the_documents():
    documents = torch.repeat_interleave(torch.tensor([[1, 2, 0]]), 256, dim=1)
    inputs = attention_inputs("llama", "flex_attention", documents, documents, True, torch.bfloat16)
    blocks = inputs["attention_mask"].to_dense()[0, 0]
    own = torch.tensor([[1, 0], [1, 1]])
    assert blocks.tolist() == torch.block_diag(own, own, own).tolist()


@pytest.mark.parametrize("model_type", ["llama", "baichuan", "bloom"])
def test_an_unpacked_row_takes_the_causal_path(model_type):
    assert attention_inputs(model_type, "sdpa", DOCUMENTS, POSITIONS, False, torch.float32) == {
        "use_cache": False
    }


@pytest.mark.parametrize("model_type", ["mpt", "gemma3"])
def test_a_packed_row_of_an_unproved_family_is_refused(model_type):
    with pytest.raises(ConfigError, match=f"model_type={model_type} cannot train on packed rows"):
        attention_inputs(model_type, "eager", DOCUMENTS, POSITIONS, True, torch.float32)
