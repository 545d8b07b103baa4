"""A fit whose process dies while it makes a batch: ``killed_fit.py RUN_DIR MICRO_BATCH DATA``."""

import os
import sys
from pathlib import Path
from typing import Any

from medtune.config.schema import Config
from medtune.runtime.record import RunFolder
from medtune.training.fit import FitResult, fit
from tests.numerics.toy import MIX_NAMES, ToyData, make_documents, make_mix, tiny_model, toy_config

DOCUMENTS = make_documents(10, seed=1)
MIX = make_mix(10)
MIX_SIZES = [5, 9, 2]  # rows of the epochs of the mix: 2, 3, 1 steps of 4, then the same again
STEPS, SAVED_EVERY = 8, 2


def build_config(run_dir: Path, **changes: Any) -> Config:
    """8 steps of 4 out of 10 rows, warm-up and cosine; an epoch has 3 steps, the last partly filled."""
    return toy_config(
        run_dir,
        **{
            "data__global_batch_size": 4, "trainer__max_steps": STEPS, "trainer__gradient_clip_norm": 1.0,
            "checkpoint__every_n_steps": SAVED_EVERY, "checkpoint__keep_last": 2, "optim__name": "adamw",
            "optim__lr": 1e-2, "schedule__name": "cosine", "schedule__warmup_steps": 2, **changes,
        },
    )  # fmt: skip


def run(config: Config, data: ToyData | None = None, dropout: float = 0.2, export: bool = False) -> FitResult:
    folder = RunFolder(Path(str(config.run_dir)))
    data = data or build_data(config)
    return fit(config, data, folder, build_model=lambda: tiny_model(dropout=dropout), export=export)


def build_data(config: Config, name: str = "single", cls: type[ToyData] = ToyData) -> ToyData:
    """``single``: one source, every epoch the same rows; ``mix``: two, and each epoch has rows of its own."""
    is_mix = name == "mix"
    rows = [[document] for document in (MIX if is_mix else DOCUMENTS)]
    data = cls(rows, 4, config.data.micro_batch_size, shuffle_seed=5, val_rows=rows[:3] + rows[-2:])
    if is_mix:
        data.source_names, data.sizes = MIX_NAMES, MIX_SIZES
    return data


class Killed(ToyData):
    """Ends the process when it is asked for one micro batch more than ``KILL_AFTER``."""

    def train_dataloader(self) -> Any:
        loader = super().train_dataloader()
        collate = loader.collate_fn

        def collate_or_die(items: Any) -> Any:
            if len(self.seen) == int(sys.argv[2]):
                os._exit(9)
            return collate(items)

        loader.collate_fn = collate_or_die
        return loader


if __name__ == "__main__":
    config = build_config(Path(sys.argv[1]))
    run(config, build_data(config, sys.argv[3], Killed))
