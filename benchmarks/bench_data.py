"""The data path: records to packed rows, rows to tensors, and packing alone.

The records are generated with the lengths of PromptCBLUE and kept in ``outputs/bench/records``.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report import FOLDER, Figure, measure_python, report, run_child

if TYPE_CHECKING:
    from medtune.data.datamodule import PackedDataModule

NUM_RECORDS = 120_000
MODULE = "benchmarks.bench_data"
UTILISATION = {1024: 99.7, 2048: 99.85, 4096: 99.9}


def main() -> None:
    records = FOLDER / "records"
    generate_records(records)
    with tempfile.TemporaryDirectory() as cache:
        cold = run_child(MODULE, "prepare", str(records), cache)
        warm = run_child(MODULE, "prepare", str(records), cache)
        loader = run_child(MODULE, "load", str(records), cache)
        utilisation = run_child(MODULE, "utilisation", str(records), cache)
    packing = run_child(MODULE, "pack")
    report(
        "data",
        [
            Figure(f"{NUM_RECORDS:,} records, cold to first batch", cold["cpu_s"], "CPU-s", 18.0),
            Figure("  tokens", cold["tokens"] / 1e6, "million"),
            Figure("  peak memory", cold["peak_mb"], "MB", 500.0),
            Figure("  of it imports", cold["imports_mb"], "MB"),
            Figure("cache to first batch", warm["cpu_s"], "CPU-s", 0.3),
            Figure("rows to tensors", loader["tokens_per_cpu_s"] / 1e6, "Mtok/CPU-s", 5.0, "higher"),
            *(
                Figure(f"bfd utilisation at {length}", utilisation[str(length)], "%", budget, "higher")
                for length, budget in UTILISATION.items()
            ),
            Figure("bfd of 1 M lengths", packing["1000000"], "CPU-s", 0.1),
            Figure("bfd of 10 M lengths", packing["10000000"], "CPU-s", 1.5),
        ],
    )


def generate_records(folder: Path) -> None:
    """Writes the training records unless they are there."""
    if (folder / "README.md").is_file() and f"--records {NUM_RECORDS} " in (folder / "README.md").read_text():
        return
    arguments = ["--records", str(NUM_RECORDS), "--lengths", "promptcblue", "--out", str(folder)]
    folder.mkdir(parents=True, exist_ok=True)
    usage = measure_python("-m", "medtune.data.sample", *arguments)
    if usage.returncode:
        raise RuntimeError(usage.output)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def build_datamodule(records: str, cache: str) -> "PackedDataModule":
    """A DataModule over the records; the imports are paid for when it is given."""
    from medtune.config.schema import Config, DataConfig, ModelConfig
    from medtune.data.datamodule import PackedDataModule
    from medtune.models.load import load_tokenizer
    from medtune.runtime.hardware import PROJECT

    data = DataConfig(
        dir=records,
        splits={"train": "train.json"},
        overlong="truncate",
        sequence_length=2048,
        cache_dir=cache,
    )
    config = Config(data=data, model=ModelConfig(tokenizer=str(PROJECT / "data" / "sample" / "tokenizer")))
    return PackedDataModule(config, load_tokenizer(config.model))


def prepare(records: str, cache: str) -> dict[str, float]:
    """From a cold or warm cache to the first batch."""
    module = build_datamodule(records, cache)
    imports_mb, started = peak_mb(), time.process_time()
    module.setup()
    next(iter(module.train_dataloader()))
    return {
        "cpu_s": time.process_time() - started,
        "tokens": float(module.splits["train"].rows.lengths.sum()),
        "imports_mb": imports_mb,
        "peak_mb": peak_mb(),
    }


def load(records: str, cache: str) -> dict[str, float]:
    """Tokens of batches that one core makes in a second."""
    module = build_datamodule(records, cache)
    module.setup()
    batches = iter(module.train_dataloader())
    next(batches)
    started, tokens = time.process_time(), 0
    for _ in range(2000):
        tokens += next(batches)["input_ids"].numel()
    return {"tokens_per_cpu_s": tokens / (time.process_time() - started)}


def utilisation(records: str, cache: str) -> dict[str, float]:
    """Percent of the rows' room that tokens fill, documents cut to the row's length."""
    import numpy as np

    from medtune.data.packing import pack

    module = build_datamodule(records, cache)
    module.setup()
    lengths = module.splits["train"].store.lengths
    documents, start = np.arange(len(lengths)), np.zeros(len(lengths), dtype=np.int64)
    rows = {
        length: pack(documents, start, np.minimum(lengths, length), length, "bfd", seed=0)
        for length in UTILISATION
    }
    return {str(length): 100 * packed.utilisation(length) for length, packed in rows.items()}


def pack_lengths() -> dict[str, float]:
    """CPU-seconds of best-fit decreasing over log-normal lengths (median 150), best of three."""
    import numpy as np

    from medtune.data.packing import best_fit_decreasing

    figures = {}
    for count in (1_000_000, 10_000_000):
        drawn = np.random.default_rng(0).lognormal(5.0, 0.8, count)
        lengths = np.clip(drawn, 1, 2048).astype(np.int64)
        times = []
        for _ in range(3):
            started = time.process_time()
            best_fit_decreasing(lengths, 2048)
            times.append(time.process_time() - started)
        figures[str(count)] = min(times)
    return figures


CHILDREN = {"prepare": prepare, "load": load, "utilisation": utilisation, "pack": pack_lengths}

if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(CHILDREN[sys.argv[1]](*sys.argv[2:])))
    else:
        main()
