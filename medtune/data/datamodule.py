"""The one DataModule: tokenised once, packed, in exact order, for every objective."""

import logging
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from medtune.config.schema import Config
from medtune.data.corpus import TRAIN, VALIDATION, Corpus, build_corpus
from medtune.data.ledger import check_closes, split_ledger
from medtune.data.report import ledger_text, plot_data, write_markdown
from medtune.data.rows.collate import Collator
from medtune.data.rows.order import Item, StepPlan, StepSampler
from medtune.data.rows.split import PackedSplit
from medtune.data.tokens.prepare import TokenizerSource
from medtune.runtime.record import RunFolder, merge_json, write_jsonl

log = logging.getLogger(__name__)


class Items(Dataset[Item]):
    """Hands the sampler's items through to the collator, which reads the rows."""

    def __getitem__(self, item: Any) -> Item:
        return item  # type: ignore[no-any-return]


class PackedDataModule(L.LightningDataModule):
    """Rows for training and validation.

    Args:
        config: ``data``, ``template``, ``objective``, ``seed``.
        tokenizer: The model's, or where to load it from when something has to be tokenised.
        folder: Where the report goes; None writes none.
        global_rank: This process among the data-parallel ranks.
        world_size: Their number.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: TokenizerSource | PreTrainedTokenizerBase,
        folder: RunFolder | None = None,
        global_rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.config = config
        self.source = tokenizer if isinstance(tokenizer, TokenizerSource) else TokenizerSource.of(tokenizer)
        self.folder = folder
        self.global_rank = global_rank
        self.world_size = world_size
        self.corpus: Corpus | None = None

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer, loaded when first asked for."""
        return self.source.load()

    @property
    def splits(self) -> dict[str, PackedSplit]:
        """``train``, and ``validation`` where there is one; empty before :meth:`setup`."""
        return self.corpus.splits if self.corpus else {}

    @property
    def source_names(self) -> list[str]:
        """The sources by the numbers in a batch's ``source_ids``."""
        return self.splits[TRAIN].source_names

    def setup(self, stage: str | None = None) -> None:
        """Tokenises what is not in the cache, packs, writes the report; does nothing the second time."""
        del stage
        if self.corpus is not None:
            return
        self.corpus = build_corpus(self.config, self.source)
        self.report(self.corpus)
        rows, whole = self.step_plan.rows_of(0), self.config.data.global_batch_size
        if self.config.task == "train" and rows < whole:
            log.warning(
                "warning: data.global_batch_size=%d is more than the %d rows of the training split; a step "
                "is a whole epoch, and its other rows are empty",
                *(whole, rows),
            )

    def report(self, corpus: Corpus) -> None:
        """Counts everything, shows the table, and on rank zero writes the report of the run folder."""
        config = self.config
        ledgers = {name: split_ledger(split) for name, split in corpus.splits.items()}
        for ledger in ledgers.values():
            check_closes(ledger)
        log.info("data: %s, packing=%s\n%s", config.data.name, config.data.packing, ledger_text(ledgers))
        if self.folder is None or self.global_rank != 0:
            return
        report = {
            "objective": config.objective,
            "template": config.template.name,
            "packing": config.data.packing,
            "splits": ledgers,
            "duplicates": corpus.duplicates.as_dict(),
        }
        merge_json(self.folder.data_report_file, report)
        write_markdown(self.folder.path / "data_report.md", report)
        plot_data(ledgers, self.folder.plots / "data.png")
        list_rows(self.folder.path / "duplicates.jsonl", corpus.duplicates.rows())
        list_rows(self.folder.path / "dropped.jsonl", corpus.dropped())

    @cached_property
    def step_plan(self) -> StepPlan:
        """How the training rows make steps."""
        rows_per_step = self.config.data.global_batch_size
        return StepPlan(self.splits[TRAIN], rows_per_step, self.micro_batch_size, self.world_size)

    @property
    def micro_batch_size(self) -> int:
        """Rows in one pass on one device: as set, or the device's whole share of a step."""
        data = self.config.data
        return data.micro_batch_size or data.global_batch_size // self.world_size

    def describe_row(self, epoch: int, row: int) -> str:
        """The documents of a training row as ``file:line``."""
        return self.splits[TRAIN].describe_row(epoch, row)

    def train_dataloader(self) -> DataLoader[Item]:
        """Whole optimizer steps of shuffled rows; its batch sampler's ``start`` chooses where it begins."""
        return self.loader(TRAIN, StepSampler(self.step_plan, self.global_rank, self.config.seed))

    def val_dataloader(self) -> DataLoader[Item] | list[Any]:
        """A fixed choice of at most ``trainer.val_max_rows`` validation rows, shared out over the ranks."""
        if VALIDATION not in self.splits:
            return []
        split, micro = self.splits[VALIDATION], self.micro_batch_size
        count = len(split.rows_of(0))
        rows = min(count, self.config.trainer.val_max_rows or count)
        chosen = np.sort(np.random.default_rng(self.config.seed).permutation(count)[:rows])
        plan = StepPlan(split, micro * self.world_size, micro, self.world_size, chosen)
        return self.loader(VALIDATION, StepSampler(plan, self.global_rank, None))

    def loader(self, name: str, sampler: StepSampler) -> DataLoader[Item]:
        """A loader over the rows of a split in the sampler's order."""
        assert self.corpus is not None
        workers = self.config.data.num_workers
        width = self.config.data.sequence_length if self.config.trainer.compile else None
        return DataLoader(
            Items(),
            batch_sampler=sampler,
            collate_fn=Collator(self.splits[name], self.corpus.pad_id, width),
            num_workers=workers,
            persistent_workers=workers > 0,
        )


def list_rows(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """Writes JSON lines; without any, no file, and none of an earlier run in this folder."""
    first = next(rows, None)
    if first is None:
        path.unlink(missing_ok=True)
    else:
        write_jsonl(path, chain([first], rows))
        log.info("data: %s lists them", path)
