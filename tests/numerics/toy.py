"""Rows, a DataModule and a reference loop, small enough to check by hand; used by the training tests."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medtune.config.schema import Config
from medtune.data.rows.order import NO_ROW, StepPlan, StepSampler
from medtune.data.rows.split import NO_SOURCE

VOCABULARY = 64
IGNORE = -100


@dataclass(frozen=True)
class Document:
    """Token ids, of which the last ``learned`` are labels, and the number of the source."""

    ids: tuple[int, ...]
    learned: int
    source: int = 0

    @property
    def labels(self) -> list[int]:
        prompt = len(self.ids) - self.learned
        return [IGNORE] * prompt + list(self.ids[prompt:])


def make_documents(count: int, seed: int = 0, learned: list[int] | None = None) -> list[Document]:
    """Documents of 6 to 20 tokens with 1 to 5 learned ones, or as many as ``learned`` says."""
    random = np.random.default_rng(seed)
    documents = []
    for at in range(count):
        ids = tuple(int(token) for token in random.integers(4, VOCABULARY, random.integers(6, 21)))
        documents.append(Document(ids, learned[at] if learned else int(random.integers(1, 6))))
    return documents


MIX_NAMES = ["leaflets", "questions"]


def make_mix(count: int) -> list[Document]:
    """Two sources: documents learned whole but for their first token, then as many with a masked prompt."""
    whole = [Document(document.ids, len(document.ids) - 1) for document in make_documents(count // 2, seed=3)]
    masked = [Document(document.ids, document.learned, 1) for document in make_documents(count // 2, seed=4)]
    return whole + masked


Row = list[Document]


class ToyTokenizer:
    """Stands for the tokenizer that is saved beside a model."""

    pad_token_id = 0

    def save_pretrained(self, folder: Any) -> None:
        (Path(folder) / "tokenizer_config.json").write_text("{}")


@dataclass
class ToySplit:
    """Rows as ``PackedSplit`` offers them; epoch e has ``sizes[e % len(sizes)]`` of them, from the e-th."""

    rows: list[Row]
    sizes: list[int] | None = None

    @property
    def digest(self) -> str:
        return str(self.rows)

    @property
    def is_constant(self) -> bool:
        return self.sizes is None

    def rows_of(self, epoch: int) -> list[Row]:
        if self.sizes is None:
            return self.rows
        turned = self.rows[epoch % len(self.rows) :] + self.rows[: epoch % len(self.rows)]
        return turned[: self.sizes[epoch % len(self.sizes)]]

    def learned_of(self, epoch: int) -> NDArray[np.int64]:
        return np.array([sum(document.learned for document in row) for row in self.rows_of(epoch)])


@dataclass
class ToyData:
    """A DataModule over given rows, with the batch contract of docs/architecture.md.

    Batches are wider than their longest row, so padding is always there.
    """

    rows: list[Row]
    rows_per_step: int
    micro_batch_size: int = 1
    world_size: int = 1
    global_rank: int = 0
    shuffle_seed: int | None = None
    val_rows: list[Row] = field(default_factory=list)
    source_names: list[str] = field(default_factory=lambda: ["toy"])
    sizes: list[int] | None = None
    tokenizer: Any = field(default_factory=ToyTokenizer)
    seen: list[list[int]] = field(default_factory=list)

    def setup(self, stage: str | None = None) -> None:
        pass

    @property
    def step_plan(self) -> StepPlan:
        split = ToySplit(self.rows, self.sizes)
        return StepPlan(split, self.rows_per_step, self.micro_batch_size, self.world_size)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.step_plan, self.shuffle_seed, self.seen)

    def val_dataloader(self) -> Any:
        if not self.val_rows:
            return []
        per_step = self.micro_batch_size * self.world_size
        plan = StepPlan(ToySplit(self.val_rows), per_step, self.micro_batch_size, self.world_size)
        return self._loader(plan, None, [])

    def _loader(self, plan: StepPlan, seed: int | None, seen: list[list[int]]) -> DataLoader[Any]:
        def collate(items: list[tuple[int, int, int]]) -> dict[str, Any]:
            epoch, numbers = items[0][0], [row for _, row, _ in items]
            seen.append(numbers)
            rows = plan.source.rows_of(epoch)
            batch = stack([[] if number == NO_ROW else rows[number] for number in numbers])
            return {
                **batch,
                "step_tokens": items[0][2],
                "epoch": epoch,
                "rows": numbers,
                "sources": len(self.source_names),
            }

        sampler = StepSampler(plan, self.global_rank, seed)
        return DataLoader(Through(), batch_sampler=sampler, collate_fn=collate)


class Through:
    """A dataset whose items are the sampler's."""

    def __getitem__(self, item: Any) -> Any:
        return item


