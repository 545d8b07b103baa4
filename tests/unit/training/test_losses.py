import pytest
import torch
import torch.nn.functional as F

from medtune.training.losses import (
    IGNORE_INDEX,
    exp_loss,
    learned_columns,
    learned_tokens,
    next_labels,
    step_loss,
    sum_by_source,
    token_cross_entropy,
)

X = IGNORE_INDEX


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        pytest.param([[X, X, 7, 8]], [1, 2], id="column_before_each_label"),
        pytest.param([[X, 5, X, X], [X, X, X, 6]], [0, 2], id="union_over_rows"),
        pytest.param([[4, X, X, X]], [0], id="first_label_has_no_column"),
        pytest.param([[X, X, X, X]], [0], id="never_empty"),
    ],
)
def test_columns_predict_the_label_after_them(labels, columns):
    assert learned_columns(torch.tensor(labels)).tolist() == columns


def test_the_last_column_predicts_nothing():
    labels = torch.tensor([[X, 5, 6, 7]])
    assert next_labels(labels, torch.tensor([0, 2, 3])).tolist() == [[5, 7, X]]


def test_chosen_columns_lose_nothing_of_the_sum():
    torch.manual_seed(0)
    labels = torch.tensor([[X, X, 3, 4, X, 2], [X, 1, X, X, X, X]])
    logits = torch.randn(2, 6, 9)
    columns = learned_columns(labels)
    learned, wanted = learned_tokens(next_labels(labels, columns))
    chosen = token_cross_entropy(logits[:, columns].flatten(0, 1)[learned], wanted)
    whole = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    torch.testing.assert_close(chosen.sum(), whole)
    assert len(chosen) == (labels[:, 1:] != X).sum()


def test_nothing_learned_is_a_loss_of_zero_with_zero_gradients():
    logits = torch.randn(1, 5, requires_grad=True)
    learned, wanted = learned_tokens(torch.tensor([[X]]))
    loss = step_loss(token_cross_entropy(logits[learned], wanted).sum(), 0, 2, 4)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad.abs().sum() == 0.0


def test_half_precision_logits_are_summed_in_float32():
    # 70000 tokens of ln(2) each: float16 would overflow, bfloat16 would stop at 256.
    logits = torch.zeros(70_000, 2, dtype=torch.bfloat16)
    total = token_cross_entropy(logits, torch.zeros(70_000, dtype=torch.long)).sum()
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(70_000 * 0.6931472, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_terms_have_the_gradient_of_their_sum_bit_for_bit(dtype):
    torch.manual_seed(0)
    labels = torch.randint(0, 50, (120,))
    whole, apart = (torch.randn(120, 50).to(dtype).requires_grad_() for _ in range(2))
    apart.data.copy_(whole.data)
    expected = F.cross_entropy(whole.float(), labels, reduction="sum")
    terms = token_cross_entropy(apart, labels)
    step_loss(expected, 77, 2, 3).backward()
    step_loss(terms.sum(), 77, 2, 3).backward()
    assert torch.equal(apart.grad, whole.grad)
    assert float(terms.detach().sum()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_values_are_added_up_by_source_in_double_precision():
    values, sources = torch.tensor([0.5, 2.0**25, 1.0, 4.0]), torch.tensor([2, 0, 0, 2])
    sums = sum_by_source(values, sources, 4)
    assert sums.tolist() == [2.0**25 + 1, 0.0, 4.5, 0.0]  # float32 would lose the 1
    assert sums.dtype == torch.float64


def test_scaled_losses_add_up_to_the_step_under_lightnings_divisions():
    # 2 ranks and 3 micro batches: Lightning divides by 3 and the strategy averages over 2.
    sums = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    scaled = step_loss(sums, step_tokens=7, world_size=2, accumulate=3)
    torch.testing.assert_close((scaled / 3).sum(dim=1).mean(), sums.sum() / 7)


def test_perplexity_of_a_diverged_loss_is_infinite():
    assert exp_loss(0.0) == 1.0
    assert exp_loss(1e4) == float("inf")
