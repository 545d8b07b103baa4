"""The model card: a README.md that says what a model folder is, what it learned from, how, and how well.

Its head is YAML as the hub's model cards have it (huggingface.co/docs/hub/model-cards).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from medtune import __version__
from medtune.config.inherit import LEVELS_UP, RUN_RECORD
from medtune.config.keys import value_of
from medtune.config.load import load_config, show
from medtune.config.paths import HUB_ID
from medtune.config.schema import Config
from medtune.models.folders import is_adapter
from medtune.runtime.errors import ConfigError
from medtune.runtime.record import RunFolder, read_json, write_text

CARD = "README.md"
RECIPE = (
    *("objective", "adapter.name", "adapter.rank", "adapter.alpha", "adapter.dropout", "quantization.name"),
    *("data.sequence_length", "data.packing", "data.global_batch_size", "template.name"),
    *("optim.name", "optim.lr", "optim.betas", "optim.eps", "optim.weight_decay", "optim.layer_lr_decay"),
    *("optim.embedding_lr", "optim.lora_plus_ratio"),
    *("schedule.name", "schedule.warmup_ratio", "schedule.warmup_steps", "schedule.min_lr_ratio"),
    *("loss.label_smoothing", "loss.z_loss", "loss.neftune_alpha", "model.rope_scaling"),
    *("trainer.precision", "trainer.gradient_clip_norm", "trainer.max_steps", "trainer.max_epochs", "seed"),
)
# Where these hold their default, the card does not name them.
WHERE_SET = (
    *("optim.layer_lr_decay", "optim.embedding_lr", "optim.lora_plus_ratio", "schedule.warmup_steps"),
    *("loss.label_smoothing", "loss.z_loss", "loss.neftune_alpha", "model.rope_scaling"),
    *("trainer.max_steps", "trainer.max_epochs"),
)


def write_card(folder: Path, config: Config, run: RunFolder | None, step: int | None = None) -> None:
    """Writes the card of the model in ``folder``, with what its run has recorded so far.

    Args:
        folder: A model or adapter folder.
        config: Of this command; the run's own takes its place where it can be read.
        run: The run that trained it; None where that is not known, and nothing is said of it then.
        step: Of the checkpoint that the model is; None: that of the run's results.
    """
    if run is not None and run.config_file.is_file():
        with suppress(ConfigError):  # written by another version
            config = load_config(run.config_file)
    lines = card_lines(config, run, is_adapter(folder), step)
    write_text(folder / CARD, "\n".join(lines) + "\n")


def run_of(weights: str) -> RunFolder | None:
    """The run that a model, an adapter or a checkpoint lies in."""
    here = Path(weights).resolve()
    folders = [here, *here.parents][: LEVELS_UP + 1]
    return next((RunFolder(folder) for folder in folders if (folder / RUN_RECORD).is_file()), None)


def card_lines(
    config: Config, run: RunFolder | None, with_adapter: bool, step: int | None = None
) -> Iterator[str]:
    """The lines of the card.

    Args:
        config: What the model was trained with; without a run, what it is used with.
        run: Where its figures are.
        with_adapter: The folder holds an adapter, not a model.
        step: See :func:`write_card`.
    """
    is_known = run is not None
    yaml_head = yaml.safe_dump(head(config, with_adapter, is_known), sort_keys=False, allow_unicode=True)
    yield from ["---", *yaml_head.splitlines(), "---", ""]
    if is_known:
        yield from [f"# {config.name}", "", summary(config), ""]
        yield from section("Data", data_lines(recorded(run, "data_report_file")))
        yield from section("Recipe", recipe_lines(config))
        yield from section("Results", figure_lines(run, step))
    else:
        yield from [f"# {base_name(config)}", "", "How it was trained is not recorded beside it.", ""]
    yield from section("Use", use_lines(config, with_adapter, is_known))
    commit = (recorded(run, "environment_file").get("git") or {}).get("commit")
    yield f"Made with medtune {__version__}{f' at {commit[:12]}' if commit else ''}; `medtune.json` "
    yield "beside this file holds the settings that medtune needs to use the model."


def head(config: Config, with_adapter: bool, is_known: bool) -> dict[str, Any]:
    """The card's YAML; ``is_known`` says that ``config`` is what the model was trained with."""
    values: dict[str, Any] = {"library_name": "peft" if with_adapter else "transformers"}
    if not is_known:
        return {**values, "pipeline_tag": "text-generation"}
    path = config.model.path
    if path and HUB_ID.fullmatch(path) and not Path(path).exists():
        values["base_model"] = path
    if config.data.hub and HUB_ID.fullmatch(config.data.hub):
        values["datasets"] = [config.data.hub]
    tags = ["medical", config.objective, config.data.name]
    tags += [name for name in (config.adapter.name, config.quantization.name) if name != "none"]
    return {**values, "pipeline_tag": "text-generation", "tags": tags}


def base_name(config: Config) -> str:
    """The network's short name, with that of its folder."""
    model = config.model
    return f"{model.name}{f' ({Path(model.path).name})' if model.path else ''}"


def summary(config: Config) -> str:
    """What the model is, in a sentence."""
    base = base_name(config)
    if config.model.init == "random":
        base += " from random weights"
    how = "continued pretraining" if config.objective == "pretrain" else "supervised fine-tuning"
    part = "" if config.adapter.name == "none" else f" of a part ({config.adapter.name})"
    return f"{base}: {how}{part} on {config.data.name}."


def section(title: str, lines: Sequence[str]) -> list[str]:
    """A section, left out when there is nothing to say."""
    return [f"## {title}", "", *lines, ""] if lines else []


def recorded(run: RunFolder | None, name: str) -> dict[str, Any]:
    """A JSON record of the run; empty where it has none yet."""
    file: Path | None = getattr(run, name) if run is not None else None
    return dict(read_json(file)) if file is not None and file.is_file() else {}


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    lines = [names, ["---"] * len(names), *rows]
    return ["| " + " | ".join(map(str, row)) + " |" for row in lines]


def data_lines(report: Mapping[str, Any]) -> list[str]:
    """The sources of the training split."""
    sources = report.get("splits", {}).get("train", {}).get("sources", {})
    rows = [
        (name, *(f"{source['mix'][key]:,}" for key in ("documents", "tokens", "learned_tokens")))
        for name, source in sources.items()
    ]
    columns = ["Source", "Documents an epoch", "Tokens", "Learned tokens"]
    return table(columns, rows) if rows else []


def recipe_lines(config: Config) -> list[str]:
    """The settings that make the result."""
    plain = Config()
    rows = [
        (f"`{key}`", f"`{show(value_of(config, key))}`")
        for key in RECIPE
        if key not in WHERE_SET or value_of(config, key) != value_of(plain, key)
        if not key.startswith("adapter.") or config.adapter.name != "none" or key == "adapter.name"
    ]
    return table(["Setting", "Value"], rows)


def figure_lines(run: RunFolder | None, step: int | None) -> list[str]:
    """Results and scores, where they are those of the weights at ``step``; else the step alone."""
    result = recorded(run, "result_file")
    if step is not None and result.get("global_step") != step:
        return result_lines({"global_step": step})
    return [*result_lines(result), *score_lines(recorded(run, "scores_file"))]


def result_lines(result: Mapping[str, Any]) -> list[str]:
    """Losses and sizes of the fit."""
    rows = [
        (label, f"{result[key]:,.4f}" if isinstance(result[key], float) else f"{result[key]:,}")
        for label, key in (
            ("Steps", "global_step"),
            ("Training tokens", "tokens"),
            ("Learned tokens", "learned_tokens"),
            ("Training loss", "train_loss"),
            ("Validation loss", "val_loss"),
        )
        if result.get(key) is not None
    ]
    return [*table(["Figure", "Value"], rows), ""] if rows else []


def score_lines(scores: Mapping[str, Any]) -> list[str]:
    """The scores of the model on each split, task by task."""
    lines: list[str] = []
    for split, systems in scores.get("splits", {}).items():
        model = systems.get("model")
        if model is None:
            continue
        rows = [
            (name, task["metric"], f"{task['score']:.2f}", task["rows"])
            for name, task in model["tasks"].items()
        ]
        lines += [f"Scores on `{split}` ({model['protocol']}): {model['score']:.2f}", ""]
        lines += [*table(["Task", "Metric", "Score", "Rows"], rows), ""]
    return lines


def use_lines(config: Config, with_adapter: bool, is_known: bool) -> list[str]:
    """How to load it."""
    loading = ['model = AutoModelForCausalLM.from_pretrained("FOLDER")']
    imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
    if with_adapter:
        imports = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
        loading = ['model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")']
    code = [*imports.splitlines(), "", *loading, 'tokenizer = AutoTokenizer.from_pretrained("FOLDER")']
    template = [f"Prompts were written with the template `{config.template.name}`:", ""] if is_known else []
    return [
        "```python", *code, "```", "", *template, "```",
        'python -m medtune task=chat weights=FOLDER', "```",
    ]  # fmt: skip
