"""The one DataModule: tokenised once, packed, in exact order, for every objective."""

import logging
from typing import Any

import lightning.pytorch as L
import numpy as np
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from medtune.config.schema import Config
from medtune.data.collate import Collator
from medtune.data.ledger import ledger_entry, ledger_text
from medtune.data.order import StepPlan, StepSampler
from medtune.data.prepare import prepare_split
from medtune.data.rows import PackedSplit
from medtune.runtime.record import RunFolder, merge_json

TRAIN, VALIDATION = "train", "validation"

log = logging.getLogger(__name__)


class Items(Dataset[tuple[int, int]]):
    """Hands the sampler's items through to the collator, which reads the rows."""

    def __getitem__(self, item: Any) -> tuple[int, int]:
        return item  # type: ignore[no-any-return]


class PackedDataModule(L.LightningDataModule):
    """Rows for training and validation.

    Args:
        config: ``data``, ``template``, ``objective``, ``seed``.
        tokenizer: The model's.
        folder: Where data_report.json goes; None writes none.
        global_rank: This process among the data-parallel ranks.
        world_size: Their number.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: PreTrainedTokenizerBase,
        folder: RunFolder | None = None,
        global_rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.folder = folder
        self.global_rank = global_rank
        self.world_size = world_size
        self.splits: dict[str, PackedSplit] = {}

    @property
    def split_names(self) -> list[str]:
        """The splits that training reads."""
        return [name for name in (TRAIN, VALIDATION) if name in self.config.data.splits]

    def setup(self, stage: str | None = None) -> None:
        """Tokenises what is not in the cache, packs, writes the ledger; does nothing the second time.

        Safe before any process group exists: one process tokenises, the others wait on a file lock.
        """
        del stage
        if self.splits:
            return
        config = self.config
        for name in self.split_names:
            store = prepare_split(config.data, config.template, self.tokenizer, name)
            self.splits[name] = PackedSplit(store, config.data, name, config.objective, config.seed)
        if not int(self.splits[TRAIN].learned.sum()):
            file = config.data.splits[TRAIN]
            raise ValueError(f"no token of {file} is learned with objective={config.objective}")
        entries = {name: ledger_entry(split, config.data.name) for name, split in self.splits.items()}
        log.info("data: %s, packing=%s\n%s", config.data.name, config.data.packing, ledger_text(entries))
        rows, whole = len(self.splits[TRAIN]), config.data.global_batch_size
        if config.task == "train" and rows < whole:
            log.warning(
                "warning: data.global_batch_size=%d is more than the %d rows of the training split; a step "
                "is a whole epoch, and its other rows are empty",
                *(whole, rows),
            )
        if self.folder and self.global_rank == 0:
            merge_json(self.folder.data_report_file, {"objective": config.objective, "splits": entries})

    @property
    def step_plan(self) -> StepPlan:
        """How the training rows make steps."""
        rows_per_step = self.config.data.global_batch_size
        return StepPlan(len(self.splits[TRAIN]), rows_per_step, self.micro_batch_size, self.world_size)

    @property
    def micro_batch_size(self) -> int:
        """Rows in one pass on one device: as set, or the device's whole share of a step."""
        data = self.config.data
        return data.micro_batch_size or data.global_batch_size // self.world_size

    def train_dataloader(self) -> DataLoader[tuple[int, int]]:
        """Whole optimizer steps of shuffled rows; its batch sampler's ``start`` chooses where it begins."""
        split, plan = self.splits[TRAIN], self.step_plan
        sampler = StepSampler(split.learned, np.arange(len(split)), plan, self.global_rank, self.config.seed)
        return self.loader(TRAIN, sampler)

    def val_dataloader(self) -> DataLoader[tuple[int, int]] | list[Any]:
        """A fixed choice of at most ``trainer.val_max_rows`` validation rows, shared out over the ranks."""
        if VALIDATION not in self.splits:
            return []
        split, micro = self.splits[VALIDATION], self.micro_batch_size
        rows = min(len(split), self.config.trainer.val_max_rows or len(split))
        plan = StepPlan(rows, micro * self.world_size, micro, self.world_size)
        chosen = np.sort(np.random.default_rng(self.config.seed).permutation(len(split))[:rows])
        return self.loader(VALIDATION, StepSampler(split.learned, chosen, plan, self.global_rank, None))

    def loader(self, name: str, sampler: StepSampler) -> DataLoader[tuple[int, int]]:
        """A loader over the rows of a split in the sampler's order."""
        pad_id = self.tokenizer.pad_token_id
        workers = self.config.data.num_workers
        return DataLoader(
            Items(),
            batch_sampler=sampler,
            collate_fn=Collator(self.splits[name], 0 if pad_id is None else int(pad_id)),
            num_workers=workers,
            persistent_workers=workers > 0,
        )
