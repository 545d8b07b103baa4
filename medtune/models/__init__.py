"""Loading, native architectures, attention masks, adapters and quantisation.

Importing this package makes transformers' Auto classes know our own architectures, so that
``AutoModelForCausalLM.from_pretrained(folder)`` and ``AutoTokenizer.from_pretrained(folder)`` load
Baichuan folders without remote code, and BLOOM folders as a network that can be packed.
"""

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BloomConfig

from medtune.models.baichuan import BaichuanConfig, BaichuanForCausalLM
from medtune.models.baichuan_tokenizer import BaichuanTokenizer
from medtune.models.bloom import BloomForCausalLM

AutoConfig.register(BaichuanConfig.model_type, BaichuanConfig, exist_ok=True)
AutoModelForCausalLM.register(BaichuanConfig, BaichuanForCausalLM, exist_ok=True)
AutoModelForCausalLM.register(BloomConfig, BloomForCausalLM, exist_ok=True)
AutoTokenizer.register(BaichuanConfig, slow_tokenizer_class=BaichuanTokenizer, exist_ok=True)
