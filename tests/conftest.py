"""What every test gets: a quiet, seeded process without a network, and tiny models to work on."""

import os

# Before torch or a Hugging Face library is imported by any test; a child process inherits them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
)

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from medtune.config.schema import Config

if TYPE_CHECKING:
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL_TOKENS = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 \n:,.?!患者有高血压糖尿病头痛发热咳嗽为是的不否：，。？"


@pytest.fixture(autouse=True)
def _same_start_for_every_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Seeds every random stream; undoes changes of folder, torch's defaults and Hydra's globals."""
    monkeypatch.chdir(Path.cwd())
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    yield
    if (torch := sys.modules.get("torch")) and torch.get_default_dtype() != torch.float32:
        torch.set_default_dtype(torch.float32)
        pytest.fail("the test left another default dtype in torch behind")
    if hydra := sys.modules.get("hydra.core.global_hydra"):
        hydra.GlobalHydra.instance().clear()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """The schema's defaults, with the run folder under the test's own folder."""
    return Config(run_dir=str(tmp_path / "run"))


@pytest.fixture(scope="session")
def tiny_llama_config() -> "LlamaConfig":
    """Two layers, grouped-query attention, and room for the character tokenizer."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )


@pytest.fixture(scope="session")
def make_tiny_llama(tiny_llama_config: "LlamaConfig") -> "Callable[..., LlamaForCausalLM]":
    """``make_tiny_llama(seed=0, scale=1.0)``: a fresh random model in eval mode.

    With ``scale`` above 1 the weights are larger than transformers makes them, so that the likeliest
    token stands out and rounding cannot change it.
    """
    import torch
    from transformers import LlamaForCausalLM

    def make(seed: int = 0, scale: float = 1.0) -> "LlamaForCausalLM":
        torch.manual_seed(seed)
        model = LlamaForCausalLM(tiny_llama_config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(scale)
        return model.eval()

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer() -> "PreTrainedTokenizerFast":
    """A token per character; <pad> 0, <unk> 1, <s> 2, </s> 3. Decoding gives the text back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS.values(), *dict.fromkeys(CHARACTERS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)


@pytest.fixture
def tiny_model_folder(
    tmp_path: Path,
    make_tiny_llama: "Callable[..., LlamaForCausalLM]",
    tiny_tokenizer: "PreTrainedTokenizerFast",
) -> Path:
    """A Hugging Face folder with the tiny model and the character tokenizer."""
    folder = tmp_path / "tiny_model"
    make_tiny_llama().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder
