"""What is wrong with an adapter that was loaded, or that was to be."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import LoraConfig, PeftConfig, PeftModel
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open

from medtune.models.folders import ADAPTER_WEIGHTS
from medtune.models.network import first_line
from medtune.runtime.errors import ConfigError


def check_sums(settings: PeftConfig, source: str) -> None:
    """Raises ConfigError for an adapter whose update is not B·A alone, which could not be added to others."""
    if not isinstance(settings, LoraConfig):
        kind = str(getattr(settings.peft_type, "value", settings.peft_type)).lower()
    elif settings.use_dora:
        kind = "dora"
    elif settings.modules_to_save:
        kind = f"adapter with whole modules ({', '.join(settings.modules_to_save)})"
    else:
        return
    raise ConfigError(
        f"{source} is a {kind}, and only low-rank updates (lora, rslora, pissa) add up; fold it in with "
        "adapter.merge"
    )


@contextmanager
def explain_misfit(source: str) -> Iterator[None]:
    """Turns what peft and torch say about an adapter that does not fit into a ConfigError."""
    try:
        yield
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        lines = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        told = lines[0] if lines else first_line(error)
        if isinstance(error, KeyError):
            told = f"there is no {told}"
        raise ConfigError(f"{source} does not fit this base: {told}") from error


def check_loaded(wrapped: PeftModel, folder: Path, name: str) -> None:
    """Raises ConfigError where an adapter's file lacks what the network needs, or holds more.

    peft takes what fits and is silent about the rest.
    """
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        raise ConfigError(f"{folder} has no {ADAPTER_WEIGHTS}")
    with safe_open(file, framework="pt") as opened:
        found = set(opened.keys())
    state = get_peft_model_state_dict(wrapped, adapter_name=name, save_embedding_layers=False)
    unknown = found - state.keys()
    for what, names in (("lacks", state.keys() - found), ("holds for layers that are not there", unknown)):
        if names:
            raise ConfigError(f"{folder / ADAPTER_WEIGHTS} {what} {len(names)} tensors, such as {min(names)}")
