"""Figures against their budget, as a table and as ``outputs/bench/NAME.json``."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medtune.runtime.hardware import PROJECT, environment_record
from medtune.runtime.record import write_json

FOLDER = PROJECT / "outputs" / "bench"
# Figures are per core: a second thread mostly waits for the first one on models this small.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Figure:
    """One measured value; without a budget it only informs."""

    name: str
    value: float
    unit: str
    budget: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def ok(self) -> bool | None:
        """Whether the value keeps to its budget; None without one."""
        if self.budget is None:
            return None
        return self.value <= self.budget if self.better == "lower" else self.value >= self.budget


@dataclass(frozen=True)
class Usage:
    """What one child process cost, its own children included."""

    cpu_seconds: float
    peak_mb: float
    output: str
    returncode: int


def measure(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Usage:
    """Runs ``command`` in the project folder; CPU-seconds are user plus system."""
    process = subprocess.Popen(
        command,
        cwd=PROJECT,
        env={**os.environ, **ONE_THREAD, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Usage(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output, process.returncode)


def measure_python(*arguments: str) -> Usage:
    """:func:`measure` of this interpreter with ``arguments``."""
    return measure([sys.executable, *arguments])


def run_child(module: str, *arguments: str) -> dict[str, float]:
    """Runs ``python -m module arguments`` alone and gives the JSON object of its last line."""
    usage = measure_python("-m", module, *arguments)
    if usage.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed:\n{usage.output}")
    figures: dict[str, float] = json.loads(usage.output.splitlines()[-1])
    return figures


def report(name: str, figures: Sequence[Figure]) -> None:
    """Prints ``figures`` and writes their rows; ``environment.json`` beside them tells the machine."""
    rows = [
        {
            "name": figure.name.strip(),
            "value": figure.value,
            "unit": figure.unit,
            "budget": figure.budget,
            "better": figure.better,
            "ok": figure.ok,
        }
        for figure in figures
    ]
    environment = environment_record()
    environment["git"].pop("diff")
    write_json(FOLDER / f"{name}.json", rows)
    write_json(FOLDER / "environment.json", environment)
    print(table(name, figures))


def table(name: str, figures: Sequence[Figure]) -> str:
    """The figures as aligned text."""
    width = max(len(figure.name) for figure in figures)
    lines = [f"bench {name}"]
    for figure in figures:
        line = f"  {figure.name:<{width}}  {number(figure.value):>10} {figure.unit:<12}"
        if figure.budget is not None:
            sign = "<=" if figure.better == "lower" else ">="
            line += f" budget {sign} {number(figure.budget):<8} {'ok' if figure.ok else 'OVER BUDGET'}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def number(value: float) -> str:
    """Four significant digits, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
