"""Tiny configurations of every family that may be packed."""

SIZES = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
}
GROUPED = {"num_key_value_heads": 2, "max_position_embeddings": 64}
NETWORKS = {
    "baichuan_alibi": ("baichuan", {}),
    "baichuan_rotary": ("baichuan", {"max_position_embeddings": 64}),
    "baichuan2_alibi": ("baichuan", {"norm_head": True}),
    "baichuan2_rotary": ("baichuan", {"norm_head": True, "max_position_embeddings": 64}),
    "bloom": ("bloom", {"apply_residual_connection_post_layernorm": False}),
    "bloom_after_norm": ("bloom", {"apply_residual_connection_post_layernorm": True}),
    "llama": ("llama", GROUPED),
    "mistral": ("mistral", GROUPED),
    "qwen2": ("qwen2", GROUPED),
    "qwen3": ("qwen3", GROUPED | {"head_dim": 32}),
}
