"""Useful tokens per second of packed rows, against batches of eight examples padded to the longest of them.

Both through the product's fit, on generated records of PromptCBLUE's lengths. A useful token is one of an
example, prompt or response; padding is none. One layer of width 1024, which a deeper network repeats. Padded
batches are as good as they can be: causal attention needs no mask for padding on the right, and the loss sees
learned positions only. A packed row pays for its mask, which the CPU's kernel computes in full.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import Figure, run_child
from benchmarks.training.runs import WIDE_LAYERS, configuration, fit_with, long_records

MODULE = "benchmarks.training.rows"
WARM_UP, TIMED = 1, 5  # a padded step takes ten seconds
PADDED = ("data.packing=none", "data.sequence_length=2048", "data.global_batch_size=8")
# A row holds about as many examples as a padded batch.
PACKED = ("data.packing=bfd", "data.sequence_length=2048", "data.global_batch_size=1")


def figures() -> Iterator[Figure]:
    """The ratio of the speeds, and where it comes from."""
    found = {kind: run_child(MODULE, kind) for kind in ("padded", "packed")}
    speed = {kind: one["useful"] / one["cpu_s"] for kind, one in found.items()}
    filled = {kind: one["useful"] / one["computed"] for kind, one in found.items()}
    name = "PromptCBLUE's lengths, width 1024: useful tokens/s, packed in 2048 against padded by 8"
    yield Figure(name, speed["packed"] / speed["padded"], "x", 3.0, "higher")
    yield Figure(
        "  useful tokens per token computed, against padded", filled["packed"] / filled["padded"], "x"
    )
    for kind in found:
        yield Figure(f"  {kind}", speed[kind], "tokens/CPU-s")
        yield Figure(f"  {kind}: useful of the tokens computed", 100 * filled[kind], "%")


def child(kind: str) -> None:
    """Prints CPU-seconds, useful and computed tokens of the timed steps."""
    import lightning.pytorch as L
    import torch

    torch.set_num_threads(1)
    found = {"useful": 0, "computed": 0, "cpu_s": 0.0}

    class Count(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch: Any, index: int) -> None:
            if trainer.global_step == WARM_UP:
                found["cpu_s"] -= time.process_time()
            elif trainer.global_step == WARM_UP + TIMED:
                found["cpu_s"] += time.process_time()
            if WARM_UP <= trainer.global_step < WARM_UP + TIMED:
                found["useful"] += batch["tokens"]
                found["computed"] += batch["input_ids"].numel()

    with tempfile.TemporaryDirectory() as folder:
        fit_with(configuration(Path(folder), overrides(kind)), Count)
    print("\n" + json.dumps(found))


def overrides(kind: str) -> list[str]:
    """The settings of a run with ``padded`` batches or ``packed`` rows."""
    return [
        *WIDE_LAYERS,
        "model.num_hidden_layers=1",
        *long_records(),
        *(PADDED if kind == "padded" else PACKED),
        "data.micro_batch_size=null",
        f"trainer.max_steps={WARM_UP + TIMED + 1}",
        "trainer.accelerator=cpu",
        "trainer.progress=none",
    ]


if __name__ == "__main__":
    child(sys.argv[1])
