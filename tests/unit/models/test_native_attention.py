import sys

import pytest
import torch

from medtune.models.native_attention import alibi_mask, alibi_slopes, allowed_pairs, build_attend
from tests.kernels import documented_flash, plain_flex

CPU = torch.device("cpu")
DOCUMENTS = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 2]])
PADDING = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("num_heads", "expected"),
    [
        pytest.param(1, [2**-8], id="one_head"),
        pytest.param(4, [2**-2, 2**-4, 2**-6, 2**-8], id="a_power_of_two"),
        pytest.param(6, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3], id="two_more_are_appended_unsorted"),
    ],
)
def test_slopes_worked_by_hand(num_heads, expected):
    assert alibi_slopes(num_heads).tolist() == expected


def test_slopes_of_40_heads_are_those_of_bloom():
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    # BLOOM's bias is slope * column; the second column of each head is its slope.
    bias = build_alibi_tensor(torch.ones(1, 2), 40, torch.float32)
    torch.testing.assert_close(alibi_slopes(40), bias.view(40, 2)[:, 1])


def test_alibi_mask_worked_by_hand():
    mask = alibi_mask(allowed_pairs(None, None, 2, 1, CPU), alibi_slopes(1), torch.float32)
    least = torch.finfo(torch.float32).min
    slope = 2**-8
    assert mask[0, 0].tolist() == [[-slope, 0.0, least], [-2 * slope, -slope, 0.0]]


def test_alibi_in_bfloat16_is_the_exact_bias_rounded_once():
    """slope * j, taken in bf16, would be off by 15 here."""
    allowed = allowed_pairs(None, None, 1, 4095, CPU)
    exact = alibi_mask(allowed, alibi_slopes(40), torch.float32)
    rounded = alibi_mask(allowed, alibi_slopes(40), torch.bfloat16)
    assert torch.equal(rounded, exact.bfloat16())


@pytest.mark.parametrize(
    ("mask", "past", "expected"),
    [
        pytest.param(None, 0, [[1, 0], [1, 1]], id="causal"),
        pytest.param(None, 2, [[1, 1, 1, 0], [1, 1, 1, 1]], id="cached_columns_are_seen"),
        pytest.param([[0, 1, 1]], 1, [[0, 1, 0], [0, 1, 1]], id="left_padding_is_not_seen"),
        pytest.param([[0, 1]], 0, [[1, 0], [0, 1]], id="a_padding_query_sees_itself"),
        pytest.param([[[[True, False], [False, True]]]], 0, [[1, 0], [0, 1]], id="a_bool_mask_is_the_answer"),
        pytest.param([[[[0.0, -9.0], [-9.0, 0.0]]]], 0, [[1, 0], [0, 1]], id="so_is_an_additive_one"),
    ],
)
def test_allowed_pairs(mask, past, expected):
    mask = None if mask is None else torch.tensor(mask)
    assert allowed_pairs(mask, None, 2, past, CPU)[0, 0].int().tolist() == expected


def test_documents_see_themselves_and_what_is_before_in_them():
    found = allowed_pairs(None, torch.tensor([[1, 1, 2, 0]]), 4, 0, CPU)[0, 0].int().tolist()
    assert found == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_a_mask_that_misses_the_cache_is_refused():
    with pytest.raises(ValueError, match="attention_mask has 2 columns, but there are 5 cached and new"):
        allowed_pairs(torch.ones(1, 2), None, 2, 3, CPU)


@pytest.fixture(params=["sdpa", "flex_attention", "flash_attention_2"])
def kernel(request, monkeypatch):
    """An implementation that must agree with the plain products of ``eager``."""
    with plain_flex(monkeypatch), documented_flash(monkeypatch):
        yield request.param


def attended(implementation, past=0, **more):
    """Outputs and the gradients of their squares, for 6 new tokens, 6 heads and given queries."""
    generator = torch.Generator().manual_seed(1)
    query, key, value = (
        torch.randn(2, 6, 6 + extra, 8, generator=generator, requires_grad=True) for extra in (0, past, past)
    )
    output = build_attend(implementation, query.transpose(1, 2), past=past, **more)(query, key, value)
    output.square().sum().backward()
    return [output.detach(), query.grad, key.grad, value.grad]


