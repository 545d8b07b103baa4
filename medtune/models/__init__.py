"""Loading, native architectures, attention masks, adapters and quantisation.

Importing this package makes transformers' Auto classes know our own architectures, so that
``AutoModelForCausalLM.from_pretrained(folder)`` and ``AutoTokenizer.from_pretrained(folder)`` load
Baichuan folders without remote code. BLOOM stays transformers' own there: our network for it, which can be
packed, is chosen by :func:`medtune.models.network.network_class`.
"""

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from medtune.models.baichuan import BaichuanConfig, BaichuanForCausalLM
from medtune.models.baichuan_tokenizer import BaichuanTokenizer

AutoConfig.register(BaichuanConfig.model_type, BaichuanConfig, exist_ok=True)
AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)
AutoTokenizer.register(BaichuanConfig, slow_tokenizer_class=BaichuanTokenizer, exist_ok=True)
