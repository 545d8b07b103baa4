"""What is known of model families: packing, heads, float16. Imports nothing; the launcher may ask."""

NATIVE_FAMILIES = ("baichuan", "bloom")
"""Families whose networks are written here and take ``document_ids``."""

SAFE_FAMILIES = (*NATIVE_FAMILIES, "llama", "mistral", "qwen2", "qwen3")
"""Families that may be packed; ``tests/numerics/test_packing_leaks.py`` holds each."""

PLAIN_HEADS = SAFE_FAMILIES
"""Families whose logits are what the output head gives, neither scaled nor capped;
``tests/numerics/test_token_losses.py`` holds each."""

KNOWN_LEAKS = {
    "mpt": "it takes a 2-D mask only, through which packed documents see each other",
}


FLOAT16_OVERFLOWS = {
    "baichuan": "its activations pass float16's 65,504, and the loss turns to 0 or nan (LLaMA-Factory#910)",
    "gemma": "its activations pass float16's 65,504 (it was trained in bfloat16)",
    "gemma2": "its activations pass float16's 65,504 (it was trained in bfloat16)",
    "gemma3_text": "its activations pass float16's 65,504 (it was trained in bfloat16)",
    "qwen2": "its attention logits pass float16's 65,504 (it was trained in bfloat16)",
    "t5": "its feed-forward activations pass float16's 65,504 (it was trained in bfloat16)",
}
"""Families that are known to overflow float16, and how."""


def packing_refusal(model_type: str) -> str | None:
    """Why ``model_type`` must not be trained on packed rows; None where it may.

    A family that nobody has tested is refused: a leak is silent, an unpacked run is only slower.
    """
    if model_type in SAFE_FAMILIES:
        return None
    reason = KNOWN_LEAKS.get(model_type, "nobody has shown that it keeps packed documents apart")
    return (
        f"model_type={model_type} cannot train on packed rows: {reason}; set data.packing=none "
        f"(packing is safe for {', '.join(SAFE_FAMILIES)})"
    )


def float16_refusal(family: str, reason: str) -> str:
    """Why a family is not trained in float16; the settings may not name the family, then its files do."""
    return f"trainer.precision=16-mixed with model_type={family}: {reason}; set trainer.precision=bf16-mixed"
