import pytest
import torch

from medtune.models.attention import attention_inputs, document_mask
from medtune.runtime.errors import ConfigError

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
        pytest.param("baichuan", "sdpa", torch.bool, id="baichuan_adds_alibi_itself"),
        pytest.param("baichuan", "eager", torch.bool, id="baichuan_eager"),
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


@pytest.mark.parametrize("model_type", ["llama", "baichuan", "bloom"])
def test_an_unpacked_row_takes_the_causal_path(model_type):
    assert attention_inputs(model_type, "sdpa", DOCUMENTS, POSITIONS, False, torch.float32) == {
        "use_cache": False
    }


@pytest.mark.parametrize("model_type", ["bloom", "gemma3"])
def test_a_packed_row_of_an_unproved_family_is_refused(model_type):
    with pytest.raises(ConfigError, match=f"model_type={model_type} cannot train on packed rows"):
        attention_inputs(model_type, "eager", DOCUMENTS, POSITIONS, True, torch.float32)
