"""One step over a whole data set through the product's own data path: ``loss_matrix.py DATA_DIR OUT_FILE``.

Every cell is objective, packing and accumulation, on as many ranks as torchrun started; rank zero leaves the
updated weights of all cells. ``test_loss_matrix.py`` compares them with plain torch.
"""

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medtune.config.schema import Config, DataConfig, TemplateConfig
from medtune.data.datamodule import PackedDataModule
from medtune.data.rows.packing import pack
from medtune.runtime.hardware import PROJECT
from medtune.runtime.record import RunFolder
from medtune.training import token_losses
from medtune.training.fit import fit, ranks
from tests.numerics.toy import Document, Row, ToyData, tiny_model, toy_config

OBJECTIVES, PACKINGS, ACCUMULATIONS = ("sft", "pretrain"), ("none", "bfd", "concat"), (1, 2, 8)
CELLS = list(itertools.product(OBJECTIVES, PACKINGS, ACCUMULATIONS))
ROWS_PER_STEP = 48  # a multiple of 8 accumulations on 2 ranks; more than any packing needs
SEQUENCE_LENGTH = 32
TOKENIZER = PROJECT / "data/sample/tokenizer"
RECORDS = 42
LETTERS = "患者头痛三天怎么办发热咳嗽建议休息abcdefgh，。"


def write_records(folder: Path) -> None:
    """Records whose responses are of very unequal length, in ``folder/train.jsonl``."""
    random = np.random.default_rng(5)

    def text(low: int, high: int) -> str:
        return "".join(random.choice(list(LETTERS), random.integers(low, high)))

    records = [
        {"instruct": text(3, 12), "query": "", "answer": text(1, 3) if at % 3 else text(8, 16)}
        for at in range(RECORDS)
    ]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")


def read_records(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]


def build_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TOKENIZER)


def documents_of(records: list[dict[str, str]], objective: str) -> list[Document]:
    """The records as token ids, made without the product's data path."""
    tokenizer, documents = build_tokenizer(), []
    for record in records:
        prompt, answer = (
            tokenizer.encode(record[key], add_special_tokens=False) for key in ("instruct", "answer")
        )
        ids = (*prompt, *answer, tokenizer.eos_token_id)
        documents.append(Document(ids, len(answer) + 1 if objective == "sft" else len(ids) - 1))
    return documents


def concatenated(documents: list[Document]) -> list[Row]:
    """Rows of ``data.packing=concat``. A piece is a document of its own, whose first token is no label."""
    lengths = np.array([len(document.ids) for document in documents])
    packed = pack(
        np.arange(len(documents)), np.zeros_like(lengths), lengths, SEQUENCE_LENGTH, "concat", seed=1
    )
    pieces = []
    for number, start, end in zip(packed.document, packed.start, packed.end, strict=True):
        whole = documents[number]
        first_label = max(start + 1, min(len(whole.ids) - whole.learned, end))
        pieces.append(Document(whole.ids[start:end], int(end - first_label)))
    assert len(pieces) > len(documents), "nothing was cut"
    assert sum(len(piece.ids) for piece in pieces) == lengths.sum()
    bounds = zip(packed.offsets[:-1], packed.offsets[1:], strict=True)
    return [pieces[first:last] for first, last in bounds]


def build_model() -> Any:
    return tiny_model(vocab_size=len(build_tokenizer()))


def cell_config(
    data_dir: Path, run_dir: Path, objective: str, packing: str, accumulation: int, world_size: int
) -> Config:
    config = toy_config(run_dir, objective=objective, trainer__max_steps=1)
    config.template = TemplateConfig()
    config.data = DataConfig(
        name="matrix",
        dir=str(data_dir),
        format="pair",
        splits={"train": "train.jsonl"},
        sequence_length=SEQUENCE_LENGTH,
        packing=packing,
        micro_batch_size=ROWS_PER_STEP // (accumulation * world_size),
        global_batch_size=ROWS_PER_STEP,
        cache_dir=str(data_dir / "cache"),
        prepare_workers=1,
    )
    return config


def run_cell(data_dir: Path, run_dir: Path, cell: tuple[str, str, int]) -> dict[str, torch.Tensor]:
    """The weights after the cell's step; of each rank, which are the same."""
    world_size, rank = ranks()[0], int(os.environ.get("RANK", "0"))
    config = cell_config(data_dir, run_dir, *cell, world_size)
    data: Any = PackedDataModule(config, build_tokenizer(), None, rank, world_size)
    if cell[1] == "concat":
        # The data path refuses to cut a response from its prompt, and draws the order of pretraining texts.
        rows = concatenated(documents_of(read_records(data_dir), cell[0]))
        data = ToyData(rows, ROWS_PER_STEP, config.data.micro_batch_size, world_size, rank)
    model = build_model()
    fit(config, data, RunFolder(run_dir), build_model=lambda: model, export=False)
    assert data.step_plan.accumulation == cell[2]
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def name_of(cell: tuple[str, str, int]) -> str:
    return "-".join(map(str, cell))


if __name__ == "__main__":
    torch.set_num_threads(1)
    token_losses.LOGITS_AT_ONCE = 2**12  # so that the head works in chunks
    data_dir, out = Path(sys.argv[1]), Path(sys.argv[2])
    results = {name_of(cell): run_cell(data_dir, out.parent / f"two-{name_of(cell)}", cell) for cell in CELLS}
    if os.environ.get("RANK", "0") == "0":
        torch.save(results, out)
