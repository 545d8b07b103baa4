import pytest
import torch

from medtune.runtime.record import RunFolder
from medtune.training.embedding_noise import EmbeddingNoise, document_lengths
from medtune.training.fit import fit
from medtune.training.metrics import read_metrics
from tests.numerics.toy import ToyData, make_documents, tiny_model, toy_config

DOCUMENT_IDS = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 2, 2, 2, 2, 3]])


def test_lengths_are_those_of_each_tokens_own_document():
    assert document_lengths(DOCUMENT_IDS).tolist() == [[3, 3, 3, 2, 2, 1], [1, 4, 4, 4, 4, 1]]


def embedded(alpha: float, document_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a fit's embedding gives, and what it gives without noise."""
    model = tiny_model()
    noise = EmbeddingNoise(model, alpha)
    ids = torch.full_like(document_ids, 7)
    with noise.on(document_ids):
        noisy = model.get_input_embeddings()(ids)
    return noisy.detach(), model.get_input_embeddings()(ids).detach()


def test_noise_is_uniform_and_of_the_papers_size():
    noisy, plain = embedded(5.0, torch.ones(50, 100, dtype=torch.long))
    noise = (noisy - plain).flatten()
    size = 5.0 / (100 * 64) ** 0.5  # alpha / sqrt(L * C)
    assert noise.abs().max() <= size * 1.0001
    assert float(noise.std()) == pytest.approx(size / 3**0.5, rel=0.01)
    assert abs(float(noise.mean())) < 0.01 * size


def test_a_packed_document_gets_the_noise_of_its_own_length():
    document_ids = torch.cat([torch.ones(1, 900), torch.full((1, 100), 2.0)], dim=1).long()
    noisy, plain = embedded(1.0, document_ids)
    long, short = (noisy - plain)[0, :900], (noisy - plain)[0, 900:]
    assert float(short.std() / long.std()) == pytest.approx(3.0, rel=0.05)


def test_nothing_is_added_outside_the_block():
    model = tiny_model()
    noise = EmbeddingNoise(model, 5.0)
    ids = torch.tensor([[5, 6]])
    before = model.get_input_embeddings()(ids)
    with noise.on(torch.ones_like(ids)):
        assert not torch.equal(model.get_input_embeddings()(ids), before)
    assert torch.equal(model.get_input_embeddings()(ids), before)


def test_a_fit_is_noisy_and_its_validation_is_not(tmp_path):
    rows = [[document] for document in make_documents(8)]
    lines = {}
    for alpha in (None, 10.0):
        folder = RunFolder(tmp_path / str(alpha))
        changes = {"optim__lr": 0.0, "trainer__max_steps": 1, "loss__neftune_alpha": alpha}
        config = toy_config(folder.path, data__global_batch_size=8, data__micro_batch_size=8, **changes)
        fit(config, ToyData(rows, 8, 8, val_rows=rows), folder, build_model=tiny_model, export=False)
        lines[alpha] = read_metrics(folder.metrics_file)
    plain, noisy = lines[None], lines[10.0]
    assert plain[0]["train/loss"] != noisy[0]["train/loss"]
    assert plain[1]["val/loss"] == noisy[1]["val/loss"]
