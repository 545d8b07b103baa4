"""Importing this module makes transformers' Auto classes know our own architectures."""

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from medtune.models.baichuan import BaichuanConfig, BaichuanForCausalLM
from medtune.models.tokenizers import BaichuanTokenizer

AutoConfig.register(BaichuanConfig.model_type, BaichuanConfig, exist_ok=True)
AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)
AutoTokenizer.register(BaichuanConfig, slow_tokenizer_class=BaichuanTokenizer, exist_ok=True)
