"""Networks of real size, or cut ones, trained in several ways on packed rows: speed, MFU and memory.

Weights are drawn, and records and tokenizer are the built-in ones, so nothing is downloaded. Each case is a
process of its own: one that runs out of memory is recorded as such, and the next goes on.
"""

import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.report import FOLDER, Figure, measure
from benchmarks.training.case import Case
from benchmarks.training.runs import long_records
from medtune.runtime.hardware import PROJECT

# DESIGN's budget on one H200: useful tokens per second, and the share of the bf16 peak of full training.
H200_TOKENS = {
    ("baichuan7b", "full"): 10_000.0,
    ("baichuan7b", "lora"): 13_000.0,
    ("baichuan7b", "qlora"): 9_000.0,
    ("baichuan13b", "lora"): 7_000.0,
}
H200_MFU = 45.0
GB = 1e9


def figures(cases: Sequence[Case]) -> Iterator[Figure]:
    """Runs ``cases`` one after another; a line is printed as each ends."""
    long_records()
    for case in cases:
        found = run(case)
        lines = [*figures_of(case, found)]
        print(f"{lines[0].name}: {lines[0].value:,.4g} {lines[0].unit}", file=sys.stderr, flush=True)
        yield from lines


def run(case: Case) -> dict[str, Any]:
    """What is known of ``case`` after its process has ended, in whatever way."""
    folder = FOLDER / "cases"
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{case.device} {case.name}".replace(" ", "_")
    file, log = folder / f"{stem}.json", folder / f"{stem}.log"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.training.case", json.dumps(asdict(case)), str(file)]
    # Drawing weights is work for the CPU that a GPU's figures do not show.
    threads = {"OMP_NUM_THREADS": str(os.cpu_count())} if case.device == "cuda" else {}
    usage = measure(command, threads)
    log.write_text(usage.output, encoding="utf-8")
    found: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if "useful_per_s" not in found and "failed" not in found:
        found["failed"] = why(usage.returncode, usage.output, log)
        file.write_text(json.dumps(found))
    return found


def why(returncode: int, output: str, log: Path) -> str:
    """What became of a process that has recorded neither speed nor reason."""
    if returncode == -9:
        return "killed, as for the machine's memory"
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "no output")
    return f"{textwrap.shorten(last, 100)} ({log.relative_to(PROJECT)})"


def figures_of(case: Case, found: dict[str, Any]) -> Iterator[Figure]:
    """The lines of one case."""
    expected = found.get("forecast", {}).get("total", 0.0) / GB
    if "failed" in found:
        yield Figure(f"{case.name}: {found['failed']}; forecast", expected, "GB")
        return
    on_h200 = "H200" in found.get("gpu", "")
    budget = H200_TOKENS.get((case.model, case.mode)) if on_h200 else None
    yield Figure(f"{case.name}: useful tokens", found["useful_per_s"], "tokens/s", budget, "higher")
    yield Figure("  computed tokens", found["computed_per_s"], "tokens/s")
    yield Figure("  learned tokens", found["learned_per_s"], "tokens/s")
    yield Figure("  operations needed", found["needed_flops_per_s"] / 1e12, "TFLOP/s")
    if "mfu" in found:
        yield Figure("  MFU", 100 * found["mfu"], "% of bf16 peak")
    if "published_mfu" in found:
        share = H200_MFU if on_h200 else None
        published = 100 * found["published_mfu"]
        yield Figure("  MFU by 6 N + 12 L H Q T", published, "% of bf16 peak", share, "higher")
    yield Figure("  peak memory", found["peak_bytes"] / GB, "GB")
    yield Figure("  forecast", expected, "GB")
    yield Figure("  forecast against peak", expected * GB / max(1, found["peak_bytes"]), "x")
