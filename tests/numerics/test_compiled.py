"""Compiled layers learn what the plain ones learn, and one shape is compiled once."""

from pathlib import Path

import pytest
import torch

from medtune.models.trainable import enable_checkpointing
from medtune.runtime.record import RunFolder
from medtune.training.fit import fit
from medtune.training.metrics import read_metrics
from tests.numerics.networks import NETWORKS, SIZES
from tests.numerics.toy import VOCABULARY, ToyData, make_documents, tiny_model, toy_config

# torch's compiler about torch itself: what it imports, and how it looks at a tensor.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]

# All rows have the same length, as packed rows padded to data.sequence_length have.
DOCUMENTS = make_documents(16, seed=3)
WIDTH = 40
FAST = ("llama", "baichuan_alibi")  # of the default tier


def rows():
    """Rows of two documents; the second is cut or repeated to fill the row."""
    pairs = zip(DOCUMENTS[::2], DOCUMENTS[1::2], strict=True)
    return [[first, fill(second, WIDTH - len(first.ids))] for first, second in pairs]


def fill(document, length):
    ids = (document.ids * (length // len(document.ids) + 1))[:length]
    return type(document)(ids, document.learned)


def losses(folder: Path, build, compile: bool) -> list[float]:
    config = toy_config(folder, data__global_batch_size=8, data__micro_batch_size=4, trainer__compile=compile)
    fit(config, ToyData(rows(), 8, 4, val_rows=rows()), RunFolder(folder), build_model=build, export=False)
    lines = read_metrics(folder / "metrics.jsonl")
    return [line.get("train/loss", line.get("val/loss")) for line in lines]


def build_family(family: str):
    from transformers import AutoConfig

    from medtune.models.network import network_class

    torch.manual_seed(0)
    model_type, settings = NETWORKS[family]
    network = AutoConfig.for_model(model_type, **{**SIZES, "vocab_size": VOCABULARY}, **settings)
    return network_class(network)(network)


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(
    "family",
    [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in NETWORKS],
)
def test_graphs_of_one_shape_are_made_once_and_learn_the_same(family, recomputed, tmp_path):
    """The graphs of dynamo run by torch's own kernels: what inductor makes of them takes minutes here."""
    import torch._dynamo as dynamo

    def build():
        model = build_family(family)
        if recomputed:
            enable_checkpointing(model)
        return model

    expected = losses(tmp_path / "plain", build, compile=False)
    dynamo.reset()
    dynamo.utils.counters.clear()
    with torch.compiler.set_stance("default", force_backend="aot_eager"):
        found = losses(tmp_path / "compiled", build, compile=True)
    assert found == pytest.approx(expected, rel=1e-5)
    counted = dynamo.utils.counters
    # One for training and one for validation, whose layers run without gradients; layers share them.
    assert 1 <= counted["stats"]["unique_graphs"] <= 4
    assert not counted["graph_break"]


@pytest.mark.slow
def test_what_inductor_makes_learns_the_same(tmp_path):
    expected = losses(tmp_path / "plain", tiny_model, compile=False)
    assert losses(tmp_path / "compiled", tiny_model, compile=True) == pytest.approx(expected, rel=1e-5)