@pytest.mark.parametrize("slopes", [None, alibi_slopes(6)], ids=["plain", "alibi"])
@pytest.mark.parametrize("documents", [None, DOCUMENTS], ids=["rows", "documents"])
def test_every_kernel_gives_the_outputs_and_gradients_of_plain_products(kernel, slopes, documents):
    expected = attended("eager", slopes=slopes, document_ids=documents)
    for found, due in zip(attended(kernel, slopes=slopes, document_ids=documents), expected, strict=True):
        torch.testing.assert_close(found, due, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slopes", [None, alibi_slopes(6)], ids=["plain", "alibi"])
@pytest.mark.parametrize(
    ("past", "mask"),
    [
        pytest.param(0, PADDING, id="left_padding"),
        pytest.param(3, None, id="cache"),
        pytest.param(2, torch.nn.functional.pad(PADDING, (2, 0)), id="both"),
    ],
)
def test_padding_and_cache_are_the_same_for_flex_attention(monkeypatch, slopes, past, mask):
    arguments = {"past": past, "slopes": slopes, "attention_mask": mask}
    with plain_flex(monkeypatch):
        found = attended("flex_attention", **arguments)
    for each, due in zip(found, attended("eager", **arguments), strict=True):
        torch.testing.assert_close(each, due, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention", "flash_attention_2"])
def test_what_all_layers_share_is_made_once(monkeypatch, attention):
    """A second call of the attention makes no mask, no bias and no bounds."""
    with plain_flex(monkeypatch), documented_flash(monkeypatch):
        query = torch.randn(1, 6, 6, 8)
        attend = build_attend(
            attention, query.transpose(1, 2), document_ids=DOCUMENTS[:1], slopes=alibi_slopes(6)
        )
        for name in ("allowed_pairs", "alibi_mask", "block_mask", "document_bounds"):
            monkeypatch.setattr(f"medtune.models.native_attention.{name}", None)
        attend(query, query, query)


@pytest.mark.parametrize(
    ("implementation", "arguments", "message"),
    [
        ("sdpa", {"document_ids": DOCUMENTS, "past": 2}, "document_ids go with no cache"),
        ("sdpa", {"document_ids": DOCUMENTS, "attention_mask": PADDING}, "and no attention_mask"),
        ("flex_attention", {"dropout": 0.1}, "knows no attention dropout"),
        ("flex_attention", {"attention_mask": torch.ones(2, 1, 6, 6)}, "takes a 2-D attention_mask"),
        ("flex_attention", {"attention_mask": PADDING[:, 1:]}, "has 5 columns, but there are 6"),
        ("flash_attention_2", {"past": 1}, "takes no cache and no mask; use sdpa"),
        ("flash_attention_2", {"attention_mask": PADDING}, "takes no cache and no mask; use sdpa"),
    ],
)
def test_arguments_that_an_implementation_cannot_serve_are_refused(implementation, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_attend(implementation, torch.zeros(2, 6, 4), **arguments)


def test_dropout_acts_on_the_weights_of_plain_products():
    query = torch.randn(1, 2, 64, 8)
    value = torch.ones(1, 2, 64, 8)
    kept = build_attend("eager", query.transpose(1, 2), dropout=0.25)(query, query, value)
    torch.testing.assert_close(kept.mean(), torch.tensor(1.0), atol=0.1, rtol=0)
    assert (kept - 1).abs().max() > 0.1


@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention", "flash_attention_2"])
def test_slopes_are_exact_under_another_default_type(monkeypatch, attention):
    """Lightning makes bfloat16 the default while a bf16-true run trains, and not while it answers."""
    expected = attended(attention, slopes=alibi_slopes(6)) if attention in ("eager", "sdpa") else None
    with plain_flex(monkeypatch), documented_flash(monkeypatch):
        expected = expected or attended(attention, slopes=alibi_slopes(6))
        torch.set_default_dtype(torch.bfloat16)
        try:
            slopes = alibi_slopes(6)
        finally:
            torch.set_default_dtype(torch.float32)
        assert slopes.dtype == torch.float32
        for found, due in zip(attended(attention, slopes=slopes), expected, strict=True):
            assert torch.equal(found, due)


def test_flash_attention_gets_half_precision_even_from_float32(monkeypatch):
    """As from a quantised projection, which answers in the type of the norm before it."""
    query, types = torch.randn(1, 2, 6, 8), []
    with documented_flash(monkeypatch):
        plain = sys.modules["flash_attn"].flash_attn_varlen_func

        def watched(*rows, **settings):
            types.extend(row.dtype for row in rows)
            return plain(*rows, **settings)

        monkeypatch.setattr(sys.modules["flash_attn"], "flash_attn_varlen_func", watched)
        with torch.autocast("cpu", torch.bfloat16):
            build_attend("flash_attention_2", query.transpose(1, 2))(query, query, query)
    assert types == [torch.bfloat16] * 3
