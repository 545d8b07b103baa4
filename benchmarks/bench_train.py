"""Training: the cost of a step, packed rows and memory on a CPU; networks of real size on a GPU.

Without arguments: medtune's step against other loops, packed rows against padded batches, and peak memory
with and without what saves it. With --device: networks with drawn weights on packed rows, one process each.
"""

import argparse
import sys
from collections.abc import Sequence

from benchmarks.report import Figure, report, table
from benchmarks.training.case import MODES, Case
from medtune.runtime.hardware import PROJECT


def main(arguments: Sequence[str] | None = None) -> None:
    options = read(arguments)
    if options.device is None:
        report("train", [*cpu_figures()])
        return
    from benchmarks.training.cases import figures

    report(f"train_{options.device}", [*figures(cases(options))])


def cpu_figures() -> list[Figure]:
    """What can be said without a GPU."""
    from benchmarks.training import loops, memory, rows

    found: list[Figure] = []
    for part in (loops, rows, memory):
        figures = [*part.figures()]
        # On a busy machine the whole takes long, and what is known should not be lost with the rest.
        print(table(part.__name__.rpartition(".")[2], figures), file=sys.stderr, flush=True)
        found += figures
    return found


def read(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, once it can be run here."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    devices = parser.add_argument_group("networks with drawn weights")
    devices.add_argument("--device", choices=("cuda", "cpu"), help="where they are trained")
    devices.add_argument("--models", type=names, help="options of conf/model, by commas (default: by device)")
    devices.add_argument(
        "--modes", type=names, default=[*MODES], help=f"of {', '.join(MODES)} (default: all)"
    )
    devices.add_argument("--lengths", type=numbers, help="tokens in a row, by commas (default: by device)")
    devices.add_argument("--rows", type=count, default=1, help="rows in a pass (default: 1)")
    devices.add_argument("--accumulation", type=count, default=4, help="passes in a step (default: 4)")
    devices.add_argument("--steps", type=count, default=8, help="steps on the clock (default: 8)")
    devices.add_argument("--checkpointing", choices=("auto", "on", "off"), default="auto")
    devices.add_argument(
        "--layers", type=count, help="cut the models to so many, to try the benchmark itself"
    )
    devices.add_argument("--hidden", type=count, help="the same for their width, a multiple of 64")
    options = parser.parse_args(arguments)
    if problem := problem_of(options):
        parser.error(problem)
    return options


def problem_of(options: argparse.Namespace) -> str | None:
    """Why the options cannot be run on this machine."""
    if options.device is None:
        return None
    folder = PROJECT / "conf" / "model"
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if unknown := sorted({*(options.models or [])} - {*known}):
        return f"--models {','.join(unknown)}: conf/model has {', '.join(known)}"
    if unknown := sorted({*options.modes} - {*MODES}):
        return f"--modes {','.join(unknown)}: there are {', '.join(MODES)}"
    if options.hidden is not None and options.hidden % 64:
        return f"--hidden {options.hidden} is not a multiple of 64"
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        return "--device cuda: torch sees no GPU; --device cpu runs small networks through the same code"
    return None


def cases(options: argparse.Namespace) -> list[Case]:
    """Every model in every mode and length."""
    on_gpu = options.device == "cuda"
    models = options.models or (["baichuan7b", "baichuan13b", "qwen2_5_7b"] if on_gpu else ["tiny"])
    lengths = options.lengths or ([2048, 4096] if on_gpu else [512])
    return [
        Case(
            *(model, mode, length, options.device),
            **{key: getattr(options, key) for key in ("rows", "accumulation", "steps", "checkpointing")},
            **{key: getattr(options, key) for key in ("layers", "hidden")},
        )
        for model in models
        for mode in options.modes
        for length in lengths
    ]


def names(text: str) -> list[str]:
    """``a,b`` as a list."""
    return [part for part in text.split(",") if part]


def numbers(text: str) -> list[int]:
    """``1,2`` as a list."""
    return [count(part) for part in names(text)]


def count(text: str) -> int:
    """A number from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


if __name__ == "__main__":
    main(sys.argv[1:])
