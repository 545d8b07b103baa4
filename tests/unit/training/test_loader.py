import pytest
import torch

from medtune.training.loader import StepData, StepLoader
from tests.numerics.toy import ToyData, make_documents

ROWS = [[document] for document in make_documents(7)]


def rows_of(first_step, total_steps, micro=1):
    data = ToyData(ROWS, 4, micro, shuffle_seed=2)
    return [row for batch in StepLoader(data, first_step, total_steps) for row in batch["rows"]]


def test_an_epoch_shows_every_row_once():
    assert sorted(row for row in rows_of(0, 2) if row >= 0) == list(range(7))


@pytest.mark.parametrize("first_step", range(6))
@pytest.mark.parametrize("micro", [1, 2])
def test_a_later_start_shows_the_rest_of_the_same_order(first_step, micro):
    assert rows_of(first_step, 5, micro) == rows_of(0, 5)[first_step * 4 :]


def test_the_length_counts_steps_before_the_start_too():
    assert len(StepLoader(ToyData(ROWS, 4, 2), 3, 5)) == 10


def test_the_stream_of_dropout_is_not_touched():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    rows_of(0, 5)
    assert torch.equal(torch.rand(1), expected)


def test_batches_know_their_columns_labels_and_tokens():
    batch = StepData(ToyData(ROWS, 4), 0, 1).on_before_batch_transfer(
        {
            "labels": torch.tensor([[-100, 3, -100]]),
            "document_ids": torch.tensor([[1, 1, 0]]),
            "source_ids": torch.tensor([[0, 0, -1]]),
            "sources": 1,
        },
        0,
    )
    assert (batch["columns"].tolist(), batch["tokens"]) == ([0], 2)
    assert (batch["learned"].tolist(), batch["next_labels"].tolist()) == ([0], [3])


EPOCHS = [3, 7, 1]  # steps of 2 rows: 2, 4, 1, then the same again


def documents_of(first_step, total_steps, micro=1):
    """The token ids of every row in order; row numbers mean other rows in another epoch."""
    data = ToyData(ROWS, 2, micro, shuffle_seed=2, sizes=EPOCHS)
    loader = StepLoader(data, first_step, total_steps)
    return [tuple(row.tolist()) for batch in loader for row in padded(batch["input_ids"])]


def padded(ids, width=48):
    return torch.nn.functional.pad(ids, (0, width - ids.shape[1]))


def test_epochs_may_have_other_rows_and_other_lengths():
    data = ToyData(ROWS, 2, shuffle_seed=2, sizes=EPOCHS)
    epochs = [(batch["epoch"], batch["rows"][0]) for batch in StepLoader(data, 0, 9)]
    shown = [[row for epoch, row in epochs if epoch == at and row >= 0] for at in range(4)]
    assert [sorted(rows) for rows in shown] == [list(range(count)) for count in (3, 7, 1, 3)]
    assert len(epochs) == 18


@pytest.mark.parametrize("first_step", range(9))
@pytest.mark.parametrize("micro", [1, 2])
def test_a_later_start_finds_its_place_among_uneven_epochs(first_step, micro):
    assert documents_of(first_step, 9, micro) == documents_of(0, 9)[first_step * 2 :]
