"""One module per verb, each with ``run(config, folder)``: wiring only."""

from importlib import import_module

from medtune.config.schema import Config
from medtune.runtime.determinism import make_deterministic
from medtune.runtime.record import RunFolder


def run(config: Config, folder: RunFolder) -> None:
    """Runs ``config.task`` in a run folder; only this verb's libraries are imported."""
    if config.deterministic and config.task != "prepare":
        make_deterministic()
    import_module(f"medtune.tasks.{config.task}").run(config, folder)
