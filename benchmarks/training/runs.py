"""Runs of the product that are measured from within: settings, records, and a callback in the fit."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.report import FOLDER, measure_python

if TYPE_CHECKING:
    from medtune.config.schema import Config

# Wide rather than deep: the narrower a network, the more its attention weighs against the rest, and one of
# width 4096 hardly notices it.
WIDE_LAYERS = (
    "model=tiny_llama",
    "model.hidden_size=1024",
    "model.intermediate_size=2752",
    "model.num_attention_heads=16",
)
NUM_RECORDS = 6000
RECORDS = FOLDER / f"promptcblue_{NUM_RECORDS}"


def configuration(run_dir: Path, overrides: Sequence[str]) -> "Config":
    """The settled defaults with ``overrides``, for a run in ``run_dir``."""
    from medtune.config.compose import compose_settings, plain_settings
    from medtune.config.load import config_from_dict

    values, _ = plain_settings(compose_settings([f"run_dir={run_dir}", *overrides]))
    return config_from_dict(values)


def long_records() -> list[str]:
    """Overrides that read generated records of PromptCBLUE's lengths, which are written when not there."""
    if not (RECORDS / "README.md").is_file():
        RECORDS.mkdir(parents=True, exist_ok=True)
        arguments = ["--records", str(NUM_RECORDS), "--lengths", "promptcblue", "--out", str(RECORDS)]
        usage = measure_python("-m", "medtune.data.sample", *arguments)
        if usage.returncode:
            raise RuntimeError(usage.output)
    return [f"data.dir={RECORDS}", "data.splits={train: train.json}", "data.overlong=truncate"]


def make_data(config: "Config") -> Any:
    """The rows that a run of ``config`` learns from."""
    from medtune.data.datamodule import PackedDataModule
    from medtune.models.tokenizers import load_tokenizer

    data = PackedDataModule(config, load_tokenizer(config.model))
    data.setup()
    return data


def fit_with(config: "Config", make_callback: Callable[[], Any]) -> None:
    """The product's own fit, with a further callback that comes before its own."""
    from medtune.runtime.record import RunFolder
    from medtune.training.fit import fit

    globals()["chosen_callback"] = make_callback
    config.callbacks = {"measuring": {"_target_": f"{__name__}.chosen_callback"}}
    fit(config, make_data(config), RunFolder(Path(str(config.run_dir))), export=False)
