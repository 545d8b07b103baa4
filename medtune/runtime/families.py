"""Which model families keep packed documents apart. Imports nothing, so that the launcher may ask."""

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
