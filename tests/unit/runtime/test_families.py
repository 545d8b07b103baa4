import pytest

from medtune.runtime.families import SAFE_FAMILIES, packing_refusal


@pytest.mark.parametrize("model_type", SAFE_FAMILIES)
def test_safe_families_are_not_refused(model_type):
    assert packing_refusal(model_type) is None


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [("mpt", "takes a 2-D mask only"), ("gpt_neox", "nobody has shown")],
)
def test_a_refusal_says_why_and_what_to_set(model_type, reason):
    refusal = packing_refusal(model_type)
    assert reason in refusal
    assert f"model_type={model_type}" in refusal
    assert "data.packing=none" in refusal
