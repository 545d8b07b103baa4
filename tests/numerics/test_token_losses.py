"""The losses of learned tokens, by chunks of the head, against the plain formula over all logits."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig

from medtune.config.schema import AdapterConfig, Config
from medtune.models.adapters import add_adapter
from medtune.models.network import network_class
from medtune.runtime.families import PLAIN_HEADS
from medtune.training import losses, token_losses
from medtune.training.losses import Objective
from medtune.training.token_losses import TokenLosses
from tests.numerics.networks import NETWORKS, SIZES

VOCABULARY, IGNORE = SIZES["vocab_size"], losses.IGNORE_INDEX
OTHERS = {
    "gemma2": ("gemma2", {"head_dim": 16, "num_key_value_heads": 2, "final_logit_softcapping": 2.0}),
    "granite": ("granite", {"num_key_value_heads": 2, "logits_scaling": 4.0}),
    "gpt_neox": ("gpt_neox", {}),
}


@pytest.fixture(params=[1, 5, 10_000], ids=["token_by_token", "chunks", "at_once"])
def chunk(request, monkeypatch):
    """Most tokens whose logits exist at once."""
    monkeypatch.setattr(token_losses, "LOGITS_AT_ONCE", request.param * VOCABULARY)
    return request.param


@pytest.fixture
def batch():
    """Three rows of 12: all but the first token learned; some; none."""
    ids = torch.randint(3, VOCABULARY, (3, 12))
    labels = ids.clone()
    labels[:, 0] = IGNORE
    labels[1, 1:6] = labels[1, 8] = IGNORE
    labels[2] = IGNORE
    return with_learned({"input_ids": ids, "labels": labels})


def with_learned(batch):
    """What ``StepData`` adds on the way to the device."""
    columns = losses.learned_columns(batch["labels"])
    learned, following = losses.learned_tokens(losses.next_labels(batch["labels"], columns))
    return {**batch, "columns": columns, "learned": learned, "next_labels": following}


def build(model_type, settings):
    torch.manual_seed(0)
    network = AutoConfig.for_model(model_type, **SIZES, **settings)
    model = network_class(network)(network)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    return model.train()


def plain(model, batch):
    """The losses and gradients by the formula: all logits, shifted, one sum."""
    model.zero_grad()
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1].float()
    terms = F.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE, reduction="none"
    )
    terms.sum().backward()
    return terms.detach()[batch["labels"][:, 1:].flatten() != IGNORE], gradients(model)


def ours(model, batch):
    model.zero_grad()
    terms = TokenLosses(model)({"input_ids": batch["input_ids"], "use_cache": False}, batch)
    terms.sum().backward()
    return terms.detach(), gradients(model)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, due in expected[1].items():
        error = (found[1][name] - due).abs().max() / due.abs().max().clamp_min(1e-6)
        assert error < 5e-6, name  # sums in another order


def with_adapter(model, targets, dropout=0.0):
    """A LoRA whose updates are not zero, as they would be at its start."""
    settings = AdapterConfig(name="lora", rank=2, dropout=dropout, target_modules=targets)
    adapted = add_adapter(model, Config(adapter=settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return adapted.train()


def test_every_family_with_a_plain_head_is_here():
    assert {model_type for model_type, _ in NETWORKS.values()} == set(PLAIN_HEADS)


@pytest.mark.parametrize("family", [*NETWORKS, *OTHERS])
def test_losses_and_gradients_are_those_of_the_formula(family, batch, chunk):
    model = build(*(NETWORKS | OTHERS)[family])
    assert_same(ours(model, batch), plain(model, batch))


@pytest.mark.parametrize("family", ["llama", "baichuan2_alibi", "gemma2"])
@pytest.mark.parametrize(
    "objective",
    [Objective(label_smoothing=0.1), Objective(z_loss=1e-2), Objective(0.2, 1e-2)],
    ids=["smoothing", "z_loss", "both"],
)
def test_the_objective_is_the_formula_and_the_loss_beside_it_stays_plain(family, objective, batch, chunk):
    """Label smoothing as torch has it; the z-loss by the definition of PaLM (arXiv:2204.02311, section 5)."""
    model = build(*(NETWORKS | OTHERS)[family])
    model.zero_grad()
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1].float()
    labels = batch["labels"][:, 1:]
    logits, labels = logits[labels != IGNORE], labels[labels != IGNORE]
    smoothed = F.cross_entropy(logits, labels, label_smoothing=objective.label_smoothing, reduction="none")
    due = smoothed + objective.z_loss * logits.exp().sum(-1).log() ** 2
    due.sum().backward()
    expected = due.detach(), gradients(model)
    cross_entropy = F.cross_entropy(logits, labels, reduction="none").detach()
    model.zero_grad()
    compute = TokenLosses(model, objective=objective)
    plain_terms, terms = compute({"input_ids": batch["input_ids"], "use_cache": False}, batch, training=True)
    terms.sum().backward()
    torch.testing.assert_close(plain_terms, cross_entropy, atol=1e-6, rtol=1e-6)
    assert_same((terms.detach(), gradients(model)), expected)
    with torch.no_grad():
        validated, _ = compute({"input_ids": batch["input_ids"]}, batch, correct=True)
    torch.testing.assert_close(validated, cross_entropy, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_head_learns_as_head_and_as_embedding(batch, chunk, tied):
    model = build("llama", {"tie_word_embeddings": tied, "num_key_value_heads": 2})
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert_same(ours(model, batch), plain(model, batch))


@pytest.mark.parametrize(
    ("family", "on_head"),
    [
        pytest.param("llama", False, id="frozen_head"),
        pytest.param("llama", True, id="adapted_head"),
        pytest.param("baichuan2_alibi", False, id="frozen_normalised_head"),
    ],
)
def test_adapters_learn_the_same(family, batch, chunk, on_head):
    model = build(*NETWORKS[family])
    adapted = with_adapter(model, ["lm_head"] if on_head else None)
    assert_same(ours(adapted, batch), plain(adapted, batch))


def test_dropout_of_an_adapted_head_is_the_same_when_a_chunk_is_computed_anew(batch, monkeypatch):
    """With another mask in the backward pass, gradients would not be those of the loss."""
    monkeypatch.setattr(token_losses, "LOGITS_AT_ONCE", 5 * VOCABULARY)
    model = with_adapter(build(*NETWORKS["llama"]), ["lm_head"], dropout=0.5).double()
    weight = model.get_parameter("base_model.model.lm_head.lora_B.default.weight")
    inputs = {"input_ids": batch["input_ids"], "use_cache": False}

    def loss():
        torch.manual_seed(1)
        return TokenLosses(model)(inputs, batch).sum()

    loss().backward()
    step = torch.randn_like(weight)
    with torch.no_grad():
        weight += 1e-3 * step
        above = loss()
        weight -= 2e-3 * step
        below = loss()
    # The loss is float32 whatever the weights are.
    assert float((above - below) / 2e-3) == pytest.approx(float((weight.grad * step).sum()), rel=2e-2)


@pytest.mark.parametrize("family", [*NETWORKS, *OTHERS])
def test_which_labels_are_the_likeliest_token_is_told(family, batch, chunk):
    model = build(*(NETWORKS | OTHERS)[family]).eval()
    inputs = {"input_ids": batch["input_ids"], "use_cache": False}
    with torch.no_grad():
        likeliest = model(**inputs).logits[:, :-1].argmax(-1)
        labels = batch["labels"][:, 1:].clone()
        learned = labels != IGNORE
        labels[0, ::2] = likeliest[0, ::2]
        batch = with_learned({**batch, "labels": F.pad(labels, (1, 0), value=IGNORE)})
        terms, correct = TokenLosses(model)(inputs, batch, correct=True)
    assert correct.tolist() == (likeliest == labels)[learned].float().tolist()
    assert 6 <= correct.sum() < learned.sum()
    assert terms.shape == correct.shape


def test_nothing_learned_is_no_loss_and_zero_gradients_everywhere(batch):
    model = build("llama", {"num_key_value_heads": 2})
    empty = with_learned({**batch, "labels": torch.full_like(batch["labels"], IGNORE)})
    terms, found = ours(model, empty)
    assert len(terms) == 0
    assert found.keys() == {name for name, _ in model.named_parameters()}
    assert not any(gradient.any() for gradient in found.values())


@pytest.mark.parametrize("family", NETWORKS)
def test_the_head_is_never_asked_for_more_logits_than_a_chunk_has(family, batch, monkeypatch):
    limit = 5 * VOCABULARY
    monkeypatch.setattr(token_losses, "LOGITS_AT_ONCE", limit)
    model, asked = build(*NETWORKS[family]), []
    head = model.get_output_embeddings()
    own = head.forward
    head.forward = lambda hidden: asked.append(hidden.shape[:-1].numel() * VOCABULARY) or own(hidden)
    ours(model, batch)
    learned = len(batch["learned"])
    assert sum(asked) == 2 * learned * VOCABULARY  # each once, and once more in the backward pass
    assert max(asked) <= limit < learned * VOCABULARY


def test_the_head_has_its_own_forward_again_even_after_an_error(batch):
    model = build("llama", {"num_key_value_heads": 2})
    compute = TokenLosses(model)
    bad = {**batch, "next_labels": torch.full_like(batch["next_labels"], VOCABULARY)}
    with pytest.raises(IndexError, match="Target .* is out of bounds"):
        compute({"input_ids": batch["input_ids"]}, bad)
    assert "forward" not in vars(model.lm_head)
    assert model(input_ids=batch["input_ids"]).logits.shape == (3, 12, VOCABULARY)
