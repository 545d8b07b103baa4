"""States that a sharding strategy cannot take up: ``refused_states.py STRATEGY RUN_DIR``, in one process."""

import sys
from pathlib import Path

import torch

from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder
from medtune.training.fit import fit
from tests.numerics.strategy_cases import ADAMW, ROWS, STRATEGIES
from tests.numerics.toy import ToyData, tiny_model, toy_config


def run(folder: Path, strategy: str, steps: int, wider: bool = False) -> None:
    config = toy_config(folder, data__global_batch_size=4, trainer__max_steps=steps, resume="auto", **ADAMW)
    config.strategy = STRATEGIES[strategy]

    def build() -> torch.nn.Module:
        model = tiny_model()
        if wider:
            model.lm_head = torch.nn.Linear(model.lm_head.in_features, 70, bias=False)
        return model

    fit(config, ToyData(ROWS, 4), RunFolder(folder), build_model=build, export=False)


def shown(folder: Path, strategy: str, wider: bool = False) -> None:
    """Prints what is said when the run goes on."""
    try:
        run(folder, strategy, 4, wider)
    except ConfigError as error:
        print(error, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    strategy, folder = sys.argv[1], Path(sys.argv[2])
    run(folder, strategy, 2)
    shown(folder, strategy, wider=True)
    largest = max((folder / "checkpoints/step-2/state").rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
    shown(folder, strategy)
    largest.unlink()
    shown(folder, strategy)
