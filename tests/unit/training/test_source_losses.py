import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medtune.training import losses
from medtune.training.source_losses import SourceSums, prepare

X = losses.IGNORE_INDEX
NAMES = ["leaflets", "questions", "notes"]
LABELS = torch.tensor([[X, 5, 6, X, 3], [X, X, 7, X, 2]])
SOURCE_IDS = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


def make_batch(by_source=True):
    columns = losses.learned_columns(LABELS)
    learned, _ = losses.learned_tokens(losses.next_labels(LABELS, columns))
    batch = {"columns": columns, "learned": learned, "source_ids": SOURCE_IDS, "sources": 3}
    prepare(batch, by_source)
    return batch


def token_losses(batch):
    """2 for each learned label of the first row, 3 for the second's."""
    first = (LABELS[0, 1:] != X).sum()
    return torch.where(torch.arange(len(batch["learned"])) < first, 2.0, 3.0)


def test_learned_tokens_are_counted_by_source():
    batch = make_batch()
    assert batch["source_tokens"].tolist() == [1, 4, 0]
    assert batch["source_tokens"].sum() == (LABELS[:, 1:] != X).sum()
    assert batch["next_sources"].tolist() == [0, 1, 1, 1, 1]
    assert "source_ids" not in batch


def test_a_single_source_costs_nothing():
    assert make_batch(by_source=False).keys() == {"columns", "learned", "sources"}
    sums = SourceSums([])
    assert sums.to_tensor(torch.device("cpu")).tolist() == []
    assert sums.means("train/loss", []) == {}


def test_losses_are_sums_over_the_learned_tokens_of_the_source():
    sums, batch = SourceSums(NAMES), make_batch()
    sums.add(token_losses(batch), batch)
    sums.add(token_losses(batch), batch)
    totals = sums.to_tensor(torch.device("cpu"))
    assert totals.tolist() == [4.0, 20.0, 0.0, 2.0, 8.0, 0.0]
    # Two ranks with the same: the means stay.
    assert sums.means("val/loss", (2 * totals).tolist()) == {
        "val/loss/leaflets": 2.0,
        "val/loss/questions": 2.5,
    }


def test_cleared_sums_start_anew():
    sums, batch = SourceSums(NAMES), make_batch()
    sums.add(token_losses(batch), batch)
    sums.clear()
    assert not sums.to_tensor(torch.device("cpu")).any()


def test_adding_never_waits_for_the_device():
    """On a GPU these operators copy a value to the host, which stops the stream."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(func.overloadpacket._qualified_op_name)
            return func(*args, **(kwargs or {}))

    called: list[str] = []
    sums, batch = SourceSums(NAMES), make_batch()
    values = token_losses(batch)
    with Watch():
        sums.add(values, batch)
    waiting = {"aten::_local_scalar_dense", "aten::nonzero", "aten::bincount", "aten::masked_select"}
    assert "aten::index_add_" in called
    assert not waiting.intersection(called)


def test_a_batch_of_other_sources_is_refused():
    with pytest.raises(AssertionError, match="3"):
        SourceSums(NAMES[:2]).add(torch.zeros(6), make_batch())