def stack(rows: list[Row]) -> dict[str, Any]:
    """A batch of packed rows, padded on the right by at least one token."""
    width = 1 + max(sum(len(document.ids) for document in row) for row in rows)
    batch = {name: torch.zeros(len(rows), width, dtype=torch.long) for name in ("input_ids", "document_ids")}
    batch["labels"] = torch.full((len(rows), width), IGNORE)
    batch["source_ids"] = torch.full((len(rows), width), NO_SOURCE)
    batch["position_ids"] = torch.arange(width).repeat(len(rows), 1)
    for at, row in enumerate(rows):
        start = 0
        for number, document in enumerate(row, start=1):
            span = slice(start, start + len(document.ids))
            batch["input_ids"][at, span] = torch.tensor(document.ids)
            batch["labels"][at, span] = torch.tensor(document.labels)
            batch["position_ids"][at, span] = torch.arange(len(document.ids))
            batch["document_ids"][at, span] = number
            batch["source_ids"][at, span] = document.source
            start = span.stop
    return {**batch, "packed": any(len(row) > 1 for row in rows)}


def tiny_model(seed: int = 7, dropout: float = 0.0, **more: Any) -> nn.Module:
    """A two-layer llama, weights of standard deviation 0.02."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "attention_dropout": dropout,
    }  # fmt: skip
    model: nn.Module = LlamaForCausalLM(LlamaConfig(**{**settings, **more}))
    return model


def toy_config(run_dir: Any, **changes: Any) -> Config:
    """Plain SGD at rate 1 without a schedule: a wrong scale shows in the weights."""
    config = Config(run_dir=str(run_dir), seed=3)
    config.optim.name, config.optim.lr = "sgd", 1.0
    config.schedule.name, config.schedule.warmup_ratio = "constant", 0.0
    config.trainer.accelerator, config.trainer.progress = "cpu", "none"
    config.trainer.log_every_n_steps, config.trainer.max_steps = 1, 3
    config.trainer.gradient_clip_norm = None
    for key, value in changes.items():
        node: Any = config
        *path, name = key.split("__")
        for part in path:
            node = getattr(node, part)
        assert hasattr(node, name), key
        setattr(node, name, value)
    return config


def reference_losses(
    model: nn.Module, steps: list[list[Document]], lr: float = 1.0, clip: float | None = None
) -> list[float]:
    """Trains in place: plain torch, one padded batch a step, transformers' own mask; returns the losses."""
    losses = []
    for documents in steps:
        model.zero_grad()
        loss = batch_loss(model, documents)
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= lr * parameter.grad
        losses.append(float(loss.detach()))
    return losses


def batch_loss(model: nn.Module, documents: list[Document]) -> Tensor:
    """Cross-entropy summed over learned tokens, divided by their number."""
    batch = stack([[document] for document in documents])
    mask = (batch["document_ids"] > 0).long()
    logits = model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum()


def relative_error(found: dict[str, Tensor], expected: dict[str, Tensor], start: dict[str, Tensor]) -> float:
    """Distance of two updates from the same start, relative to the expected one."""
    apart = sum(float((found[name].double() - expected[name].double()).square().sum()) for name in expected)
    moved = sum(float((expected[name].double() - start[name].double()).square().sum()) for name in expected)
    return float((apart / moved) ** 0.5)
