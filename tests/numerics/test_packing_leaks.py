"""A document in a packed row against the same document alone, for every family that may be packed."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig

from medtune.models.attention import attention_inputs
from medtune.models.network import network_class
from medtune.models.trainable import enable_checkpointing
from medtune.runtime.families import NATIVE_FAMILIES, SAFE_FAMILIES
from tests.kernels import documented_flash, plain_flex
from tests.numerics.networks import NETWORKS, SIZES

LENGTHS = (7, 1, 12, 5)  # one document of a single token
PADDING = 3


def test_every_family_that_may_be_packed_is_here():
    assert {model_type for model_type, _ in NETWORKS.values()} == set(SAFE_FAMILIES)


@pytest.fixture(params=NETWORKS)
def network(request):
    model_type, settings = NETWORKS[request.param]
    network = AutoConfig.for_model(model_type, **SIZES, **settings)
    assert network.use_cache  # the default, with which transformers would drop its document bounds
    return network


@pytest.fixture(params=["sdpa", "eager", "flex_attention", "flash_attention_2"])
def attention(request, network, monkeypatch):
    if request.param == "flash_attention_2" and network.model_type not in NATIVE_FAMILIES:
        pytest.skip("transformers loads flash_attn on a GPU only; tests/gpu has the case")
    kernel = {"flex_attention": plain_flex, "flash_attention_2": documented_flash}.get(request.param)
    with kernel(monkeypatch) if kernel else nullcontext():
        yield request.param


@pytest.fixture
def row():
    """One row of four documents and padding: ids, document ids, positions."""
    documents = torch.tensor([i + 1 for i, n in enumerate(LENGTHS) for _ in range(n)] + [0] * PADDING)
    positions = torch.tensor([p for n in (*LENGTHS, PADDING) for p in range(n)])
    ids = torch.randint(1, SIZES["vocab_size"], documents.shape) * (documents > 0)
    return ids[None], documents[None], positions[None]


def build(network, attention):
    """A model whose documents alone are computed in plain products or by torch's kernel."""
    plain = attention if attention == "eager" else "sdpa"
    model = network_class(network)._from_config(network, attn_implementation=plain)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "head" not in name:
                parameter.mul_(6)  # so that attention is sharp and a leak shows
    return model


def loss_of(logits, ids):
    """The sum over the tokens of one document but its first, [1, T, V] and [1, T]."""
    return F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="sum")


def documents_alone(model, ids, documents):
    """Logits of each document by itself, and the gradients of the summed loss."""
    model.zero_grad()
    logits = []
    for number in range(1, len(LENGTHS) + 1):
        own = ids[documents == number][None]
        alone = model(input_ids=own, use_cache=False).logits
        loss_of(alone, own).backward()
        logits.append(alone.detach()[0])
    return torch.cat(logits), gradients_of(model)


def documents_packed(model, ids, documents, inputs):
    model.zero_grad()
    logits = model(input_ids=ids, **inputs).logits
    for number in range(1, len(LENGTHS) + 1):
        own = documents == number
        loss_of(logits[own][None], ids[own][None]).backward(retain_graph=True)
    return logits.detach()[documents > 0], gradients_of(model)


def gradients_of(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def with_attention(model, attention):
    """``model`` with another kernel, past the check that flash_attn is really installed."""
    model.config._attn_implementation = attention
    return model


@pytest.mark.parametrize("mode", ["eval", "train", "train_recomputed"])
def test_a_packed_document_has_the_logits_and_gradients_that_it_has_alone(network, attention, mode, row):
    ids, documents, positions = row
    model = build(network, attention).train(mode != "eval")
    expected, expected_gradients = documents_alone(model, ids, documents)
    with_attention(model, attention)
    if mode == "train_recomputed":
        enable_checkpointing(model)
    inputs = attention_inputs(network.model_type, attention, documents, positions, True, torch.float32)
    found, gradients = documents_packed(model, ids, documents, inputs)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        error = (gradients[name] - gradient).abs().max() / gradient.abs().max().clamp_min(1e-6)
        assert error < 1e-5, name


def test_the_comparison_notices_a_mask_that_lets_documents_see_each_other(network, attention, row):
    ids, documents, positions = row
    model = build(network, attention).eval()
    expected, _ = documents_alone(model, ids, documents)
    with_attention(model, attention)
    one_document = (documents > 0).long()
    inputs = attention_inputs(network.model_type, attention, one_document, positions, True, torch.float32)
    found, _ = documents_packed(model, ids, documents, inputs)
    first = LENGTHS[0]
    torch.testing.assert_close(found[:first], expected[:first], atol=1e-5, rtol=1e-5)
    assert (found[first:] - expected[first:]).abs().max() > 0.05


def test_a_right_padded_row_needs_no_mask(network, attention):
    lengths = (9, 4)
    ids = torch.randint(1, SIZES["vocab_size"], (2, max(lengths)))
    documents = torch.tensor([[1] * n + [0] * (max(lengths) - n) for n in lengths])
    positions = torch.arange(max(lengths)).expand(2, -1)
    if attention == "flex_attention" and network.model_type not in NATIVE_FAMILIES:
        pytest.skip("transformers compiles its own mask here, which takes a minute on a CPU")
    model = build(network, attention).eval()
    inputs = attention_inputs(network.model_type, attention, documents, positions, False, torch.float32)
    assert "attention_mask" not in inputs
    with torch.no_grad():
        alone = [
            model(input_ids=row[None, :length]).logits[0] for row, length in zip(ids, lengths, strict=True)
        ]
        found = with_attention(model, attention)(input_ids=ids * documents, **inputs).logits
    for row, expected in zip(found, alone, strict=True):
        torch.testing.assert_close(row[: len(expected)], expected, atol=1e-5, rtol=1e-5)
