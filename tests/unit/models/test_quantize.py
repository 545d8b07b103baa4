import pytest
import torch
from transformers import LlamaConfig

from medtune.config.schema import Config, QuantizationConfig, TrainerConfig
from medtune.models.quantize import bits_and_bytes, check_widths, compute_dtype, quantization_arguments
from medtune.runtime.errors import ConfigError

FITTING = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden_size": 96}, r"quantization=nf4 needs model.hidden_size \(96\) to be a multiple of 64"),
        ({"intermediate_size": 160}, r"model.intermediate_size \(160\) to be a multiple of 64"),
        ({"head_dim": 24}, r"model.num_attention_heads \* head size \(96\) to be a multiple of 64"),
        ({"num_key_value_heads": 1}, r"model.num_key_value_heads \* head size \(16\) to be a multiple of 32"),
    ],
)
def test_widths_that_do_not_split_into_4_bit_blocks_are_refused(keys, message):
    network = LlamaConfig(**FITTING | keys)
    with pytest.raises(ConfigError, match=message):
        check_widths("nf4", network)
    check_widths("int8", network)


def test_widths_that_do_are_taken():
    check_widths("nf4", LlamaConfig(**FITTING))


@pytest.mark.parametrize(
    ("compute", "precision", "expected"),
    [
        ("auto", "32-true", torch.float32),
        ("auto", "bf16-mixed", torch.bfloat16),
        ("auto", "bf16-true", torch.bfloat16),
        ("float16", "32-true", torch.float16),
    ],
)
def test_type_of_the_4_bit_products(compute, precision, expected):
    config = Config(
        quantization=QuantizationConfig(name="nf4", compute_dtype=compute),
        trainer=TrainerConfig(precision=precision),
    )
    assert compute_dtype(config) == expected
    assert bits_and_bytes(config).bnb_4bit_compute_dtype == expected


@pytest.mark.parametrize("double_quant", [True, False])
def test_settings_reach_bitsandbytes(double_quant):
    four = bits_and_bytes(Config(quantization=QuantizationConfig(name="nf4", double_quant=double_quant)))
    assert (four.load_in_4bit, four.bnb_4bit_quant_type) == (True, "nf4")
    assert four.bnb_4bit_use_double_quant is double_quant
    assert bits_and_bytes(Config(quantization=QuantizationConfig(name="int8"))).load_in_8bit


def test_without_quantisation_nothing_is_passed():
    assert quantization_arguments(Config(), LlamaConfig(hidden_size=96)) == {}
